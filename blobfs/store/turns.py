"""Turns: who has the ledger's lock, and who leaves it to whom.

The main thread answers the kernel: while it waits for the lock, a program waits for its file. Every other thread is a
worker and has time. Invariant: a worker that has held the lock for more than a moment, and was waited for lately,
leaves it to others for as long as it had it.
"""

from __future__ import annotations

import threading
import time
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
        self._main = threading.main_thread().ident
        self._awaited = 0.0
        self._taken = 0.0
        self._inside = 0
        """The thread that is in a transaction; 0: none."""

    def is_worker(self) -> bool:
        """Whether the calling thread has time."""
        return threading.get_ident() != self._main

    def take(self) -> None:
        """Take the lock, once more if the thread has it."""
        if not self.lock.acquire(blocking=False):
            if not self.is_worker():
                self._awaited = time.perf_counter()
            self.lock.acquire()

    def is_inside(self) -> bool:
        """Whether the calling thread is in a transaction."""
        return self._inside == threading.get_ident()

    def begin(self) -> None:
        """A transaction begins; the lock is held."""
        self._taken, self._inside = time.perf_counter(), threading.get_ident()

    def end(self) -> float:
        """It ends, and the lock is about to be given back; how many seconds it took."""
        self._inside = 0
        return time.perf_counter() - self._taken

    def give_way(self, held_s: float) -> None:
        """The lock was given back after so many seconds."""
        if held_s > MOMENT_S and time.perf_counter() - self._awaited < LATELY_S and self.is_worker():
            time.sleep(min(held_s, MOST_S))
