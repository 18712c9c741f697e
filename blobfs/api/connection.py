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
from functools import partial
from typing import Final

import trio

from blobfs.account import connect, load_remote, move_remote, public_body, publish_secrets
from blobfs.api.loop import Loop, plain
from blobfs.config import SECRETS, SERVER, SERVER_LOG
from blobfs.devices import Devices
from blobfs.embedded import EmbeddedServer
from blobfs.errors import BlobfsError, RemoteError
from blobfs.newer import keep_newer
from blobfs.remote.client import RemoteClient
from blobfs.store.secrets import read_secrets
from blobfs.store.store import Store
from blobfs.sync.engine import SyncEngine, SyncOptions
from blobfs.values.documents import dump

TICK_S: Final = 1
PUBLISH_S: Final = 60
"""Seconds between two looks whether the wrapped secret is at the server."""
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
                engine = SyncEngine(
                    self._store,
                    client,
                    options=OPTIONS,
                    secret=lambda: dump(public_body(self._store.settings, read_secrets(self._store.path / SECRETS))),
                    keep_secret=partial(keep_newer, self._store.path),
                )
                self.wire(engine)
                async with trio.open_nursery() as nursery:
                    await nursery.start(engine.run)
                    nursery.start_soon(self._tick)
                    nursery.start_soon(self._publish, client)
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
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.supervise)
                yield
                nursery.cancel_scope.cancel()
        finally:
            await server.stop()

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            try:
                await trio.to_thread.run_sync(self._store.tick)
            except BlobfsError as error:
                log.warning("a regular commit failed: %s", error)

    async def _publish(self, client: RemoteClient) -> None:
        """See that a new device finds the wrapped secret at the server."""
        while True:
            try:
                await publish_secrets(client, self._store.settings, read_secrets(self._store.path / SECRETS))
            except RemoteError as error:
                log.info("the wrapped secret is not at the server yet: %s", error)
            except BlobfsError as error:
                log.error("the wrapped secret cannot be sent: %s", error)
            await trio.sleep(PUBLISH_S)
