"""This process owns a store: its desk, its engine, and the news of both; other programs of the user work through it.

Invariant: a deleted document that nobody has open keeps no bytes.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractAsyncContextManager

from blobfs.api import named
from blobfs.api.changes import Listeners
from blobfs.api.connection import Connection
from blobfs.api.desk import Desk
from blobfs.api.serving import serving
from blobfs.errors import NotFound
from blobfs.fs.use import Use
from blobfs.store.documents import Applied
from blobfs.store.store import Store
from blobfs.sync.engine import SyncEngine


class Owner:
    """A store and its desk, while a program has it open."""

    def __init__(self, store: Store) -> None:
        """Takes the store over, and starts to sync. Raises ServerFailed, UsageError; then the store is closed."""
        self.listeners = Listeners()
        self._store = store
        self._connection = Connection(store)
        self.desk = Desk(store, self._connection, written=self._changed)
        self._connection.wire = self._wire
        self._connection.serve = self._serve
        try:
            self.desk.tidy()
            self._connection.start()
        except BaseException:
            store.close()
            raise

    def _wire(self, engine: SyncEngine) -> None:
        engine.is_busy = self.desk.is_open
        engine.on_applied = self._changed

    def _serve(self) -> AbstractAsyncContextManager[None]:
        return serving(self._store.path, self.desk, self.listeners.listen, Use())

    def _changed(self, applied: Applied) -> None:
        tell(self._store, self.listeners, applied)
        self._store.tree.purge(applied.inode)

    def close(self) -> None:
        """Stop syncing, and close the store."""
        try:
            self._connection.stop()
        finally:
            self._store.close()


def tell(store: Store, listeners: Listeners, applied: Applied) -> None:
    """Tell listeners which document a change was of."""
    if not listeners.are_there:
        # To find out costs a dozen queries, on the loop; a device that joins takes in thousands of documents.
        return
    with store.transaction():
        node, names = applied.before, store.tree.names(applied.inode) or applied.names_before
        with contextlib.suppress(NotFound):
            node = store.tree.get(applied.inode)
        doc_id = None if node is None else named.told_as(store, node, names)
    if doc_id is not None:
        listeners.tell(doc_id)
