"""Blobs that the server confirmed once and lacks now: found by asking, and sent again where their bytes are here.

Knows the store, whom to ask and who sends. Invariant: what is sent is made of bytes that get the very id that the
server lacks; nothing in the store changes, and nothing is taken for lost but what the server itself says it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from blobfs.errors import BytesAbsent
from blobfs.remote.client import RemoteClient
from blobfs.store.store import Store
from blobfs.store.survey import Sent
from blobfs.sync.sending import Sender
from blobfs.values.crypto import Plain
from blobfs.values.extents import BlobId, build
from blobfs.values.keys import Keys
from blobfs.values.nodes import Content

_ASKED: Final = 2000
"""Ids in one question: some 130 KiB, so that a slow line shows progress."""
_GROUP: Final = 8 << 20
"""Bytes read and sent together."""

Tell = Callable[[int, int], None]
"""Is told how many blobs are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What the server lacks of that which this device relies on."""

    asked: int
    """Blobs that it was asked for."""
    lacking: Mapping[BlobId, frozenset[Content]]
    """Those that it lacks, each with the contents that need it."""
    here: frozenset[BlobId]
    """Of these, the ones that can be made of what is on this device."""

    @property
    def contents(self) -> frozenset[Content]:
        """All contents that need a blob which the server lacks."""
        return frozenset[Content]().union(*self.lacking.values())


class Restock:
    """Finds losses and makes them good."""

    def __init__(self, store: Store, client: RemoteClient, sender: Sender) -> None:
        self._store, self._client, self._sender = store, client, sender
        self._places: dict[BlobId, list[Sent]] = {}
        self._indices: dict[BlobId, tuple[Content, Plain]] = {}

    async def look(self, tell: Tell) -> Losses:
        """Ask the server for every blob that it once confirmed. Raises RemoteError."""
        await trio.to_thread.run_sync(self._gather)
        ids, lacking = [*self._places, *self._indices], list[BlobId]()
        for at in range(0, len(ids), _ASKED):
            tell(at, len(ids))
            lacking += await self._client.missing(ids[at : at + _ASKED])
        here = {name for name in lacking if name in self._indices or any(each.whole for each in self._places[name])}
        return Losses(len(ids), {name: self._needed_by(name) for name in lacking}, frozenset(here))

    async def send(self, losses: Losses, tell: Tell) -> Losses:
        """Send what is here of the losses that `look` found; those that are left.

        Raises:
            RemoteError: the rest was not sent.
        """
        left = dict(losses.lacking)
        self._sender.forget(left)
        for group in self._groups(sorted(losses.here)):
            tell(len(losses.lacking) - len(left), len(losses.here))
            plains = await trio.to_thread.run_sync(self._read, group)
            await self._sender.send(plains)
            for plain in plains:
                left.pop(plain.blob_id, None)
        return Losses(losses.asked, left, frozenset())

    def _gather(self) -> None:
        for place in self._store.survey.sent():
            self._places.setdefault(place.blob_id, []).append(place)
        for content in self._store.survey.long_contents():
            self._indices |= {plain.blob_id: (content, plain) for plain in self._index_blobs(content)}

    def _index_blobs(self, content: Content) -> list[Plain]:
        """The blobs that hold the ids of a very large file, made anew; none if that gives others than were sent."""
        doc_id = self._store.documents.of_content(content)
        base = None if doc_id is None else self._store.documents.base(doc_id)
        attachment = None if base is None else base.document.attachment
        if attachment is None:
            return []
        extents = self._store.attachments.extents(content)
        ids = {index: extent.blob_id for index, extent in extents.items() if extent.blob_id is not None}
        for keys in self._store.keys.epochs:
            made: list[Plain] = []

            def keep(plaintext: bytes, keys: Keys = keys, made: list[Plain] = made) -> BlobId:
                made.append(Plain(keys, plaintext))
                return made[-1].blob_id

            if build(attachment.size, ids, keep, padded=attachment.padded) == attachment:
                return made
        return []

    def _needed_by(self, blob_id: BlobId) -> frozenset[Content]:
        if blob_id in self._indices:
            return frozenset((self._indices[blob_id][0],))
        return frozenset(place.content for place in self._places[blob_id])

    def _groups(self, ids: Sequence[BlobId]) -> Iterator[list[BlobId]]:
        group, size = list[BlobId](), 0
        for blob_id in ids:
            length = (
                len(self._indices[blob_id][1].data) if blob_id in self._indices else self._places[blob_id][0].length
            )
            if group and size + length > _GROUP:
                yield group
                group, size = [], 0
            group.append(blob_id)
            size += length
        if group:
            yield group

    def _read(self, ids: Sequence[BlobId]) -> list[Plain]:
        """The bytes of these blobs; not of those that were evicted or edited meanwhile."""
        return [plain for blob_id in ids if (plain := self._plain(blob_id)) is not None]

    def _plain(self, blob_id: BlobId) -> Plain | None:
        if blob_id in self._indices:
            return self._indices[blob_id][1]
        for place in self._places[blob_id]:
            try:
                data = self._store.attachments.read_extent(place.content, place.extent, place.length)
            except BytesAbsent:
                continue
            for keys in self._store.keys.epochs:
                plain = Plain(keys, data)
                if plain.blob_id == blob_id:
                    return plain
        return None
