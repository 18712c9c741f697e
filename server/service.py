"""What the routes share in one server process: catalog, backend, and the bounded threads that block on them.

Must not know HTTP. Invariant: nothing that waits for a disk runs on the event loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from sqlalchemy import Connection

from server.backends.filesystem import FilesystemBlobsBackend
from server.backends.interface import BlobsBackend
from server.catalog.engine import Catalog, storage_error
from server.errors import DataUnusable, DiskFull
from server.limits import Bodies, Rates
from server.meter import Meter
from server.news import News
from server.settings import Settings
from server.sightings import Sightings

P = ParamSpec("P")
R = TypeVar("R")

READERS: Final = 4
"""Threads in catalog reads: they hold the interpreter for most of their time, so more would not go faster."""

DISK: Final = 8
"""Threads in blob files: enough to keep a disk's queue filled while some wait for a flush."""

PARSERS: Final = 2
"""Threads that take JSON apart: a bound on the memory which hostile JSON takes, and no slower than more of them."""

DROPS_PER_S: Final = 5.0
DROP_BURST: Final = 200
"""What senders leave for one account, in requests: apart from those of its devices, which a flood must not stop."""


def open_backend(settings: Settings) -> BlobsBackend:
    """Where the settings say that blobs go: an object store, or files below the data directory.

    Raises:
        DataUnusable: it cannot be opened.
    """
    try:
        if settings.blobs_url is None:
            return FilesystemBlobsBackend(settings.blobs)
        from server.backends.objects import ObjectBlobsBackend, open_store  # an extra, imported only for this

        return ObjectBlobsBackend(open_store(settings.blobs_url, settings.blobs_options), settings.spool)
    except ImportError as error:
        raise DataUnusable("An object store needs the package obstore: install blobfs[objects].") from error
    except OSError as error:
        where = "directory of the blobs" if settings.blobs_url is None else "object store of the blobs"
        raise DataUnusable(f"The {where} cannot be used: {error.strerror or error}.") from error


class Service:
    """Everything one server process has to serve with."""

    def __init__(self, settings: Settings, catalog: Catalog, backend: BlobsBackend) -> None:
        self.settings = settings
        self.catalog = catalog
        self.backend = backend
        self.news = News()
        self.meter = Meter()
        self.sightings = Sightings()
        self.rates = Rates(settings.requests_per_s, settings.burst)
        self.drops = Rates(DROPS_PER_S, DROP_BURST)
        self.bodies = Bodies(settings.json_bytes)
        self._parsers = CapacityLimiter(PARSERS)
        self._readers = CapacityLimiter(READERS)
        self._writer = CapacityLimiter(catalog.writers)
        self._disk = CapacityLimiter(DISK)

    def require_space(self, more: int) -> None:
        """Refuse `more` bytes that would leave less than the floor free. Blocks, so in a worker thread.

        Raises:
            DiskFull: they would.
        """
        disk = os.statvfs(self.settings.data)
        if disk.f_bavail * disk.f_frsize < self.settings.floor + more:
            raise DiskFull("The server's disk is full; nothing was stored.")

    async def parse(self, call: Callable[[bytes], R], body: bytes) -> R:
        """`call` on a body, in a worker thread: what parsing builds may be twenty times as large as the body."""
        return await to_thread.run_sync(call, body, limiter=self._parsers)

    async def read(self, call: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`call` in a worker thread, on one consistent view of the catalog."""

        def run() -> R:
            with self.catalog.reading() as connection:
                return call(connection, *args, **kwargs)

        return await to_thread.run_sync(run, limiter=self._readers)

    async def write(self, call: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`call` in a worker thread, as one durable transaction: committed when this returns."""
        return await self._write(True, lambda connection: call(connection, *args, **kwargs))

    async def note(self, call: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As `write`, but the transaction may be lost with the power: for what a restart would undo anyway."""
        return await self._write(False, lambda connection: call(connection, *args, **kwargs))

    async def _write(self, durable: bool, call: Callable[[Connection], R]) -> R:
        def run() -> R:
            with self.catalog.writing(durable) as connection:
                return call(connection)

        return await to_thread.run_sync(run, limiter=self._writer)

    async def on_disk(self, call: Callable[..., R], *args: Any) -> R:
        """`call`, a piece of work on the backend, in a worker thread; an `OSError` becomes ours."""

        def run() -> R:
            try:
                return call(*args)
            except OSError as error:
                raise storage_error(error) from error

        return await to_thread.run_sync(run, limiter=self._disk)
