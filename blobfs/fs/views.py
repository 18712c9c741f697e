"""Views: `/.blobfs/`, which shows documents to ordinary tools, and the attributes that tell a file's state.

    .blobfs/documents/DOC_ID.json    a document's JSON, as text; written back at close, if it is a JSON object
    .blobfs/by-id/DOC_ID             a symlink to the file that the document is
    .blobfs/attachments/DOC_ID/NAME  its further attachments: files of the tree that are in no other listing

Knows the store's documents and FileSystem, whose calls it answers for inodes of its own; no FUSE. Invariant: an inode
below `FIRST` is never answered here, and one from there on never reaches the tree. `.blobfs` is in no listing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from blobfs.errors import (
    DocumentNotFound,
    FileTooBig,
    InvalidArgument,
    InvalidDocument,
    NoAttribute,
    NotFound,
    NotPermitted,
    NotSupported,
    StaleHandle,
)
from blobfs.fs.cookies import ENDLESS
from blobfs.fs.filesystem import FileSystem
from blobfs.fs.privileges import Power
from blobfs.fs.stale import Stale
from blobfs.store.hidden import NAME
from blobfs.store.store import Store
from blobfs.sync.copies import is_conflict_name
from blobfs.values import documents
from blobfs.values.documents import DocId, Json, Kind
from blobfs.values.nodes import ROOT_INODE, Entry, Inode, Node

ATTACHMENTS: Final = b"attachments"
STATE: Final = b"user.blobfs.state"
DOC_ID: Final = b"user.blobfs.doc_id"

FIRST: Final = Inode(1 << 60)
"""The first inode of a view: more than any document gets. Views change unseen, so the kernel must remember nothing."""
TOP: Final = FIRST
DOCUMENTS: Final = Inode(FIRST + 1)
BY_ID: Final = Inode(FIRST + 2)
_TEXT: Final = 1 << 61
"""Plus the inode of a document: its JSON."""
_LINK: Final = 1 << 62
"""Plus the inode of a document: the symlink to it."""
_DIRECTORIES: Final = {b"documents": DOCUMENTS, b"by-id": BY_ID}
_SUFFIX: Final = b".json"
MAX_TEXT: Final = 1 << 20
"""Bytes of text; white space and letters count less in the document than here, or more."""


class Draft:
    """The text of a document while it is open."""

    __slots__ = ("body", "handles", "is_dirty")

    def __init__(self) -> None:
        self.body = bytearray()
        self.handles = 0
        self.is_dirty = False


class ViewedFileSystem(FileSystem):
    """A store as a filesystem, with its views. What is not said here is as in FileSystem."""

    def __init__(self, store: Store, **options: Any) -> None:
        super().__init__(store, **options)
        self.failure: Callable[[DocId], str | None] = lambda doc_id: None
        """Why a document cannot be brought to or from the server; None when nothing is wrong."""
        self._documents, self._hidden = store.documents, store.hidden
        self._drafts: dict[Inode, Draft] = {}

    def has_open_files(self) -> bool:
        """Whether any handle is open, or bytes written are not in the store yet."""
        return bool(self._files or self._drafts)

    # --- names --------------------------------------------------------------------------------------------

    def lookup(self, parent: Inode, name: bytes) -> Node:
        """As FileSystem; the kernel's references to views are not counted."""
        if parent < FIRST:
            if name == NAME and parent == ROOT_INODE:
                return self._directory(TOP)
            return super().lookup(parent, name)
        if parent == TOP and name in _DIRECTORIES:
            return self._directory(_DIRECTORIES[name])
        if parent == TOP and name == ATTACHMENTS and (found := self._hidden.find()) is not None:
            return super().lookup(found.inode, name)
        if parent == DOCUMENTS and name.endswith(_SUFFIX):
            return self._text_node(self._find(name.removesuffix(_SUFFIX), has_root=False))
        if parent == BY_ID:
            return self._link_node(self._find(name, has_root=True))
        raise NotFound("there is no such view")

    def _find(self, name: bytes, *, has_root: bool) -> Node:
        inode = self._documents.inode(DocId(name.decode("ascii", "replace")))
        if inode is None or (inode == ROOT_INODE and not has_root):
            raise NotFound("no such document")
        return self._live(inode)

    def _live(self, inode: Inode) -> Node:
        node = self._tree.get(inode)
        if node.deleted:
            raise NotFound("the document was deleted")
        return node

    def forget(self, inode: Inode, count: int) -> None:
        """As FileSystem."""
        if inode < FIRST:
            super().forget(inode, count)

    def entries(self, inode: Inode, after: int, limit: int) -> list[Entry]:
        """As FileSystem; documents in the order of their inodes, which are the cookies."""
        if inode == ROOT_INODE:
            return self._shown(after, limit)
        if inode < FIRST:
            return super().entries(inode, after, limit)
        if inode == TOP:
            found = [(name, self._directory(view)) for name, view in _DIRECTORIES.items()]
            if (attachments := self._hidden.find(ATTACHMENTS)) is not None:
                found.append((ATTACHMENTS, attachments))
            return [Entry(cookie, name, node) for cookie, (name, node) in enumerate(found, 1) if cookie > after]
        nodes = [self._tree.get(found) for found in self._documents.inodes(Inode(max(after, ROOT_INODE)), limit)]
        if inode == BY_ID:
            return [Entry(node.inode, node.doc_id.encode(), self._link_node(node)) for node in nodes]
        return [Entry(node.inode, node.doc_id.encode() + _SUFFIX, self._text_node(node)) for node in nodes]

    def newest(self, inode: Inode) -> int:
        """As FileSystem."""
        return super().newest(inode) if inode < FIRST else ENDLESS

    def _shown(self, after: int, limit: int) -> list[Entry]:
        entries = super().entries(ROOT_INODE, after, limit)
        shown = [entry for entry in entries if entry.name != NAME]
        # An empty answer would end the listing; behind the one hidden name there may be others.
        return shown if shown or not entries else super().entries(ROOT_INODE, entries[-1].cookie, limit)

    def entry_sent(self, inode: Inode) -> None:
        """As FileSystem."""
        if inode < FIRST:
            super().entry_sent(inode)

    def parent(self, inode: Inode) -> Inode:
        """As FileSystem."""
        if inode < FIRST:
            return super().parent(inode)
        return ROOT_INODE if inode == TOP else TOP

    def make(
        self,
        parent: Inode,
        name: bytes,
        kind: Kind,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Node:
        """As FileSystem; nothing can be made in a view."""
        _refuse_change(parent, name)
        return super().make(parent, name, kind, mode, uid, gid, rdev=rdev, target=target)

    def link(self, inode: Inode, parent: Inode, name: bytes) -> Node:
        """As FileSystem."""
        _refuse_change(parent, name)
        if inode >= FIRST:
            raise NotPermitted("a view has one name")
        return super().link(inode, parent, name)

    def unlink(self, parent: Inode, name: bytes) -> None:
        """As FileSystem."""
        _refuse_change(parent, name)
        super().unlink(parent, name)

    def rmdir(self, parent: Inode, name: bytes) -> None:
        """As FileSystem."""
        _refuse_change(parent, name)
        super().rmdir(parent, name)

    def rename(
        self,
        parent: Inode,
        name: bytes,
        new_parent: Inode,
        new_name: bytes,
        *,
        exchange: bool = False,
        no_replace: bool = False,
    ) -> None:
        """As FileSystem."""
        _refuse_change(parent, name)
        _refuse_change(new_parent, new_name)
        super().rename(parent, name, new_parent, new_name, exchange=exchange, no_replace=no_replace)

    def readlink(self, inode: Inode) -> bytes:
        """As FileSystem."""
        return super().readlink(inode) if inode < FIRST else self.getattr(inode).target

    # --- attributes ---------------------------------------------------------------------------------------

    def getattr(self, inode: Inode) -> Node:
        """As FileSystem."""
        if inode < FIRST:
            return super().getattr(inode)
        if inode >= _LINK:
            return self._link_node(self._live(Inode(inode - _LINK)))
        return self._text_node(self._live(Inode(inode - _TEXT))) if inode >= _TEXT else self._directory(inode)

    def _directory(self, inode: Inode) -> Node:
        top = self._tree.get(ROOT_INODE)
        return self._view(top, inode, Kind.DIRECTORY, 0o500)._replace(nlink=2)

    def _text_node(self, node: Node) -> Node:
        inode = Inode(_TEXT + node.inode)
        draft = self._drafts.get(inode)
        size = len(self._text(node.inode) if draft is None else draft.body)
        return self._view(node, inode, Kind.FILE, 0o600)._replace(size=size)

    def _link_node(self, node: Node) -> Node:
        path, inode = [b"..", b".."], node.inode
        names: list[bytes] = []
        while inode != ROOT_INODE:
            if not (found := self._tree.names(inode)) or len(names) > 2000:
                raise NotFound("the document has no place in the tree")
            inode, name = found[0]
            names.append(name)
        target = b"/".join(path + names[::-1])
        return self._view(node, Inode(_LINK + node.inode), Kind.SYMLINK, 0o777)._replace(target=target)

    def _view(self, node: Node, inode: Inode, kind: Kind, mode: int) -> Node:
        # For whoever runs the mount alone: what is reached through here is past the directories that the file is in.
        return node._replace(
            inode=inode,
            kind=kind,
            mode=mode,
            uid=self.owner.uid,
            gid=self.owner.gid,
            rdev=0,
            size=0,
            stored=0,
            nlink=1,
            content=None,
        )

    async def setattr(
        self,
        inode: Inode,
        *,
        size: int | None = None,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        power: Power = Power.ROOT,
    ) -> Node:
        """As FileSystem; of a view only the text's size can be set, and times are those of the document."""
        if inode < FIRST:
            return await super().setattr(
                inode, size=size, mode=mode, uid=uid, gid=gid, atime_ns=atime_ns, mtime_ns=mtime_ns, power=power
            )
        if any(value is not None for value in (mode, uid, gid)):
            raise NotPermitted("owner and mode of a view are fixed")
        if size is not None:
            self._resize_text(inode, size)
        return self.getattr(inode)

    def get_xattr(self, inode: Inode, name: bytes) -> bytes:
        """As FileSystem; two attributes tell what is known of every file. They are not listed, so no tool copies them.

        `user.blobfs.state` is words: where the bytes are (`NONE`: there are none; `LOCAL`, `REMOTE`, both `SYNCED`),
        `dirty`, `pinned`, `conflict`, and last `failed: REASON`. A document's text has those of its file.
        """
        if inode >= FIRST:
            if not _TEXT <= inode < _LINK or name not in (STATE, DOC_ID):
                raise NoAttribute("a view has no other attributes")
            inode = self._live(Inode(inode - _TEXT)).inode
        if name == DOC_ID:
            return self._tree.get(inode).doc_id.encode()
        return self._state(self._tree.get(inode)).encode() if name == STATE else super().get_xattr(inode, name)

    def _state(self, node: Node) -> str:
        file = self._files.get(node.inode)
        is_buffered = file is not None and file.is_dirty
        local = self._documents.local(node.doc_id)
        if local is None:
            raise NotFound("no such document")
        words = []
        if node.content is None:
            words.append("NONE")
        else:
            base = self._documents.base(node.doc_id)
            is_remote = base is not None and not (base.deleted or local.content_changed or is_buffered)
            is_local = self._attachments.is_whole(node.content, node.size)
            words += ["LOCAL"] * is_local + ["REMOTE"] * is_remote + ["SYNCED"] * (is_local and is_remote)
        words += ["dirty"] * (is_buffered or local.edit > local.synced)
        words += ["pinned"] * self._store.pins.covers(node.inode)
        words += ["conflict"] * any(is_conflict_name(name) for _, name in self._tree.names(node.inode))
        failure = self.failure(node.doc_id)
        return " ".join([*words, *([] if failure is None else [f"failed: {failure}"])])

    def set_xattr(self, inode: Inode, name: bytes, value: bytes) -> None:
        """As FileSystem."""
        _refuse_attribute(inode, name)
        super().set_xattr(inode, name, value)

    def list_xattrs(self, inode: Inode) -> list[bytes]:
        """As FileSystem. What another device stored under the names of ours is not listed, and never read."""
        return [name for name in super().list_xattrs(inode) if name not in (STATE, DOC_ID)] if inode < FIRST else []

    def remove_xattr(self, inode: Inode, name: bytes) -> None:
        """As FileSystem."""
        _refuse_attribute(inode, name)
        super().remove_xattr(inode, name)

    # --- the text of a document ---------------------------------------------------------------------------

    def _text(self, inode: Inode) -> bytes:
        content = self._documents.content(self._live(inode).doc_id)
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    async def open(
        self, inode: Inode, *, writes: bool = False, truncate: bool = False, power: Power = Power.ROOT
    ) -> None:
        """As FileSystem; all handles of a text share one draft."""
        if inode < FIRST:
            await super().open(inode, writes=writes, truncate=truncate, power=power)
            return
        draft = self._drafts.get(inode) or Draft()
        if not draft.is_dirty:
            draft.body[:] = self._text(Inode(inode - _TEXT))
        draft.handles += 1
        self._drafts[inode] = draft
        if truncate:
            self._resize_text(inode, 0)

    async def read(self, inode: Inode, offset: int, length: int) -> bytes:
        """As FileSystem."""
        if inode < FIRST:
            return await super().read(inode, offset, length)
        return bytes(self._draft(inode).body[offset : offset + length])

    async def write(self, inode: Inode, offset: int, data: bytes) -> int:
        """As FileSystem. What cannot become a JSON object is refused at once, where its beginning shows that."""
        if inode < FIRST:
            return await super().write(inode, offset, data)
        draft, end = self._draft(inode), offset + len(data)
        if offset == 0 and data.lstrip(b" \t\r\n")[:1] not in (b"", b"{"):
            raise InvalidArgument("a document is a JSON object, which begins with {")
        if end > MAX_TEXT:
            raise FileTooBig(f"a document has {MAX_TEXT} bytes of text at most")
        draft.body.extend(bytes(max(0, offset - len(draft.body))))
        draft.body[offset:end] = data
        draft.is_dirty = True
        return len(data)

    def _resize_text(self, inode: Inode, size: int) -> None:
        draft = self._draft(inode)
        if size > MAX_TEXT:
            raise FileTooBig(f"a document has {MAX_TEXT} bytes of text at most")
        if size != len(draft.body):
            draft.body[size:] = bytes(max(0, size - len(draft.body)))
            draft.is_dirty = True

    def _draft(self, inode: Inode) -> Draft:
        draft = self._drafts.get(inode)
        if draft is None:
            raise InvalidArgument("a document is JSON as a whole; open it, then write it")
        return draft

    async def flush(self, inode: Inode) -> None:
        """As FileSystem. A text that is no document is refused (InvalidArgument), and the document stays as it was.

        The draft stays too, while it is open: a shell closes the descriptor it has just truncated through.
        """
        if inode < FIRST:
            await super().flush(inode)
            return
        draft = self._drafts.get(inode)
        if draft is not None and draft.is_dirty:
            self._store_text(Inode(inode - _TEXT), bytes(draft.body))
            draft.is_dirty = False

    def _store_text(self, inode: Inode, text: bytes) -> None:
        doc_id = self._live(inode).doc_id
        content = _parse(doc_id, text)
        try:
            self._documents.edit(doc_id, time.time_ns(), content=content)
        except DocumentNotFound:
            raise StaleHandle("the document was deleted") from None
        self._outdate(inode)
        self._tell(Stale(((inode, False),), ()))

    async def release(self, inode: Inode) -> None:
        """As FileSystem."""
        if inode < FIRST:
            await super().release(inode)
            return
        draft = self._drafts[inode]
        draft.handles -= 1
        if not draft.handles:
            del self._drafts[inode]


def _parse(doc_id: DocId, text: bytes) -> Json:
    try:
        content = documents.load(text)
        documents.check(documents.Document(doc_id, content=content))
    except (ValueError, InvalidDocument) as error:
        raise InvalidArgument(f"the text is no document: {error}") from None
    if len(documents.dump(content)) > documents.MAX_CONTENT:
        raise FileTooBig(f"a document has {documents.MAX_CONTENT} bytes of JSON at most")
    return content


def _refuse_change(parent: Inode, name: bytes) -> None:
    if parent >= FIRST:
        raise NotPermitted("nothing can be made, moved or removed in a view")
    if name == NAME and parent == ROOT_INODE:
        raise NotPermitted("the views have this name")


def _refuse_attribute(inode: Inode, name: bytes) -> None:
    if inode >= FIRST:
        raise NotSupported("a view keeps no attributes")
    if name in (STATE, DOC_ID):
        raise NotPermitted("this attribute tells a state, and cannot be set")
