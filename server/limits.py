"""What one account may take from the others: requests per second, and memory for JSON bodies.

Must not know routes. Invariant: nothing here waits. Whoever asks for too much is refused at once, so nobody who holds
something can keep others waiting for it. Both limits are this process's; several processes have one each.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final

from server.errors import TooManyRequests, Unavailable

MANY: Final = 10_000
"""Accounts remembered; above it those who were quiet are forgotten, which gives them nothing."""

SHARE: Final = 4
"""One account may hold this part of the memory for bodies: a quarter, so that no one of them stops the others."""

FEW: Final = 16
"""Requests under way up to which each may have a megabyte in memory at a time."""


def step(requests: int) -> int:
    """Bytes of a body that one of so many requests under way receives, or sends, in one go.

    Each go costs as much as hashing some 256 KiB; all of them together must not take memory without a bound.
    """
    return 1 << 20 if requests <= FEW else 256 << 10


class Rates:
    """A bucket of requests for each account: full at first, refilled at a constant rate."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._buckets: dict[int, tuple[float, float]] = {}
        """Account → (requests left, when that was)."""

    def take(self, user_id: int) -> None:
        """Count one request of the account.

        Raises:
            TooManyRequests: it has none left.
        """
        now = self._clock()
        left = self._left(self._buckets.get(user_id, (self._burst, now)), now)
        if left < 1:
            raise TooManyRequests("The account sends requests too fast; wait a moment.")
        self._buckets[user_id] = (left - 1, now)
        if len(self._buckets) > MANY:
            kept = {each: bucket for each, bucket in self._buckets.items() if self._left(bucket, now) < self._burst}
            self._buckets = kept

    def _left(self, bucket: tuple[float, float], now: float) -> float:
        left, when = bucket
        return min(self._burst, left + (now - when) * self._per_s)


class Held:
    """The bytes of one body."""

    def __init__(self, bodies: Bodies, user_id: int) -> None:
        self._bodies = bodies
        self._user_id = user_id
        self.size = 0

    def grow(self, by: int) -> None:
        """Hold `by` more bytes.

        Raises:
            TooManyRequests: the account would hold more than its share.
            Unavailable: all accounts together would hold more than there is.
        """
        self._bodies.take(self._user_id, by)
        self.size += by


class Bodies:
    """The memory for JSON bodies: from their first byte until their request has been answered."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[int, int] = {}
        self.total = 0
        """Bytes held now."""

    @contextlib.contextmanager
    def hold(self, user_id: int) -> Iterator[Held]:
        """A body of the account, empty as yet; its bytes are free again afterwards."""
        held = Held(self, user_id)
        try:
            yield held
        finally:
            self.total -= held.size
            left = self._held.get(user_id, 0) - held.size
            if left:
                self._held[user_id] = left
            else:
                self._held.pop(user_id, None)

    def take(self, user_id: int, size: int) -> None:
        """Count `size` bytes for the account; `hold` gives them back. Raises as `Held.grow` does."""
        own = self._held.get(user_id, 0) + size
        if own > self._limit // SHARE:
            raise TooManyRequests("The account has too many large requests open; wait for their answers.")
        if self.total + size > self._limit:
            raise Unavailable("The server has no memory for this body now; try again.")
        self._held[user_id] = own
        self.total += size
