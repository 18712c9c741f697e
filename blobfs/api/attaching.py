"""Attachments between a program's documents, the store and the server.

Invariant: bytes that no document has are staged and in nobody's way; those of a document change in `put_doc` only.
"""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from blobfs.api.connection import Connection
from blobfs.api.document import AttachmentState, Change
from blobfs.api.reading import BUFFER, AttachmentReader
from blobfs.api.staging import Filler, Source, Staged, Staging
from blobfs.errors import DocumentNotFound, NotFound, RemoteUnavailable, StaleHandle, UsageError
from blobfs.store.documents import Local
from blobfs.store.store import Store
from blobfs.sync.status import SyncState
from blobfs.values.documents import DocId, Kind
from blobfs.values.extents import EXTENT
from blobfs.values.nodes import Content, Inode, Node

if TYPE_CHECKING:
    from blobfs.api.document import Document

PATIENCE_S: Final = 30.0
"""For how long a server may be away before whoever waits for it without a time limit is told so."""
LOOK_S: Final = 0.05
AHEAD: Final = 2 * EXTENT
"""Bytes that a download asks for at once: the next extent is on its way while one is stored."""


class Attaching:
    """What the documents of one account do with their attachments."""

    def __init__(self, store: Store, connection: Connection) -> None:
        self._store, self._connection = store, connection
        self.staging = Staging(store)
        self._open: Counter[Inode] = Counter()
        self._lock = threading.Lock()

    def is_open(self, inode: Inode) -> bool:
        """Whether somebody reads the attachment of a node."""
        return self._open[inode] > 0

    # --- changing -----------------------------------------------------------------------------------------------

    def begin(self, document: Document) -> Filler:
        """Begin a new attachment for `document`. Raises UsageError: it can have none."""
        if self.local(document).node.kind is not Kind.FILE:
            raise UsageError("only a file can have an attachment; this document is a directory, a link or the like")
        return self.staging.begin()

    def put(self, document: Document, source: Source) -> None:
        """See `Document.put_attachment`."""
        self.begin(document)
        self.change(document, self.staging.take(source))

    def delete(self, document: Document) -> None:
        """See `Document.delete_attachment`."""
        attached = self.local(document).node.content is not None
        self.change(document, Change.DETACH if attached else Change.NOTHING)

    def change(self, document: Document, change: Staged | Change) -> None:
        """What `put_doc` is to do; what it was to do before is given up."""
        if isinstance(document.change, Staged):
            self.staging.drop(document.change)
        document.change = change

    # --- reading --------------------------------------------------------------------------------------------------

    def open(self, document: Document) -> io.BufferedReader | None:
        """See `Document.get_attachment`."""
        change = document.change
        with self._store.transaction():
            node = self.local(document).node
            if isinstance(change, Staged):
                return self._reader(change.content, change.size, node.inode, lambda: self._check_staged(node, change))
            if node.content is None or change is Change.DETACH:
                return None
            return self._reader(node.content, node.size, node.inode, lambda: self._check(node))

    def _reader(self, content: Content, size: int, inode: Inode, check: Callable[[], None]) -> io.BufferedReader:
        def leave() -> None:
            with self._lock:
                self._open[inode] -= 1
                if not self._open[inode]:
                    del self._open[inode]

        with self._lock:
            self._open[inode] += 1
        reader = AttachmentReader(self._store, content, size, check=check, fetch=self.fetch, leave=leave)
        return io.BufferedReader(reader, BUFFER)

    def _check(self, before: Node) -> None:
        """Raises StaleHandle unless the node still has the bytes that it had."""
        try:
            now = self._store.tree.get(before.inode)
        except NotFound:
            now = None
        if now is None or now.deleted or (now.content, now.size) != (before.content, before.size):
            raise StaleHandle("the attachment was replaced while it was open; get it from the document again")

    def _check_staged(self, node: Node, staged: Staged) -> None:
        if not self.staging.holds(staged):
            self._check(node._replace(content=staged.content, size=staged.size))

    def fetch(self, content: Content, offset: int, length: int) -> None:
        """On return these bytes are in the store. From any thread but the engine's. Raises as `SyncEngine.fetch`."""
        self._connection.submit(self._connection.engine.fetch, content, offset, length).result()

    # --- states ---------------------------------------------------------------------------------------------------

    def local(self, document: Document) -> Local:
        """The stored document. Raises DocumentNotFound."""
        local = self._store.documents.local(DocId(document.doc_id))
        if local is None or local.node.deleted:
            raise DocumentNotFound(f"document {document.doc_id} was deleted")
        return local

    def state(self, document: Document) -> AttachmentState:
        """See `Document.get_attachment_state`."""
        if isinstance(document.change, Staged):
            return AttachmentState.LOCAL
        if document.change is Change.DETACH:
            return AttachmentState.NONE
        with self._store.transaction():
            return self._stored_state(self.local(document))

    def _stored_state(self, local: Local) -> AttachmentState:
        node, state = local.node, AttachmentState.NONE
        if node.content is None:
            return state
        if self._store.attachments.is_whole(node.content, node.size):
            state |= AttachmentState.LOCAL
        base = self._store.documents.base(node.doc_id)
        if base is not None and not base.deleted and not local.content_changed:
            state |= AttachmentState.REMOTE
        return state

    # --- the server -------------------------------------------------------------------------------------------------

    def upload(self, document: Document, timeout_s: float | None) -> AttachmentState:
        """See `Document.upload_attachment`."""
        if document.change is not Change.NOTHING:
            raise UsageError("the attachment was changed in memory only; put_doc the document, then upload")
        if self.local(document).node.content is not None:
            doc_id = DocId(document.doc_id)
            self._connection.submit(self._settle, timeout_s, lambda: self._is_sent(doc_id)).result()
        return self.state(document)

    def settle(self, timeout_s: float | None) -> None:
        """On return the server has everything. See `Account.sync`."""
        self._connection.submit(self._settle, timeout_s, lambda: False).result()

    async def _settle(self, timeout_s: float | None, is_enough: Callable[[], bool]) -> None:
        """Wait until all is sent, or enough of it. A server that stays away ends the wait also without a time limit."""
        engine = self._connection.engine
        if is_enough():
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope, is_enough, timeout_s is None)
            await (engine.settle() if timeout_s is None else engine.settle(timeout_s))
            nursery.cancel_scope.cancel()

    async def _watch(self, scope: trio.CancelScope, is_enough: Callable[[], bool], impatient: bool) -> None:
        engine, last_seen = self._connection.engine, trio.current_time()
        while True:
            await trio.sleep(LOOK_S)
            if is_enough():
                scope.cancel()
            if engine.health.state is not SyncState.OFFLINE:
                last_seen = trio.current_time()
            elif impatient and trio.current_time() - last_seen > PATIENCE_S:
                raise engine.health.worst or RemoteUnavailable("the server does not answer; try again later")

    def _is_sent(self, doc_id: DocId) -> bool:
        local = self._store.documents.local(doc_id)
        return local is None or local.edit <= local.synced

    def download(self, document: Document) -> AttachmentState:
        """See `Document.download_attachment`."""
        node = self.local(document).node
        content = node.content
        if document.change is Change.NOTHING and content is not None:
            # One version from the first byte to the last: a newer one waits while this one is open.
            with self._reader(content, node.size, node.inode, lambda: self._check(node)):
                for offset in range(0, node.size, AHEAD):
                    self.fetch(content, offset, min(AHEAD, node.size - offset))
                    self._check(node)
        return self.state(document)
