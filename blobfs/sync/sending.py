"""Blobs on their way up: only those that the server lacks, small ones many to a request, and sealed documents.

Knows plaintext and ids, not the store. Invariant: on return of `send` or `stream` the server has confirmed every blob.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from blobfs import protocol
from blobfs.errors import InvalidDocument
from blobfs.remote.client import BYTES_PER_ID, Change, RemoteClient
from blobfs.sync.buffers import Buffers
from blobfs.sync.parcel import Outgoing
from blobfs.sync.status import Transfer
from blobfs.sync.tasks import Jobs, run_all, several
from blobfs.values import crypto
from blobfs.values.crypto import Plain
from blobfs.values.documents import DocId
from blobfs.values.extents import BlobId
from blobfs.values.framing import sealed_size
from blobfs.values.keys import Keys
from blobfs.values.revisions import DeviceId, Revision

STREAMED: Final = 512 << 10
"""Bytes of a blob up to which it shares a request."""
STREAM_BYTES: Final = 8 << 20
_KNOWN: Final = 100_000
"""Ids remembered as being there; some 15 MiB."""
_MARGIN: Final = 32 << 10
"""Bytes of a change beside its ids and its payload, at most: two revisions of 16 KiB."""
_WINDOW: Final = 4
"""Extents read and hashed together, and asked for with one request, at most."""
_WINDOWS: Final = 2
"""Windows not sealed yet, of all files: one is read, hashed or asked for, those of the other wait for their turn."""
_UNDER_WAY: Final = 8
"""Blobs of large files sealed and not confirmed yet: one for each connection, and two for those that come free next."""


class Sender:
    """Seals and sends."""

    def __init__(self, client: RemoteClient, keys: Keys) -> None:
        self._client, self._keys = client, keys
        self._known: OrderedDict[BlobId, None] = OrderedDict()
        self._windows = trio.CapacityLimiter(_WINDOWS)
        self._under_way = trio.Semaphore(_UNDER_WAY)
        self._buffers = Buffers(_UNDER_WAY)
        self.transfers: dict[DocId, Transfer] = {}

    # --- blobs --------------------------------------------------------------------------------------------

    async def send(self, plains: Sequence[Plain]) -> None:
        """On return the server has the blobs of all these bytes."""
        unique = {plain.blob_id: plain for plain in plains if plain.blob_id not in self._known}
        if not unique:
            return
        lacking = await self._client.missing(unique)
        wanted = [plain for blob_id, plain in unique.items() if blob_id in lacking]
        large = [plain for plain in wanted if len(plain.data) > STREAMED]
        small = [plain for plain in wanted if len(plain.data) <= STREAMED]
        ids = list(unique)
        # From here on each of the large ones is let go as soon as it is sealed: see `_put`.
        del plains, unique, wanted
        await run_all(
            [partial(self._put, large)] * len(large) + [partial(self._put_group, group) for group in _groups(small)]
        )
        self._remember(ids)

    async def _lacking(self, ids: Iterable[BlobId]) -> set[BlobId]:
        """Those of these that the server lacks; the others are remembered."""
        unknown = {blob_id for blob_id in ids if blob_id not in self._known}
        lacking = await self._client.missing(unknown)
        self._remember(unknown - lacking)
        return lacking

    async def _put(self, waiting: list[Plain]) -> None:
        """Seal and send the last of these. Its plaintext goes before the sending: what is read next takes its place,
        and memory that is new costs more than what is done with it."""
        plain = waiting.pop()
        blob_id, size = plain.blob_id, sealed_size(len(plain.data))
        buffer = self._buffers.take(size)
        sealed = memoryview(buffer)[:size]
        try:
            digest = await trio.to_thread.run_sync(_seal_into, plain, sealed)
            del plain
            await self._client.put(blob_id, sealed, digest)
        finally:
            self._buffers.give(buffer)

    async def _put_group(self, group: Sequence[Plain]) -> None:
        def seal() -> list[tuple[BlobId, bytes]]:
            return [(plain.blob_id, _seal(plain)) for plain in group]

        await self._client.put_many(await trio.to_thread.run_sync(seal))

    def _remember(self, ids: Iterable[BlobId]) -> None:
        self._known.update(dict.fromkeys(ids))
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    def forget(self, ids: Iterable[BlobId]) -> None:
        """The server lacks these after all."""
        for blob_id in ids:
            self._known.pop(blob_id, None)

    def forget_all(self) -> None:
        """The server may lack anything."""
        self._known.clear()

    async def stream(
        self,
        wanted: Sequence[tuple[int, int]],
        read: Callable[[Sequence[tuple[int, int]]], Awaitable[list[Plain]]],
        doc_id: DocId,
        total: int,
    ) -> None:
        """Send the extents of a large file, a few under way at a time, however many there are.

        A window makes room for the next one once all of it is being sealed, not when it has arrived: so no connection
        waits for what has to be read, hashed or asked for before the next blob.
        """
        self.transfers[doc_id] = Transfer("upload", doc_id, total, 0)
        parts, begun = _windows(wanted), set[BlobId]()

        async def put(waiting: list[Plain], length: int) -> None:
            blob_id = waiting[0].blob_id
            try:
                await self._put(waiting)
            finally:
                self._under_way.release()
            self._remember([blob_id])
            self._count(doc_id, length)

        async def send_windows(jobs: Jobs) -> None:
            for part in parts:
                async with self._windows:
                    plains = await read(part)
                    lacking = await self._lacking(plain.blob_id for plain in plains)
                    for _, length in reversed(part):
                        # In a list, so that each is let go as soon as it is sealed: see `_put`.
                        waiting = [plains.pop()]
                        if waiting[0].blob_id not in lacking or waiting[0].blob_id in begun:
                            self._count(doc_id, length)
                            continue
                        begun.add(waiting[0].blob_id)
                        await self._under_way.acquire()
                        jobs.start(partial(put, waiting, length))
                        if jobs.error is not None:
                            return

        try:
            async with several() as jobs:
                for _ in range(_WINDOWS):
                    jobs.start(partial(send_windows, jobs))
        finally:
            del self.transfers[doc_id]
            while not self.transfers and self._buffers.release():
                pass

    async def count_lacking(
        self,
        wanted: Sequence[tuple[int, int]],
        read: Callable[[Sequence[tuple[int, int]]], Awaitable[list[Plain]]],
        most: int,
    ) -> int:
        """How many bytes of these extents, sealed, the server lacks; what is beyond `most` is not looked at."""
        sizes = dict[BlobId, int]()
        for part in _windows(wanted):
            async with self._windows:
                plains = await read(part)
                lacking = await self._lacking(plain.blob_id for plain in plains)
                sizes |= {plain.blob_id: sealed_size(len(plain.data)) for plain in plains if plain.blob_id in lacking}
                del plains
            if sum(sizes.values()) > most:
                break
        return sum(sizes.values())

    def _count(self, doc_id: DocId, length: int) -> None:
        transfer = self.transfers[doc_id]
        self.transfers[doc_id] = replace(transfer, done=transfer.done + length)

    # --- documents ------------------------------------------------------------------------------------------

    def revision(self, outgoing: Outgoing, device: DeviceId) -> Revision:
        """The revision that a document gets: all that the base contains, and this edit."""
        return (Revision() if outgoing.base is None else outgoing.base.revision).advanced(device)

    def change(
        self,
        outgoing: Outgoing,
        device: DeviceId,
        base: str | None,
        added: tuple[BlobId, ...],
        removed: tuple[BlobId, ...],
        *,
        padded: bool,
    ) -> Change:
        """A sealed document, to replace the server's revision `base`.

        Raises:
            InvalidDocument: no device would take it, or it names too many new blobs.
        """
        assert outgoing.document is not None
        revision = self.revision(outgoing, device)
        payload = crypto.seal_document(self._keys, outgoing.document, revision, deleted=outgoing.deleted, padded=padded)
        require_room(len(added) + len(removed), len(payload))
        return Change(outgoing.doc_id, base, str(revision), outgoing.deleted, payload, added, removed)


def require_room(ids: int, payload: int = 0) -> None:
    """Raise InvalidDocument unless a change with so many blob ids and bytes fits into a request."""
    if ids * BYTES_PER_ID + payload * 4 // 3 > protocol.MAX_DOCUMENTS_BODY - _MARGIN:
        raise InvalidDocument(
            "more of the file changed than one revision can tell the server, some 400 GiB; write it in steps"
        )


def _windows(wanted: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    """Cut into windows. The first ones are short, so that the connections do not wait long for something to send."""
    at, size = 0, 1
    while at < len(wanted):
        yield wanted[at : at + size]
        at, size = at + size, min(2 * size, _WINDOW)


def _seal_into(plain: Plain, sealed: memoryview) -> bytes:
    """The blob goes into `sealed`; its SHA-256."""
    plain.seal_into(sealed)
    return hashlib.sha256(sealed).digest()


def _seal(plain: Plain) -> bytes:
    return b"".join(plain.seal())


def _groups(small: Sequence[Plain]) -> list[list[Plain]]:
    groups: list[list[Plain]] = []
    size = STREAM_BYTES
    for plain in small:
        if size + len(plain.data) > STREAM_BYTES or len(groups[-1]) >= protocol.MAX_STREAM_ITEMS:
            groups.append([])
            size = 0
        groups[-1].append(plain)
        size += len(plain.data)
    return groups
