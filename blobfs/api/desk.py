"""What the API asks of the one owner of a store, in this process or, through a socket, in the daemon's.

Takes and gives plain values only, so that every call can travel. Each call is one transaction and survives SIGKILL once
it returns. Invariant: a document is written only when it still is what the caller saw.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import trio

from blobfs.api import named, places
from blobfs.api.loop import Loop
from blobfs.api.mailroom import Mailroom
from blobfs.api.shelf import Shelf
from blobfs.errors import DocumentNotFound, NotFound, RemoteUnavailable, RevisionConflict, StaleHandle
from blobfs.store.documents import Applied, Local
from blobfs.store.queries import Scalar
from blobfs.store.store import Store
from blobfs.sync.copies import copies_begin, is_copy_of
from blobfs.sync.status import SyncState
from blobfs.values import crypto
from blobfs.values.documents import ROOT, DocId, Json, Kind
from blobfs.values.nodes import Content, Inode, Node
from blobfs.values.revisions import Revision

PATIENCE_S: Final = 30.0
"""For how long a server may be away before whoever waits for it without a time limit is told so."""
LOOK_S: Final = 0.05
LOCAL: Final = 1
REMOTE: Final = 2


class Named(NamedTuple):
    """A further attachment of a document."""

    name: str
    inode: int
    content: int
    size: int
    mtime_ns: int


class View(NamedTuple):
    """What a program can see of a document. Another `seen` means that somebody changed it."""

    doc_id: str
    kind: str
    inode: int
    revision: str
    text: str
    """Its JSON in one form."""
    content: int | None
    size: int
    mtime_ns: int
    named: Sequence[Named]
    """Ascending by name."""

    @property
    def seen(self) -> list[Any]:
        """All but what says nothing to a program, such as its name in the mount or what the server has."""
        return [self.text, self.content, self.size, self.mtime_ns, [list(entry) for entry in self.named]]

    def find(self, name: str) -> Named | None:
        """The further attachment of this name."""
        return next((entry for entry in self.named if entry.name == name), None)


class Listed(NamedTuple):
    """A file or folder in a folder."""

    name: str
    doc_id: str
    kind: str
    """`file`, `directory`, `symlink` or what else a filesystem has."""
    size: int
    mtime_ns: int


class Put(NamedTuple):
    """A document as it is to be."""

    doc_id: str
    seen: Sequence[Any]
    text: str
    attached: Mapping[str, Sequence[Any]]
    """By name, `""` for the document's own: (content or None to detach, size, bytes stored). Others stay."""


class Past(NamedTuple):
    """A revision that the server still has."""

    revision: str
    deleted: bool
    text: str
    size: int | None
    mtime_ns: int


