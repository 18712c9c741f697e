"""setuid and setgid: who takes them from a file by writing it, cutting it, or giving it away.

Knows modes and nothing else. The rules are Linux's own for any disk, which leaves them to us (fs/handshake.py).
"""

from __future__ import annotations

import enum
from typing import Final

SPECIAL: Final = 0o6000
"""setuid and setgid."""


class Power(enum.IntEnum):
    """What somebody who changes a file is to it; the weakest first."""

    STRANGER = 0
    """Neither root nor of the file's group."""
    MEMBER = 1
    ROOT = 2


def after_write(mode: int, power: Power) -> int:
    """A file's mode once somebody has written it, or changed its size. Root's changes leave it as it is."""
    return mode if power is Power.ROOT else after_chown(mode, power)


def after_chown(mode: int, power: Power) -> int:
    """A file's mode once somebody has given it another owner. Without the right of its group to execute it, setgid
    means something else, and goes only when a stranger did it.
    """
    return mode & ~(0o6000 if mode & 0o010 or power is Power.STRANGER else 0o4000)
