"""Down: bytes of a file come when somebody reads them, by frame range, and a little ahead of who reads in sequence.

Bytes that were opened are at hand at once (`landing.py`); the store takes them in behind the reader. Invariants: no
byte is kept or handed out that was not authenticated; rows that are on their way are not asked for again; a request
goes on when the reader that caused it is gone, so a cancelled read costs no connection.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Final

import trio

from blobfs.errors import BlobfsError, BytesAbsent, CorruptBlob, DataMissing, RemoteError, RemoteUnavailable
from blobfs.remote.client import RemoteClient
from blobfs.remote.retry import Backoff, is_passing
from blobfs.remote.transport import Lane
from blobfs.store.store import Store
from blobfs.sync.landing import Landing, Piece
from blobfs.sync.leaves import Leaves
from blobfs.sync.opening import Opened, Opener
from blobfs.sync.siblings import SMALL, Siblings
from blobfs.values import crypto, framing
from blobfs.values.extents import EXTENT, ROW, ROWS_PER_EXTENT, BlobId
from blobfs.values.nodes import Content

_log: Final = logging.getLogger(__name__)

READ_AHEAD: Final = 16 << 20
"""Bytes asked for ahead of a sequential reader at most: four extents hide a round trip of 50 ms at 2 Gbit/s."""
_STEP: Final = 1 << 20
"""Bytes that a sequential reader waits for at once, at the most."""
_AHEAD_JOBS: Final = 4
"""Requests of read-ahead under way, half of the readers' connections: a blocked reader always finds one."""
_READERS: Final = 1000
"""Contents whose reading pattern is remembered."""
_TOGETHER: Final = 1 << 20
"""Bytes of small files that are opened and kept together."""
_KEEPERS: Final = 2
"""Threads that hand opened bytes to the store, which takes one transaction after the other."""
_KEPT_AT_ONCE: Final = EXTENT
"""Bytes handed to the store at a time: others have a turn in between. Steps of 1 MiB cost it a fifth more."""


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
    version: int
    """`Landing.version` from before the extent was looked up."""
    lane: Lane = Lane.READER
    opened: trio.Event = field(default_factory=trio.Event)
    """Its bytes can be read from `Landing`, or it is finished."""
    finished: trio.Event = field(default_factory=trio.Event)
    """They are in the store, or there is an error."""
    error: BlobfsError | None = None
    """Why they did not come."""
    refusal: BlobfsError | None = None
    """Why the store did not take them."""

    @property
    def size(self) -> int:
        """Bytes of plaintext that it brings."""
        return min(self.rows * ROW, self.length - self.first_row * ROW)

    def rows_of(self, offset: int, length: int) -> range:
        """Those of its rows, counted from the content's first, that this range touches."""
        first = self.index * ROWS_PER_EXTENT + self.first_row
        return range(max(first, offset // ROW), min(first + self.rows, (offset + length - 1) // ROW + 1))

    @property
    def is_whole(self) -> bool:
        """Whether it brings everything of a file of one extent."""
        return self.index == 0 and self.first_row == 0 and self.rows * ROW >= self.length


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
        self._siblings = Siblings(store)
        self._resolving: dict[Content, trio.Lock] = {}
        self._ahead, self._keepers = trio.CapacityLimiter(_AHEAD_JOBS), trio.CapacityLimiter(_KEEPERS)
        self.landing = Landing(store)
        self._opener = Opener(client, store.keys, self.landing.buffers)
        self._nursery: trio.Nursery | None = None
        self.fetched = 0
        """Bytes that arrived and were kept."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the requests until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.landing.run)
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def under_way(self) -> dict[Content, tuple[int, int]]:
        """(bytes asked for, bytes of them at hand) of the larger files that bytes come of. From any thread."""
        found = dict[Content, tuple[int, int]]()
        for (content, _), jobs in list(self._jobs.items()):
            for job in list(jobs):
                if job.length > SMALL:
                    total, done = found.get(content, (0, 0))
                    found[content] = total + job.size, done + job.size * job.opened.is_set()
        return found

    # --- what others call -----------------------------------------------------------------------------------

    async def fetch(self, content: Content, offset: int, length: int) -> None:
        """On return these bytes are in the store. See `SyncEngine.fetch`."""
        with self._deadline():
            size = await self._begin(content, offset, length)
            while jobs := self._jobs_for(content, offset, size):
                await _until_kept(jobs)

    async def read(self, content: Content, offset: int, length: int) -> bytes:
        """These bytes as soon as they are here, in the store or not yet. See `SyncEngine.read`."""
        with self._deadline():
            await self._begin(content, offset, length)
            while True:
                jobs = self._jobs_for(content, offset, length)
                for job in jobs:
                    await job.opened.wait()
                    if job.error is not None:
                        raise job.error
                data = self.landing.read(content, offset, length)
                if data is not None:
                    return data
                try:
                    return self.landing.compose(content, offset, length)
                except BytesAbsent:
                    # Edited meanwhile, so that only the store can tell what is where; or just evicted.
                    await _until_kept(jobs)
                    await trio.lowlevel.checkpoint()
        raise AssertionError("the deadline raises")

    def is_coming(self, content: Content, offset: int, length: int) -> bool:
        """Whether some of these bytes are on their way, and nothing was written here since the store lacked them."""
        jobs, version = self._under_way(content, offset, length), self.landing.version
        return any(not job.opened.is_set() and job.version == version for job in jobs)

    async def _begin(self, content: Content, offset: int, length: int) -> int:
        """Have these bytes fetched, and some more for a reader in sequence; how many it shall wait for."""
        await self._resolve(content)
        ahead = self._observe(content, offset, length)
        size = length if not ahead else max(length, min(ahead, _STEP))
        if self._jobs_for(content, offset, size) and ahead:
            self._look_ahead(content, offset + size, ahead)
        return size

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        with trio.move_on_after(self._deadline_s) as scope:
            yield
        if scope.cancelled_caught:
            raise RemoteUnavailable("the server did not send the file's bytes in time; try again when it is back")

    def prefetch(self, content: Content, offset: int, length: int) -> None:
        """Fetch these bytes soon, if there is a connection to spare. Returns at once; errors are nobody's."""
        pattern = self._patterns.get(content)
        if pattern is None or self._store.attachments.unresolved(content) is not None:
            return
        # Whole extents, so that few requests bring them and few transactions keep them.
        end = (offset + min(length, READ_AHEAD)) // EXTENT * EXTENT
        if end > offset and (end > pattern.asked or pattern.asked - READ_AHEAD > offset):
            self._look_ahead(content, offset, end - offset)

    async def fetch_extent(self, content: Content, index: int) -> None:
        """On return a whole extent is here, brought behind everybody who waits for bytes. Raises as `fetch`."""
        if self._nursery is None:
            raise RemoteUnavailable("sync is not running, so bytes that are not on this device cannot be fetched")
        for job in self._missing(content, index * EXTENT, EXTENT):
            job.lane = Lane.BULK
            self._start(self._nursery, job, None)
        await _until_kept(list(self._jobs.get((content, index), ())))

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
        jobs = self._under_way(content, offset, length)
        if sum(len(job.rows_of(offset, length)) for job in jobs) * ROW < length:
            for job in self._missing(content, offset, length):
                self._start(self._nursery, job, None)
            jobs = self._under_way(content, offset, length)
        return jobs

    def _under_way(self, content: Content, offset: int, length: int) -> list[_Job]:
        first, last = offset // EXTENT, (offset + length - 1) // EXTENT
        jobs = (job for index in range(first, last + 1) for job in self._jobs.get((content, index), ()))
        return [job for job in jobs if job.rows_of(offset, length)]

    def _missing(self, content: Content, offset: int, length: int) -> Iterator[_Job]:
        """Requests for rows of a range that are neither here nor on their way: one for each run within an extent."""
        version = self.landing.version
        ends = offset // EXTENT, (offset + max(length, 1) - 1) // EXTENT
        for index, extent in self._store.attachments.extents(content, *ends).items():
            if extent.blob_id is None:
                continue
            low, high = 0, -(-extent.length // ROW)
            if extent.length > SMALL:
                low = max(0, offset - index * EXTENT) // ROW
                high = min(high, (min(EXTENT, offset + length - index * EXTENT) - 1) // ROW + 1)
            here = extent.present
            for job in self._jobs.get((content, index), ()):
                here |= ((1 << job.rows) - 1) << job.first_row
            for first, count in _runs(here, low, high):
                yield _Job(content, index, extent.blob_id, extent.length, first, count, version)

    def _start(self, nursery: trio.Nursery, job: _Job, limiter: trio.CapacityLimiter | None) -> None:
        self._jobs.setdefault((job.content, job.index), []).append(job)
        nursery.start_soon(self._work, job, limiter)

    # --- requests -----------------------------------------------------------------------------------------

    async def _work(self, job: _Job, limiter: trio.CapacityLimiter | None) -> None:
        try:
            if limiter is None:
                await self._bring_with_siblings(job)
            else:
                await self._bring(job, limiter)
        except BlobfsError as error:
            job.error = error
            if not isinstance(error, RemoteUnavailable):
                self._note(job.content, error)
        except Exception:
            _log.exception("a download failed in a way that blobfs did not foresee")
            job.error = RemoteUnavailable("an error of blobfs itself; the log has the details")
        finally:
            self._end(job)

    def _end(self, job: _Job) -> None:
        if job.finished.is_set():
            return
        # No await between these: whoever looks finds the rows or the job, never neither.
        jobs = self._jobs[job.content, job.index]
        jobs.remove(job)
        if not jobs:
            del self._jobs[job.content, job.index]
        job.opened.set()
        job.finished.set()

    # --- small files ----------------------------------------------------------------------------------------

    async def _bring_with_siblings(self, job: _Job) -> None:
        """Bring what a reader waits for, first of all, and after it the small files that come next."""
        reach = self._siblings.observe(job.content) if job.is_whole and job.length <= SMALL else None
        group = [job]
        if reach is not None:
            version = self.landing.version
            chosen = await trio.to_thread.run_sync(self._siblings.choose, reach)
            self._siblings.follow(reach, chosen)
            for one in chosen:
                if (one.content, 0) not in self._jobs:
                    sibling = _Job(one.content, 0, one.blob_id, one.length, 0, -(-one.length // ROW), version)
                    self._jobs[one.content, 0] = [sibling]
                    group.append(sibling)
        if len(group) > 1:
            try:
                with trio.move_on_after(self._deadline_s):
                    await self._bring_group(group)
            except RemoteError:
                # Whoever waits for one of them asks for it alone, and hears what is wrong with it.
                pass
            finally:
                for sibling in group[1:]:
                    self._end(sibling)
        if not job.finished.is_set():
            await self._bring(job)

    async def _bring_group(self, group: list[_Job]) -> None:
        """Bring small files with one request, each at hand as soon as it is here."""
        wanted: dict[BlobId, list[_Job]] = {}
        for job in group:
            wanted.setdefault(job.blob_id, []).append(job)
        sizes = {blob_id: framing.sealed_size(jobs[0].length) for blob_id, jobs in wanted.items()}
        landed, size, left = list[tuple[_Job, Piece]](), 0, sum(job.size for job in group)
        await self.landing.reserve(left, urgent=True)
        try:
            async with aclosing(self._client.get_many(sizes, lane=Lane.READER)) as blobs:
                async for blob_id, sealed in blobs:
                    for job, piece in self._open_small(wanted[blob_id], sealed):
                        self._land(job, piece)
                        landed.append((job, piece))
                        size, left = size + piece.size, left - piece.size
                    if size >= _TOGETHER:
                        kept, landed, size = landed, [], 0
                        await self._keep_group(kept)
        finally:
            self.landing.release(left)
            await self._keep_group(landed)

    def _open_small(self, jobs: Sequence[_Job], sealed: bytes | None) -> Iterator[tuple[_Job, Piece]]:
        """What came, if it is what was sent; whoever reads something else asks for it alone and hears why."""
        if sealed is not None:
            with suppress(CorruptBlob):
                plaintext = crypto.open_blob(self._store.keys, jobs[0].blob_id, jobs[0].length, sealed)
                for job in jobs:
                    yield job, self._piece(job, Opened(0, len(plaintext), plaintext))

    async def _keep_group(self, landed: Sequence[tuple[_Job, Piece]]) -> None:
        if landed:
            await self._keep(landed)
            for job, _ in landed:
                self._end(job)

    # --- rows -----------------------------------------------------------------------------------------------

    async def _bring(self, job: _Job, limiter: trio.CapacityLimiter | None = None) -> None:
        """Have the job's bytes at hand, then in the store. Raises what kept them from coming."""
        room = max(job.size, self._opener.most(job.content, job.length))
        await self.landing.reserve(room, urgent=limiter is None and job.lane is Lane.READER)
        try:
            async with limiter or nullcontext():
                piece = self._piece(job, await self._receive(job))
        except BaseException:
            self.landing.release(room)
            raise
        self.landing.release(room - piece.size)
        self._land(job, piece)
        await self._keep([(job, piece)])

    def _piece(self, job: _Job, opened: Opened) -> Piece:
        # What nobody waits for here is not worth the memory once the store has it.
        is_read = job.lane is Lane.BULK
        return Piece(job.content, job.index, job.blob_id, *opened, job.version, is_read=is_read)

    def _land(self, job: _Job, piece: Piece) -> None:
        self.landing.add(piece)
        job.opened.set()

    async def _keep(self, landed: Sequence[tuple[_Job, Piece]]) -> None:
        """Have the store take these in, as far as it has room."""
        pieces = [piece for _, piece in landed]
        try:
            async with self._keepers:
                await trio.to_thread.run_sync(self._store_all, landed)
            self.fetched += sum(piece.size for piece in pieces)
        except BlobfsError as error:
            # Whoever waits for the bytes alone has them.
            _log.warning("fetched bytes are not kept: %s", error)
            for job, _ in landed:
                job.refusal = error
        finally:
            for piece in pieces:
                self.landing.settle(piece)

    def _store_all(self, landed: Sequence[tuple[_Job, Piece]]) -> None:
        keep = self._store.attachments.keep
        with self._store.transaction() if len(landed) > 1 else nullcontext():
            for _, piece in landed:
                for row, data in piece.slices(_KEPT_AT_ONCE):
                    keep(piece.content, piece.index, piece.blob_id, row, data)
        if any(job.lane is not Lane.BULK for job, _ in landed):
            # Readers have it from here, and the kernel caches what it answers them: not twice.
            self._store.attachments.let_go()

    async def _receive(self, job: _Job) -> Opened:
        backoff, deadline, spoilt = Backoff(), trio.current_time() + self._deadline_s, False
        while True:
            try:
                asked = (job.content, job.blob_id, job.length, job.first_row * ROW, job.size)
                return await self._opener.bring(*asked, lane=job.lane)
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


async def _until_kept(jobs: Sequence[_Job]) -> None:
    """On return the store has what these jobs bring. Raises why not."""
    for job in jobs:
        await job.finished.wait()
        reason = job.error or job.refusal
        if reason is not None:
            raise reason


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
