"""PollingTrio: what pyfuse3's main loop waits with, in place of trio itself.

pyfuse3 takes its event loop from a module global, so that `pyfuse3.asyncio` can replace it; this uses the same seam.
After a request the descriptor is looked at for some microseconds before the task parks in the event loop: under load
the next request is there by then, and waking up through the event loop costs more than serving it.
Invariant: other tasks run at least every `TURN_S`, and a loop without requests parks.
"""

from __future__ import annotations

import select
import time
from typing import Any, Final

import trio

from blobfs.fs.handshake import Handshake

SPIN_S: Final = 60e-6
"""How long to look. A process that just got its answer needs about that long for its next call."""
TURN_S: Final = 1e-3
"""How long requests may follow each other before other tasks get their turn."""


class _Turnstile:
    """A lock that goes back to the task that just had it, unless that one waits: no hand-over, no switch of tasks."""

    def __init__(self) -> None:
        self._is_held = False
        self._waiters = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._is_held:
            await self._waiters.park()
        self._is_held = True

    async def __aexit__(self, *_: object) -> None:
        self._is_held = False
        if self._waiters:
            self._waiters.unpark()


class _Waiting:
    """`trio.lowlevel`, but for how a descriptor is waited for."""

    def __init__(self, handshake: Handshake | None) -> None:
        self._handshake = handshake
        self._polls: dict[int, Any] = {}
        self._turn = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, descriptor: int) -> None:
        """Return when there is something to read. Raises trio.ClosedResourceError."""
        if self._handshake is not None:
            if self._handshake.has_begun:
                self._handshake.end()
                self._handshake = None
            elif self._handshake.begin(descriptor):
                return
        poll = self._polls.get(descriptor)
        if poll is None:
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            poll = self._polls[descriptor] = poller.poll
        now = time.perf_counter()
        if now >= self._turn:
            await trio.lowlevel.checkpoint()
            now = time.perf_counter()
            self._turn = now + TURN_S
        end = now + SPIN_S
        while now < end:
            if poll(0):
                return
            now = time.perf_counter()
        await trio.lowlevel.wait_readable(descriptor)
        self._turn = time.perf_counter() + TURN_S


class PollingTrio:
    """The module `trio` as far as pyfuse3 uses it."""

    def __init__(self, handshake: Handshake | None = None) -> None:
        self.lowlevel = _Waiting(handshake)
        self.Lock = _Turnstile

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)
