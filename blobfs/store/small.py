"""Contents of one row that were written or given up, and longer ones that were discarded; blobs.db is told later.

Most files are small, are written once as a whole, and many are gone before long. Their bytes are in the journal, which
makes them last, and here, where they are read from. Invariant: a content that `holds` answers True for is as it says
here; any other is as the database says. Every access holds the ledger's lock.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from blobfs.store.database import Backlog, Database
from blobfs.store.rows import position_of, range_of
from blobfs.values.extents import ALL_ROWS
from blobfs.values.nodes import Content

PUT_ROW: Final = "INSERT OR REPLACE INTO rows VALUES (?, ?)"
PUT_EXTENT: Final = "INSERT OR REPLACE INTO extents VALUES (?, ?, ?, ?, ?, ?, ?)"
_DELETE_ROWS: Final = "DELETE FROM rows WHERE position BETWEEN ? AND ?"
_DELETE_EXTENTS: Final = "DELETE FROM extents WHERE content = ?"
DISCARD: Final = "INSERT OR IGNORE INTO discarded VALUES (?)"
ENTRY: Final = 4096
"""Bytes that count as one entry of what waits."""


class SmallContents(Backlog):
    """What waits for blobs.db."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._db.backlog = self
        self._whole: dict[int, bytes | None] = {}
        """The only row of a content; None: there is nothing left of it."""
        self._weight = 0
        self._discarded: dict[int, None] = {}
        """Contents that nobody needs any more. What is known of their bytes, here or there, stays until a sweep."""
        self._log: list[tuple[int, Any]] = []
        """What the current transaction overwrote here: content, former value, if there was one."""
        self._discards: list[int] = []
        """What the current transaction added to those discarded."""

    def holds(self, content: Content) -> bool:
        """Whether the database does not have a content as it is."""
        return content in self._whole

    def get(self, content: Content) -> bytes:
        """All bytes of a content that `holds` answered True for."""
        return self._whole[content] or b""

    def put(self, content: Content, payload: bytes) -> None:
        """A content without rows gets its first one, which is all of it."""
        self._db.tell(PUT_ROW, (position_of(content, 0), payload), len(payload))
        self._db.tell(PUT_EXTENT, _extent(content))
        if not self._db.in_step:
            self._set(content, payload)

    def free(self, content: Content) -> None:
        """All rows of a content go."""
        self._db.tell(_DELETE_ROWS, range_of(content))
        self._db.tell(_DELETE_EXTENTS, (content,))
        if not self._db.in_step:
            self._set(content, None)

    def discard(self, content: Content) -> None:
        """All rows of a content go later."""
        self._db.tell(DISCARD, (content,))
        if not self._db.in_step and content not in self._discarded:
            self._discarded[content] = None
            self._discards.append(content)

    def _set(self, content: int, payload: bytes | None) -> None:
        former: Any = self._whole.get(content, 0)
        self._log.append((content, former))
        if former:
            self._weight -= len(former)
        if payload is not None:
            self._weight += len(payload)
        elif former:
            # The database never heard of it.
            del self._whole[content]
            return
        self._whole[content] = payload

    # --- as a backlog -----------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Contents that the database has to be told of; large ones count several times."""
        return len(self._whole) + len(self._discarded) + self._weight // ENTRY

    def undo(self) -> None:
        """Take back what the current transaction changed."""
        for content, former in reversed(self._log):
            now = self._whole.pop(content, None)
            self._weight -= len(now or b"")
            if former != 0:
                self._whole[content] = former
                self._weight += len(former or b"")
        for content in self._discards:
            del self._discarded[content]
        self._log.clear()
        self._discards.clear()

    def keep(self) -> None:
        """What the current transaction changed stays."""
        self._log.clear()
        self._discards.clear()

    def forget(self) -> None:
        """The journal tells the database again."""
        if self._whole:
            self._whole.clear()
            self._weight = 0
        self._discarded.clear()
        self._log.clear()
        self._discards.clear()

    def settle(self, most: int | None = None) -> None:
        """Tell the database of all contents that wait, or of the `most` of each kind that wait longest."""
        told = list(islice(self._whole.items(), most))
        freed = [Content(content) for content, payload in told if payload is None]
        self._db.many(_DELETE_ROWS, [range_of(content) for content in freed])
        self._db.many(_DELETE_EXTENTS, [(content,) for content in freed])
        rows = [(position_of(content, 0), payload) for content, payload in told if payload is not None]
        self._db.many(PUT_ROW, rows)
        self._db.many(PUT_EXTENT, [_extent(content) for content, payload in told if payload is not None])
        discarded = list(islice(self._discarded, most))
        self._db.many(DISCARD, [(content,) for content in discarded])
        for content, payload in told:
            del self._whole[content]
            self._weight -= len(payload or b"")
        for content in discarded:
            del self._discarded[content]


def _extent(content: int) -> tuple[int, int, None, int, int, int, int]:
    return (content, 0, None, 0, ALL_ROWS, 1, 0)