def canonical(content: Json) -> str:
    """JSON as text, the same for equal values."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


class Desk:
    """The store and the engine, for programs. From any thread but the engine's."""

    def __init__(self, store: Store, loop: Loop, *, written: Callable[[Applied], None]) -> None:
        """
        Args:
            written: called after each change of a document that came through here.
        """
        self._store, self._loop, self._written = store, loop, written
        self.blobs = Shelf(store, loop, written=written)
        self.incoming = Mailroom(store, loop)
        self._open: Counter[int] = Counter()
        self._lock = threading.Lock()

    # --- documents ------------------------------------------------------------------------------------------------

    def create(self, doc_id: str, text: str, path: str | None, attached: Sequence[Any] | None) -> View:
        """Store a new document, with an attachment (content, size, bytes stored) if one is given.

        Raises:
            DocumentExists, NotADirectory, InvalidDocument.
        """
        names = [] if path is None else places.split(path)
        with self._store.transaction():
            nodes = places.create(self._store, DocId(doc_id), json.loads(text), names)
            if attached is not None:
                self._attach(nodes[-1], attached)
            view = self._view(self._live(doc_id))
            applied = self._made(nodes)
        for change in applied:
            self._written(change)
        return view

    def _attach(self, node: Node, attached: Sequence[Any]) -> None:
        content, size, stored = attached
        self._store.attachments.attach(node.inode, content, size, stored, time.time_ns())

    def at(self, path: str) -> View | None:
        """The live document at a place in the mount, the root excepted."""
        names = places.split(path)
        with self._store.transaction():
            node = places.find(self._store, names)
            return None if node is None else self._view(self._live(node.doc_id))

    def entries(self, path: str) -> list[Listed]:
        """What is in a folder of the mount, by name; `""` is the top. Raises NotFound, NotADirectory."""
        with self._store.transaction():
            return [
                Listed(os.fsdecode(name), node.doc_id, node.kind.value, node.size, node.mtime_ns)
                for _, name, node in places.entries(self._store, places.split(path) if path else [])
            ]

    def make_folder(self, path: str) -> None:
        """Make a folder and all that lead to it; one that is there is left. Raises NotADirectory, InvalidDocument."""
        with self._store.transaction():
            _, made = places.folder(self._store, places.split(path))
            applied = self._made(made)
        for change in applied:
            self._written(change)

    def _made(self, nodes: Sequence[Node]) -> list[Applied]:
        return [Applied(node.inode, None, (), tuple(self._store.tree.names(node.inode)), False) for node in nodes]

    def move(self, path: str, new_path: str) -> None:
        """Move a file or folder to a free place. Raises NotFound, Exists, NotADirectory, InvalidArgument."""
        with self._store.transaction():
            applied = places.move(self._store, places.split(path), places.split(new_path))
        for change in applied:
            self._written(change)

    def paths(self, doc_id: str) -> list[str]:
        """Every place of a document. Raises DocumentNotFound."""
        with self._store.transaction():
            return places.paths(self._store, self._live(doc_id).node.inode)

    def get(self, doc_id: str) -> View | None:
        """A live document, the root excepted."""
        with self._store.transaction():
            local = self._store.documents.local(DocId(doc_id))
            return None if local is None or local.node.deleted or doc_id == ROOT else self._view(local)

    def ids(self, after: str | None, limit: int) -> list[str]:
        """Ids of live documents, ascending, from the first one after `after`."""
        return list(self._store.queries.ids(None if after is None else DocId(after), limit))

    def put(self, puts: Sequence[Put], deletes: Sequence[tuple[str, Sequence[Any]]]) -> list[View]:
        """Store some documents and delete others, all or none; those that were stored.

        Raises:
            RevisionConflict: one is not what was seen. DocumentNotFound: one was deleted. NotEmpty, NoSpace.
        """
        applied: list[Applied] = []
        with self._store.transaction():
            views = [self._write(Put(*put), applied) for put in puts]
            for doc_id, seen in deletes:
                self._delete(doc_id, seen, applied)
        for change in applied:
            self._written(change)
        return views

    def _write(self, put: Put, applied: list[Applied]) -> View:
        node, now_ns = self._unchanged(put.doc_id, put.seen).node, time.time_ns()
        if put.text != put.seen[0]:
            self._store.documents.edit(node.doc_id, now_ns, content=json.loads(put.text))
        for name, attached in put.attached.items():
            if name:
                applied += named.attach(self._store, put.doc_id, name, attached)
            else:
                self._attach(node, attached)
        names = tuple(self._store.tree.names(node.inode))
        applied.append(Applied(node.inode, node, names, names, "" in put.attached))
        return self._view(self._live(put.doc_id))

    def _delete(self, doc_id: str, seen: Sequence[Any], applied: list[Applied]) -> None:
        node, now_ns = self._unchanged(doc_id, seen).node, time.time_ns()
        names = tuple(self._store.tree.names(node.inode))
        if node.kind is Kind.DIRECTORY:
            for parent, name in names:
                self._store.tree.rmdir(parent, name, now_ns)
        else:
            self._store.documents.edit(node.doc_id, now_ns, names=())
            applied += named.drop(self._store, doc_id)
        applied.append(Applied(node.inode, node, names, (), False))

    def _unchanged(self, doc_id: str, seen: Sequence[Any]) -> Local:
        local = self._live(doc_id)
        if self._view(local).seen != seen:
            raise RevisionConflict(f"document {doc_id} was changed since it was read; get it again")
        return local

    def _live(self, doc_id: str) -> Local:
        local = self._store.documents.local(DocId(doc_id))
        if local is None or local.node.deleted:
            raise DocumentNotFound(f"document {doc_id} was deleted")
        return local

    def _view(self, local: Local) -> View:
        node, base, unsent = local.node, self._store.documents.base(local.node.doc_id), local.edit - local.synced
        revision = ("" if base is None else str(base.revision)) + (f"+{unsent}" if unsent > 0 else "")
        text = canonical(local.document.content)
        further = [
            Named(name, entry.inode, entry.content, entry.size, entry.mtime_ns)
            for name, entry in named.listed(self._store, node.doc_id)
            if entry.content is not None
        ]
        main = (node.content, node.size, node.mtime_ns)
        return View(node.doc_id, node.kind.value, node.inode, revision, text, *main, further)

    # --- queries --------------------------------------------------------------------------------------------------

    def create_index(self, name: str, paths: Sequence[str]) -> None:
        """See `Queries.create`."""
        self._store.queries.create(name, paths)

    def delete_index(self, name: str) -> None:
        """See `Queries.delete`."""
        self._store.queries.delete(name)

    def indexes(self) -> dict[str, tuple[str, ...]]:
        """See `Queries.indexes`."""
        return self._store.queries.indexes()

    def find(self, name: str, values: Sequence[Scalar]) -> list[str]:
        """See `Queries.find`."""
        return list(self._store.queries.find(name, values))

    def keys(self, name: str) -> list[tuple[Any, ...]]:
        """See `Queries.keys`."""
        return self._store.queries.keys(name)

    def conflicts(self, doc_id: str) -> list[str]:
        """Ids of the conflict copies of a document, ascending."""
        with self._store.transaction():
            local = self._store.documents.local(DocId(doc_id))
            if local is None or local.node.deleted:
                return []
            found = {
                other
                for parent, name in self._store.tree.names(local.node.inode)
                for copy, other in self._store.queries.named(parent, copies_begin(name))
                if is_copy_of(copy, name)
            }
        return sorted(found)

    def tidy(self) -> None:
        """Delete further attachments of documents that were deleted as files."""
        for change in named.tidy(self._store):
            self._written(change)

    # --- bytes ----------------------------------------------------------------------------------------------------

    def stage(self) -> int:
        """See `Attachments.stage`."""
        return self._store.attachments.stage()

    def fill(self, content: int, offset: int, data: bytes) -> int:
        """See `Attachments.fill`."""
        return self._store.attachments.fill(Content(content), offset, data)

    def abandon(self, content: int) -> None:
        """See `Attachments.abandon`."""
        self._store.attachments.abandon(Content(content))

    def enter(self, inode: int) -> None:
        """Somebody reads the attachment of a node: a newer version from another device waits."""
        with self._lock:
            self._open[inode] += 1

    def leave(self, inode: int) -> None:
        """Somebody reads it no more."""
        with self._lock:
            self._open[inode] -= 1
            if self._open[inode] <= 0:
                del self._open[inode]

    def has_open_files(self) -> bool:
        """Whether somebody reads any attachment."""
        return bool(self._open)

    def is_open(self, inode: Inode) -> bool:
        """Whether somebody reads the attachment of a node."""
        return self._open[inode] > 0

    def read(self, inode: int | None, content: int, size: int, offset: int, length: int) -> bytes:
        """Bytes of an attachment of `size` bytes.

        Args:
            inode: of the node that has it; None: it is staged.
        Raises:
            StaleHandle: the node has another by now. BytesAbsent: `fetch` must come first.
        """
        with self._store.transaction():
            if inode is not None:
                self.check(inode, content, size)
            return self._store.attachments.read(Content(content), offset, length)

    def check(self, inode: int, content: int, size: int) -> None:
        """Raises StaleHandle unless a node still has this attachment."""
        node: Node | None = None
        with contextlib.suppress(NotFound):
            node = self._store.tree.get(Inode(inode))
        if node is None or node.deleted or (node.content, node.size) != (content, size):
            raise StaleHandle("the attachment was replaced while it was open; get it from the document again")

    def state(self, doc_id: str, name: str) -> int:
        """Where a stored attachment is: `LOCAL`, `REMOTE`, both, or 0 for no attachment. Raises DocumentNotFound."""
        with self._store.transaction():
            local, state = self._live(doc_id), 0
            if name:
                further = named.find(self._store, doc_id, name)
                if further is None:
                    return 0
                local = self._live(further.doc_id)
            node = local.node
            if node.content is not None:
                base = self._store.documents.base(node.doc_id)
                state |= LOCAL if self._store.attachments.is_whole(node.content, node.size) else 0
                state |= REMOTE if base is not None and not base.deleted and not local.content_changed else 0
        return state

    # --- the server: these may wait ---------------------------------------------------------------------------------

    def fetch(self, content: int, offset: int, length: int) -> None:
        """On return these bytes are in the store. Raises as `SyncEngine.fetch`."""
        self._loop.submit(self._loop.engine.fetch, content, offset, length).result()

    def settle(self, doc_id: str | None, timeout_s: float | None) -> None:
        """On return the server has a document with its attachments, or everything.

        Args:
            timeout_s: without one, as long as the server answers at all.
        """
        self._loop.submit(self._settle, doc_id, timeout_s).result()

    async def _settle(self, doc_id: str | None, timeout_s: float | None) -> None:
        engine = self._loop.engine
        if doc_id is not None and self._is_sent(doc_id):
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope, doc_id, timeout_s is None)
            await (engine.settle() if timeout_s is None else engine.settle(timeout_s))
            nursery.cancel_scope.cancel()

    async def _watch(self, scope: trio.CancelScope, doc_id: str | None, impatient: bool) -> None:
        """End the wait when the document is sent, or when the server stays away."""
        engine, last_seen = self._loop.engine, trio.current_time()
        while True:
            await trio.sleep(LOOK_S)
            if doc_id is not None and self._is_sent(doc_id):
                scope.cancel()
            if engine.health.state is not SyncState.OFFLINE:
                last_seen = trio.current_time()
            elif impatient and trio.current_time() - last_seen > PATIENCE_S:
                raise engine.health.worst or RemoteUnavailable("the server does not answer; try again later")

    def _is_sent(self, doc_id: str) -> bool:
        """Whether the server has a document and all its attachments."""
        with self._store.transaction():
            further = [node.doc_id for _, node in named.listed(self._store, doc_id)]
            found = [self._store.documents.local(each) for each in (DocId(doc_id), *further)]
        return all(local is None or local.edit <= local.synced for local in found)

    def revisions(self, doc_id: str) -> list[Past]:
        """The revisions of a document that the server still has, newest first. Raises CorruptDocument, RemoteError."""
        return [self._past(entry) for entry in self._loop.submit(self._loop.client.revisions, DocId(doc_id)).result()]

    def _past(self, entry: Any) -> Past:
        revision = Revision.parse(entry.revision)
        document = crypto.open_document(self._store.keys, entry.doc_id, revision, entry.deleted, entry.payload)
        size = None if document.attachment is None else document.attachment.size
        return Past(entry.revision, entry.deleted, canonical(document.content), size, document.mtime_ns)

    def status(self) -> Json:
        """As `SyncStatus.to_json`."""
        return self._loop.engine.status().to_json()
