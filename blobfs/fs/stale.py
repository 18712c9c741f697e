"""What the kernel must forget after a change that did not come through it, and the thread that tells it so.

Knows no FUSE binding: it is handed the two calls. Invariant: nothing here is ever called from inside a request's
handler and waited for, since the kernel may hold the very lock that the call needs until that request is answered.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Container
from typing import Final, NamedTuple

from blobfs.store.documents import Applied
from blobfs.values.nodes import Inode

log = logging.getLogger(__name__)

MAX_QUEUED: Final = 200_000
"""Names and inodes that wait to be forgotten: some 40 MB. Past it the kernel's own timeouts have to do."""


class Stale(NamedTuple):
    """What is no longer true of what the kernel remembers."""

    inodes: tuple[tuple[Inode, bool], ...]
    """(inode, whether its bytes too and not its attributes alone)."""
    names: tuple[tuple[Inode, bytes], ...]
    """(directory, name): it is there now, or no more, or is another file."""


def stale_after(applied: Applied, known: Container[Inode]) -> Stale:
    """What a remote change made stale, as far as the kernel knows the inodes at all."""
    names = set(applied.names_before) ^ set(applied.names_after)
    inodes = {parent: False for parent, _ in names if parent in known}
    if applied.inode in known:
        inodes[applied.inode] = applied.content_changed
    return Stale(tuple(inodes.items()), tuple(sorted(name for name in names if name[0] in known)))


class Invalidator:
    """A thread that makes the kernel forget, in order of arrival; the same thing twice is said once."""

    def __init__(
        self, forget_inode: Callable[[Inode, bool], None], forget_name: Callable[[Inode, bytes], None]
    ) -> None:
        self._forget_inode = forget_inode
        self._forget_name = forget_name
        self._ready = threading.Condition()
        self._inodes: dict[Inode, bool] = {}
        self._names: dict[tuple[Inode, bytes], None] = {}
        self._is_stopped = self._is_saying = False
        self._has_overflowed = False
        self._thread = threading.Thread(target=self._run, name="blobfs-invalidate", daemon=True)
        self._thread.start()

    def put(self, stale: Stale) -> None:
        """Have these forgotten soon. Returns at once; any thread."""
        with self._ready:
            if len(self._inodes) + len(self._names) >= MAX_QUEUED:
                if not self._has_overflowed:
                    log.warning("too many remote changes at once: some names may look old for a few minutes")
                self._has_overflowed = True
                return
            for inode, has_content in stale.inodes:
                self._inodes[inode] = self._inodes.get(inode, False) or has_content
            self._names.update(dict.fromkeys(stale.names))
            self._ready.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything was said; False when that takes longer, as while the kernel waits for a request."""
        with self._ready:
            return self._ready.wait_for(lambda: not (self._inodes or self._names or self._is_saying), timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """End the thread; what still waits is not said any more. False when the kernel did not let go of it in time."""
        with self._ready:
            self._is_stopped = True
            self._ready.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._ready:
                self._is_saying = False
                self._ready.notify_all()
                self._ready.wait_for(lambda: self._is_stopped or self._inodes or self._names)
                names, self._names = self._names, {}
                inodes, self._inodes = self._inodes, {}
                self._is_saying = True
                self._has_overflowed = False
            for parent, name in names:
                self._say(parent, functools.partial(self._forget_name, parent, name))
            for inode, has_content in inodes.items():
                self._say(inode, functools.partial(self._forget_inode, inode, has_content))
            if self._is_stopped:
                return

    def _say(self, inode: Inode, forget: Callable[[], None]) -> None:
        if self._is_stopped:
            return
        try:
            forget()
        except FileNotFoundError:
            pass  # the kernel did not remember it
        except OSError as error:
            log.warning("the kernel could not be told of a change to inode %d: %s", inode, error)
