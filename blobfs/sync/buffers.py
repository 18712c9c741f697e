"""Memory for whole extents, used again and again: pages made anew cost several times what is done with the bytes.

Lives on the loop; threads may fill what was taken. Invariant: a buffer is one taker's alone until it is given back.
"""

from __future__ import annotations

from typing import Final

from blobfs.values.extents import EXTENT
from blobfs.values.framing import sealed_size

_ROOM: Final = sealed_size(EXTENT)
"""Bytes of a buffer: an extent, sealed."""


class Buffers:
    """Buffers that wait for their next use, at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._spare: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        """A buffer of at least `size` bytes, with anything in it."""
        if not EXTENT // 2 < size <= _ROOM:
            return bytearray(size)
        return self._spare.pop() if self._spare else bytearray(_ROOM)

    def give(self, buffer: bytearray) -> None:
        """It is not needed any more; nobody may look at it again."""
        if len(buffer) == _ROOM and len(self._spare) < self._most:
            self._spare.append(buffer)

    def release(self) -> bool:
        """Let go of one; whether there was one."""
        if self._spare:
            self._spare.pop()
            return True
        return False
