"""Earlier versions and deleted files, as the server keeps them for its retention time, and copies that send nothing.

A version is told by its number in the account's sequence, which never changes. Invariants: what is restored is a new
revision on top of the present one, so nothing of the present is lost by it; nothing is written that was not
authenticated; a file whose present state the server does not have yet is not replaced; a version that is not the one
that was asked for is refused, or named.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import trio

from blobfs.answers.paths import find, find_parent, page, path_of, text_of
from blobfs.errors import (
    CorruptDocument,
    DataMissing,
    Exists,
    InvalidArgument,
    IsADirectory,
    NotFound,
    Rollback,
    StaleHandle,
    UsageError,
)
from blobfs.remote.client import RemoteClient, Sealed
from blobfs.store.documents import Applied
from blobfs.store.store import Store
from blobfs.sync.leaves import Leaves
from blobfs.values import crypto, framing
from blobfs.values.documents import ROOT, DocId, Document, Json, Kind, Name, name_from_text, name_to_text
from blobfs.values.extents import EXTENT, Attachment, BlobId, padme
from blobfs.values.nodes import Inode, Node
from blobfs.values.revisions import Revision

_MOST: Final = 1000
"""Versions of one document that are asked for."""
_PATH: Final = 4096
"""Bytes of a folder's path that are told, the last ones: as many as any tool takes."""
_LISTED: Final = 16
"""Documents whose lists of versions are remembered."""
_OTHER: Final = (
    "the server shows another version under that number than before; nothing was changed, list the versions again"
)

_log: Final = logging.getLogger(__name__)


