"""Ranges of blobs, asked for and opened into memory that is used again.

Keeps nothing and knows no store. Invariant: what comes out was authenticated; a buffer that failed goes back unseen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

import trio

from blobfs.errors import CorruptBlob
from blobfs.remote.client import RemoteClient
from blobfs.remote.transport import Lane
from blobfs.sync.buffers import Buffers
from blobfs.values import crypto, framing
from blobfs.values.extents import ROW, BlobId
from blobfs.values.keys import Keys
from blobfs.values.nodes import Content

Result = TypeVar("Result")
_IN_THREAD: Final = 256 << 10
"""Bytes from which opening goes to a worker thread: below, the hop costs more."""
_AGED: Final = 1000
"""Contents of older epochs that are remembered."""


class Opened(NamedTuple):
    """Plaintext from the start of a row of an extent on."""

    first_row: int
    size: int
    buffer: bytes | bytearray
    """May be longer; the caller's to give back to the `Buffers` that it is of."""


class Opener:
    """Asks the server."""

    def __init__(self, client: RemoteClient, keys: Keys, buffers: Buffers) -> None:
        self._client, self._keys, self._buffers = client, keys, buffers
        self._aged: OrderedDict[Content, None] = OrderedDict()
        """Contents whose blobs were of an older epoch when they were last asked for."""

    def most(self, content: Content, length: int) -> int:
        """Bytes that come at least for whatever is asked of a blob of this length."""
        return length if content in self._aged else 0

    async def bring(
        self, content: Content, blob_id: BlobId, length: int, offset: int, size: int, *, lane: Lane
    ) -> Opened:
        """`size` bytes from `offset` of a blob with `length` bytes of plaintext, or more than these.

        Of a blob of an older epoch all of them: only its name, which is over all of it, tells that nobody who has just
        the older keys made it.

        Raises:
            RemoteError kinds, CorruptBlob, DataMissing.
        """
        if content not in self._aged:
            try:
                return await self._bring_range(blob_id, length, offset, size, lane)
            except CorruptBlob:
                if not self._keys.older:
                    raise
        stored = framing.sealed_size(length)
        whole = await self._client.get(blob_id, 0, stored, lane=lane)
        plaintext = await _apart(stored, lambda: crypto.open_blob(self._keys, blob_id, length, whole))
        # The next extents of this file are most likely of the same time.
        self._aged[content] = None
        if len(self._aged) > _AGED:
            self._aged.popitem(last=False)
        return Opened(0, length, plaintext)

    async def _bring_range(self, blob_id: BlobId, length: int, offset: int, size: int, lane: Lane) -> Opened:
        frames = framing.frames_for(length, offset, size)
        sealed, opened = self._buffers.take(frames.size), self._buffers.take(size)
        try:
            stored, target = memoryview(sealed)[: frames.size], memoryview(opened)[:size]
            await self._client.receive(blob_id, frames.start, stored, lane=lane)
            await _apart(size, lambda: crypto.open_into(self._keys, blob_id, length, frames, stored, target))
        except BaseException:
            self._buffers.give(opened)
            raise
        finally:
            self._buffers.give(sealed)
        return Opened(offset // ROW, size, opened)


async def _apart(size: int, call: Callable[[], Result]) -> Result:
    return call() if size < _IN_THREAD else await trio.to_thread.run_sync(call)
