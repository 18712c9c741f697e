"""Taking blobs in: receive, count and hash while the bytes come, flush, and let them in together with others.

Must not know HTTP beyond "an iterator of chunks". Invariant: an upload that ends early, for whatever reason, leaves
neither bytes nor reserved room; memory is bounded by `SMALL` and one chunk for each upload, whatever its size.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import anyio
from sqlalchemy import Connection

from blobfs.protocol import MAX_BLOB, UploadStatus
from server import quota
from server.backends.interface import Staged
from server.catalog.blobs import Blob
from server.errors import BadDigest, BadRequest, BlobExists, OverQuota, TooLarge
from server.quota import Arrival, Place, Reservation
from server.service import Service

SMALL: Final = 256 << 10
"""Bytes gathered before a worker thread is asked to write them."""

STEP: Final = 1 << 20
"""Bytes reserved at a time for an upload whose length nobody announced."""

TOGETHER: Final = 1000
"""Arrivals let in by one transaction."""


@dataclass(frozen=True, slots=True)
class Item:
    """A small blob that is in memory already."""

    blob_id: str
    data: bytes


@dataclass(slots=True)
class _Waiting:
    """Arrivals that wait for the next transaction, and what became of them."""

    arrivals: Sequence[Arrival]
    answers: list[UploadStatus] | None = None
    error: Exception | None = None


class Intake:
    """The way in for all blobs of this process."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._waiting: list[_Waiting] = []
        self._turn = anyio.Lock()
        self.active: set[int] = set()
        """Numbers of the reservations that are under way here."""

    async def take(
        self,
        place: Place,
        blob_id: str,
        chunks: AsyncIterator[bytes],
        length: int | None,
        digest: bytes | None = None,
        flags: int = 0,
    ) -> Blob:
        """Let in the blob that `chunks` bring; on return it is durable.

        Args:
            length: bytes announced; None when nobody did.
            digest: SHA-256 that the bytes must have.
            flags: bits that the blob starts with.
        Raises:
            BlobExists, OverQuota, TooLarge, BadDigest, BadRequest: nothing was stored.
        """
        if length is not None and length > MAX_BLOB:
            raise TooLarge(f"A blob has at most {MAX_BLOB} bytes.")
        (reservation,) = await self._reserve(place, [(blob_id, length or 0)])
        if not isinstance(reservation, Reservation):
            raise _refusal(reservation)
        staged = self._service.backend.stage()
        try:
            blob = await self._receive(reservation, staged, chunks, length is None, flags)
            if length is not None and blob.size != length:
                raise BadRequest("The body is not as long as was announced.")
            if digest is not None and not hmac.compare_digest(digest, blob.sha256):
                raise BadDigest("The bytes that came are not those of the digest header.")
            (answer,) = await self._settle([Arrival(reservation, staged, blob)])
            if answer is not UploadStatus.CREATED:
                raise _refusal(answer)
        except BaseException:
            await self._give_up([reservation], [staged])
            raise
        finally:
            self.active.discard(reservation.number)
        return blob

    async def _receive(
        self, reservation: Reservation, staged: Staged, chunks: AsyncIterator[bytes], grow: bool, flags: int
    ) -> Blob:
        hasher, size, gathered = hashlib.sha256(), 0, bytearray()
        async for chunk in chunks:
            size += len(chunk)
            if size > MAX_BLOB:
                raise TooLarge(f"A blob has at most {MAX_BLOB} bytes.")
            if size > reservation.bytes:
                if not grow:
                    raise BadRequest("The body is longer than was announced.")
                await self._service.note(quota.extend, reservation, size, min(size + STEP, MAX_BLOB))
            if gathered or len(chunk) < SMALL:
                gathered += chunk
                if len(gathered) < SMALL:
                    continue
                chunk, gathered = bytes(gathered), bytearray()
            await self._service.on_disk(_write, staged, hasher, chunk)
        await self._service.on_disk(self._finish, staged, hasher, bytes(gathered))
        return Blob(reservation.blob_id, size, hasher.digest(), flags)

    async def take_small(self, place: Place, items: Sequence[Item]) -> list[UploadStatus]:
        """Let in blobs that are in memory, together; one answer for each. On return those created are durable."""
        answers = await self._reserve(place, [(item.blob_id, len(item.data)) for item in items])
        wanted = [(index, answer) for index, answer in enumerate(answers) if isinstance(answer, Reservation)]
        results = [answer if isinstance(answer, UploadStatus) else UploadStatus.INVALID for answer in answers]
        if not wanted:
            return results
        staged = [self._service.backend.stage() for _ in wanted]
        reservations = [reservation for _, reservation in wanted]
        try:
            data = [items[index].data for index, _ in wanted]
            blobs = await self._service.on_disk(self._store, reservations, staged, data)
            arrivals = [Arrival(*parts) for parts in zip(reservations, staged, blobs, strict=True)]
            for (index, _), answer in zip(wanted, await self._settle(arrivals), strict=True):
                results[index] = answer
            if any(answer is not UploadStatus.CREATED for answer in results):
                await self._service.on_disk(_discard, staged)
        except BaseException:
            await self._give_up(reservations, staged)
            raise
        finally:
            self.active.difference_update(reservation.number for reservation in reservations)
        return results

    def _finish(self, staged: Staged, hasher: hashlib._Hash, data: bytes) -> None:
        _write(staged, hasher, data)
        self._service.backend.sync([staged])

    def _store(
        self, reservations: Sequence[Reservation], staged: Sequence[Staged], data: Sequence[bytes]
    ) -> list[Blob]:
        blobs = []
        for reservation, item, content in zip(reservations, staged, data, strict=True):
            item.write(content)
            blobs.append(Blob(reservation.blob_id, len(content), hashlib.sha256(content).digest(), 0))
        self._service.backend.sync(staged)
        return blobs

    # --- reservations and the common transaction ---------------------------------------------------------

    async def _reserve(self, place: Place, wanted: Sequence[tuple[str, int]]) -> list[Reservation | UploadStatus]:
        with anyio.CancelScope(shield=True):  # a reservation that was made must reach whoever gives it up
            answers = await self._service.note(self._reserve_now, place, wanted)
        self.active.update(answer.number for answer in answers if isinstance(answer, Reservation))
        return answers

    def _reserve_now(
        self, connection: Connection, place: Place, wanted: Sequence[tuple[str, int]]
    ) -> list[Reservation | UploadStatus]:
        self._service.require_space(sum(size for _, size in wanted))
        return quota.reserve(connection, place, wanted, self._service.catalog.owner)

    async def _settle(self, arrivals: Sequence[Arrival]) -> list[UploadStatus]:
        """Let arrivals in with the next transaction. Whoever gets the turn takes all that wait along."""
        mine = _Waiting(arrivals)
        self._waiting.append(mine)
        with anyio.CancelScope(shield=True):
            async with self._turn:
                while mine.answers is None and mine.error is None:
                    await self._settle_waiting()
        if mine.error is not None:
            raise mine.error
        assert mine.answers is not None
        return mine.answers

    async def _settle_waiting(self) -> None:
        batch: list[_Waiting] = []
        total = 0
        while self._waiting and (not batch or total + len(self._waiting[0].arrivals) <= TOGETHER):
            batch.append(self._waiting.pop(0))
            total += len(batch[-1].arrivals)
        arrivals = [arrival for waiting in batch for arrival in waiting.arrivals]
        try:
            answers = await self._service.write(quota.settle, self._service.backend, arrivals)
        except Exception as error:
            for waiting in batch:
                waiting.error = error
            return
        done = iter(answers)
        for waiting in batch:
            waiting.answers = [next(done) for _ in waiting.arrivals]

    async def _give_up(self, reservations: Sequence[Reservation], staged: Sequence[Staged]) -> None:
        with anyio.CancelScope(shield=True):
            await self._service.on_disk(_discard, staged)
            await self._service.note(quota.release, self._service.backend, reservations)


def _write(staged: Staged, hasher: hashlib._Hash, data: bytes) -> None:
    staged.write(data)
    hasher.update(data)


def _discard(staged: Sequence[Staged]) -> None:
    for item in staged:
        item.discard()


def _refusal(status: UploadStatus) -> BlobExists | OverQuota:
    if status is UploadStatus.EXISTS:
        return BlobExists("A blob of this id is here already.")
    return OverQuota("The account's quota has no room for this blob.")
