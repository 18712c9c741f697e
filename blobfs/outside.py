"""A mount seen from outside its process: `status` looks at it, `umount` ends it.

Knows no key, no store's content and nothing of how a mount is made, so that these commands answer at once. Invariant:
nothing here needs the passphrase.
"""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path
from typing import Final

from blobfs import __version__, mountpoint
from blobfs.config import PENDING, Mount, recall
from blobfs.control import ask
from blobfs.errors import BlobfsError, NotMounted
from blobfs.status import Pending, Status, format_pending, from_json, not_mounted, read_pending

END_S: Final = 60
"""Seconds that `umount` waits for the process to end before it says that it still works."""


def look(mount: Mount) -> Status:
    """The status of a mount, from its process, or from what was left when it ended."""
    try:
        return from_json(ask(mount.store, "status"))
    except NotMounted:
        store = mount.store if mount.store.is_dir() else None
        return not_mounted(mount.mountpoint, store, read_pending(mount.store / PENDING), __version__)


def umount(path: Path, *, force: bool) -> int:
    """End the mount at `path` and wait until its process has ended; prints what waits for the server.

    Raises:
        NotMounted: there is none. MountPointUnusable: files in it are in use.
    """
    known = recall(path)
    status = look(known) if known is not None else None
    if known is None or status is None or status.pid is None:
        if not mountpoint.is_dead(path):
            raise NotMounted(f"{path} is not a mount of yours; `blobfs status` lists them, `umount {path}` ends others")
        mountpoint.unmount(path, lazy=True)
        print(f"Took away what a killed process had left at {path}.")
        return 0
    process = _open_process(status.pid)
    try:
        with contextlib.suppress(NotMounted):
            # It may end before it answers, which is what was asked for.
            ask(known.store, "umount", force=force)
        if not _has_ended(process, END_S):
            raise BlobfsError(
                f"process {status.pid} still writes to its store after {END_S} seconds; "
                f"its log in {known.store} tells more"
            )
    finally:
        if process is not None:
            os.close(process)
    print(f"Unmounted {path}: {farewell(read_pending(known.store / PENDING))}.")
    return 0


def _open_process(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _has_ended(process: int | None, timeout_s: float) -> bool:
    return process is None or bool(select.select([process], [], [], timeout_s)[0])


def farewell(pending: Pending) -> str:
    """What is told at the end of a mount."""
    if not pending.documents:
        return format_pending(pending)
    return f"{format_pending(pending)}, and {'goes' if pending.documents == 1 else 'go'} there after the next mount"
