"""Turns: who has the ledger's lock, and who leaves it to whom.

The main thread answers the kernel: while it waits for the lock, a program waits for its file. Every other thread is a
worker and has time. Invariant: a worker that has held the lock for more than a moment, and was waited for lately,
leaves it to others for as long as it had it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

MOMENT_S: Final = 500e-6
"""What may be held without giving way: some dozen statements."""
LATELY_S: Final = 0.2
"""How long ago the main thread may have waited to be thought busy."""
MOST_S: Final = 0.02
"""What a worker gives way for at most, however long it had the lock."""


class Turns:
    """A re-entrant lock whose workers are polite."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        # As threading.Condition asks it: whoever sleeps with the lock held gives way to nobody.
        self._is_held: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]
        self._main = threading.main_thread().ident
        self._awaited = 0.0
        self._taken = 0.0

    def may_rest(self) -> bool:
        """Whether the calling thread is a worker, and does not hold the lock."""
        return threading.get_ident() != self._main and not self._is_held()

    def take(self) -> None:
        """Take the lock, once more if the thread has it."""
        if not self.lock.acquire(blocking=False):
            if threading.get_ident() == self._main:
                self._awaited = time.perf_counter()
            self.lock.acquire()

    def begin(self) -> None:
        """A transaction begins; the lock is held."""
        self._taken = time.perf_counter()

    def end(self) -> None:
        """It ends: give the lock back, and way."""
        held_s = time.perf_counter() - self._taken
        self.lock.release()
        if held_s > MOMENT_S:
            self.give_way(held_s)

    def give_way(self, held_s: float) -> None:
        """The lock was given back after so many seconds, unless the thread took it twice."""
        if held_s > MOMENT_S and time.perf_counter() - self._awaited < LATELY_S and self.may_rest():
            time.sleep(min(held_s, MOST_S))
