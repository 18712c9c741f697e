"""Bytes that arrived and were opened: readers have them from here while the store is still taking them in.

Owns the memory of all downloads; asks no server and writes no store. Lives on the loop. Invariants: what is handed out
is what the store would answer once it had these bytes: of the blob that the extent still is, and of no row that was
written here meanwhile; all that is on its way, kept or ready to be read again takes `AT_MOST` bytes at the most.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import trio

from blobfs.store.store import Store
from blobfs.sync.buffers import Buffers
from blobfs.values.extents import ALL_ROWS, EXTENT, ROW, BlobId
from blobfs.values.nodes import Content

AT_MOST: Final = 48 << 20
"""Bytes of all pieces and of what was asked for: beyond it a request waits."""
AHEAD: Final = 32 << 20
"""Up to where bytes are taken in that nobody waits for: a blocked reader finds the rest."""
_SPARE: Final = 8
"""Buffers of an extent that wait for their next use: those of the read-ahead, and of what is received meanwhile."""
_IDLE_S: Final = 2.0
"""After which what nobody has read since goes; the store has it."""


@dataclass(eq=False, slots=True)
class Piece:
    """Opened bytes of consecutive rows of an extent."""

    content: Content
    index: int
    blob_id: BlobId
    first_row: int
    size: int
    buffer: bytes | bytearray
    version: int
    """`Landing.version` from before the store was asked of which blob the extent is."""
    stale: int = 0
    """Bitmap of the extent's rows that the store knows better."""
    settled: bool = False
    """Whether the store has them, or cannot take them."""
    is_read: bool = False
    """Whether a reader has been at the end."""
    used_at: float = field(default_factory=trio.current_time)

    @property
    def start(self) -> int:
        """Offset in the content."""
        return self.index * EXTENT + self.first_row * ROW

    @property
    def end(self) -> int:
        return self.start + self.size

    def slices(self, step: int) -> Iterator[tuple[int, memoryview]]:
        """(row, bytes from there on), `step` bytes at a time."""
        view = memoryview(self.buffer)
        for at in range(0, self.size, step):
            yield self.first_row + at // ROW, view[at : min(at + step, self.size)]


