"""An attachment as a file that Python can read: seekable, and lazy.

Bytes that are not on this device are fetched when they are read, some frames at a time, and stay for the next reader.
Invariant: all bytes that one reader gives are of one version of the attachment.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from blobfs.errors import BytesAbsent

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER: Final = 128 << 10
"""Bytes that a buffered reader asks for at once: a row of the store."""
PIECE: Final = 1 << 20
"""Bytes that are asked for at once when everything is."""
Fetch = Callable[[int, int], None]


class AttachmentReader(io.RawIOBase):
    """Reads one version of an attachment. For one thread at a time."""

    def __init__(self, size: int, read: Callable[[int, int], bytes], fetch: Fetch, leave: Callable[[], None]) -> None:
        """
        Args:
            read: bytes of a range within `size`; raises BytesAbsent, and StaleHandle when the version is gone.
            leave: called once, when the reader is closed.
        """
        self._size = size
        self._read_range, self._fetch, self._leave = read, fetch, leave
        self._position = 0

    @property
    def size(self) -> int:
        """Bytes of the attachment."""
        return self._size

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to another place; beyond the end there is nothing to read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer`, as far as there are bytes.

        Raises:
            StaleHandle: the attachment was replaced, or its document deleted, since it was opened.
            RemoteUnavailable, CorruptBlob, DataMissing: bytes are not on this device, and cannot be had.
        """
        view = memoryview(buffer).cast("B")
        data = self._next(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Everything up to the end. Raises as `readinto`."""
        return b"".join(iter(lambda: self._next(PIECE), b""))

    def _next(self, length: int) -> bytes:
        if self.closed:
            raise ValueError("the attachment was closed")
        length = max(0, min(length, self._size - self._position))
        while True:
            try:
                data = self._read_range(self._position, length)
                break
            except BytesAbsent as absent:
                self._fetch(absent.offset, min(absent.length, self._size - absent.offset))
        self._position += length
        return data

    def close(self) -> None:
        """Give the attachment up: a newer version that waits for it may come."""
        if not self.closed:
            self._leave()
        super().close()
