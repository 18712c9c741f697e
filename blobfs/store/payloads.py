"""The bytes of rows, wherever they lie: in the table `rows`, and over that in the spool.

Knows positions, not what is dirty, present or frozen: that is `content.py`'s. Invariant: whoever changes a row in the
table finds nothing lying over it, for it was settled or dropped first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from blobfs.store.ledger import Ledger
from blobfs.store.readers import Query
from blobfs.store.rows import join, position_of, rows_at
from blobfs.store.schema import ROW_BITS
from blobfs.store.small import PUT_ROW
from blobfs.store.spool import Bytes, Unreadable
from blobfs.store.staging import PIECES, Piece
from blobfs.values.extents import ROW, spans
from blobfs.values.nodes import Content

ROWS: Final = "SELECT position, payload FROM rows WHERE position BETWEEN ? AND ?"
_ROW: Final = "SELECT payload FROM rows WHERE position = ?"
_LENGTH: Final = "SELECT length(payload) FROM rows WHERE position = ?"
_LENGTHS: Final = (
    "SELECT position, MAX(size) AS size FROM ("
    "SELECT position, length(payload) AS size FROM rows WHERE position BETWEEN ?1 AND ?2 UNION ALL "
    "SELECT position, start + length FROM staged WHERE position BETWEEN ?1 AND ?2) GROUP BY position"
)
_STORED: Final = f"SELECT COALESCE(SUM(size), 0) FROM ({_LENGTHS})"  # noqa: S608
_LAST: Final = (
    "SELECT position, length(payload) FROM rows WHERE position BETWEEN ? AND ? ORDER BY position DESC LIMIT 1"
)
_LAST_OVER: Final = "SELECT MAX(position) FROM staged WHERE position BETWEEN ? AND ?"
_COVERED: Final = (
    "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM staged "  # noqa: S608
    f"WHERE position BETWEEN value << {ROW_BITS} AND (value << {ROW_BITS}) + {(1 << ROW_BITS) - 1})"
)
LAST: Final = (1 << 63) - 1
"""The last position that there can be."""
_DELETE: Final = "DELETE FROM rows WHERE position BETWEEN ? AND ?"
_DELETE_SLICE: Final = (
    "DELETE FROM rows WHERE position IN (SELECT position FROM rows WHERE position BETWEEN ? AND ? "
    "ORDER BY position LIMIT ?)"
)
_DROP_SLICE: Final = (
    "DELETE FROM staged WHERE (position, segment, at) IN (SELECT position, segment, at FROM staged "
    "WHERE position BETWEEN ? AND ? ORDER BY position, segment, at LIMIT ?)"
)


class Part(NamedTuple):
    """Bytes that go into one row."""

    position: int
    start: int
    data: Bytes
    is_new: bool
    """There is no such row yet."""


class Found(NamedTuple):
    """What was found of a range: rows of the table, and what lies over them. As good as read, but for the spool."""

    rows: dict[int, bytes]
    pieces: list[Piece]


class Payloads:
    """Rows by position. Every method that writes is called within a transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._db = ledger.blobs
        self._staging = ledger.staging

    # --- reading ----------------------------------------------------------------------------------------

    def read_within(self, position: int, start: int, length: int, over: Sequence[Piece]) -> bytes:
        """Exactly these bytes of one row, which this lies over; what it lacks is zeros. Raises Unreadable."""

        def base() -> bytes:
            return self._ledger.slice(position, start, length) or b""

        self._staging.looked += 1
        if over:
            return self._staging.lay(over, start, length, base)
        piece = base()
        return piece if len(piece) == length else piece.ljust(length, b"\0")

    def find(self, content: Content, offset: int, length: int) -> Found:
        """Look for a range of a content that is as the database says."""
        self._staging.looked += 1
        first, last = rows_at(content, offset, length)
        rows = dict(self._ledger.peek_all(self._db, ROWS, first, last))
        if self._staging.is_empty:
            return Found(rows, [])
        return Found(rows, [Piece(*piece) for piece in self._ledger.peek_all(self._db, PIECES, first, last)])

    def read_beside(self, content: Content, offset: int, length: int, query: Query) -> tuple[bytes, list[Any]] | None:
        """The bytes of a range as they are committed, and the rows of `query`, of the same moment. Takes no lock.

        None: that cannot be told beside the ledger.
        """
        self._staging.looked += 1
        span = rows_at(content, offset, length)
        answers = self._ledger.readers.ask(query, (ROWS, span), (PIECES, span))
        if answers is None:
            return None
        found = Found(dict(answers[1]), [Piece(*piece) for piece in answers[2]])
        try:
            return self.lay(content, offset, length, found), answers[0]
        except Unreadable:
            return None

    def lay(self, content: Content, offset: int, length: int, found: Found) -> bytes:
        """The bytes of a range of which this was found; what rows lack is zeros. Needs no lock.

        Raises:
            Unreadable: a piece is damaged; or it was settled since, and is gone.
        """
        if not found.pieces:
            return join(content, offset, length, found.rows.items())
        over: dict[int, list[Piece]] = {}
        for piece in found.pieces:
            over.setdefault(piece.position, []).append(piece)
        parts = []
        for row, start, wanted in spans(offset, length, ROW):
            position = position_of(content, row)
            payload = found.rows.get(position, b"")
            if position in over:
                parts.append(
                    self._staging.lay(
                        over[position], start, wanted, lambda payload=payload, start=start: payload[start:]
                    )
                )
            else:
                part = payload if len(payload) == wanted else payload[start : start + wanted]
                parts.append(part if len(part) == wanted else part.ljust(wanted, b"\0"))
        return b"".join(parts)

    def row(self, position: int) -> bytes | None:
        """All bytes of a row; None: there is none."""
        pieces = self._staging.pieces(position, position)
        found = self._ledger.one(self._db, _ROW, position)
        if not pieces:
            return None if found is None else bytes(found[0])
        base = b"" if found is None else bytes(found[0])
        length = max(len(base), *(piece.end for piece in pieces))
        return self._staging.lay(pieces, 0, length, lambda: base)

    def length(self, position: int) -> int:
        """Bytes of a row; 0: there is none."""
        found = self._ledger.one(self._db, _LENGTH, position)
        return max(0 if found is None else int(found[0]), self._staging.end(position))

    def lengths(self, first: int, last: int) -> list[tuple[int, int]]:
        """Position and bytes of each row."""
        return self._ledger.all(self._db, _LENGTHS, first, last)

    def stored(self, first: int, last: int) -> int:
        """Bytes of all rows of these positions."""
        return int(self._ledger.one(self._db, _STORED, first, last)[0])

    def last(self, first: int, last: int) -> tuple[int, int] | None:
        """Position and bytes of the last row."""
        found: tuple[int, int] | None = self._ledger.one(self._db, _LAST, first, last)
        over = None if self._staging.is_empty else self._ledger.one(self._db, _LAST_OVER, first, last)[0]
        if over is None or (found is not None and found[0] > over):
            return found
        return over, self.length(over)

    def is_over(self, first: int, last: int) -> bool:
        """Whether something lies over rows of these positions. Knows nothing of what waits in a backlog."""
        found = self._staging.next(first)
        return found is not None and found <= last

    def covered(self, contents: Sequence[Content]) -> set[Content]:
        """Of these contents, those with rows that something lies over. Knows nothing of what waits in a backlog."""
        if not contents or self._staging.is_empty:
            return set()
        return {Content(row[0]) for row in self._ledger.peek_all(self._db, _COVERED, json.dumps(contents))}

    def staged(self, first: int, last: int) -> list[int]:
        """The positions that something lies over, ascending."""
        return sorted({piece.position for piece in self._staging.pieces(first, last)})

    def unreadable(self) -> list[int]:
        """The positions of rows over which something lies that cannot be read, ascending. Reads all of the spool."""
        pieces = self._staging.pieces(0, LAST)
        return sorted({piece.position for piece in pieces if not self._staging.can_read(piece)})

    # --- writing ----------------------------------------------------------------------------------------

    def write(self, parts: Sequence[Part]) -> int:
        """Put bytes into rows; how many more are stored."""
        if self._staging.takes(sum(len(part.data) for part in parts)):
            stored = self._stored_by(parts)
            if self._staging.add([part[:3] for part in parts]):
                return stored
        return sum(self._write(*part) for part in parts)

    def _stored_by(self, parts: Sequence[Part]) -> int:
        ends: dict[int, int] = {}
        stored = 0
        for position, start, data, is_new in parts:
            former = ends.get(position)
            if former is None:
                former = 0 if is_new else self.length(position)
            ends[position] = max(former, start + len(data))
            stored += ends[position] - former
        return stored

    def _write(self, position: int, start: int, data: Bytes, is_new: bool) -> int:
        data = bytes(data)
        if not is_new and len(data) == ROW:
            former = self.length(position)
            self.put(position, data)
            return ROW - former
        if not is_new:
            self._staging.settle(position)
        found = None if is_new else self._db.one(_LENGTH, (position,))
        former = 0 if found is None else int(found[0])
        end = start + len(data)
        if end <= former and len(data) < former:
            self._db.patch(position, start, data)
            return 0
        if start:
            old = self._db.one(_ROW, (position,))[0] if former else b""
            data = old[:start].ljust(start, b"\0") + data
            if former:
                # Who appends once will do so again: into zeros behind the end, without the whole row again.
                data = data.ljust(min(2 * end, ROW), b"\0")
        self._put(position, data)
        return len(data) - former

    def _put(self, position: int, payload: bytes) -> None:
        self._db.run(PUT_ROW, (position, payload), len(payload))

    def put(self, position: int, payload: bytes) -> None:
        """A row is as this says."""
        self._staging.drop(position, position)
        self._put(position, payload)

    def delete(self, first: int, last: int) -> None:
        """The rows of these positions go."""
        self._staging.drop(first, last)
        self._db.run(_DELETE, (first, last))

    def delete_some(self, first: int, last: int, most: int) -> int:
        """At most so many rows, and pieces over them, go; how many did."""
        dropped = self._db.run(_DROP_SLICE, (first, last, most)) if self.is_over(first, last) else 0
        return dropped + (self._db.run(_DELETE_SLICE, (first, last, most - dropped)) if dropped < most else 0)

    def move(self, first: int, last: int, shift: int) -> None:
        """Rows go to positions that are `shift` further, where there are none."""
        self._staging.move(first, last, shift)
        self._db.run("UPDATE rows SET position = position + ? WHERE position BETWEEN ? AND ?", (shift, first, last))
