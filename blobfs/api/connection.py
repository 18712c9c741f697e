"""The thread that syncs while an account is open: an event loop with the engine, and the embedded server if it is ours.

Everything else of the API runs in the threads of its callers; what needs the engine is handed over here. Invariant:
whatever was handed over ends, with a result or with an error, at the latest when the account is closed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, Final, Generic, TypeVar

import trio

from blobfs.account import load_remote, move_remote, publish_secrets
from blobfs.config import SECRETS, SERVER, SERVER_LOG
from blobfs.embedded import EmbeddedServer
from blobfs.errors import BlobfsError, RemoteError, RemoteUnavailable
from blobfs.remote.client import RemoteClient
from blobfs.store.secrets import read_secrets
from blobfs.store.store import Store
from blobfs.sync.engine import SyncEngine, SyncOptions

Result = TypeVar("Result")

TICK_S: Final = 1
PUBLISH_S: Final = 60
"""Seconds between two looks whether the wrapped secret is at the server."""
OPTIONS: Final = SyncOptions(quiet_s=0.0)
"""A document that a program has put is whole: nothing is gained by waiting for more of it."""

log = logging.getLogger(__name__)


class Job(Generic[Result]):
    """Something that the engine's thread does for another one."""

    def __init__(self, call: Callable[[], Awaitable[Result]], token: trio.lowlevel.TrioToken | None) -> None:
        self._call, self._token = call, token
        self._scope = trio.CancelScope()
        self._future: Future[Result] = Future()

    def result(self) -> Result:
        """Wait for its end. Raises what it raised."""
        return self._future.result()

    def cancel(self) -> None:
        """Nobody waits for it any more. From any thread."""
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._scope.cancel)

    def refuse(self) -> None:
        """The account is closed."""
        if not self._future.done():
            self._future.set_exception(RemoteUnavailable("the account was closed; open it again"))

    async def run(self) -> None:
        """Do it. On the loop."""
        try:
            with self._scope:
                self._future.set_result(await self._call())
        except Exception as error:
            self._future.set_exception(_plain(error))
        finally:
            self.refuse()


class Waiter:
    """Somebody who waits for jobs in a worker thread, and may stop waiting for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: list[Job[Any]] = []
        self._gone = False

    def add(self, job: Job[Any]) -> None:
        """It waits for this one too."""
        with self._lock:
            self._jobs.append(job)
            gone = self._gone
        if gone:
            job.cancel()

    def cancel(self) -> None:
        """It waits no more: its jobs end, those that are still to begin too."""
        with self._lock:
            self._gone, jobs = True, list(self._jobs)
        for job in jobs:
            job.cancel()


WAITER: Final[ContextVar[Waiter | None]] = ContextVar("WAITER", default=None)
"""Who waits in this thread; None: a caller that cannot be interrupted."""


class Connection:
    """The engine's thread, from `start` to `stop`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._remote = load_remote(store.settings)
        self._thread = threading.Thread(target=self._run, name="blobfs-sync", daemon=True)
        self._started: Future[None] = Future()
        self._lock = threading.Lock()
        self._jobs: set[Job[Any]] = set()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery
        self.client: RemoteClient
        self.engine: SyncEngine
        self.wire: Callable[[SyncEngine], None] = lambda engine: None
        """Called with the engine before it runs."""

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
        with self._lock:
            token, self._token = self._token, None
            if token is not None:
                token.run_sync_soon(lambda: self._nursery.cancel_scope.cancel())
        self._thread.join()

    def submit(self, call: Callable[..., Awaitable[Result]], *arguments: Any) -> Job[Result]:
        """Have `call` run on the engine's loop. From any thread."""

        async def run() -> Result:
            return await call(*arguments)

        with self._lock:
            job = Job(run, self._token)
            if self._token is None:
                job.refuse()
            else:
                self._jobs.add(job)
                self._token.run_sync_soon(self._nursery.start_soon, self._attend, job)
        waiter = WAITER.get()
        if waiter is not None:
            waiter.add(job)
        return job

    async def _attend(self, job: Job[Any]) -> None:
        try:
            await job.run()
        finally:
            self._jobs.discard(job)

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            if self._started.done():
                log.exception("sync ended by an error that blobfs did not foresee")
            else:
                self._started.set_exception(_plain(error))
        finally:
            with self._lock:
                self._token = None
            # The loop may have ended before it came to them.
            for job in self._jobs:
                job.refuse()

    async def _main(self) -> None:
        async with self._embedded():
            remote = self._remote
            async with RemoteClient(remote.url, remote.user, remote.token) as self.client:
                self.engine = SyncEngine(self._store, self.client, options=OPTIONS)
                self.wire(self.engine)
                async with trio.open_nursery() as self._nursery:
                    await self._nursery.start(self.engine.run)
                    self._nursery.start_soon(self._tick)
                    self._nursery.start_soon(self._publish)
                    self._token = trio.lowlevel.current_trio_token()
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

    async def _publish(self) -> None:
        """See that a new device finds the wrapped secret at the server."""
        while True:
            try:
                await publish_secrets(self.client, self._store.settings, read_secrets(self._store.path / SECRETS))
            except RemoteError as error:
                log.info("the wrapped secret is not at the server yet: %s", error)
            except BlobfsError as error:
                log.error("the wrapped secret cannot be sent: %s", error)
            await trio.sleep(PUBLISH_S)


def _plain(error: BaseException) -> BaseException:
    """One error of ours out of the groups that nurseries raise; anything else as it is."""
    ours: BaseException | None = error.subgroup(BlobfsError) if isinstance(error, BaseExceptionGroup) else None
    while isinstance(ours, BaseExceptionGroup):
        ours = ours.exceptions[0]
    return error if ours is None else ours
