"""A limit of bytes per second, shared by all who wait for it."""

from __future__ import annotations

from typing import Final

import trio

_BURST_S: Final = 0.25
"""Bytes of this long may go at once after a pause: smooth enough for a line, long enough not to wake for each piece."""


class Throttle:
    """One direction's bandwidth. Invariant: over any time t, at most t times the rate and one burst pass."""

    def __init__(self, bytes_per_s: float | None = None) -> None:
        self.bytes_per_s = bytes_per_s
        """None: no limit. Can be set at any time."""
        self._free_at = 0.0

    async def take(self, size: int) -> None:
        """Wait until `size` bytes may pass. Checkpoint only when there is a limit."""
        rate = self.bytes_per_s
        if rate is None:
            return
        now = trio.current_time()
        # No await between reading and setting: whoever comes next queues behind this one.
        start = max(self._free_at, now - _BURST_S)
        self._free_at = start + size / rate
        if self._free_at > now:
            await trio.sleep(self._free_at - now)
