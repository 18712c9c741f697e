"""Backlogs: what waits in memory for both databases, and who tells them of it when.

Knows how much waits, not what it is. Invariant: whoever may take his time tells the databases a little at a time and
leaves the lock to others in between; only the main thread tells them of everything at once, when it has to ask.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from blobfs.errors import NoSpace
from blobfs.store.database import Database
from blobfs.store.turns import Turns

BACKLOG: Final = 4096
"""Entries of a database's backlog, beyond which whoever adds to it shortens it."""
SHORT: Final = 2048
"""Entries of each, up to which it costs nobody much to have them wait: some milliseconds for whoever asks."""
RELIEF: Final = 32
"""Transactions after which that is looked at."""
SLICE: Final = 64
"""Entries that are settled at once: less than a millisecond, in which every request waits."""


class Backlogs:
    """Those of one ledger. `query` runs a function of a database's with the lock held."""

    def __init__(self, databases: Iterable[Database], turns: Turns, query: Callable[..., Any]) -> None:
        self._databases = list(databases)
        self._turns = turns
        self._query = query

    def ease(self) -> None:
        """A worker is about to ask the databases, which are told of what waits before: nearly all of it now.

        Does nothing for the main thread, nor for whoever holds the lock. Raises NoSpace.
        """
        if self._turns.may_rest():
            for database in self._databases:
                if database.backlog.waiting > SLICE:
                    self._empty(database)

    def are_short(self) -> bool:
        """Whether little waits for either database. The lock need not be held: it is a hint."""
        return all(database.backlog.waiting <= SHORT for database in self._databases)

    def empty(self) -> None:
        """Tell the databases of all that waits now. For a worker, outside of transactions. Raises NoSpace."""
        for database in self._databases:
            self._empty(database)

    def _empty(self, database: Database) -> None:
        # What is added meanwhile is for the next time.
        for _ in range(0, database.backlog.waiting, SLICE):
            started = time.perf_counter()
            self._query(database.backlog.settle, SLICE)
            self._turns.give_way(time.perf_counter() - started)

    def relieve(self) -> bool:
        """Shorten those that grow faster than workers empty them; False: the disk is full. The lock is held."""
        for database in self._databases:
            beyond = database.backlog.waiting - BACKLOG
            if beyond > 0:
                try:
                    database.backlog.settle(beyond)
                except NoSpace:
                    return False
        return True
