"""The daemon's side of the API: its desk, wired to what it mounts, and news of every change whatever its way.

Invariant: when a program's call returns, the kernel has been told to forget what that call changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import trio

from blobfs.api.changes import Changes, Listeners
from blobfs.api.desk import Desk
from blobfs.api.loop import Loop
from blobfs.api.owner import tell
from blobfs.api.serving import serving
from blobfs.fs.filesystem import FileSystem
from blobfs.fs.use import Use
from blobfs.remote.client import RemoteClient
from blobfs.store.documents import Applied
from blobfs.store.store import Store
from blobfs.sync.engine import SyncEngine
from blobfs.values.documents import DocId
from blobfs.values.nodes import Inode


class Reception:
    """The desk of a daemon, wired to what it mounts."""

    def __init__(self, store: Store, engine: SyncEngine, client: RemoteClient, fs: FileSystem, use: Use) -> None:
        """
        Args:
            fs: is told of each change that did not come through it.
            use: marked with each call of a program.
        """
        self._store, self._engine, self._client, self._fs = store, engine, client, fs
        self._use = use
        self._loop, self._listeners = Loop(), Listeners()
        self._desk = Desk(store, self._loop, written=self._written)
        self._watchers = 0

    def has_open_files(self) -> bool:
        """Whether a program reads any attachment."""
        return self._desk.has_open_files()

    def is_open(self, inode: Inode) -> bool:
        """Whether a program reads the attachment of a node. From any thread."""
        return self._desk.is_open(inode)

    def applied(self, applied: Applied) -> None:
        """Another device changed a document. On the loop."""
        tell(self._store, self._listeners, applied)
        self._fs.notify(applied)

    def _written(self, applied: Applied) -> None:
        # In the worker thread of a call: it returns when the mount shows what it did.
        trio.from_thread.run_sync(self._fs.notify, applied)
        self._fs.wait_until_told()

    @contextlib.contextmanager
    def _listen(self) -> Iterator[Changes]:
        """Listen for changes of any origin. On the loop."""
        if not self._watchers:
            self._store.queries.watch()
        self._watchers += 1
        news = self._listeners.listen()
        try:
            yield news
        finally:
            news.close()
            self._watchers -= 1
            if not self._watchers:
                self._store.queries.unwatch()

    def _wake(self) -> None:
        # From the thread of any edit, a request of the mount included: whoever listens must not slow it down.
        if self._watchers:
            self._token.run_sync_soon(self._tell, idempotent=True)

    def _tell(self) -> None:
        if self._watchers:
            for doc_id in self._store.queries.news():
                self._tell_one(doc_id)

    def _tell_one(self, doc_id: DocId) -> None:
        inode = self._store.documents.inode(doc_id)
        if inode is not None:
            tell(self._store, self._listeners, Applied(inode, None, (), (), False))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer programs while the block runs; the engine must run as long."""
        async with trio.open_nursery() as jobs:
            self._loop.begin(jobs, self._engine, self._client)
            self._token = trio.lowlevel.current_trio_token()
            self._store.on_change.append(self._wake)
            try:
                await trio.to_thread.run_sync(self._desk.tidy)
                async with serving(self._store.path, self._desk, self._listen, self._use):
                    yield
            finally:
                self._store.on_change.remove(self._wake)
                self._listeners.close()
                self._loop.end()
            jobs.cancel_scope.cancel()
