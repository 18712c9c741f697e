"""Blobs of programs: bytes under (namespace, id), each a document of the hidden directory that no mount shows.

    .blobfs/blobs/NAMESPACE/ID     travels as every document does
    .blobfs/local/NAMESPACE/ID     never travels, until somebody moves it there

The members of its JSON are its flags. What a blob has on this device only, its priority and why a download failed, are
settings. Invariant: a blob is there whole, with its bytes and its place, or not at all.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from blobfs.errors import BlobExists, BlobNotFound
from blobfs.protocol import Flag, is_id
from blobfs.store.attachments import Attachments
from blobfs.store.documents import DocumentStore
from blobfs.store.hidden import LOCAL, Hidden
from blobfs.store.ledger import Ledger
from blobfs.store.settings import Settings
from blobfs.store.tree import Tree
from blobfs.values.documents import DocId, Kind, Name, name_to_text
from blobfs.values.nodes import Content, Inode, Node

SHARED: Final = b"blobs"
MEDIUM: Final = 2
"""The priority of what was given none."""
_PRIORITY: Final = "blob priority "
_FAILURE: Final = "blob failure "
_ORDERS: Final = {None: "name", "date": "birth_ns, name", "+date": "birth_ns, name", "-date": "birth_ns DESC, name"}
_BEYOND: Final = {
    None: "name > CAST(? AS BLOB)",
    "date": "(birth_ns, name) > (?, CAST(? AS BLOB))",
    "+date": "(birth_ns, name) > (?, CAST(? AS BLOB))",
    "-date": "(birth_ns < ? OR (birth_ns = ? AND name > CAST(? AS BLOB)))",
}
ORDERS: Final = frozenset(_ORDERS)
"""How a list may be ordered: by id, or by when the blob was put."""
_ROWS: Final = (
    "SELECT CAST(name AS TEXT), doc_id, inode, content, size, stored, birth_ns, json, edit > synced, "
    "COALESCE(NOT bases.deleted, 0), names.parent FROM names JOIN documents USING (inode) "
    "LEFT JOIN bases USING (doc_id) WHERE names.parent IN (?, ?) AND kind = 'file' "
    "AND NOT documents.deleted AND content IS NOT NULL "
    # Beside the blobs there can be conflict copies, whose names are no ids.
    "AND LENGTH(name) <= 128 AND CAST(name AS TEXT) NOT GLOB '*[^A-Za-z0-9_-]*'"
)


class Blob(NamedTuple):
    """A blob as this device knows it."""

    blob_id: str
    doc_id: str
    inode: int
    content: int
    size: int
    date_ns: int
    """When it was put."""
    flags: tuple[str, ...]
    is_whole: bool
    """All its bytes are here."""
    is_unsent: bool
    """The server lacks its last change."""
    is_known: bool
    """The server has it, maybe as it was before."""
    is_local: bool
    """It stays on this device."""


class Blobs:
    """The blobs of a store."""

    def __init__(
        self,
        ledger: Ledger,
        tree: Tree,
        attachments: Attachments,
        documents: DocumentStore,
        hidden: Hidden,
        settings: Settings,
    ) -> None:
        self._ledger, self._tree, self._attachments = ledger, tree, attachments
        self._documents, self._hidden, self._settings = documents, hidden, settings
        self._db = ledger.documents

    # --- looking --------------------------------------------------------------------------------------------------

    def namespaces(self) -> list[str]:
        """Every namespace that was ever used, ascending."""
        found = set[str]()
        for top in (SHARED, LOCAL):
            node = self._hidden.find(top)
            sql = "SELECT name FROM names WHERE parent = ?"
            names = (row[0] for row in self._ledger.all(self._db, sql, -1 if node is None else node.inode))
            found.update(name_to_text(name) for name in names)
        # Beside them there can be conflict copies, and whatever a hostile device put there.
        return sorted(name for name in found if is_id(name))

    def find(self, namespace: str, blob_id: str) -> Blob | None:
        """A blob; None: there is none. Of two of one id, one of them local, the local one."""
        shared, local = self._directories(namespace)
        sql = f"{_ROWS} AND name = CAST(? AS BLOB) ORDER BY names.parent = ? DESC LIMIT 1"
        row = self._ledger.one(self._db, sql, shared, local, blob_id, local)
        return None if row is None else self._blob(row, local)

    def get(self, namespace: str, blob_id: str) -> Blob:
        """As `find`. Raises BlobNotFound."""
        blob = self.find(namespace, blob_id)
        if blob is None:
            raise BlobNotFound(f"there is no blob {blob_id} in the namespace {namespace}")
        return blob

    def page(
        self, namespace: str, *, flag: str | None, order: str | None, after: tuple[int, str] | None, limit: int
    ) -> list[Blob]:
        """Blobs of a namespace.

        Args:
            flag: only those that have it.
            order: of `ORDERS`.
            after: (date, id) of the last one that is known already.
        """
        shared, local = self._directories(namespace)
        sql, parameters = _ROWS, list[int | str]((shared, local))
        if flag is not None:
            sql += " AND json_extract(json, ?) IS NOT NULL"
            parameters.append(f'$."{flag}"')
        if after is not None:
            date_ns, blob_id = after
            sql += f" AND {_BEYOND[order]}"
            dates = 0 if order is None else _BEYOND[order].count("?") - 1
            parameters += [*[date_ns] * dates, blob_id]
        rows = self._ledger.all(self._db, f"{sql} ORDER BY {_ORDERS[order]} LIMIT ?", *parameters, limit)
        return [self._blob(row, local) for row in rows]

    def count(self, namespace: str, flag: str | None) -> int:
        """How many a list would show."""
        more, parameters = ("", []) if flag is None else (" AND json_extract(json, ?) IS NOT NULL", [f'$."{flag}"'])
        sql = f"SELECT COUNT(*) FROM ({_ROWS}{more})"  # noqa: S608 - constants only
        return int(self._ledger.one(self._db, sql, *self._directories(namespace), *parameters)[0])

    def deleted(self, namespace: str) -> list[str]:
        """Ids that were deleted here, what the server does not know yet; ascending."""
        node = self._hidden.find(SHARED, namespace.encode())
        if node is None:
            return []
        sql = (
            "SELECT documents.doc_id FROM documents JOIN bases USING (doc_id) WHERE edit > synced "
            "AND documents.deleted AND NOT bases.deleted AND instr(body, CAST(? AS BLOB))"
        )
        found = set[str]()
        for (doc_id,) in self._ledger.all(self._db, sql, node.doc_id):
            base = self._documents.base(DocId(doc_id))
            names = () if base is None else base.document.names
            found.update(name_to_text(name.name) for name in names if name.parent == node.doc_id)
        return sorted(blob_id for blob_id in found if is_id(blob_id) and self.find(namespace, blob_id) is None)

    def staying(self) -> set[DocId]:
        """Every document that waits for no server: local blobs, and the directories that they are in."""
        found = self._hidden.staying()
        return found.union(*(self._documents.children(doc_id) for doc_id in found))

    def _directories(self, namespace: str) -> tuple[int, int]:
        """Inodes of the places of a namespace; -1, which none has, for one that does not exist."""
        found = (self._hidden.find(top, namespace.encode()) for top in (SHARED, LOCAL))
        shared, local = (-1 if node is None else int(node.inode) for node in found)
        return shared, local

    def _blob(self, row: Any, local: int) -> Blob:
        blob_id, doc_id, inode, content, size, stored, date_ns, text, unsent, known, parent = row
        # Holes are no bytes that are stored, so whoever has fewer is asked again.
        whole = stored >= size or self._attachments.is_whole(content, size)
        members = json.loads(text)
        flags = tuple(flag for flag in Flag if flag in members)
        return Blob(
            *(blob_id, doc_id, inode, content, size, date_ns, flags),
            *(whole, bool(unsent), bool(known), parent == local),
        )

    # --- changing -------------------------------------------------------------------------------------------------

    def put(self, namespace: str, blob_id: str, content: tuple[int, int, int], *, local: bool) -> Node:
        """A new blob of a staged content (itself, its size, bytes stored).

        Raises:
            BlobExists: the id is taken; nothing was changed.
        """
        now_ns, uid, gid = time.time_ns(), os.geteuid(), os.getegid()
        with self._ledger.transaction():
            if self.find(namespace, blob_id) is not None:
                raise BlobExists(f"there is a blob {blob_id} in the namespace {namespace}; blobs never change")
            parent = self._hidden.directory(LOCAL if local else SHARED, namespace.encode())
            node = self._tree.create(
                parent.inode, blob_id.encode(), Kind.FILE, mode=0o600, uid=uid, gid=gid, now_ns=now_ns
            )
            attached, size, stored = content
            return self._attachments.attach(node.inode, Content(attached), size, stored, now_ns)

    def set_flags(self, namespace: str, blob_id: str, flags: Iterable[str]) -> Blob:
        """Replace the flags of a blob. Raises BlobNotFound."""
        with self._ledger.transaction():
            blob = self.get(namespace, blob_id)
            wanted = dict.fromkeys(flags, True)
            if set(wanted) != set(blob.flags):
                self._documents.edit(DocId(blob.doc_id), time.time_ns(), content=wanted)
            return blob

    def share(self, namespace: str, blob_id: str) -> Blob:
        """A blob that stayed here travels from now on. Raises BlobNotFound; BlobExists: another device put the id."""
        with self._ledger.transaction():
            blob = self.get(namespace, blob_id)
            if blob.is_local:
                self._move(blob, self._hidden.directory(SHARED, namespace.encode()))
            return blob

    def withhold(self, namespace: str, blob_id: str) -> Blob:
        """A blob that was never sent stays here from now on. Raises BlobNotFound; BlobExists: it was sent."""
        with self._ledger.transaction():
            blob = self.get(namespace, blob_id)
            if blob.is_known:
                raise BlobExists(f"the server has the blob {blob_id} already; delete it, and put it as local only")
            if not blob.is_local:
                self._move(blob, self._hidden.directory(LOCAL, namespace.encode()))
            return blob

    def _move(self, blob: Blob, parent: Node) -> None:
        name = blob.blob_id.encode()
        if self._documents.at(parent.doc_id, name) is not None:
            raise BlobExists(f"there is another blob {blob.blob_id} already; blobs never change")
        self._documents.edit(DocId(blob.doc_id), time.time_ns(), names=(Name(parent.doc_id, name),))

    def delete(self, namespace: str, blob_id: str) -> tuple[Node, tuple[tuple[Inode, bytes], ...]]:
        """Delete a blob; the node and the places that it had. Raises BlobNotFound."""
        with self._ledger.transaction():
            blob = self.get(namespace, blob_id)
            node = self._tree.get(Inode(blob.inode))
            names = tuple(self._tree.names(node.inode))
            self._documents.edit(node.doc_id, time.time_ns(), names=())
            self._settings.set(_PRIORITY + blob.doc_id, None)
            self._settings.set(_FAILURE + blob.doc_id, None)
            return node, names

    # --- on this device only --------------------------------------------------------------------------------------

    def prioritise(self, doc_id: str, priority: int) -> None:
        """Set the priority of a blob: higher ones move first."""
        self._settings.set(_PRIORITY + doc_id, None if priority == MEDIUM else priority)

    def priority(self, doc_id: str) -> int:
        """The priority of a blob."""
        return int(self._settings.get(_PRIORITY + doc_id, MEDIUM))

    def priorities(self) -> Mapping[DocId, int]:
        """Of every blob that was given another one than `MEDIUM`. Forgets those of blobs that are gone."""
        found = {
            DocId(name.removeprefix(_PRIORITY)): int(value) for name, value in self._settings.under(_PRIORITY).items()
        }
        gone = [doc_id for doc_id in found if self._documents.inode(doc_id) is None]
        for doc_id in gone:
            self._settings.set(_PRIORITY + doc_id, None)
            del found[doc_id]
        return found

    def note_failure(self, doc_id: DocId, reason: str) -> None:
        """What a blob's bytes were refused for; does nothing for other documents."""
        inode = self._documents.inode(doc_id)
        if inode is not None and self._hidden.contains(inode):
            self._settings.set(_FAILURE + doc_id, reason)

    def failure(self, doc_id: str) -> str | None:
        """Why the last download of a blob that is not whole here failed, unless the server was away."""
        reason: str | None = self._settings.get(_FAILURE + doc_id)
        return reason

    def clear_failure(self, doc_id: str) -> None:
        """All its bytes have come."""
        if self.failure(doc_id) is not None:
            self._settings.set(_FAILURE + doc_id, None)
