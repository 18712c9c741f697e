"""The reserve: some MiB of the disk that nothing is written to, so that a full disk can still be made emptier.

Deleting takes room before it gives any: a record in the journal, pages in the logs. So does coming back after a
crash. Both may have the reserve, which goes a piece at a time, the last one only to a start; new bytes of files may
not. Knows no database. Where there is no room for all of it, it is a quarter of what there is. Invariant: what was
given up comes back only when as much as all of it stays free besides, or for the next start; until then bytes of files
leave room for it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

NAME: Final = "reserve"
SIZE: Final = 32 << 20
"""Bytes: what the largest batch takes in a log that has to grow for it, and as much again for its journal."""
_PIECE: Final = 8 << 20
_LEAST: Final = 1 << 20
_AGAIN_S: Final = 5.0
"""Between two tries to set it aside."""


class Reserve:
    """A file of `SIZE` bytes beside the databases, of fewer on a small disk or once some were given up, or no file."""

    def __init__(self, directory: Path) -> None:
        """Look what there is. Where the disk is nearly full, all of it is given up to whoever opens the store."""
        self._directory = directory
        self._path = directory / NAME
        self._held, self._size, self._next_s = 0, 0, 0.0
        self.is_spent = False
        """Whether some of it was given up and is not back."""
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return
        self._held = min(found.st_size, found.st_blocks * 512)  # a copy of a store may have holes
        free = self._free()
        self._size = max(self._held, self._share(free))
        self.is_spent = self._held < self._size
        if free < SIZE:
            self._cut(0)

    def _share(self, free: int) -> int:
        """How large it is to be where so many bytes are free beside it."""
        room = free + self._held
        return SIZE if room >= 2 * SIZE else room // 4

    @property
    def lacking(self) -> int:
        """Bytes that were given up: free on the disk, they are not for files."""
        return self._size - self._held if self.is_spent else 0

    def spend(self) -> bool:
        """Give a piece to whoever needs room now; False when there was none left to give."""
        piece = min(_PIECE, self._size // 4)
        return self._held > piece and self._cut(max(piece, self._held - piece))

    def refuses(self, size: int, spare: int) -> bool:
        """Whether `size` new bytes of files would take room that only deleting and recovery may have.

        Args:
            spare: bytes that the databases have free within them.
        """
        return self.is_spent and self._free() + spare < self.lacking + size

    def refill(self) -> None:
        """Set the room aside, if the disk has that much and as much besides. For a worker thread."""
        if self._held == SIZE or time.monotonic() < self._next_s:
            return
        free = self._free()
        size = self._share(free)
        if size < SIZE and self._size > _LEAST:
            size = self._size  # what it was is what it is again, until there is room for all of it
        if size <= max(self._held, _LEAST) or free < 2 * size - self._held:
            return
        self._next_s = time.monotonic() + _AGAIN_S
        if self._hold(size):
            self._size, self.is_spent = size, False

    def keep_for_start(self) -> None:
        """At the end of a run on a full disk: set aside most of what is left, up to a piece, before others take it."""
        size = min(_PIECE, self._free() * 3 // 4)
        if self.is_spent and self._held < size:
            self._hold(size)

    def _hold(self, size: int) -> bool:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path, flags, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError:
                os.ftruncate(descriptor, self._held)
                raise
            finally:
                os.close(descriptor)
        except OSError:
            return False  # the disk filled up meanwhile, or this user may have no more of it
        self._held = size
        return True

    def _cut(self, size: int) -> bool:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)
        except OSError:  # somebody has put something else in its place
            self._held = 0
            return False
        self._held, self.is_spent = size, True
        return True

    def _free(self) -> int:
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize
