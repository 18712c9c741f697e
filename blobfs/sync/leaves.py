"""Which blobs an attachment refers to, its index blobs included; fetches the index blobs that it needs to know that.

Invariant: what came from an index blob was authenticated, and fits the size that the document tells.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from blobfs.errors import CorruptBlob
from blobfs.remote.client import RemoteClient
from blobfs.remote.transport import Lane
from blobfs.values import crypto, framing
from blobfs.values.extents import Attachment, BlobId, index_children, parse_index
from blobfs.values.keys import Keys

_KEPT: Final = 256
"""Index blobs in memory: 32 KiB each at most, so 8 MiB; enough for a file of 1 TiB."""


class Leaves:
    """Reads id trees."""

    def __init__(self, client: RemoteClient, keys: Keys) -> None:
        self._client, self._keys = client, keys
        self._cache: OrderedDict[BlobId, bytes] = OrderedDict()

    async def extents(self, attachment: Attachment, *, lane: Lane = Lane.BULK) -> Mapping[int, BlobId]:
        """The blob of every extent that is no hole. Raises RemoteError, CorruptBlob, DataMissing."""
        ids = list(attachment.ids)
        for level in range(attachment.depth, 0, -1):
            ids = await self._expand(attachment, level, ids, lane)
        return {index: blob_id for index, blob_id in enumerate(ids) if blob_id is not None}

    async def _expand(
        self, attachment: Attachment, level: int, ids: list[BlobId | None], lane: Lane
    ) -> list[BlobId | None]:
        """The ids that index blobs of `level` name."""
        found: list[BlobId | None] = []
        for place, blob_id in enumerate(ids):
            count = index_children(attachment.size, level, place)
            if blob_id is None:
                found.extend([None] * count)
                continue
            found.extend(await self._children(blob_id, attachment.index_length(level, place), count, lane))
        return found

    async def _children(self, blob_id: BlobId, length: int, count: int, lane: Lane) -> list[BlobId | None]:
        plaintext = self._cache.get(blob_id)
        if plaintext is None:
            sealed = await self._client.get(blob_id, 0, framing.sealed_size(length), lane=lane)
            plaintext = crypto.open_blob(self._keys, blob_id, length, sealed)
            self.learn(blob_id, plaintext)
        self._cache.move_to_end(blob_id)
        try:
            return parse_index(plaintext, count)
        except ValueError:
            raise CorruptBlob(f"blob {blob_id} is no index of the extents that its document tells") from None

    async def references(self, attachment: Attachment | None) -> set[BlobId]:
        """Every blob that must be on the server for this attachment."""
        if attachment is None:
            return set()
        found, ids = set[BlobId](), list(attachment.ids)
        for level in range(attachment.depth, 0, -1):
            found.update(blob_id for blob_id in ids if blob_id is not None)
            ids = await self._expand(attachment, level, ids, Lane.BULK)
        found.update(blob_id for blob_id in ids if blob_id is not None)
        return found

    def learn(self, blob_id: BlobId, plaintext: bytes) -> None:
        """An index blob that this device made itself needs no fetching."""
        self._cache[blob_id] = plaintext
        if len(self._cache) > _KEPT:
            self._cache.popitem(last=False)
