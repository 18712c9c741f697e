"""Blobs that the server had and has lost: what is here of them goes up once more.

Knows the store and who sends. Invariant: what is sent is exactly what was lost, by its id; bytes that were edited since
have another id, and go as the new version that they are.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import trio

from blobfs.errors import BytesAbsent, DataMissing
from blobfs.store.store import Store
from blobfs.sync import parcel
from blobfs.sync.parcel import Outgoing
from blobfs.sync.sending import Sender
from blobfs.values.crypto import Plain
from blobfs.values.extents import BlobId


async def resend(store: Store, sender: Sender, outgoing: Outgoing, missing: Collection[BlobId]) -> None:
    """On return the server has those of the missing blobs that a document does not bring along by itself.

    Raises:
        DataMissing: some of them cannot be made of what is here, now.
    """
    sender.forget(missing)
    # What was sealed for this change, index blobs included, goes with its next try.
    brought = {blob_id for blob_id, _ in outgoing.sealed.values()} | {plain.blob_id for plain in outgoing.indices}
    wanted = set(missing) - brought
    if not wanted:
        return
    try:
        plains = await trio.to_thread.run_sync(partial(_read, store, outgoing, wanted))
    except BytesAbsent:
        plains = []
    if {plain.blob_id for plain in plains} != wanted:
        raise DataMissing("the server lost parts of the file that are not on this device either")
    await sender.send(plains)


def _read(store: Store, outgoing: Outgoing, wanted: Collection[BlobId]) -> list[Plain]:
    """The bytes of these blobs as they are here; of one that was edited since, nothing. Raises BytesAbsent."""
    if outgoing.content is None:
        return []
    extents = store.attachments.extents(outgoing.content)
    known = {index: extent.blob_id for index, extent in extents.items() if extent.blob_id and extent.blob_id in wanted}
    # The length that was sealed: where it was padded, it reaches beyond the end, and reads as the same zeros.
    part = [(index, extents[index].length) for index in known]
    plains = parcel.read_plain(store, outgoing, part, padded=False, known=known)
    return list({plain.blob_id: plain for plain in plains if plain.blob_id in wanted}.values())
