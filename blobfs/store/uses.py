"""In which order extents were used, so that a full cache lets go of what nobody has used for longest.

Knows no clock: one that was wrong for a day would turn the order round for years. An extent is used when it is
fetched, when the server confirms what was written to it, and when its file is opened. Invariant: of two clean extents
the one that was used later has the greater number, but for openings that were not told yet, which a crash forgets.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from blobfs.store.ledger import Ledger
from blobfs.values.nodes import Content

_NOTED: Final = 20_000
"""Openings that are remembered until somebody asks what may go; some 3 MiB."""
_EVICTABLE: Final = "dirty = 0 AND present != 0"
"""As the index has it."""
_TELL: Final = f"UPDATE extents SET used = ? WHERE content = ? AND {_EVICTABLE}"  # noqa: S608
_OLDEST: Final = (
    f"SELECT used, content, extent FROM extents WHERE {_EVICTABLE} AND blob_id IS NOT NULL "  # noqa: S608
    "AND (used, content, extent) > (?, ?, ?) ORDER BY used, content, extent LIMIT ?"
)


class Use(NamedTuple):
    """An extent, and when it was used last."""

    used: int
    content: Content
    extent: int


FIRST: Final = Use(-1, Content(0), 0)
"""Before all others."""


class Uses:
    """Counts uses."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        sql = f"SELECT COALESCE(MAX(used), 0) FROM extents WHERE {_EVICTABLE}"  # noqa: S608
        # Earlier versions had the time in seconds there: counting goes on from it.
        self._last = int(ledger.one(ledger.blobs, sql)[0])
        self._opened: OrderedDict[Content, None] = OrderedDict()

    def next(self) -> int:
        """The number of one more use."""
        self._last += 1
        return self._last

    def of(self, content: Content, extent: int) -> int:
        """When an extent was used last."""
        sql = "SELECT used FROM extents WHERE content = ? AND extent = ?"
        row = self._ledger.one(self._ledger.blobs, sql, content, extent)
        return 0 if row is None else int(row[0])

    def note(self, content: Content) -> None:
        """A file with these bytes is opened. On the loop, for each of them: the database hears of it in `tell`."""
        opened = self._opened
        opened[content] = None
        opened.move_to_end(content)
        if len(opened) > _NOTED:
            opened.popitem(last=False)

    def tell(self) -> None:
        """Tell the database which files were opened since the last call."""
        opened, self._opened = self._opened, OrderedDict()
        contents = list(opened)
        for at in range(0, len(contents), 64):
            with self._ledger.transaction():
                for content in contents[at : at + 64]:
                    self._ledger.blobs.run(_TELL, (self.next(), content))

    def oldest(self, limit: int, after: Use) -> list[Use]:
        """Extents that may be evicted and come `after` another one in the order of use, the oldest first."""
        rows = self._ledger.all(self._ledger.blobs, _OLDEST, *after, limit)
        return [Use(used, Content(content), extent) for used, content, extent in rows]
