"""Where the bytes of rows lie, as it was looked up before: a read of a few bytes then needs no query.

Knows blobs.db and what lies over its rows; not what waits for it in a backlog, and none of the bytes. Invariant: what
is remembered was looked up after the last change of the database, whatever that was: nothing is ever corrected here,
only forgotten. Every access holds the ledger's lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from blobfs.store.ledger import Ledger
from blobfs.store.schema import ROW_BITS
from blobfs.store.staging import PIECES, Piece
from blobfs.values.extents import ALL_ROWS, ROWS_PER_EXTENT

MOST: Final = 8192
"""Extents and pieces that are remembered: some 3 MiB of memory, for a GiB of bytes."""
_PRESENT: Final = "SELECT present FROM extents WHERE content = ? AND extent = ?"
_EXTENTS: Final = (1 << ROW_BITS) // ROWS_PER_EXTENT
"""That a content can have."""


class _Extent(NamedTuple):
    present: int
    """Bitmap of its rows that are here."""
    over: Mapping[int, Sequence[Piece]]
    """By position, the oldest first."""


class Places:
    """Extents of blobs.db that were read from since it was changed last."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._db = ledger.blobs
        self._staging = ledger.staging
        self._known: dict[int, _Extent] = {}
        self._weight = 0
        self._changes = -1

    def over(self, position: int) -> Sequence[Piece] | None:
        """What lies over a row, the oldest first; None: the row is not here. Of a resolved content."""
        number, row = divmod(position, ROWS_PER_EXTENT)
        extent = self._known.get(number) if self._changes == self._db.changes else None
        if extent is None:
            extent = self._look(number)
        return extent.over.get(position, ()) if extent.present >> row & 1 else None

    def _look(self, number: int) -> _Extent:
        found = self._ledger.peek(self._db, _PRESENT, *divmod(number, _EXTENTS))
        over: dict[int, list[Piece]] = {}
        weight = 1
        if not self._staging.is_empty:
            first = number * ROWS_PER_EXTENT
            for row in self._ledger.peek_all(self._db, PIECES, first, first + ROWS_PER_EXTENT - 1):
                over.setdefault(row[0], []).append(Piece(*row))
                weight += 1
        # Now, since a query can change the database: after a full disk it is told again what it lost.
        if self._changes != self._db.changes or self._weight + weight > MOST:
            self.forget()
        extent = self._known[number] = _Extent(ALL_ROWS if found is None else found[0], over)
        self._weight += weight
        return extent

    def forget(self) -> None:
        """Forget everything."""
        self._known.clear()
        self._weight, self._changes = 0, self._db.changes
