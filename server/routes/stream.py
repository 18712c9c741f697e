"""`/stream`: many small blobs in one request, in either direction, framed as `protocol` says.

Invariant: an upload's items are let in whole or not at all, and each one that was answered `created` is durable; memory
is bounded by `TOGETHER_BYTES` for each request, whatever the items.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from blobfs.protocol import (
    ITEM_HEADER,
    MAX_STREAM_ITEMS,
    BadStream,
    ItemStatus,
    UploadStatus,
    is_id,
    pack_item_header,
    unpack_item_header,
)
from server.auth import Action
from server.backends.interface import BlobsBackend
from server.catalog import blobs
from server.catalog.blobs import Blob
from server.errors import BadRequest, BlobExists, OverQuota, TooLarge
from server.intake import Intake, Item
from server.quota import Place
from server.routes.asking import authorise, chunks_of, ids_in, intake_of, json_of, place_of, service_of
from server.routes.blobs import MAX_IDS_BODY
from server.service import Service

SMALL: Final = 512 << 10
"""Bytes of an item from which on it goes in by itself, through a file, and not through memory."""

TOGETHER_BYTES: Final = 4 << 20
"""Bytes of small items that are let in by one transaction."""

TOGETHER: Final = 250
"""Items read from disk in one turn of a download, as long as they fit into `TOGETHER_BYTES`."""


async def stream_blobs(request: Request) -> Response:
    """POST, with `direction` = upload or download."""
    direction = request.query_params.get("direction")
    action = Action.CREATE if direction == "upload" else Action.READ
    principal = await authorise(request, action)
    place = place_of(request, principal)
    if direction == "upload":
        return await _Upload(intake_of(request), place, _Bytes(chunks_of(request))).run()
    if direction != "download":
        raise BadRequest("direction is upload or download.")
    service = service_of(request)
    async with json_of(request, principal, MAX_IDS_BODY, lambda body: ids_in(body, MAX_STREAM_ITEMS)) as ids:
        found = await service.read(blobs.find_several, place.user_id, place.namespace, ids)
    return StreamingResponse(_send(service, place, ids, found), media_type="application/octet-stream")


# --- upload -----------------------------------------------------------------------------------------------


class _Bytes:
    """The body, taken apart at wanted lengths."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._held = bytearray()

    async def at_end(self) -> bool:
        """Whether nothing more comes."""
        while not self._held:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                return True
            self._held += chunk
        return False

    async def exactly(self, length: int) -> bytes:
        """The next `length` bytes.

        Raises:
            BadRequest: the body ends before.
        """
        while len(self._held) < length:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                raise BadRequest("The stream ends within an item.")
            self._held += chunk
        taken = bytes(self._held[:length])
        del self._held[:length]
        return taken

    async def pieces(self, length: int) -> AsyncIterator[bytes]:
        """The next `length` bytes as they come."""
        while length:
            if await self.at_end():
                raise BadRequest("The stream ends within an item.")
            piece = await self.exactly(min(length, len(self._held)))
            length -= len(piece)
            yield piece


class _Upload:
    """One upload: small items gather until there are enough, large ones go in by themselves."""

    def __init__(self, intake: Intake, place: Place, body: _Bytes) -> None:
        self._intake = intake
        self._place = place
        self._body = body
        self._results: list[tuple[str, UploadStatus]] = []
        self._gathered: list[tuple[int, Item]] = []
        """(index of its result, item)."""
        self._gathered_bytes = 0

    async def run(self) -> Response:
        try:
            while not await self._body.at_end():
                if len(self._results) >= MAX_STREAM_ITEMS:
                    raise TooLarge(f"There are at most {MAX_STREAM_ITEMS} blobs in one stream.")
                await self._take_one()
        except (BadRequest, TooLarge):
            # What came whole counts, whatever came after it; the sender asks for `missing` and goes on.
            await self._let_in()
            raise
        await self._let_in()
        return JSONResponse({"results": [{"blob_id": name, "status": status} for name, status in self._results]})

    async def _take_one(self) -> None:
        try:
            status, id_length, length = unpack_item_header(await self._body.exactly(ITEM_HEADER.size))
        except BadStream as error:
            raise BadRequest("The stream breaks the framing.") from error
        if status is not ItemStatus.OK:
            raise BadRequest("The stream breaks the framing.")
        # An id that no blob can have is answered as text that JSON can carry.
        blob_id = (await self._body.exactly(id_length)).decode("ascii", "backslashreplace")
        index = len(self._results)
        self._results.append((blob_id, UploadStatus.INVALID))
        if not is_id(blob_id):
            async for _ in self._body.pieces(length):
                pass
        elif length > SMALL:
            self._results[index] = (blob_id, await self._take_large(blob_id, length))
        else:
            self._gathered.append((index, Item(blob_id, await self._body.exactly(length))))
            self._gathered_bytes += length
            if self._gathered_bytes >= TOGETHER_BYTES:
                await self._let_in()

    async def _take_large(self, blob_id: str, length: int) -> UploadStatus:
        pieces = self._body.pieces(length)
        try:
            await self._intake.take(self._place, blob_id, pieces, length)
        except (BlobExists, OverQuota) as error:
            async for _ in pieces:  # the rest of it has to pass before the next item can be read
                pass
            return UploadStatus.EXISTS if isinstance(error, BlobExists) else UploadStatus.OVER_QUOTA
        return UploadStatus.CREATED

    async def _let_in(self) -> None:
        gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
        if not gathered:
            return
        answers = await self._intake.take_small(self._place, [item for _, item in gathered])
        for (index, item), answer in zip(gathered, answers, strict=True):
            self._results[index] = (item.blob_id, answer)


# --- download ---------------------------------------------------------------------------------------------


async def _send(service: Service, place: Place, ids: Sequence[str], found: dict[str, Blob]) -> AsyncIterator[bytes]:
    """Items for `ids`, in order."""
    turn: list[Blob | str] = []
    size = 0
    for blob_id in ids:
        blob = found.get(blob_id)
        length = 0 if blob is None else blob.size
        if turn and (size + length > TOGETHER_BYTES or len(turn) >= TOGETHER):
            yield await service.on_disk(_load, service.backend, place, turn)
            turn, size = [], 0
        turn.append(blob_id if blob is None else blob)
        size += length
    if turn:
        yield await service.on_disk(_load, service.backend, place, turn)


def _load(backend: BlobsBackend, place: Place, turn: Sequence[Blob | str]) -> bytes:
    """The items of one turn. A blob deleted since it was looked up is one that is not there."""
    packed = bytearray()
    for entry in turn:
        blob_id, data = (entry, None) if isinstance(entry, str) else (entry.blob_id, _read(backend, place, entry))
        if data is None:
            packed += pack_item_header(blob_id, 0, ItemStatus.NOT_FOUND)
        else:
            packed += pack_item_header(blob_id, len(data)) + data
    return bytes(packed)


def _read(backend: BlobsBackend, place: Place, blob: Blob) -> bytes | None:
    reader = backend.open(place.key(blob.blob_id))
    if reader is None:
        return None
    try:
        return reader.read(0, reader.size)
    except FileNotFoundError:
        return None
    finally:
        reader.close()
