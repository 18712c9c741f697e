"""Down: bytes of a file come when somebody reads them, by frame range, and a little ahead of who reads in sequence.

Invariants: no byte is kept that was not authenticated; rows that are on their way are not asked for again; a request
goes on when the reader that caused it is gone, so a cancelled read costs no connection.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from blobfs.errors import BlobfsError, CorruptBlob, DataMissing, RemoteError, RemoteUnavailable
from blobfs.remote.client import RemoteClient
from blobfs.remote.retry import Backoff, is_passing
from blobfs.remote.transport import Lane
from blobfs.store.store import Store
from blobfs.sync.leaves import Leaves
from blobfs.values import crypto, framing
from blobfs.values.extents import EXTENT, ROW, ROWS_PER_EXTENT, BlobId
from blobfs.values.nodes import Content

_log: Final = logging.getLogger(__name__)

READ_AHEAD: Final = 8 << 20
"""Bytes asked for ahead of a sequential reader at most: two extents hide a round trip of 50 ms at 1 Gbit/s."""
_STEP: Final = 1 << 20
"""Bytes of one request for a sequential reader, at the least."""
_AHEAD_JOBS: Final = 4
"""Requests of read-ahead under way, half of the readers' connections: a blocked reader always finds one."""
_READERS: Final = 1000
"""Contents whose reading pattern is remembered."""
_IN_THREAD: Final = 256 << 10
"""Bytes from which opening goes to a worker thread: below, the hop costs more."""


@dataclass(eq=False, slots=True)
class _Job:
    """One request for consecutive rows of one extent."""

    content: Content
    index: int
    blob_id: BlobId
    length: int
    """Bytes sealed in the blob."""
    first_row: int
    rows: int
    lane: Lane = Lane.READER
    finished: trio.Event = field(default_factory=trio.Event)
    error: BlobfsError | None = None


@dataclass(slots=True)
class _Pattern:
    """How a content has been read of late."""

    end: int = 0
    window: int = 0
    asked: int = 0
    """Up to where bytes were asked for ahead; hints below it cost nothing."""


