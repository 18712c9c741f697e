"""The directory that is mounted on, before a mount and after it: can it be, and is it free to go?

Owns the checks that need no passphrase, each with its kind of error, and the polite way to unmount; `fs/mountpoint.py`
owns the mount itself. Invariant: no live mount is ever taken away but by `unmount`, which the kernel refuses while
files are open, unless it is told to be lazy.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

from blobfs.errors import FuseMissing, MountPointUnusable
from blobfs.fs.mountpoint import DEVICE, is_automount, is_mounted


def check_fuse(device: Path = DEVICE) -> None:
    """Raises FuseMissing with what to do when this user cannot mount through FUSE here."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise FuseMissing(
            f"this machine has no {device}; load the module with `modprobe fuse`, or in a container pass "
            "--device /dev/fuse --cap-add SYS_ADMIN"
        ) from None
    except OSError as error:
        raise FuseMissing(
            f"{device} cannot be opened ({error.strerror}); allow this user to, or run in a container that may use it"
        ) from None
    if os.geteuid() and shutil.which("fusermount3") is None:
        raise FuseMissing(
            "the program fusermount3 is missing, which mounts for who is not root; install the package fuse3"
        )


def check(path: Path) -> None:
    """See that `path` can be mounted on: an empty directory, an automount that waits, a dead mount, or nothing yet in a
    directory that is there.

    Changes nothing.

    Raises:
        MountPointUnusable: anything else; the message says what.
    """
    if is_dead(path):
        return
    if os.path.ismount(path) and not is_automount(path):
        raise MountPointUnusable(
            f"something is mounted on {path} already; unmount it with `umount {path}`, or choose another directory"
        )
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        if path.parent.is_dir():
            return
        what = "is not a directory" if path.parent.exists() else "is not there"
        raise MountPointUnusable(f"{path.parent} {what}, so {path.name} cannot be made in it; make it first") from None
    except OSError as error:
        raise MountPointUnusable(f"{path} cannot be used ({error.strerror}); choose another directory") from None
    if not stat.S_ISDIR(kind):
        raise MountPointUnusable(f"{path} is not a directory; choose an empty directory to mount on")
    if _has_entries(path):
        raise MountPointUnusable(
            f"{path} is not empty; choose an empty directory, and copy your files in once it is mounted"
        )


def prepare(path: Path, *, in_place: bool = False) -> None:
    """Make `path` ready to be mounted on: take a dead mount away, make the directory. Call `check` first.

    Raises:
        MountPointUnusable: the directory cannot be made; or, `in_place`, there is no dead mount whose place to take.
    """
    if is_dead(path):
        unmount(path, lazy=True)
    elif in_place:
        raise MountPointUnusable(f"the dead mount at {path} was taken away meanwhile; mount there again if you want to")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise MountPointUnusable(f"{path} cannot be made ({error.strerror}); choose another directory") from None


def is_dead(path: Path) -> bool:
    """Whether `path` is a FUSE mount whose process is gone."""
    try:
        # Not stat: the kernel may still have the root's attributes, and answers with them for the dead.
        os.statvfs(path)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def unmount(path: Path, *, lazy: bool = False) -> None:
    """Take the mount at `path` away. Lazily: it vanishes now, and ends when the last open file is closed.

    Raises:
        MountPointUnusable: files in it are in use, or this user may not.
    """
    command = _unmount_command(path, lazy)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603 - no shell
    if done.returncode == 0 or not is_mounted(path):
        return
    reason = done.stderr.decode("utf-8", "replace").strip().lower()
    if "busy" in reason:
        raise MountPointUnusable(f"{path} is in use; close the programs and shells that are in it, then try again")
    raise MountPointUnusable(f"{path} cannot be unmounted; run `umount {path}` to see why")


def _unmount_command(path: Path, lazy: bool) -> list[str]:
    helper = shutil.which("fusermount3")
    if helper is not None:
        return [helper, "-u", *(["-z"] if lazy else []), "--", os.fspath(path)]
    return ["umount", *(["-l"] if lazy else []), "--", os.fspath(path)]


def _has_entries(path: Path) -> bool:
    try:
        with os.scandir(path) as entries:
            return any(True for _ in entries)
    except OSError as error:
        raise MountPointUnusable(f"{path} cannot be read ({error.strerror}); choose another directory") from None
