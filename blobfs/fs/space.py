"""What `df` shows: the room on the disk that holds the store, and in the account at the server.

Pure but for one look at the disk; never asks the server. Invariant: free space is never more than either gives.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Space(NamedTuple):
    """Bytes of a filesystem."""

    total: int
    free: int


class Allowance(NamedTuple):
    """What an account holds at the server and may hold, in bytes."""

    used: int
    quota: int | None
    """None: no limit. May be less than `used`."""


def disk_of(path: Path, withheld: int = 0) -> Space:
    """The disk that `path` is on; `withheld` bytes that are free there are for nobody."""
    disk = os.statvfs(path)
    return Space(disk.f_blocks * disk.f_frsize, max(0, disk.f_bavail * disk.f_frsize - withheld))


def within(disk: Space, allowance: Allowance | None) -> Space:
    """The account as a filesystem, as far as the disk has room for it; the disk itself while nothing is known of it.

    What is shown as used is what the account holds, on this device or not.
    """
    if allowance is None:
        return disk
    used, quota = allowance
    if quota is None:
        return Space(disk.free + used, disk.free)
    # A quota below what is there already is full, and not smaller than its content.
    return Space(max(used, min(disk.free + used, quota)), min(disk.free, max(0, quota - used)))
