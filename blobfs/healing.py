"""A mount whose process died is mounted again in its place, by the process that watched it.

Knows when that is right and how often, and nothing of how it is done. Invariants: only a mount point that the kernel
calls dead is healed, so whoever unmounts ends the healing too; no passphrase is kept for it, so what was typed
heals nothing.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from blobfs import mountpoint
from blobfs.config import LOG, Config
from blobfs.errors import BlobfsError, UsageError
from blobfs.fs.mountpoint import has_automount, is_mounted
from blobfs.process import log_to

MOST: Final = 6
"""Times in a row, at 0, 2, 4, 8, 16 and 32 seconds: what lasts longer is not over by itself."""
STEADY_S: Final = 600
"""Seconds that a mount lasts whose death is the first of a row again."""
_FINAL: Final = frozenset((2, 3, 4, 5, 6, 7, 8, 12, 20, 21))
"""Exit codes of what only a person can mend (a unit has them in `RestartPreventExitStatus`), and of a store in use."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Past:
    """What a watch remembers: how many healings in a row led to the mount that it watches, and since when."""

    healings: int
    since_s: float
    """Of the clock that runs since the machine started, asleep or not."""

    @classmethod
    def now(cls, healings: int = 0) -> Past:
        return cls(healings, time.clock_gettime(time.CLOCK_BOOTTIME))

    def __str__(self) -> str:
        return f"{self.healings},{self.since_s:.0f}"

    def count(self, now_s: float) -> int:
        """The number of the healing that comes now, from 1."""
        return 1 if now_s - self.since_s > STEADY_S else self.healings + 1


def parse(text: str) -> tuple[Past, int]:
    """What the watch said: its past, and the code with which the process ended. Raises UsageError."""
    try:
        healings, since_s, code = text.split(",")
        return Past(int(healings), float(since_s)), int(code)
    except ValueError:
        raise UsageError("--heal is for blobfs itself; use --background") from None


def pause_s(count: int) -> int:
    """Seconds before healing number `count`."""
    return 0 if count <= 1 else 2 ** (count - 1)


def heal(config: Config, mount: Callable[[Config, Past], int]) -> int:
    """Mount again what died, if it is there still and can be; the exit code.

    Args:
        mount: unlocks, then starts a watched process; its exit code once it is ready or has failed.
    """
    past, code = parse(config.heal or "")
    if not _is_dead(config.mountpoint):
        # Unmounted by somebody, or never mounted; whoever started it has been told why.
        return code
    log_to(config.store / LOG)
    log.warning("the process that held the mount died (%s)", _name(code))
    count = past.count(Past.now().since_s)
    if has_automount(config.mountpoint):
        # systemd mounts there as soon as somebody enters, with the process group that the automount lets through.
        mountpoint.unmount(config.mountpoint, lazy=True)
        log.info("the dead mount is taken away; the automount mounts again when somebody enters")
        return 0
    while is_still_dead(config.mountpoint, pause_s(count) if count <= MOST else 0):
        if count > MOST:
            log.error("not mounted again: it died or failed %d times in a row; `blobfs mount` tries once more", MOST)
            return code
        log.info("mounting again, time %d of %d", count, MOST)
        code = _try(config, Past.now(count), mount)
        if code == 0 or code in _FINAL:
            return code
        count += 1
    log.info("not mounted again: somebody took the dead mount away, or mounted there")
    return code


def _try(config: Config, past: Past, mount: Callable[[Config, Past], int]) -> int:
    from blobfs.cli import exit_code

    try:
        code = mount(replace(config, heal=None, background=True, is_healing=True), past)
    except (BlobfsError, OSError) as error:
        log.error("not mounted again: %s", error)
        return exit_code(error)
    if code:
        log.error("not mounted again: the process that tried ended with exit code %d", code)
    return code


def _is_dead(point: Path) -> bool:
    # The table first: to ask what is below an automount would make it mount.
    return is_mounted(point) and mountpoint.is_dead(point)


def is_still_dead(point: Path, wait_s: float) -> bool:
    """Whether `point` is a dead mount all through the next `wait_s` seconds; False as soon as it is not."""
    deadline = time.monotonic() + wait_s
    table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    try:
        changes = select.poll()
        changes.register(table, select.POLLPRI)
        while _is_dead(point):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return True
            changes.poll(left_s * 1000)
        return False
    finally:
        os.close(table)


def _name(code: int) -> str:
    if code <= 128:
        return f"exit code {code}"
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return f"signal {code - 128}"
