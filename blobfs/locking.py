"""Locking by itself: a mount ends when nobody has used it for a while, or when the machine goes to sleep.

Owns when; the daemon owns how a mount ends. Invariant: sync is no use, and a file that is open is in use however long
nobody touches it; before the machine sleeps the process is gone, and with it every key, unless that takes longer than
the machine waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import trio

from blobfs.answers.options import LOCK_AFTER, LOCK_ON_SUSPEND, Options
from blobfs.errors import BlobfsError
from blobfs.fs.use import Use
from blobfs.suspend import wait_for_sleep
from blobfs.wording import format_span

LOOK_S: Final = 5.0
"""Between two looks whether there was any use; also how much later than asked a mount may lock."""
RETRY_S: Final = 60
"""Between two tries to reach the machine's bus."""

log = logging.getLogger(__name__)


def elapsed_s() -> float:
    """Seconds of a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class AutoLock:
    """Calls `lock` with the reason, once, when an option says that it is time to."""

    def __init__(
        self,
        options: Options,
        use: Use,
        is_open: Callable[[], bool],
        lock: Callable[[str], None],
        now: Callable[[], float] = elapsed_s,
    ) -> None:
        """
        Args:
            is_open: whether a program has a file open, or bytes of one wait to be stored.
        """
        self._options, self._use, self._is_open, self._lock, self._now = options, use, is_open, lock, now

    async def run(self) -> None:
        """Until it locks, or is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._after_idling, nursery.cancel_scope)
            nursery.start_soon(self._on_suspend, nursery.cancel_scope)

    async def _after_idling(self, scope: trio.CancelScope) -> None:
        since = self._now()
        while True:
            changed, limit_s = self._options.changed, self._options.values()[LOCK_AFTER]
            with trio.move_on_after(LOOK_S if limit_s is None else min(LOOK_S, max(limit_s / 4, 0.1))):
                await changed.wait()
            # Whoever sets an option is there.
            if self._use.take() or self._is_open() or changed.is_set():
                since = self._now()
            elif limit_s is not None and self._now() - since >= limit_s:
                self._lock(f"nobody used it for {format_span(limit_s)}")
                scope.cancel()

    async def _on_suspend(self, scope: trio.CancelScope) -> None:
        while True:
            changed = self._options.changed
            if not self._options.values()[LOCK_ON_SUSPEND]:
                await changed.wait()
                continue
            async with trio.open_nursery() as listening:
                listening.start_soon(self._listen, scope)
                await changed.wait()
                listening.cancel_scope.cancel()

    async def _listen(self, scope: trio.CancelScope) -> None:
        while True:
            try:
                await wait_for_sleep()
                self._lock("the machine goes to sleep")
                scope.cancel()
                return
            except BlobfsError as error:
                log.warning("%s", error)
            await trio.sleep(RETRY_S)
