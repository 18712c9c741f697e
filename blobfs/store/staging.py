"""What lies over the rows: pointers in blobs.db to pieces in the spool, and how a row takes its pieces in.

Knows positions of rows, not contents. The table `staged` is the truth, and what changes it is noted like any other
statement: `STAGE` adds pointers, `SETTLE` has a row take in what lies over it and tells the journal no bytes.
Invariant: a pointer is in blobs.db only when its piece is in the spool, and reaches the disk after it; a segment goes
only when the commit that removed the last pointer to it is on the disk. Every access holds the ledger's lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from blobfs.errors import StoreError
from blobfs.store.database import Database
from blobfs.store.reserve import Reserve
from blobfs.store.rows import Gaps
from blobfs.store.spool import Bytes, Place, Segment, Spool, Unreadable
from blobfs.values.extents import ROW

STAGE: Final = "STAGE"
"""Stands in place of SQL: parameters are position, segment, offset in it, start, length and nonce of each piece."""
SETTLE: Final = "SETTLE"
"""Stands in place of SQL: the parameter is a position."""
LEAST: Final = 64 << 10
"""Bytes of one write from which they are staged: for fewer, a second file to flush costs more than is won."""
MOST: Final = 3 << 30
"""Bytes of the spool beyond which writers tell blobs.db themselves: from half of it on, it is settled beside them."""
MOST_PIECES: Final = 128 << 10
"""The same of pieces, over which a commit looks for segments that can go."""
USEFUL: Final = 64 << 20
"""Bytes that the spool may have at least, or there is none: the disk is nearly full."""
_SHARE: Final = 8
"""Of the disk's free room, the spool takes one part in so many; settling takes as much again for a while."""
_PATCHES: Final = 4
"""Pieces that a row takes in one by one; for more, or for much, it is written anew."""

PIECES: Final = (
    "SELECT position, segment, at, start, length, nonce FROM staged WHERE position BETWEEN ? AND ? "
    "ORDER BY position, segment, at"
)
PIECES_WITHIN: Final = (
    "SELECT position, segment, at, start, length, nonce FROM staged WHERE position = ? AND start < ? "
    "AND start + length > ? ORDER BY segment, at"
)
_ADD: Final = "INSERT OR REPLACE INTO staged (position, segment, at, start, length, nonce) VALUES (?, ?, ?, ?, ?, ?)"
_DROP: Final = "DELETE FROM staged WHERE position BETWEEN ? AND ?"
_COLUMNS: Final = 6


class Piece(NamedTuple):
    """Bytes that lie over a row; a later one, by segment and offset, lies over an earlier one."""

    position: int
    segment: int
    at: int
    start: int
    """Within the row."""
    length: int
    nonce: bytes

    @property
    def place(self) -> Place:
        """Where the bytes are."""
        return Place(self.segment, self.at, self.length, self.nonce)

    @property
    def end(self) -> int:
        """Where it ends within the row."""
        return self.start + self.length