class Landing:
    """Where bytes come down."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.buffers = Buffers(_SPARE)
        self._pieces: OrderedDict[Piece, None] = OrderedDict()
        """Oldest first."""
        self._of: dict[Content, list[Piece]] = {}
        self.held = 0
        """Bytes that room was reserved for."""
        self._freed = trio.Event()
        self._landed = trio.Event()
        self.version = 0
        """Of what was written here, in any file: another one than before when something was."""
        self._checked: dict[Content, int] = {}
        """The version at which the store was asked last about the pieces of a content."""

    # --- room -----------------------------------------------------------------------------------------------

    async def reserve(self, size: int, *, urgent: bool) -> None:
        """On return there is room for `size` bytes; the caller owes `release`, or `add` and then `settle`."""
        limit = AT_MOST if urgent else AHEAD
        while self.held + size > limit and not self._make_room(size, limit):
            await self._freed.wait()
        self.held += size

    def release(self, size: int) -> None:
        """So many of them did not come; less than none: more did."""
        self.held -= size
        self._freed.set()
        self._freed = trio.Event()

    def _make_room(self, size: int, limit: int) -> bool:
        # What was read to its end first.
        for piece in sorted((piece for piece in self._pieces if piece.settled), key=lambda piece: not piece.is_read):
            self._drop(piece)
            if self.held + size <= limit:
                return True
        return False

    # --- pieces ---------------------------------------------------------------------------------------------

    def add(self, piece: Piece) -> None:
        """Its bytes can be read from now on. Their room was reserved."""
        siblings = self._of.setdefault(piece.content, [])
        if piece.version != self.version:
            self._checked.pop(piece.content, None)
        elif not siblings:
            self._checked[piece.content] = piece.version
        siblings.append(piece)
        self._pieces[piece] = None
        self._landed.set()

    def settle(self, piece: Piece) -> None:
        """The store has it, or will not have it: it may go when its room is needed."""
        piece.settled = True
        if piece.is_read:
            self._drop(piece)
        self._freed.set()
        self._freed = trio.Event()

    def _drop(self, piece: Piece) -> None:
        del self._pieces[piece]
        siblings = self._of[piece.content]
        siblings.remove(piece)
        if not siblings:
            del self._of[piece.content]
            self._checked.pop(piece.content, None)
        if isinstance(piece.buffer, bytearray):
            self.buffers.give(piece.buffer)
        self.release(piece.size)

    async def run(self) -> None:
        """Let go, for ever, of what nobody reads."""
        while True:
            await self._landed.wait()
            await trio.sleep(_IDLE_S)
            before = trio.current_time() - _IDLE_S
            for piece in [piece for piece in self._pieces if piece.settled and piece.used_at <= before]:
                self._drop(piece)
            if not self._pieces and not self.buffers.release():
                self._landed = trio.Event()

    # --- reading --------------------------------------------------------------------------------------------

    def outdate(self) -> None:
        """Something was written here: look at the store before anything else is handed out. From any thread.

        Comes after the commit and before the writer is answered, so whoever reads after that finds another version;
        and of two threads that count at once, the later commit came before either's reading of the number.
        """
        self.version += 1

    def read(self, content: Content, offset: int, length: int) -> bytes | None:
        """These bytes, when all of them are here."""
        parts = self._parts(content, offset, offset + length)
        if sum(len(part) for _, part in parts) < length:
            return None
        return parts[0][1] if len(parts) == 1 else b"".join(part for _, part in parts)

    def compose(self, content: Content, offset: int, length: int) -> bytes:
        """Exactly these bytes: from here, and between from the store, as they are at one moment.

        Raises:
            BytesAbsent: some are in neither.
        """
        end, found = offset + length, list[bytes]()
        with self._store.transaction():
            for start, part in (*self._parts(content, offset, end), (end, b"")):
                if start > offset:
                    found.append(self._store.attachments.read(content, offset, start - offset))
                found.append(part)
                offset = start + len(part)
        return b"".join(found)

    def _parts(self, content: Content, at: int, end: int) -> list[tuple[int, bytes]]:
        """(offset, bytes) of all that is here of a range, ascending and disjoint."""
        pieces = self._of.get(content)
        if not pieces:
            return []
        self._check(content, pieces)
        parts, now = list[tuple[int, bytes]](), trio.current_time()
        for piece in sorted(pieces, key=lambda piece: piece.start):
            for low, high in _fresh(piece, max(at, piece.start), min(end, piece.end)):
                low = max(low, at)
                if low < high:
                    parts.append((low, bytes(memoryview(piece.buffer)[low - piece.start : high - piece.start])))
                    at = high
                    piece.used_at = now
            if end >= piece.end and at >= piece.end and not piece.is_read:
                self._note_read(piece)
        return parts

    def _note_read(self, piece: Piece) -> None:
        piece.is_read = True
        if piece.settled:
            self._drop(piece)

    def _check(self, content: Content, pieces: list[Piece]) -> None:
        """See which rows the store knows better. Asks it only after something was written, anywhere."""
        version = self.version
        if self._checked.get(content) == version:
            return
        indices = [piece.index for piece in pieces]
        extents = self._store.attachments.extents(content, min(indices), max(indices))
        for piece in pieces:
            extent = extents.get(piece.index)
            if extent is None or extent.blob_id != piece.blob_id:
                piece.stale = ALL_ROWS
            elif extent.dirty:
                # What was written here is present. What was kept of this blob is too, and right in the store as well.
                piece.stale |= extent.present
        self._checked[content] = version


def _fresh(piece: Piece, low: int, high: int) -> Iterator[tuple[int, int]]:
    """The ranges between `low` and `high` that lie in rows of which the piece is sure."""
    if not piece.stale:
        if low < high:
            yield low, high
        return
    base = piece.index * EXTENT
    while low < high:
        row = (low - base) // ROW
        end = min(high, base + (row + 1) * ROW)
        if not piece.stale >> row & 1:
            yield low, end
        low = end