class Download:
    """Fetches what is missing. `run` must be running; it owns the requests."""

    def __init__(
        self,
        store: Store,
        client: RemoteClient,
        leaves: Leaves,
        *,
        deadline_s: float,
        note: Callable[[Content, BlobfsError], None],
    ) -> None:
        self._store, self._client, self._leaves = store, client, leaves
        self._deadline_s, self._note = deadline_s, note
        self._jobs: dict[tuple[Content, int], list[_Job]] = {}
        self._patterns: OrderedDict[Content, _Pattern] = OrderedDict()
        self._resolving: dict[Content, trio.Lock] = {}
        self._ahead = trio.CapacityLimiter(_AHEAD_JOBS)
        self._nursery: trio.Nursery | None = None
        self.fetched = 0
        """Bytes that arrived and were kept."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the requests until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # --- what others call -----------------------------------------------------------------------------------

    async def fetch(self, content: Content, offset: int, length: int) -> None:
        """On return these bytes are in the store. See `SyncEngine.fetch`."""
        with trio.move_on_after(self._deadline_s) as scope:
            await self._resolve(content)
            ahead = self._observe(content, offset, length)
            size = length if not ahead else max(length, min(ahead, _STEP))
            while True:
                jobs = self._jobs_for(content, offset, size)
                if not jobs:
                    break
                if ahead:
                    self._look_ahead(content, offset + size, ahead)
                    ahead = 0
                for job in jobs:
                    await job.finished.wait()
                    if job.error is not None:
                        raise job.error
        if scope.cancelled_caught:
            raise RemoteUnavailable("the server did not send the file's bytes in time; try again when it is back")

    def prefetch(self, content: Content, offset: int, length: int) -> None:
        """Fetch these bytes soon, if there is a connection to spare. Returns at once; errors are nobody's."""
        pattern = self._patterns.get(content)
        if pattern is None or self._store.attachments.unresolved(content) is not None:
            return
        end = offset + min(length, READ_AHEAD)
        # In steps, so that a reader's every page does not make a request of its own.
        if not pattern.asked - READ_AHEAD <= offset or end >= pattern.asked + _STEP:
            self._look_ahead(content, offset, end - offset)

    async def fetch_extent(self, content: Content, index: int) -> None:
        """On return a whole extent is here, brought behind everybody who waits for bytes. Raises as `fetch`."""
        if self._nursery is None:
            raise RemoteUnavailable("sync is not running, so bytes that are not on this device cannot be fetched")
        for job in self._missing(content, index * EXTENT, EXTENT):
            job.lane = Lane.BULK
            self._start(self._nursery, job, None)
        for job in list(self._jobs.get((content, index), ())):
            await job.finished.wait()
            if job.error is not None:
                raise job.error

    async def resolve(self, content: Content) -> None:
        """On return it is known of which extents the content consists. Raises as `fetch`."""
        await self._resolve(content)

    # --- what to ask for --------------------------------------------------------------------------------------

    def _observe(self, content: Content, offset: int, length: int) -> int:
        """How many bytes to fetch beyond what is asked: none for a first or random read, then ever more."""
        pattern = self._patterns.setdefault(content, _Pattern())
        self._patterns.move_to_end(content)
        if len(self._patterns) > _READERS:
            self._patterns.popitem(last=False)
        in_sequence = pattern.end and 0 <= offset - pattern.end + 2 * ROW <= 4 * ROW + pattern.window
        pattern.window = min(READ_AHEAD, max(2 * length, 2 * pattern.window, 2 * ROW)) if in_sequence else 0
        pattern.end = offset + length
        return pattern.window

    def _look_ahead(self, content: Content, offset: int, length: int) -> None:
        nursery = self._nursery
        if nursery is None or self._ahead.available_tokens <= 0:
            return
        self._patterns.setdefault(content, _Pattern()).asked = offset + length
        for job in self._missing(content, offset, length):
            self._start(nursery, job, self._ahead)

    def _jobs_for(self, content: Content, offset: int, length: int) -> list[_Job]:
        """Every request that the range waits for, begun where it was not. None when all is here."""
        if self._nursery is None:
            raise RemoteUnavailable("sync is not running, so bytes that are not on this device cannot be fetched")
        for job in self._missing(content, offset, length):
            self._start(self._nursery, job, None)
        first, last = offset // ROW, (offset + length - 1) // ROW
        return [
            job
            for index in range(first // ROWS_PER_EXTENT, last // ROWS_PER_EXTENT + 1)
            for job in self._jobs.get((content, index), ())
            if index * ROWS_PER_EXTENT + job.first_row <= last
            and first < index * ROWS_PER_EXTENT + job.first_row + job.rows
        ]

    def _missing(self, content: Content, offset: int, length: int) -> Iterator[_Job]:
        """Requests for rows of a range that are neither here nor on their way: one for each run within an extent."""
        extents = self._store.attachments.extents(content)
        for index in range(offset // EXTENT, (offset + max(length, 1) - 1) // EXTENT + 1):
            extent = extents.get(index)
            if extent is None or extent.blob_id is None:
                continue
            low = max(0, offset - index * EXTENT) // ROW
            high = min(-(-extent.length // ROW), (min(EXTENT, offset + length - index * EXTENT) - 1) // ROW + 1)
            here = extent.present
            for job in self._jobs.get((content, index), ()):
                here |= ((1 << job.rows) - 1) << job.first_row
            for first, count in _runs(here, low, high):
                yield _Job(content, index, extent.blob_id, extent.length, first, count)

    def _start(self, nursery: trio.Nursery, job: _Job, limiter: trio.CapacityLimiter | None) -> None:
        self._jobs.setdefault((job.content, job.index), []).append(job)
        nursery.start_soon(self._work, job, limiter)

    # --- requests -----------------------------------------------------------------------------------------

    async def _work(self, job: _Job, limiter: trio.CapacityLimiter | None) -> None:
        try:
            if limiter is None:
                await self._bring(job)
            else:
                async with limiter:
                    await self._bring(job)
        except BlobfsError as error:
            job.error = error
            if not isinstance(error, RemoteUnavailable):
                self._note(job.content, error)
        except Exception:
            _log.exception("a download failed in a way that blobfs did not foresee")
            job.error = RemoteUnavailable("an error of blobfs itself; the log has the details")
        finally:
            # No await between these: whoever looks finds the rows or the job, never neither.
            jobs = self._jobs[job.content, job.index]
            jobs.remove(job)
            if not jobs:
                del self._jobs[job.content, job.index]
            job.finished.set()

    async def _bring(self, job: _Job) -> None:
        start = job.first_row * ROW
        frames = framing.frames_for(job.length, start, min(job.rows * ROW, job.length - start))
        backoff, deadline, spoilt = Backoff(), trio.current_time() + self._deadline_s, False
        while True:
            try:
                sealed = await self._client.get(job.blob_id, frames.start, frames.size, lane=job.lane)
                plaintext = await self._open(job, frames, sealed)
                break
            except CorruptBlob:
                # Once more: what spoils bytes on the way is not there the second time.
                if spoilt:
                    raise
                spoilt = True
            except RemoteError as error:
                wait = backoff.fail(error)
                if not is_passing(error) or trio.current_time() + wait > deadline:
                    raise
                await trio.sleep(wait)
        keep = partial(self._store.attachments.keep, job.content, job.index, job.blob_id, job.first_row, plaintext)
        await trio.to_thread.run_sync(keep)
        self.fetched += len(plaintext)

    async def _open(self, job: _Job, frames: framing.Frames, sealed: bytes) -> bytes:
        def unseal() -> bytes:
            return b"".join(crypto.open_frames(self._store.keys, job.blob_id, job.length, frames, sealed))

        return unseal() if len(sealed) < _IN_THREAD else await trio.to_thread.run_sync(unseal)

    async def _resolve(self, content: Content) -> None:
        """Bring the list of extents of a very large file."""
        if self._store.attachments.unresolved(content) is None:
            return
        lock = self._resolving.setdefault(content, trio.Lock())
        try:
            async with lock:
                attachment = self._store.attachments.unresolved(content)
                if attachment is not None:
                    extents = await self._leaves.extents(attachment, lane=Lane.READER)
                    await trio.to_thread.run_sync(self._store.attachments.resolve, content, extents)
        except (CorruptBlob, DataMissing) as error:
            self._note(content, error)
            raise
        finally:
            if not lock.statistics().tasks_waiting:
                self._resolving.pop(content, None)


def _runs(present: int, low: int, high: int) -> Iterator[tuple[int, int]]:
    """(first row, how many) of each run of absent rows from `low` up to `high`."""
    first = None
    for row in range(low, high):
        if present >> row & 1:
            if first is not None:
                yield first, row - first
                first = None
        elif first is None:
            first = row
    if first is not None:
        yield first, high - first