class Past:
    """Answers to `versions`, `restore`, `trash` and `cp`."""

    def __init__(
        self,
        store: Store,
        client: RemoteClient,
        is_open: Callable[[Inode], bool],
        notify: Callable[[Applied], None],
    ) -> None:
        """
        Args:
            notify: told of what was changed, so that the kernel forgets what it knew.
        """
        self._store, self._client, self._is_open, self._notify = store, client, is_open, notify
        self._leaves = Leaves(client, store.keys)
        self._reading: tuple[DocId, object, Document] | None = None
        """The version that was read last: it is read extent by extent."""
        self._listed: OrderedDict[DocId, Mapping[int, str]] = OrderedDict()
        """By number, the revisions that were shown to somebody who may choose one: the numbers are the server's."""

    # --- looking ----------------------------------------------------------------------------------------------

    async def versions(self, question: Json) -> Json:
        """The versions of a file or of a deleted document, newest first."""
        doc_id = self._document(question)
        revisions = await self._client.revisions(doc_id, _MOST)
        opened = [(entry, self._open(entry)) for entry in revisions]
        self._listed[doc_id] = {entry.seq: entry.revision for entry in revisions}
        self._listed.move_to_end(doc_id)
        if len(self._listed) > _LISTED:
            self._listed.popitem(last=False)
        entries = [
            {
                "version": entry.seq,
                "deleted": entry.deleted,
                "mtime": document.mtime_ns / 1e9,
                "size": None if document.attachment is None else document.attachment.size,
                "names": [name_to_text(name.name) for name in document.names],
                "current": number == 0,
            }
            for number, (entry, document) in enumerate(opened)
        ]
        return page(entries, question)

    def _document(self, question: Json) -> DocId:
        if isinstance(doc_id := question.get("doc_id"), str):
            return DocId(doc_id)
        return find(self._store, text_of(question, "path")).doc_id

    def _open(self, entry: Sealed) -> Document:
        try:
            revision = Revision.parse(entry.revision)
        except ValueError:
            raise CorruptDocument("the server has a version that no device wrote; ask who runs it") from None
        return crypto.open_document(self._store.keys, entry.doc_id, revision, entry.deleted, entry.payload)

    async def _version(self, doc_id: DocId, number: object) -> Document:
        """One version that is not a deletion.

        Raises:
            NotFound: the server does not have it. Rollback: it is another one than the server listed.
        """
        for entry in await self._client.revisions(doc_id, _MOST):
            if entry.seq == number and not entry.deleted:
                document = self._open(entry)
                if self._listed.get(doc_id, {}).get(entry.seq, entry.revision) != entry.revision:
                    raise Rollback(_OTHER)
                return document
        raise NotFound("the server does not have that version; `blobfs versions` lists those that it has")

    async def read(self, question: Json) -> Json:
        """One extent of a version, in base64: extent number `index`. With `total` bytes of the whole."""
        doc_id, version = self._document(question), question.get("version")
        if self._reading is None or self._reading[:2] != (doc_id, version):
            self._reading = (doc_id, version, await self._version(doc_id, version))
        document = self._reading[2]
        attachment, index = document.attachment, question.get("index")
        if attachment is None or not isinstance(index, int):
            raise InvalidArgument("that version has no bytes")
        blob_id = (await self._leaves.extents(attachment)).get(index)
        data = b"" if blob_id is None else await self._extent(blob_id, attachment.blob_length(index))
        return {"total": attachment.size, "hole": blob_id is None, "data": base64.b64encode(data).decode("ascii")}

    async def _extent(self, blob_id: BlobId, length: int) -> bytes:
        sealed = await self._client.get(blob_id, 0, framing.sealed_size(length))
        return await trio.to_thread.run_sync(crypto.open_blob, self._store.keys, blob_id, length, sealed)

    async def _flatten(self, attachment: Attachment) -> Attachment:
        """The same bytes with every extent named by itself. Raises DataMissing: the server lacks some."""
        ids = await self._leaves.extents(attachment)
        if await self._client.missing(ids.values()):
            raise DataMissing("the server does not have all bytes of that version any more; choose another one")
        return replace(attachment, ids=tuple(ids.get(index) for index in range(attachment.extent_count)), depth=0)

    # --- restoring --------------------------------------------------------------------------------------------

    async def restore(self, question: Json) -> Json:
        """A file gets the bytes of an earlier version, as a new revision; its names stay."""
        node = find(self._store, text_of(question, "path"))
        if node.kind is not Kind.FILE:
            raise IsADirectory("only files have versions of their bytes; name a file")
        document = await self._version(node.doc_id, question.get("version"))
        attachment = None if document.attachment is None else await self._flatten(document.attachment)
        applied = await trio.to_thread.run_sync(self._replace, node.inode, document, attachment)
        self._notify(applied)
        return {"size": 0 if attachment is None else attachment.size, "mtime": document.mtime_ns / 1e9}

    def _replace(self, inode: Inode, document: Document, attachment: Attachment | None) -> Applied:
        with self._store.transaction():
            node = self._unopened(inode)
            local, base = self._store.documents.local(node.doc_id), self._store.documents.base(node.doc_id)
            if local is None or base is None or local.edit > local.synced:
                raise UsageError("the file as it is now is not on the server yet; run `blobfs sync DIR --wait` first")
            self._check_padding(base.document, attachment)
            names = tuple(self._store.tree.names(inode))
            self._store.attachments.adopt(inode, attachment)
            self._store.documents.edit(
                node.doc_id, time.time_ns(), mtime_ns=document.mtime_ns, content=document.content
            )
        return Applied(inode, node, names, names, content_changed=True)

    def _unopened(self, inode: Inode) -> Node:
        node = self._store.tree.get(inode)
        if node.deleted:
            raise StaleHandle("the file was deleted meanwhile; `blobfs trash` lists it")
        if self._is_open(inode):
            raise UsageError("a program has the file open; close it there, then try again")
        return node

    def _check_padding(self, base: Document | None, wanted: Attachment | None) -> None:
        """A file's blobs are all padded or none, and sync tells which from its base; raises UsageError otherwise."""
        if wanted is None or not wanted.size:
            return
        known = None if base is None else base.attachment
        padded = bool(self._store.settings.get("padded", False)) if known is None or not known.ids else known.padded
        if padded != wanted.padded and padme(wanted.size % EXTENT) != wanted.size % EXTENT:
            raise UsageError("its bytes were sent with another padding than is set now; copy them with `cp` instead")

    # --- deleted documents ------------------------------------------------------------------------------------

    async def trash(self, question: Json) -> Json:
        """Deleted files and folders, a page of them; the server tells which it still has when one is restored."""
        return await trio.to_thread.run_sync(self._trash, question)

    def _trash(self, question: Json) -> Json:
        entries, folders = list[Json](), dict[DocId, bytes]()
        for doc_id in self._store.survey.deleted():
            base = self._store.documents.base(doc_id)
            if base is not None and base.document.names:
                entries.append(
                    {
                        "doc_id": doc_id,
                        "path": self._former_path(base.document, folders),
                        "kind": base.document.kind.value,
                        # Of a deletion the time is its own; older versions of blobfs left the file's.
                        "deleted": base.document.mtime_ns / 1e9,
                    }
                )
        return page(sorted(entries, key=lambda entry: (str(entry["path"]), str(entry["doc_id"]))), question)

    def _former_path(self, document: Document, folders: dict[DocId, bytes]) -> str:
        """Where it was: under names that its folders have now, or had when they were deleted, too.

        Args:
            folders: paths of folders that were looked for already, each with a slash behind it; gets those of others.
        """
        chain, seen = list[tuple[DocId, bytes]](), {document.doc_id}
        parent = document.names[0].parent
        while parent != ROOT and parent not in folders and parent not in seen:
            seen.add(parent)
            folder = self._last_known(parent)
            if folder is None or not folder.names:
                break
            chain.append((parent, folder.names[0].name))
            parent = folder.names[0].parent
        path = folders.get(parent, b"")
        for doc_id, name in reversed(chain):
            path = folders[doc_id] = (path + name + b"/")[-_PATH:]
        return name_to_text(path + document.names[0].name)

    def _last_known(self, doc_id: DocId) -> Document | None:
        local, base = self._store.documents.local(doc_id), self._store.documents.base(doc_id)
        if local is not None and not local.node.deleted:
            return local.document
        return None if base is None else base.document

    async def undelete(self, question: Json) -> Json:
        """A deleted file or folder comes back where it was, with the folders that it was in, or under a name beside.

        A folder brings all that the trash has of it. The answer begins with the path of what was asked for; in `older`
        are those of which the server shows no version that was followed by the deletion: an older one came back.
        """
        doc_id = DocId(text_of(question, "doc_id"))
        inside = await trio.to_thread.run_sync(self._inside, doc_id)
        restored, older, seen = list[str](), list[str](), set[DocId]()
        await self._undelete(doc_id, restored, older, seen)
        restored.insert(0, restored.pop())
        for inner in inside:
            # One that came with another, or that the server keeps no more, stops none of the others.
            with contextlib.suppress(NotFound):
                await self._undelete(inner, restored, older, seen)
        return {"restored": restored, "older": older}

    def _inside(self, doc_id: DocId) -> list[DocId]:
        """What was deleted in a folder, or in a folder that was deleted in it; folders first."""
        children: dict[DocId, list[DocId]] = {}
        for inner in self._store.survey.deleted():
            base = self._store.documents.base(inner)
            if base is not None and base.document.names:
                children.setdefault(base.document.names[0].parent, []).append(inner)
        found = [doc_id]
        for folder in found:  # it grows; each document has one parent, so popping ends rings, too
            found += children.pop(folder, ())
        return found[1:]

    async def _undelete(self, doc_id: DocId, restored: list[str], older: list[str], seen: set[DocId]) -> None:
        base = self._store.documents.base(doc_id)
        if base is None or not base.deleted or doc_id in seen:
            raise NotFound("there is no such document in the trash; `blobfs trash` lists what is")
        seen.add(doc_id)
        document, is_last = await self._last(doc_id, base.revision)
        parent = document.names[0].parent if document.names else ROOT
        above = self._store.documents.base(parent)
        if parent != ROOT and above is not None and above.deleted and not self._is_live(parent):
            await self._undelete(parent, restored, older, seen)
        if parent != ROOT and not self._is_live(parent):
            parent = ROOT
        name = document.names[0].name if document.names else doc_id.encode("ascii")
        attachment = None if document.attachment is None else await self._flatten(document.attachment)
        applied = await trio.to_thread.run_sync(self._revive, document, Name(parent, name), attachment)
        self._notify(applied)
        restored.append(path_of(self._store, applied.inode))
        if not is_last:
            older.append(restored[-1])
            _log.warning("document %s: the server does not show the version that was deleted, but an older one", doc_id)

    async def _last(self, doc_id: DocId, deletion: Revision) -> tuple[Document, bool]:
        """What was deleted, and whether it is just that: the version that the deletion followed, not one before it."""
        living = [entry for entry in await self._client.revisions(doc_id, _MOST) if not entry.deleted]
        for entry in living:
            if _is_followed_by(entry.revision, deletion):
                return self._open(entry), True
        if living:
            return self._open(living[0]), False
        raise NotFound("the server does not keep the deleted file any more; its retention time is over")

    def _is_live(self, doc_id: DocId) -> bool:
        local = self._store.documents.local(doc_id)
        return local is not None and not local.node.deleted

    def _revive(self, document: Document, name: Name, attachment: Attachment | None) -> Applied:
        documents = self._store.documents
        with self._store.transaction():
            base = documents.base(document.doc_id)
            if base is None or self._is_live(document.doc_id):
                raise NotFound("the file is not in the trash any more")
            self._check_padding(base.document, attachment)
            free = free_name(self._store, name.parent, name.name)
            local = replace(document, names=(Name(name.parent, free),), attachment=None)
            applied = documents.apply(
                base.document, base.revision, base.deleted, time.time_ns(), local=local, keep_content=True
            )
            if document.kind is Kind.FILE:
                self._store.attachments.adopt(applied.inode, attachment)
        return applied

    # --- copies -----------------------------------------------------------------------------------------------

    async def copy(self, question: Json) -> Json:
        """One file becomes another one of the same bytes, of which nothing is sent, nor fetched before it is read."""
        source = find(self._store, text_of(question, "path"))
        if source.kind is not Kind.FILE:
            raise InvalidArgument("only files are copied without their bytes; copy anything else with `cp`")
        local = self._store.documents.local(source.doc_id)
        base = self._store.documents.base(source.doc_id)
        if local is None or base is None or base.deleted or local.edit > local.synced or self._is_open(source.inode):
            raise UsageError("the file as it is now is not on the server yet; run `blobfs sync DIR --wait` first")
        attachment = None if local.document.attachment is None else await self._flatten(local.document.attachment)
        applied = await trio.to_thread.run_sync(self._copy, local.document, attachment, text_of(question, "target"))
        self._notify(applied)
        return {"size": source.size}

    def _copy(self, document: Document, attachment: Attachment | None, target: str) -> Applied:
        with self._store.transaction():
            self._check_padding(None, attachment)
            parent, name = find_parent(self._store, target)
            now_ns = time.time_ns()
            try:
                node = self._store.tree.create(
                    parent, name, Kind.FILE, mode=document.mode, uid=document.uid, gid=document.gid, now_ns=now_ns
                )
            except Exists:
                raise Exists("there is a file of that name already; choose another one, or remove it first") from None
            self._store.attachments.adopt(node.inode, attachment)
            self._store.documents.edit(
                node.doc_id, now_ns, mtime_ns=document.mtime_ns, xattrs=document.xattrs, content=document.content
            )
        return Applied(node.inode, None, (), ((parent, name),), content_changed=True)


def _is_followed_by(text: str, revision: Revision) -> bool:
    """Whether one edit, of whatever device, leads from the revision of this text to the other one."""
    try:
        former = Revision.parse(text)
    except ValueError:
        return False
    return any(former.advanced(device) == revision for device, _ in revision.entries)


def free_name(store: Store, parent: DocId, name: bytes) -> bytes:
    """A name where nothing has it, else the first one `beside` it. Within a transaction."""
    names = (beside(name, number) for number in itertools.count(1))
    return next(free for free in names if store.documents.at(parent, free) is None)


def beside(name: bytes, number: int) -> bytes:
    """A name, or from number 2 on one like it: `stem (restored).ext`, `stem (restored 2).ext`."""
    if number == 1:
        return name
    stem, dot, extension = name.rpartition(b".")
    if not stem.strip(b".") or len(extension) > 20:
        stem, dot, extension = name, b"", b""
    tail = name_from_text(" (restored)" if number == 2 else f" (restored {number - 1})") + dot + extension
    return stem[: 255 - len(tail)] + tail
