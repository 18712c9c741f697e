"""Ranges, entity tags, and sending a blob's bytes. One range only: many at once are a way to make a server sweat.

Must not know routes. Invariant: a response announces exactly the bytes that it sends, or breaks off the connection.
"""

from __future__ import annotations

import re
from typing import Final

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.backends.interface import BlobKey, BlobReader, BlobsBackend
from server.errors import BadRange
from server.limits import step
from server.sending import SEND_FILE
from server.service import Service

DIRECT: Final = 256 << 10
"""Bytes from which on it takes less to have the kernel send a file than to read it."""

_RANGE: Final = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.IGNORECASE)


def etag_of(sha256: bytes) -> str:
    """The entity tag of bytes with this SHA-256."""
    return f'"{sha256.hex()}"'


def is_match(header: str | None, etag: str) -> bool:
    """Whether an `If-Match` or `If-None-Match` header names `etag`."""
    if header is None:
        return False
    return header.strip() == "*" or etag in [part.strip().removeprefix("W/") for part in header.split(",")]


def parse_range(header: str | None, if_range: str | None, etag: str, size: int) -> tuple[int, int] | None:
    """(first, last) byte that a `Range` header asks for; None when it asks for all.

    Args:
        if_range: the range counts only if this is absent or equals `etag`.
        size: bytes of the whole blob.
    Raises:
        BadRange: malformed, several at once, or outside of the blob.
    """
    if header is None or (if_range is not None and if_range.strip() != etag):
        return None
    unit, equals, _ = header.partition("=")
    if equals and unit.strip().lower() != "bytes":
        return None  # RFC 9110: a unit that is not understood is ignored
    match = _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        raise BadRange(size)
    if not match[1]:
        length = min(int(match[2]), size)
        first, last = size - length, size - 1
    else:
        first, last = int(match[1]), min(int(match[2]), size - 1) if match[2] else size - 1
        if match[2] and int(match[2]) < first:
            raise BadRange(size)
    if first >= size or last < first:
        raise BadRange(size)
    return first, last


def begin(
    backend: BlobsBackend, key: BlobKey, size: int, offset: int, length: int, most: int, is_direct: bool
) -> tuple[BlobReader, bytes] | None:
    """The open blob and the first piece of a range of it, for one turn in a worker thread; closed when that is all.

    Args:
        size: bytes that the whole blob has.
        most: bytes of the piece.
        is_direct: whether a file may be sent as it is; then no piece of a large one is read.
    Answers:
        None: there is no such blob, or not with this size.
    """
    reader = backend.open(key)
    if reader is None:
        return None
    try:
        if reader.size == size:
            if is_direct and length >= DIRECT and hasattr(reader, "fileno"):
                return reader, b""
            return reader, _read(reader, offset, length, most)
    except FileNotFoundError:
        pass
    except BaseException:
        reader.close()
        raise
    reader.close()
    return None


def _read(reader: BlobReader, offset: int, left: int, most: int) -> bytes:
    """The next piece; when nothing is left after it, the blob is closed."""
    piece = reader.read(offset, min(left, most)) if left else b""
    if left and not piece:
        # The length may be announced already, so breaking off is the only honest answer.
        raise OSError("a blob is shorter than it was when it was opened")
    if len(piece) == left:
        reader.close()
    return piece


class BlobResponse(Response):
    """Sends a range of an open blob piece by piece, each as the connection takes it, and closes the blob."""

    def __init__(
        self,
        service: Service,
        begun: tuple[BlobReader, bytes],
        offset: int,
        length: int,
        headers: dict[str, str],
        status: int,
    ) -> None:
        super().__init__(status_code=status, headers=headers | {"Content-Length": str(length)})
        self._service = service
        self._reader, self._piece = begun
        self._offset = offset
        self._length = length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        offset, left, piece = self._offset, self._length, self._piece
        self._piece = b""  # not held longer than it takes to send it
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if left and not piece:
                await send({"type": SEND_FILE, "file": self._reader, "offset": offset, "count": left})
                left = 0  # and the blob is closed
                return
            while left > len(piece):
                offset, left = offset + len(piece), left - len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = b""
                piece = await self._service.on_disk(_read, self._reader, offset, left, step(self._service.meter.open))
            left = 0
            await send({"type": "http.response.body", "body": piece})
        finally:
            if left:
                with anyio.CancelScope(shield=True):
                    await self._service.on_disk(self._reader.close)
