"""Where the bytes of a content lie in blobs.db: positions of rows, numbers of extents. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable

from blobfs.store.schema import ROW_BITS
from blobfs.values.extents import EXTENT, ROW, ROWS_PER_EXTENT, spans
from blobfs.values.nodes import Content


def position_of(content: int, row: int) -> int:
    """The position of a row, counted from 0 in its content."""
    return content << ROW_BITS | row


def range_of(content: int) -> tuple[int, int]:
    """The first and the last position that a content can have."""
    return content << ROW_BITS, (content + 1 << ROW_BITS) - 1


def rows_of(content: int, index: int) -> tuple[int, int]:
    """The first and the last position that an extent can have."""
    first = position_of(content, index * ROWS_PER_EXTENT)
    return first, first + ROWS_PER_EXTENT - 1


def rows_at(content: int, offset: int, length: int) -> tuple[int, int]:
    """The first and the last position that a range of bytes touches."""
    return position_of(content, offset // ROW), position_of(content, (offset + length - 1) // ROW)


def extents_at(content: int, offset: int, length: int) -> tuple[int, int, int]:
    """The content, the first and the last extent that a range of bytes touches."""
    return content, offset // EXTENT, (offset + length - 1) // EXTENT


def join(content: Content, offset: int, length: int, rows: Iterable[tuple[int, bytes]]) -> bytes:
    """The bytes of a range, of which these (position, payload) are stored; what is missing is zeros."""
    found = dict(rows)
    pieces = []
    for row, start, wanted in spans(offset, length, ROW):
        payload = found.get(position_of(content, row), b"")
        piece = payload if len(payload) == wanted else payload[start : start + wanted]
        pieces.append(piece if len(piece) == wanted else piece.ljust(wanted, b"\0"))
    return b"".join(pieces)


class Gaps:
    """What of a range is not covered yet. True while something is not."""

    def __init__(self, low: int, high: int) -> None:
        self._left = [(low, high)] if low < high else []

    def cover(self, low: int, high: int) -> bool:
        """Whether this range covered anything that nothing covered before."""
        left, found = [], False
        for begin, end in self._left:
            if high <= begin or end <= low:
                left.append((begin, end))
                continue
            found = True
            left += [part for part in ((begin, low), (high, end)) if part[0] < part[1]]
        self._left = left
        return found

    def __bool__(self) -> bool:
        return bool(self._left)
