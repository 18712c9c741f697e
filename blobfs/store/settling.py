"""Brings what is in the spool into blobs.db, a row at a time, when nobody writes or when much has gathered.

Knows when and how fast; how a row takes in what lies over it is `staging.py`'s. Invariant: a row is one transaction,
and between two of them the ledger's lock is anybody's for as long as it was held.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from blobfs.errors import NoSpace, StoreDamaged
from blobfs.store.database import FULL
from blobfs.store.ledger import Ledger

BATCH: Final = 256
"""Rows after which the batch is committed: 32 MiB of log at most, and then segments can go."""
TIGHT_BATCH: Final = 16
"""The same on a full disk, where there is the reserve and no more."""
SPAN_S: Final = 1.0
"""Seconds of one tick, which has other things to do."""
PATIENCE: Final = 60
"""Ticks without a writer after which it is done beside readers, too: an upload reads for as long as it lasts."""
_COURTESY: Final = 4
"""Times as long as the lock was held it is left to others, when there are any."""
_LONGEST_S: Final = 0.05
"""The same, however slow the disk is: whoever closes the store waits for this thread."""

log = logging.getLogger(__name__)


class Settler:
    """Empties the spool of one ledger. For worker threads, one at a time."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._staging = ledger.staging
        self._added, self._looked = 0, 0
        self._waited = 0
        """Ticks since somebody wrote."""
        self._busy = 0
        """Ticks for which somebody has been changing something, names say."""
        self._next = 0
        self._damaged: set[int] = set()
        """Positions that cannot be settled: they were told of."""

    def work(self, *, is_busy: bool) -> None:
        """Settle for a second when nobody has written or read since the last call, or half of what may be staged is.

        `is_busy` says that somebody has changed something else since then, which is waited for, too, but not for ever.

        Raises:
            NoSpace: the disk is full; nothing is lost.
        """
        staging = self._staging
        is_written, self._added = staging.added != self._added, staging.added
        is_read, self._looked = staging.looked != self._looked, staging.looked
        self._waited = 0 if is_written else self._waited + 1
        self._busy = self._busy + 1 if is_busy else 0
        if staging.is_empty:
            return
        if is_written and (staging.is_over or not staging.is_long):
            return
        if is_read and self._waited < PATIENCE and not staging.is_long:
            return
        if is_busy and self._busy < PATIENCE and not staging.is_long:
            return
        end = time.monotonic() + SPAN_S
        self._settle_until(lambda: time.monotonic() >= end, is_gentle=True)

    def settle_all(self) -> None:
        """On return nothing lies over any row but what cannot be read, and no segment is left but of that.

        Raises:
            NoSpace: the disk is full; nothing is lost.
        """
        self._next = 0
        self._settle_until(lambda: False, is_gentle=False)

    def _settle_until(self, is_over: Callable[[], bool], *, is_gentle: bool) -> None:
        count = 0
        while not is_over():
            with self._ledger.lock:
                position = self._staging.next(self._next)
            if position is None:
                self._next = 0
                break
            self._next = position + 1
            started = time.perf_counter()
            count += self._settle(position)
            held = time.perf_counter() - started
            if is_gentle:
                is_read, self._looked = self._staging.looked != self._looked, self._staging.looked
                time.sleep(min(_LONGEST_S, held * (_COURTESY if is_read else 1)))
            if count >= (TIGHT_BATCH if self._ledger.reserve.is_spent else BATCH):
                self._commit()
                count = 0
        if count:
            self._commit()

    def _commit(self) -> None:
        if not self._ledger.commit():
            raise NoSpace(FULL)

    def _settle(self, position: int) -> bool:
        """Settle one row; whether that could be done."""
        try:
            with self._ledger.transaction():
                self._staging.settle(position)
        except StoreDamaged as error:
            if position not in self._damaged:
                self._damaged.add(position)
                log.error("a row of a file cannot be read until it is written anew: %s", error)
            return False
        return True
