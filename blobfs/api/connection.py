"""The thread that syncs while a program owns a store: the engine's loop, and the embedded server if it is ours.

Everything else of the API runs in the threads of its callers. Invariant: after `stop` nothing touches the store.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio

from blobfs.account import connect, load_remote, move_remote
from blobfs.api.loop import Loop
from blobfs.config import SECRETS, SERVER, SERVER_LOG
from blobfs.devices import Devices
from blobfs.embedded import EmbeddedServer
from blobfs.process import plain
from blobfs.store.store import Store
from blobfs.sync.engine import SyncEngine, SyncOptions
from blobfs.upkeep import Publisher, make_engine, tick

OPTIONS: Final = SyncOptions(quiet_s=0.0)
"""A document that a program has put is whole: nothing is gained by waiting for more of it."""

log = logging.getLogger(__name__)


class Connection(Loop):
    """The engine's thread, from `start` to `stop`."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._remote = load_remote(store.settings)
        self._thread = threading.Thread(target=self._run, name="blobfs-sync", daemon=True)
        self._started: Future[None] = Future()
        self.wire: Callable[[SyncEngine], None] = lambda engine: None
        """Called with the engine before it runs."""
        self.serve: Callable[[], AbstractAsyncContextManager[None]] = contextlib.nullcontext
        """Made on the loop, and entered for as long as calls are taken."""

    def start(self) -> None:
        """On return the engine runs; whether the server answers is another matter. Raises ServerFailed, UsageError."""
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self._thread.join()
            raise

    def stop(self) -> None:
        """End the engine, and the embedded server; on return nothing of them touches the store."""
        self.close()
        self._thread.join()

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            if self._started.done():
                log.exception("sync ended by an error that blobfs did not foresee")
            else:
                self._started.set_exception(plain(error))
        finally:
            self.end()

    async def _main(self) -> None:
        async with self._embedded():
            remote = self._remote
            async with connect(remote) as client:
                engine = make_engine(self._store.path, self._store, client, OPTIONS)
                publisher = Publisher(client, self._store.settings, self._store.path / SECRETS)
                self.wire(engine)
                async with trio.open_nursery() as nursery:
                    await nursery.start(engine.run)
                    nursery.start_soon(tick, self._store)
                    nursery.start_soon(publisher.run)
                    nursery.start_soon(Devices(self._store, engine, client).run)
                    self.begin(nursery, engine, client)
                    async with self.serve():
                        self._started.set_result(None)
                        await trio.sleep_forever()

    @contextlib.asynccontextmanager
    async def _embedded(self) -> AsyncIterator[None]:
        remote = self._remote
        if remote.port is None:
            yield
            return
        server = EmbeddedServer(self._store.path / SERVER, self._store.path / SERVER_LOG, remote.port)
        try:
            await server.start()
            self._remote = move_remote(self._store.settings, remote, server.url, server.port)
            async with server.supervised():
                yield
        finally:
            await server.stop()
