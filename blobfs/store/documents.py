"""Nodes as documents: what devices exchange, what both sides last agreed on, and what the server lacks.

A document is changed when its edit number is ahead of the one that the server has. Nothing else is remembered about
what is to be done: sync looks, plans, and records what it achieved.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from blobfs.errors import CorruptDocument, DocumentExists, DocumentNotFound, Exists, NotFound
from blobfs.store.attachments import Attachments
from blobfs.store.bases import Base, Bases
from blobfs.store.ledger import Ledger
from blobfs.store.newcomers import Newcomers
from blobfs.store.record import COLUMNS, node_of
from blobfs.store.settings import Settings
from blobfs.store.tree import EDITED, Tree
from blobfs.values import crypto
from blobfs.values.documents import ROOT, DocId, Document, Json, Kind, Name
from blobfs.values.extents import EMPTY, Attachment, build, extent_length
from blobfs.values.keys import Keys
from blobfs.values.nodes import ROOT_INODE, Content, Inode, Node
from blobfs.values.revisions import DeviceId, Revision

_COUNTED: Final = 2000
"""Changed documents whose dirty bytes are counted one by one; beyond, their whole sizes are taken."""
_NAMES: Final = 100
"""Names that one statement looks for."""
_WAITING: Final = (
    "FROM documents LEFT JOIN bases ON bases.doc_id = documents.doc_id "
    "WHERE edit > synced AND NOT (documents.deleted AND COALESCE(bases.deleted, 1))"
)
"""What has something to send."""


class Changed(NamedTuple):
    """A document with something to send."""

    inode: Inode
    doc_id: DocId
    edit: int
    since_ns: int
    """When the first edit that the server lacks happened."""
    touched_ns: int
    """When the last edit happened."""


@dataclass(frozen=True, slots=True)
class Local:
    """A document as it is here."""

    node: Node
    edit: int
    synced: int
    document: Document
    """Its attachment is the base's while `content_dirty`."""
    content_dirty: bool
    """Bytes have to be sealed before the attachment can be named."""
    content_changed: bool
    """The bytes are not the base's."""
    base: Base | None


@dataclass(frozen=True, slots=True)
class Applied:
    """What a remote state changed here; the kernel must forget as much."""

    inode: Inode
    before: Node | None
    names_before: tuple[tuple[Inode, bytes], ...]
    names_after: tuple[tuple[Inode, bytes], ...]
    content_changed: bool


