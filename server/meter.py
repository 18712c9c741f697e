"""Counting what this process does: requests, how long they took, and the failures of the last hour.

Must not know HTTP's machinery or the catalog. Invariant: what is kept is bounded, whatever clients send: routes come
from the server's own table, methods and statuses from a closed set; no account, id, address or query is in it.
"""

from __future__ import annotations

import bisect
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

BUCKETS: Final = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
"""Upper bounds in seconds: from a look-up to the longest long poll."""

METHODS: Final = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE"))
KEPT: Final = 1000
"""Failures remembered."""
HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Failure:
    """One answer of 500 or above; its log line has more under the request id."""

    when_s: float
    route: str
    method: str
    status: int
    request_id: str


class Meter:
    """The counters of one process since its start."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """By (route, method, status)."""
        self.took: dict[str, list[int]] = {}
        """By route: how many requests fell into each bucket, and beyond the last."""
        self.took_ms: Counter[str] = Counter()
        """By route: milliseconds altogether."""
        self.open = 0
        """Requests under way."""
        self._failures: deque[Failure] = deque(maxlen=KEPT)

    def count(self, route: str, method: str, status: int, took_s: float, request_id: str) -> None:
        """Count a request that has ended."""
        method = method if method in METHODS else "other"
        self.requests[route, method, status] += 1
        self.took.setdefault(route, [0] * (len(BUCKETS) + 1))[bisect.bisect_left(BUCKETS, took_s)] += 1
        self.took_ms[route] += int(took_s * 1000)
        if status >= 500:
            self._failures.append(Failure(time.time(), route, method, status, request_id))

    def failures(self) -> Iterable[Failure]:
        """Those of the last hour, newest first."""
        since = time.time() - HOUR_S
        return [failure for failure in reversed(self._failures) if failure.when_s >= since]
