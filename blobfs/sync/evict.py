"""Which clean, unpinned extents go when the cache is over its limit or the disk is nearly full.

Invariant: an extent goes only when the server has confirmed its digest; what is dirty or pinned never does. The store
keeps both promises itself: it knows no id of bytes that the server has not confirmed, and drops nothing dirty.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from blobfs.store.store import Store
from blobfs.store.uses import FIRST
from blobfs.values.nodes import Content

_BATCH: Final = 64
"""Extents looked at between two looks at what is left to free: 256 MiB at most."""
_RESTING: Final = 30
"""After a look at what may go, so many times as long passes before the next."""
SLACK: Final = 0.1
"""Part of the limit that is freed beyond it, so that the next write does not start all over."""


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Bytes; None means no limit."""

    most: int | None = None
    """Of attachments in the store."""
    free_disk: int | None = None
    """To be left free on the disk that holds the store."""


def excess(stored: int, free: int, limits: CacheLimits) -> int:
    """Bytes that have to go; 0 when all is within the limits."""
    over = 0
    if limits.most is not None and stored > limits.most:
        over = stored - limits.most + int(limits.most * SLACK)
    if limits.free_disk is not None and free < limits.free_disk:
        over = max(over, limits.free_disk - free)
    return min(over, stored)


def evict(store: Store, limits: CacheLimits, is_pinned: Callable[[Content], bool]) -> int:
    """Drop least recently used extents until the limits hold; bytes freed. In a worker thread."""
    if limits.most is None and limits.free_disk is None:
        return 0
    store.attachments.uses.tell()
    wanted = excess(store.attachments.stored(), shutil.disk_usage(store.path).free + store.spare(), limits)
    freed, last = 0, FIRST
    while freed < wanted:
        oldest = store.attachments.uses.oldest(_BATCH, last)
        if not oldest:
            break
        for last in oldest:
            if freed < wanted and not is_pinned(last.content):
                freed += store.attachments.evict(last.content, [last.extent])
    return freed


async def keep_within(
    store: Store, limits: Callable[[], CacheLimits | None], is_pinned: Callable[[Content], bool], every_s: float
) -> None:
    """Evict regularly, until cancelled. What holds is asked each time; None: nothing may go now."""
    pause_s = every_s
    while True:
        await trio.sleep(pause_s)
        now, started = limits(), trio.current_time()
        if now is not None:
            await trio.to_thread.run_sync(partial(evict, store, now, is_pinned))
        # Where more is pinned than the limit allows, all of it is looked at each time.
        pause_s = max(every_s, _RESTING * (trio.current_time() - started))
