"""The loop on which the engine runs, as other threads see it: they hand it calls, and wait for them.

Invariant: whatever was handed over ends, with a result or with an error, at the latest when the loop does.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from blobfs.errors import RemoteUnavailable
from blobfs.process import plain
from blobfs.remote.client import RemoteClient
from blobfs.sync.engine import SyncEngine

Result = TypeVar("Result")


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
            self._future.set_exception(plain(error))
        finally:
            self.refuse()


class Cancellable(Protocol):
    """What somebody waits for."""

    def cancel(self) -> None:
        """Nobody waits for it any more."""


class Waiter:
    """Somebody who waits for jobs in a worker thread, and may stop waiting for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: list[Cancellable] = []
        self._gone = False

    def add(self, job: Cancellable) -> None:
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


class Loop:
    """The engine and its loop, from `begin` to `end`."""

    engine: SyncEngine
    client: RemoteClient

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: set[Job[Any]] = set()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery

    def begin(self, nursery: trio.Nursery, engine: SyncEngine, client: RemoteClient) -> None:
        """Take calls from now on, as tasks of `nursery`. On the loop."""
        self.engine, self.client, self._nursery = engine, client, nursery
        self._token = trio.lowlevel.current_trio_token()

    def close(self) -> None:
        """Take no more calls, and cancel the nursery. From any thread."""
        with self._lock:
            token, self._token = self._token, None
            if token is not None:
                token.run_sync_soon(self._nursery.cancel_scope.cancel)

    def end(self) -> None:
        """The loop runs no more, or is about to end: whoever still waits is told."""
        with self._lock:
            self._token = None
        for job in list(self._jobs):
            job.refuse()

    def submit(self, call: Callable[..., Awaitable[Result]], *arguments: Any) -> Job[Result]:
        """Have `call` run on the loop. From any other thread."""

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
