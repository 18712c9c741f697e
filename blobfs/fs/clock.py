"""When bytes were written, by the clock that the kernel itself goes by.

`touch` and the like bring the kernel's own time, which stands still for some milliseconds at a time. By a finer clock
what was written before would be newer than what is touched after it, and `make` would be misled. A change time is by
the finer one: nobody sets it, and it is to tell two changes apart.
"""

from __future__ import annotations

import time
from typing import Final

_COARSE: Final = 5
"""CLOCK_REALTIME_COARSE of Linux, which Python has no name for."""


def coarse_ns() -> int:
    """Nanoseconds since 1970, as of the kernel's last tick."""
    return time.clock_gettime_ns(_COARSE)
