"""Cookies: the numbers by which the kernel says from where on it wants the rest of a directory.

Knows numbers only. Besides the place behind an entry, a cookie has the newest name that there was when its reader
began, and that is where it ends: or a program that makes files as it reads a directory would meet what it has just
made, without end. Invariant: a cookie is above 0 and below 2**63, and all that it means is in itself.
"""

from __future__ import annotations

from typing import Final

_BITS: Final = 31
_MASK: Final = (1 << _BITS) - 1
_OPEN: Final = 1 << 62
BEFORE: Final = 2
"""Places before the first name: behind `.` and behind `..`."""
ENDLESS: Final = 1 << 62
"""The end of a reader who may read on for ever."""


def base(last: int) -> int:
    """What to add to a place, so that its reader ends with the name `last`."""
    return last << _BITS if last + BEFORE <= _MASK else _OPEN


def read(cookie: int) -> tuple[int, int]:
    """The place that a cookie means, and its reader's last name. 0, the beginning, has none yet."""
    if cookie & _OPEN:
        return cookie & ~_OPEN, ENDLESS
    return cookie & _MASK, cookie >> _BITS