class Staging:
    """The pointers of one database, and the spool that they lead to."""

    def __init__(self, database: Database, spool: Spool, reserve: Reserve) -> None:
        self._db = database
        self._spool = spool
        self._reserve = reserve
        self._after: int | None = None
        self._is_over = False
        self._pieces = 0
        """At most so many lie over rows."""
        self._is_torn = True
        """Pointers may lead to segments that are not there."""
        self.added = 0
        """How many pieces this process added: a sign of somebody writing."""
        self.looked = 0
        """How often somebody looked for bytes of rows: a sign of somebody reading."""
        database.special[STAGE] = self._stage
        database.special[SETTLE] = self._settle

    @property
    def is_empty(self) -> bool:
        """Whether nothing can lie over any row."""
        return not self._spool.size and not self._is_torn

    # --- how much -----------------------------------------------------------------------------------------

    def bound(self) -> int:
        """Bytes that the spool may have now; 0: none, since the disk is nearly full."""
        try:
            disk = os.statvfs(self._db.path.parent)
        except OSError:
            return 0
        # What is in the spool is room that comes back.
        room = (disk.f_bavail * disk.f_frsize + self._spool.size) // _SHARE
        return 0 if self._reserve.is_spent or room < USEFUL else min(MOST, room)

    @property
    def is_over(self) -> bool:
        """Whether writers tell blobs.db themselves: the bound was reached, and half of it is not free again."""
        self._is_over = self._is_over and self.is_long
        return self._is_over

    @property
    def is_long(self) -> bool:
        """Whether more than half of what may be staged is."""
        return self._spool.size > self.bound() // 2 or self._pieces > MOST_PIECES // 2

    def takes(self, size: int) -> bool:
        """Whether so many bytes of one write are to be staged."""
        if size < LEAST or self.is_over:
            return False
        self._is_over = self._spool.size + size > self.bound() or self._pieces > MOST_PIECES
        return not self._is_over

    # --- pointers -----------------------------------------------------------------------------------------

    def add(self, parts: Sequence[tuple[int, int, Bytes]]) -> bool:
        """Lay bytes, each with position and start, over rows; False: there is no room, and nothing was done.

        A part that is a whole row takes the place of all that lies over it.

        Raises:
            NoSpace: the database cannot be told.
        """
        if self._after is None:
            self._after = self._db.peek("SELECT COALESCE(MAX(segment), 0) FROM staged", ())[0]
        try:
            places = self._spool.append([data for _, _, data in parts], self._after)
        except StoreError:  # also when somebody has put something else in a segment's place
            return False
        if not self.is_bare():
            for first, last in _runs(position for position, _, data in parts if len(data) == ROW):
                self.drop(first, last)
        pointers: list[Any] = []
        for (position, start, _), place in zip(parts, places, strict=True):
            pointers += (position, place.segment, place.at, start, place.length, place.nonce)
        self._db.do(STAGE, pointers)
        self.added += len(parts)
        self._pieces += len(parts)
        return True

    def _stage(self, pointers: Sequence[Any]) -> None:
        self._db.many(_ADD, _split(pointers))

    def believes(self, pointers: Sequence[Any]) -> bool:
        """Whether all pieces that a noted `STAGE` leads to are there, as they may not be after power loss."""
        return all(self.can_read(Piece(*pointer)) for pointer in _split(pointers))

    def can_read(self, piece: Piece) -> bool:
        """Whether a piece is there and authentic."""
        try:
            self._spool.read(piece.place, 0, piece.length)
        except Unreadable:
            return False
        return True

    def is_bare(self) -> bool:
        """Whether there is no pointer."""
        return self.is_empty or self._db.peek("SELECT 1 FROM staged LIMIT 1", ()) is None

    def pieces(self, first: int, last: int) -> list[Piece]:
        """What lies over the rows of these positions, in order of position and then of age, the oldest first."""
        return [] if self.is_empty else [Piece(*row) for row in self._db.peek_all(PIECES, (first, last))]

    def end(self, position: int) -> int:
        """Where the furthest piece over a row ends within it; 0: there is none."""
        if self.is_empty:
            return 0
        sql = "SELECT COALESCE(MAX(start + length), 0) FROM staged WHERE position = ?"
        return int(self._db.peek(sql, (position,))[0])

    def drop(self, first: int, last: int) -> None:
        """What lies over the rows of these positions goes."""
        if not self.is_empty and self._any(first, last):
            self._db.run(_DROP, (first, last))

    def _any(self, first: int, last: int) -> bool:
        sql = "SELECT 1 FROM staged WHERE position BETWEEN ? AND ? LIMIT 1"
        return self._db.peek(sql, (first, last)) is not None

    def move(self, first: int, last: int, shift: int) -> None:
        """What lies over the rows of these positions lies over those that are `shift` further, which had nothing."""
        if not self.is_empty and self._any(first, last):
            sql = "UPDATE staged SET position = position + ? WHERE position BETWEEN ? AND ?"
            self._db.run(sql, (shift, first, last))

    # --- settling -----------------------------------------------------------------------------------------

    def next(self, position: int) -> int | None:
        """The first row at or behind a position that something lies over."""
        if self.is_empty:
            return None
        found: int | None = self._db.peek("SELECT MIN(position) FROM staged WHERE position >= ?", (position,))[0]
        return found

    def settle(self, position: int) -> None:
        """A row takes in what lies over it. Without anything, nothing happens.

        Raises:
            Unreadable: a piece of it cannot be read; nothing was changed. NoSpace.
        """
        if not self.is_empty and self._any(position, position):
            self._db.do(SETTLE, (position,))

    def _settle(self, parameters: Sequence[Any]) -> None:
        (position,) = parameters
        pieces = self.pieces(position, position)
        if not pieces:
            return
        end, size = max(piece.end for piece in pieces), sum(piece.length for piece in pieces)
        found = self._db.peek("SELECT length(payload) FROM rows WHERE position = ?", (position,))
        former = 0 if found is None else int(found[0])
        if end <= former and len(pieces) <= _PATCHES and size < ROW // _PATCHES:
            for piece, data in [(piece, self._spool.read(piece.place, 0, piece.length)) for piece in pieces]:
                self._db.overwrite(position, piece.start, data)
        else:
            length = max(former, end)

            def base() -> bytes:
                found = self._db.peek("SELECT payload FROM rows WHERE position = ?", (position,)) if former else None
                return b"" if found is None else bytes(found[0])

            self._db.many("INSERT OR REPLACE INTO rows VALUES (?, ?)", [(position, self.lay(pieces, 0, length, base))])
        self._db.many(_DROP, [(position, position)])

    def lay(self, pieces: Sequence[Piece], start: int, length: int, base: Any) -> bytes:
        """`length` bytes from `start` of a row, of which these pieces lie over `base()`, its bytes from there on.

        `base` is called only if something of it shows. Raises Unreadable.
        """
        newest = pieces[-1]
        if newest.start <= start and start + length <= newest.end:
            return self._spool.read(newest.place, start - newest.start, length)
        gaps = Gaps(start, start + length)
        shown = [piece for piece in reversed(pieces) if gaps.cover(piece.start, piece.end)]
        if not gaps and len(shown) == 1:
            return self._spool.read(shown[0].place, start - shown[0].start, length)
        row = bytearray(base()[:length].ljust(length, b"\0") if gaps else length)
        for piece in reversed(shown):
            low, high = max(start, piece.start), min(start + length, piece.end)
            row[low - start : high - start] = self._spool.read(piece.place, low - piece.start, high - low)
        return bytes(row)

    # --- segments -----------------------------------------------------------------------------------------

    def begin(self) -> list[Segment]:
        """As `retire`, once all that is known of is in the database. One of an older version has no pointers."""
        has_pointers = self._db.peek("SELECT 1 FROM sqlite_master WHERE name = 'staged'", ()) is not None
        live = self._live() if has_pointers else set()
        self._is_torn = not live <= self._spool.numbers
        return self._spool.retire(live)

    def retire(self) -> list[Segment]:
        """Give up the segments that no pointer leads to, which may go once that is on the disk."""
        if not self._spool.size:
            self._pieces = 0
            return []
        return self._spool.retire(self._live())

    def _live(self) -> set[int]:
        found = dict(self._db.peek_all("SELECT segment, COUNT(*) FROM staged GROUP BY segment", ()))
        self._pieces = sum(found.values())
        return set(found)


def _split(pointers: Sequence[Any]) -> list[Sequence[Any]]:
    return [pointers[at : at + _COLUMNS] for at in range(0, len(pointers), _COLUMNS)]


def _runs(positions: Iterable[int]) -> list[tuple[int, int]]:
    """Consecutive positions, ascending, as the first and the last of each run."""
    runs: list[tuple[int, int]] = []
    for position in positions:
        if runs and runs[-1][1] + 1 == position:
            runs[-1] = (runs[-1][0], position)
        else:
            runs.append((position, position))
    return runs
