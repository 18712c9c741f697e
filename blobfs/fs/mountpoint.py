"""Mountpoints: whether one can be used, what a dead daemon left on it, and the options to mount with.

Talks to the kernel's mount table and to fusermount3, never to /dev/fuse. Invariant: nothing here touches a live mount
but `unmount`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blobfs.errors import UsageError

SUBTYPE: Final = "blobfs"
DEVICE: Final = Path("/dev/fuse")
_MNT_DETACH: Final = 2
_CAP_DAC_OVERRIDE: Final = 1
_UNMOUNT_S: Final = 10
"""fusermount3 -z only detaches, which takes no time; more means that it hangs."""
READ_AHEAD: Final = 2 << 20
"""Bytes that the kernel reads ahead: two requests, so that both processors have one. The default, 128 KiB, is an eighth
of one."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How to mount."""

    allow_other: bool = False
    """Other users may enter; owners and modes decide what they may do there."""
    read_only: bool = False
    """The kernel refuses every change with EROFS, and asks nothing of us that would be one."""
    fsname: str = "blobfs"
    """The first column of `df`."""

    def arguments(self) -> set[str]:
        """As libfuse takes them. The kernel checks permissions by the modes shown, as on any disk.

        Where nobody but root can enter, it is not asked to: root may do everything, and the check costs a request for
        the attributes of the directory after each change in it.
        """
        arguments = {"nosuid", "nodev", f"subtype={SUBTYPE}", f"fsname={escape(self.fsname)}"}
        if self.allow_other:
            arguments.add("allow_other")
        if self.read_only:
            arguments.add("ro")
        if self.allow_other or not overrides_modes():
            arguments.add("default_permissions")
        return arguments


def overrides_modes() -> bool:
    """Whether this process, and so whoever shares its user, is root with the right to pass over modes."""
    if os.getuid():
        return False
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return bool(effective >> _CAP_DAC_OVERRIDE & 1)


def escape(text: str) -> str:
    """`text` as one value in an option string of libfuse: ASCII, with its separators kept apart."""
    return re.sub(r"([\\,])", r"\\\1", text.encode("ascii", "replace").decode("ascii"))


def prepare(mountpoint: Path) -> None:
    """See to it that `mountpoint` can be mounted on; a dead daemon's mount is taken off first.

    Raises:
        UsageError: it cannot, and why.
    """
    _check_device()
    heal(mountpoint)
    try:
        is_empty = not os.listdir(mountpoint)
    except FileNotFoundError:
        raise UsageError(f"there is no directory {mountpoint}; make it first") from None
    except NotADirectoryError:
        raise UsageError(f"{mountpoint} is not a directory") from None
    except PermissionError:
        raise UsageError(f"{mountpoint} is not yours to enter; choose another directory") from None
    if is_mounted(mountpoint):
        raise UsageError(f"a blobfs is mounted on {mountpoint} already")
    if not is_empty:
        raise UsageError(f"{mountpoint} is not empty; its files would be hidden while mounted")
    if os.getuid() and not os.access(mountpoint, os.W_OK):
        raise UsageError(f"{mountpoint} is not yours to write to, so fusermount3 refuses it; choose another directory")


def _check_device() -> None:
    if not DEVICE.exists():
        raise UsageError(f"{DEVICE} is missing; load the kernel's module with `modprobe fuse`")
    if os.getuid() and shutil.which("fusermount3") is None:
        raise UsageError("fusermount3 is missing; install the package fuse3")
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        raise UsageError(
            f"you may not open {DEVICE}; the administrator, or the container's owner, can allow it"
        ) from None
    except OSError as error:
        raise UsageError(f"{DEVICE} cannot be opened: {error.strerror}") from None


def is_mounted(mountpoint: Path) -> bool:
    """Whether a blobfs is on it, dead or alive. Asks the mount table, so a daemon that hangs does not matter."""
    return f"fuse.{SUBTYPE}" in _mounted_on(mountpoint)


def is_automount(mountpoint: Path) -> bool:
    """Whether it only waits to be mounted on: systemd's automount, which lets a mount through when somebody enters."""
    return _mounted_on(mountpoint)[-1:] == ["autofs"]


def has_automount(mountpoint: Path) -> bool:
    """Whether an automount is on it, also below another mount."""
    return "autofs" in _mounted_on(mountpoint)


def _mounted_on(mountpoint: Path) -> list[str]:
    """The types of what is mounted on it, the topmost last."""
    wanted = os.path.realpath(mountpoint.parent) + "/" + mountpoint.name
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.split(" ")
            place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            if place == wanted:
                found.append(fields[fields.index("-") + 1])
    return found


def heal(mountpoint: Path) -> bool:
    """Take off a mount whose daemon is dead; whether there was one."""
    try:
        os.statvfs(mountpoint)  # never from a cache: a dead mount's attributes can outlive its daemon
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
            return False
        unmount(mountpoint)
        return True
    return False


def unmount(mountpoint: Path) -> None:
    """Detach a mount; processes that still use it keep what they have open.

    Raises:
        UsageError: it could not be.
    """
    if os.getuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(mountpoint), _MNT_DETACH) and ctypes.get_errno() != errno.EINVAL:
            raise UsageError(f"{mountpoint} cannot be unmounted: {os.strerror(ctypes.get_errno())}")
        return
    tool = shutil.which("fusermount3")
    if tool is None:
        raise UsageError("fusermount3 is missing; install the package fuse3")
    done = subprocess.run(  # noqa: S603
        [tool, "-u", "-z", "--", mountpoint], capture_output=True, text=True, timeout=_UNMOUNT_S, check=False
    )
    if done.returncode:
        raise UsageError(f"{mountpoint} cannot be unmounted: {done.stderr.strip() or 'fusermount3 failed'}")


def widen_read_ahead(mountpoint: Path) -> None:
    """Let the kernel read ahead as much as one request can carry; it lets root alone decide that."""
    device = os.stat(mountpoint).st_dev
    knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    with suppress(OSError):
        knob.write_text(str(READ_AHEAD >> 10))
