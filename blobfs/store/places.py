"""Where the bytes of rows lie, as it was looked up before: a read of a few bytes then needs no query.

Knows blobs.db and what lies over its rows; not what waits for it in a backlog, and none of the bytes. Invariant: what
is remembered was looked up after the last change of the database, whatever that was: nothing is ever corrected here,
only forgotten. Every access holds the ledger's lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from blobfs.store.ledger import Ledger
from blobfs.store.schema import ROW_BITS
from blobfs.store.staging import PIECES, PIECES_WITHIN, Piece
from blobfs.values.extents import ALL_ROWS, ROWS_PER_EXTENT

MOST: Final = 8192
"""Extents and pieces that are remembered: some 3 MiB of memory, for a GiB of bytes."""
FEW: Final = 128
"""Pieces of an extent that are remembered, if it has no more."""
VISITS: Final = 4
"""Reads from an extent without a change, of which the last one looks up all pieces: who writes in between asks less."""
_PRESENT: Final = "SELECT present FROM extents WHERE content = ? AND extent = ?"
_EXTENTS: Final = (1 << ROW_BITS) // ROWS_PER_EXTENT
"""That a content can have."""


class _Extent:
    """What is remembered of an extent."""

    __slots__ = ("over", "present", "visits")

    def __init__(self, present: int) -> None:
        self.present = present
        """Bitmap of its rows that are here."""
        self.over: Mapping[int, Sequence[Piece]] | None = None
        """What lies over them, by position; None: it was not looked up."""
        self.visits = 0


class Places:
    """Extents of blobs.db that were read from since it was changed last."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._db = ledger.blobs
        self._staging = ledger.staging
        self._known: dict[int, _Extent] = {}
        """By number among all extents of all contents."""
        self._weight = 0
        self._changes = -1

    def over(self, position: int, start: int, length: int) -> Sequence[Piece] | None:
        """Pieces of a row, the oldest first, with all that lie over these bytes; None: the row is not here.

        Of a content that is resolved.
        """
        number, row = divmod(position, ROWS_PER_EXTENT)
        extent = self._known.get(number) if self._changes == self._db.changes else None
        if extent is None:
            extent = self._meet(number)
        if not extent.present >> row & 1:
            return None
        if extent.over is not None:
            return extent.over.get(position, ())
        if self._staging.is_empty:
            return ()
        extent.visits += 1
        if extent.visits == VISITS:
            extent.over = self._look(number)
            if extent.over is not None:
                return extent.over.get(position, ())
        rows = self._ledger.peek_all(self._db, PIECES_WITHIN, position, start + length, start)
        return [Piece(*row) for row in rows]

    def _meet(self, number: int) -> _Extent:
        found = self._ledger.peek(self._db, _PRESENT, *divmod(number, _EXTENTS))
        # Now, since a query can change the database: after a full disk it is told again what it lost.
        if self._changes != self._db.changes or self._weight > MOST:
            self._known.clear()
            self._weight, self._changes = 0, self._db.changes
        extent = self._known[number] = _Extent(ALL_ROWS if found is None else found[0])
        self._weight += 1
        return extent

    def _look(self, number: int) -> Mapping[int, Sequence[Piece]] | None:
        """What lies over the rows of an extent; None: more than is to be remembered."""
        first = number * ROWS_PER_EXTENT
        sql = f"{PIECES} LIMIT {FEW + 1}"
        rows = self._ledger.peek_all(self._db, sql, first, first + ROWS_PER_EXTENT - 1)
        if len(rows) > FEW:
            return None
        over: dict[int, list[Piece]] = {}
        for row in rows:
            over.setdefault(row[0], []).append(Piece(*row))
        self._weight += len(rows)
        return over