class DocumentStore:
    """Documents by id."""

    def __init__(self, ledger: Ledger, tree: Tree, attachments: Attachments, settings: Settings, keys: Keys) -> None:
        self._ledger = ledger
        self._db = ledger.documents
        self._tree = tree
        self._attachments = attachments
        self._settings = settings
        self._keys = keys
        self._bases = Bases(ledger)
        self._newcomers = Newcomers(ledger, tree, attachments, self._bases)

    # --- looking --------------------------------------------------------------------------------------------

    def changed(self, limit: int) -> list[Changed]:
        """Documents with something to send, longest waiting first. A deletion is one, unless nobody knew of it."""
        sql = f"SELECT inode, documents.doc_id, edit, changed_ns, touched_ns {_WAITING} ORDER BY changed_ns LIMIT ?"
        rows = self._ledger.all(self._db, sql, limit)
        return [Changed(Inode(row[0]), DocId(row[1]), *row[2:]) for row in rows]

    def changed_of(self, doc_ids: Iterable[DocId]) -> list[Changed]:
        """Those of `changed` that are these documents, whatever waits before them."""
        sql = (
            "SELECT inode, documents.doc_id, edit, changed_ns, touched_ns FROM documents WHERE edit > synced "
            "AND NOT deleted AND doc_id IN (SELECT value FROM json_each(?)) ORDER BY changed_ns"
        )
        rows = self._ledger.all(self._db, sql, json.dumps(list(doc_ids)))
        return [Changed(Inode(row[0]), DocId(row[1]), *row[2:]) for row in rows]

    def pending(self, without: Collection[DocId] = ()) -> tuple[int, int]:
        """(documents, bytes) that wait for the server; these documents do not."""
        left_out = json.dumps(list(without))
        # However many wait, the store is held for two statements and a few look-ups only.
        waiting = f"{_WAITING} AND documents.doc_id NOT IN (SELECT value FROM json_each(?)) ORDER BY changed_ns"  # noqa: S608
        counted = self._ledger.all(self._db, f"SELECT content, size {waiting} LIMIT ?", left_out, _COUNTED)
        sizes = f"SELECT IIF(content IS NULL, 0, size) AS size {waiting} LIMIT -1 OFFSET ?"
        rest = self._ledger.all(self._db, f"SELECT COUNT(*), TOTAL(size) FROM ({sizes})", left_out, _COUNTED)[0]  # noqa: S608
        known = sum(self._dirty_bytes(content, size) for content, size in counted if content is not None)
        return len(counted) + rest[0], known + int(rest[1])

    def _dirty_bytes(self, content: int, size: int) -> int:
        sql = "SELECT extent FROM extents WHERE content = ? AND dirty"
        return sum(extent_length(size, row[0]) for row in self._ledger.all(self._ledger.blobs, sql, content))

    def inode(self, doc_id: DocId) -> Inode | None:
        """The inode of a document, deleted or not; None when it is not known here."""
        row = self._ledger.one(self._db, "SELECT inode FROM documents WHERE doc_id = ? AND kind != ''", doc_id)
        return None if row is None else Inode(row[0])

    def of_content(self, content: Content) -> DocId | None:
        """The document whose bytes these are; None when they are nobody's any more."""
        row = self._ledger.one(self._db, "SELECT doc_id FROM documents WHERE content = ?", content)
        return None if row is None else DocId(row[0])

    def known_ids(self, after: DocId, limit: int) -> list[DocId]:
        """Documents that the server is known to have had, ascending from the one after `after`; deleted ones too."""
        return self._bases.ids(after, limit)

    def inodes(self, after: Inode, limit: int) -> list[Inode]:
        """Live documents whose inode is above `after`, ascending."""
        sql = "SELECT inode FROM documents WHERE inode > ? AND NOT deleted AND kind != '' ORDER BY inode LIMIT ?"
        return [Inode(row[0]) for row in self._ledger.all(self._db, sql, after, limit)]

    def content(self, doc_id: DocId) -> Json:
        """The JSON that programs keep in a document. Raises DocumentNotFound."""
        row = self._ledger.one(self._db, "SELECT json FROM documents WHERE doc_id = ? AND kind != ''", doc_id)
        if row is None:
            raise DocumentNotFound(f"no document {doc_id}")
        content: Json = json.loads(row[0])
        return content

    def at(self, parent: DocId, name: bytes) -> DocId | None:
        """The document that has a name; None when it is free."""
        row = self._ledger.one(
            self._db,
            "SELECT child.doc_id FROM documents AS directory JOIN names ON names.parent = directory.inode "
            "JOIN documents AS child ON child.inode = names.inode WHERE directory.doc_id = ? AND name = ?",
            parent,
            name,
        )
        return None if row is None else DocId(row[0])

    def strangers(self, doc_ids: Collection[DocId]) -> set[DocId]:
        """Those of these that this device has never heard of, not even as somebody's parent."""
        sql = (
            "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM documents WHERE doc_id = value) "
            "AND NOT EXISTS (SELECT 1 FROM bases WHERE doc_id = value)"
        )
        return {DocId(row[0]) for row in self._ledger.all(self._db, sql, json.dumps(list(doc_ids)))}

    def free(self, names: Sequence[Name]) -> set[Name]:
        """Those of these that no document has."""
        free = set(names)
        for at in range(0, len(names), _NAMES):
            some = names[at : at + _NAMES]
            rows = self._ledger.all(
                self._db,
                f"WITH wanted(parent, name) AS (VALUES {', '.join(['(?, ?)'] * len(some))}) "  # noqa: S608
                "SELECT wanted.parent, wanted.name FROM wanted "
                "CROSS JOIN documents ON doc_id = wanted.parent "
                "CROSS JOIN names ON names.parent = documents.inode AND names.name = wanted.name",
                *(value for name in some for value in (name.parent, name.name)),
            )
            free.difference_update(Name(DocId(parent), name) for parent, name in rows)
        return free

    def children(self, doc_id: DocId) -> list[DocId]:
        """The documents that have a name in a directory."""
        rows = self._ledger.all(
            self._db,
            "SELECT DISTINCT child.doc_id FROM documents AS directory JOIN names ON names.parent = directory.inode "
            "JOIN documents AS child ON child.inode = names.inode WHERE directory.doc_id = ?",
            doc_id,
        )
        return [DocId(row[0]) for row in rows]

    def local(self, doc_id: DocId) -> Local | None:
        """A document as it is here, deleted ones included; None when it is not known."""
        with self._ledger.lock:
            row = self._ledger.one(
                self._db,
                f"SELECT {COLUMNS}, json, edit, synced FROM documents WHERE doc_id = ? AND kind != ''",  # noqa: S608
                doc_id,
            )
            if row is None:
                return None
            node, base = node_of(row[:-3]), self.base(doc_id)
            former = None if base is None else base.document.attachment
            attachment, dirty = self._attachment(node, former)
            document = Document(
                doc_id=doc_id,
                kind=node.kind,
                names=self._names(node.inode),
                mode=node.mode,
                uid=node.uid,
                gid=node.gid,
                rdev=node.rdev,
                mtime_ns=node.mtime_ns,
                birth_ns=node.birth_ns,
                target=node.target,
                xattrs=self._xattrs(node.inode),
                attachment=attachment,
                content=json.loads(row[-3]),
            )
        return Local(node, row[-2], row[-1], document, dirty, dirty or attachment != former, base)

    def place(self, doc_id: DocId) -> tuple[Kind, tuple[Name, ...]] | None:
        """What a live document is and where; None when it is deleted or not known. Cheaper than `local`."""
        rows = self._ledger.all(
            self._db,
            "SELECT child.kind, parent.doc_id, name FROM documents AS child LEFT JOIN names USING (inode) "
            "LEFT JOIN documents AS parent ON parent.inode = names.parent "
            "WHERE child.doc_id = ? AND child.kind != '' AND NOT child.deleted",
            doc_id,
        )
        if not rows:
            return None
        return Kind(rows[0][0]), tuple(sorted(Name(DocId(row[1]), row[2]) for row in rows if row[1] is not None))

    def _attachment(self, node: Node, former: Attachment | None) -> tuple[Attachment | None, bool]:
        """The attachment as the clean extents tell it, and whether dirty ones make it another."""
        if node.kind is not Kind.FILE or node.content is None:
            return (former if node.deleted else None), False
        if (unresolved := self._attachments.unresolved(node.content)) is not None:
            return unresolved, False
        extents = self._attachments.extents(node.content)
        if any(extent.dirty for extent in extents.values()):
            return former or EMPTY, True
        blobs = {index: extent.blob_id for index, extent in extents.items() if extent.blob_id is not None}
        padded = former is not None and former.padded
        # Index blobs stay those of the epoch in which they were made, for as long as no extent changes.
        for keys in self._keys.epochs:
            attachment = build(node.size, blobs, partial(crypto.blob_id, keys), padded=padded)
            if attachment == former or not attachment.depth:
                return attachment, False
        return build(node.size, blobs, partial(crypto.blob_id, self._keys), padded=padded), False

    def _names(self, inode: Inode) -> tuple[Name, ...]:
        rows = self._ledger.all(
            self._db,
            "SELECT doc_id, name FROM names JOIN documents ON documents.inode = names.parent WHERE names.inode = ?",
            inode,
        )
        return tuple(sorted(Name(DocId(doc_id), name) for doc_id, name in rows))

    def _xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        return dict(self._ledger.all(self._db, "SELECT name, value FROM xattrs WHERE inode = ? ORDER BY name", inode))

    def base(self, doc_id: DocId) -> Base | None:
        """What both sides last agreed on; None when the server is not known to have the document."""
        return self._bases.find(doc_id)

    def heads(self) -> dict[DeviceId, int]:
        """How many edits of each device this one has seen, in all documents together; at most `MAX_COUNT`."""
        return self._bases.heads()

    @property
    def cursor(self) -> str | None:
        """How far the feed has been applied."""
        cursor: str | None = self._settings.get("cursor")
        return cursor

    @cursor.setter
    def cursor(self, cursor: str | None) -> None:
        self._settings.set("cursor", cursor)

    # --- recording ------------------------------------------------------------------------------------------

    def record_synced(self, doc_id: DocId, edit: int, revision: Revision, document: Document, deleted: bool) -> None:
        """The server has this state, which was the local one at edit number `edit`: it is the base.

        A document that was edited meanwhile stays changed; one that is gone by now gets a row for its tombstone.
        """
        with self._ledger.transaction():
            self._bases.set(document, revision, deleted)
            row = self._ledger.one(self._db, "SELECT inode, content, deleted FROM documents WHERE doc_id = ?", doc_id)
            if row is None:
                if not deleted:
                    self._newcomers.insert_deleted(document)
                    self._ledger.mark_changed()
            elif deleted and row[2] and row[1] is None:
                # Not purged yet, somebody may hold it; the number can be another file's after the next start.
                self._db.run("DELETE FROM xattrs WHERE inode = ?", (row[0],))
                self._db.run("DELETE FROM documents WHERE inode = ?", (row[0],))
            else:
                self._db.run("UPDATE documents SET synced = MAX(synced, ?) WHERE inode = ?", (edit, row[0]))

    # --- applying a remote state ----------------------------------------------------------------------------

    def apply(
        self,
        document: Document,
        revision: Revision,
        deleted: bool,
        now_ns: int,
        *,
        local: Document | None = None,
        keep_content: bool = False,
    ) -> Applied:
        """A remote state becomes the base and, where `local` does not say otherwise, the local state.

        With `local` (a merge of both sides) or `keep_content` (the bytes here are an edit to be sent) the document
        stays changed. A parent that is not known is made a placeholder: what is in it shows when its document comes.
        The bytes of a deleted node stay for its open handles, until `Tree.purge`.

        Raises:
            Exists: another document has one of the names.
            NotEmpty: a directory is deleted and there is something in it here.
            NotFound: the parent was deleted here, so what is in it would be out of sight.
            CorruptDocument: the document changes its kind, or its parent is no directory.
            Nothing was changed then.
        """
        wanted = local or document
        with self._ledger.transaction():
            base, inode = self.base(document.doc_id), self._find(document.doc_id)
            before = None if inode is None else self._node(inode)
            if inode is not None and document.kind is not (Kind.DIRECTORY if before is None else before.kind):
                # A placeholder is somebody's parent, so it can be a directory only.
                raise CorruptDocument(f"document {document.doc_id} changes its kind")
            names_before = () if before is None else tuple(self._tree.names(before.inode))
            unsent = local is not None or keep_content
            if inode is None:
                if deleted and not unsent:
                    self._bases.set(document, revision, deleted)
                    return Applied(Inode(0), None, (), (), False)
                if not (base or deleted or unsent):
                    inode, names = self._newcomers.add(document, revision, now_ns)
                    return Applied(inode, None, (), names, document.attachment is not None)
                inode = self._newcomers.insert(wanted, now_ns)
            gone = deleted and not unsent
            self._write(inode, wanted, () if gone else wanted.names, gone, now_ns)
            keep_content = keep_content or gone or document.kind is not Kind.FILE
            content_changed = False if keep_content else self._adopt(inode, base, document, unsent)
            self._bases.set(document, revision, deleted)
            synced = f"synced = edit, {EDITED}" if unsent else "synced = edit, touched_ns = ?, changed_ns = ?"
            self._db.run(f"UPDATE documents SET {synced} WHERE inode = ?", (now_ns, now_ns, inode))  # noqa: S608
            if unsent:
                self._ledger.mark_changed()
            return Applied(inode, before, names_before, tuple(self._tree.names(inode)), content_changed)

    def _adopt(self, inode: Inode, base: Base | None, document: Document, unsent: bool) -> bool:
        """The remote version's bytes become those of a file, unless they are here; whether they changed."""
        node = self._tree.get(inode)
        former = None if base is None or base.deleted else base.document.attachment
        if node.content is not None or document.attachment is None:
            # A merge leaves bytes alone that only this side changed; else they are what both sides must have.
            mine, dirty = self._attachment(node, former)
            if former == document.attachment if unsent else (mine, dirty) == (document.attachment, False):
                return False
        self._attachments.adopt(inode, document.attachment)
        return True

    def _find(self, doc_id: DocId) -> Inode | None:
        row = self._ledger.one(self._db, "SELECT inode FROM documents WHERE doc_id = ?", doc_id)
        return None if row is None else Inode(row[0])

    def _node(self, inode: Inode) -> Node | None:
        try:
            return self._tree.get(inode)
        except NotFound:
            return None  # a placeholder

    def _write(self, inode: Inode, document: Document, names: Iterable[Name], deleted: bool, now_ns: int) -> None:
        """Give a row the names and attributes of a document. Raises Exists, NotEmpty, NotFound, CorruptDocument."""
        directory = document.kind is Kind.DIRECTORY
        if deleted and directory:
            self._tree.check_empty(inode)
        former = set(self._names(inode))
        wanted = set(names)
        for name in former - wanted:
            self._db.run("DELETE FROM names WHERE parent = ? AND name = ?", (self._find(name.parent), name.name))
            self._count_directory(name.parent, -int(directory))
        for name in sorted(wanted - former):
            self._tree.add_name(self._newcomers.directory(name.parent), name.name, inode)
            self._count_directory(name.parent, int(directory))
        self._db.run(
            "UPDATE documents SET kind = ?, mode = ?, uid = ?, gid = ?, rdev = ?, mtime_ns = ?, ctime_ns = ?, "
            "birth_ns = ?, target = ?, json = ?, deleted = ?, nlink = ? WHERE inode = ?",
            (
                *(document.kind.value, document.mode, document.uid, document.gid, document.rdev, document.mtime_ns),
                *(now_ns, document.birth_ns, document.target, json.dumps(document.content), int(deleted)),
                *(self._links_of_directory(inode) * (not deleted) if directory else len(wanted), inode),
            ),
        )
        if self._xattrs(inode) != dict(document.xattrs):
            self._db.run("DELETE FROM xattrs WHERE inode = ?", (inode,))
            for key, value in document.xattrs.items():
                self._db.run("INSERT INTO xattrs VALUES (?, ?, ?)", (inode, key, value), len(value))

    def _links_of_directory(self, inode: Inode) -> int:
        sql = "SELECT COUNT(*) FROM names JOIN documents USING (inode) WHERE parent = ? AND kind = 'directory'"
        return 2 + int(self._ledger.one(self._db, sql, inode)[0])

    def _count_directory(self, parent: DocId, count: int) -> None:
        if count:
            self._db.run("UPDATE documents SET nlink = nlink + ? WHERE doc_id = ?", (count, parent))

    # --- local edits by id ----------------------------------------------------------------------------------

    def create(self, doc_id: DocId, content: Json, now_ns: int, *, uid: int, gid: int) -> Node:
        """A document without an attachment, named by its id in the root. Raises DocumentExists."""
        with self._ledger.transaction():
            if self._find(doc_id) is not None:
                raise DocumentExists(f"document {doc_id} exists")
            try:
                node = self._tree.create(
                    ROOT_INODE,
                    doc_id.encode("ascii"),
                    Kind.FILE,
                    mode=0o600,
                    uid=uid,
                    gid=gid,
                    now_ns=now_ns,
                    doc_id=doc_id,
                )
            except Exists:
                raise DocumentExists(f"a file named {doc_id} exists") from None
            sql = "UPDATE documents SET content = NULL, json = ? WHERE inode = ?"
            self._db.run(sql, (json.dumps(content), node.inode))
        return node._replace(content=None)

    def reidentify(self, doc_id: DocId, new_id: DocId, now_ns: int) -> None:
        """The node that is `doc_id` goes on as `new_id`, an edit to be sent; the base of each id stays with the id.

        Raises:
            DocumentNotFound: no such node. DocumentExists: `new_id` has one.
        """
        with self._ledger.transaction():
            inode = self._find(doc_id)
            if inode is None or doc_id == ROOT:
                raise DocumentNotFound(f"no document {doc_id}")
            if self._find(new_id) is not None:
                raise DocumentExists(f"document {new_id} exists")
            sql = f"UPDATE documents SET doc_id = ?, {EDITED} WHERE inode = ?"  # noqa: S608
            self._db.run(sql, (new_id, now_ns, now_ns, inode))
            self._ledger.mark_changed()

    def edit(self, doc_id: DocId, now_ns: int, **changes: Any) -> None:
        """Change fields of a live document, as `Document` names them; the attachment is not one of them.

        Raises:
            DocumentNotFound. Exists, NotEmpty, NotFound: as `apply`.
        """
        with self._ledger.transaction():
            local = self.local(doc_id)
            if local is None or doc_id == ROOT:
                raise DocumentNotFound(f"no document {doc_id}")
            document = dataclasses.replace(local.document, **changes)
            self._write(local.node.inode, document, document.names, not document.names, now_ns)
            sql = f"UPDATE documents SET {EDITED} WHERE inode = ?"  # noqa: S608
            self._db.run(sql, (now_ns, now_ns, local.node.inode))
            self._ledger.mark_changed()
