"""WriteBuffer: bytes that were written to one file and are not in the store yet.

Knows nothing of inodes, the store or the kernel. Invariant: pieces are ascending and disjoint, and two that touch do
so on the border of a row, so that the store never has to put one row together from two pieces.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from blobfs.values.extents import ROW

Bytes = bytes | bytearray


class WriteBuffer:
    """Dirty ranges of a file, in memory. What the kernel sends in whole rows is kept as it came, not copied."""

    __slots__ = ("_pieces", "_starts", "held")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pieces: list[Bytes] = []
        self.held = 0
        """Bytes in here."""

    def __bool__(self) -> bool:
        return bool(self._starts)

    def pieces(self, size: int | None = None) -> list[tuple[int, Bytes]]:
        """(offset, bytes), ascending and disjoint, nothing at or after `size`. Valid until the next `put`."""
        pieces = list(zip(self._starts, self._pieces, strict=True))
        if size is not None:
            pieces = [(start, piece[: size - start]) for start, piece in pieces if start < size]
        return pieces

    def clear(self) -> None:
        """Forget everything."""
        self._starts.clear()
        self._pieces.clear()
        self.held = 0

    def put(self, offset: int, data: Bytes) -> None:
        """Lay `data` over what is here. The buffer keeps `data` itself: the caller must not change it afterwards."""
        starts = self._starts
        if starts:
            last = self._pieces[-1]
            end = starts[-1] + len(last)
            if offset < end:
                self._splice(offset, data)
                return
            if offset == end and offset % ROW:
                if isinstance(last, bytes):
                    last = self._pieces[-1] = bytearray(last)
                last += data
                self.held += len(data)
                return
        starts.append(offset)
        self._pieces.append(data)
        self.held += len(data)

    def _splice(self, offset: int, data: Bytes) -> None:
        starts, pieces = self._starts, self._pieces
        end = offset + len(data)
        first = bisect_right(starts, offset) - 1
        if first >= 0 and starts[first] + len(pieces[first]) >= end:
            self._overwrite(first, offset - starts[first], data)
            return
        # A neighbour that touches away from a row's border is joined, as well as every one that overlaps.
        if first < 0 or starts[first] + len(pieces[first]) < offset + (offset % ROW == 0):
            first += 1
        behind = bisect_left(starts, end + (end % ROW != 0))
        start = offset
        if first < behind:
            covered = sum(map(len, pieces[first:behind]))
            head = pieces[first][: offset - starts[first]] if starts[first] < offset else b""
            tail = pieces[behind - 1][max(0, end - starts[behind - 1]) :]
            start -= len(head)
            if head or tail:
                data = b"".join((head, data, tail))
            self.held -= covered
        starts[first:behind] = [start]
        pieces[first:behind] = [data]
        self.held += len(data)

    def _overwrite(self, index: int, start: int, data: Bytes) -> None:
        piece = self._pieces[index]
        if len(piece) == len(data):
            self._pieces[index] = data
            return
        if isinstance(piece, bytes):
            piece = self._pieces[index] = bytearray(piece)
        piece[start : start + len(data)] = data

    def covers(self, offset: int, length: int) -> bool:
        """Whether one piece holds the whole range."""
        index = bisect_right(self._starts, offset) - 1
        return index >= 0 and self._starts[index] + len(self._pieces[index]) >= offset + length

    def get(self, offset: int, length: int) -> bytes:
        """The bytes of a range that `covers` answered True for."""
        index = bisect_right(self._starts, offset) - 1
        start = offset - self._starts[index]
        return bytes(memoryview(self._pieces[index])[start : start + length])

    def overlay(self, offset: int, target: bytearray) -> None:
        """Lay what is here over `target`, which holds the bytes of the file from `offset` on."""
        starts, end = self._starts, offset + len(target)
        index = max(0, bisect_right(starts, offset) - 1)
        while index < len(starts) and starts[index] < end:
            start, piece = starts[index], self._pieces[index]
            low, high = max(start, offset), min(start + len(piece), end)
            if low < high:
                target[low - offset : high - offset] = memoryview(piece)[low - start : high - start]
            index += 1
