"""What is worth another try, and after how long.

Full jitter: a wait is drawn evenly from nothing up to a bound that doubles with every failure in a row, so that
devices that failed together do not come back together. Knows errors by class only; pure but for the dice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    KeysChanged,
    ProtocolError,
    QuotaExceeded,
    RemoteUnavailable,
    WrongAccount,
)

MAX_RETRY_AFTER_S: Final = 600.0
"""A server that asks for more is asked again all the same: it is not believed when it says to stay away for ever."""

DELAYS: Final[dict[type[BlobfsError], tuple[float, float]]] = {
    RemoteUnavailable: (0.5, 30.0),
    QuotaExceeded: (20.0, 300.0),
    AccessDenied: (30.0, 900.0),
    WrongAccount: (30.0, 900.0),
    KeysChanged: (30.0, 900.0),
    ProtocolError: (10.0, 300.0),
    BlobfsError: (5.0, 300.0),
}
"""First and longest bound of a wait, in seconds. What only a person can mend is tried again slowly."""


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed soon with nothing changed by anybody."""
    return isinstance(error, RemoteUnavailable)


@dataclass(slots=True)
class Backoff:
    """The waits between tries of one thing."""

    dice: Callable[[float, float], float] = random.uniform
    failures: int = field(default=0, init=False)

    def succeed(self) -> None:
        """The next failure is a first one."""
        self.failures = 0

    def fail(self, error: BaseException) -> float:
        """Seconds to wait after this failure."""
        first, longest = next(DELAYS[kind] for kind in type(error).__mro__ if kind in DELAYS)
        bound = min(longest, first * 2 ** min(self.failures, 16))
        self.failures += 1
        wait = self.dice(0.0, bound)
        asked = error.retry_after_s if isinstance(error, RemoteUnavailable) else None
        return wait if asked is None else min(MAX_RETRY_AFTER_S, asked) + wait
