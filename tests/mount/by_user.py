"""What a mount by a user without rights shows, told by assertions.

Runs in a mount namespace of its own, in which everybody may open /dev/fuse, with a tmpfs at PATH:
unshare --mount python -m tests.mount.by_user PATH
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from blobfs.fs.mountpoint import DEVICE
from tests.mount.conftest import Mounted
from tests.mount.test_files import failure
from tests.mount.test_remote_changes import soon

USER = 65534
"""`nobody`: fusermount3 wants a user who has a name."""


def open_device(place: Path) -> None:
    """Let everybody open /dev/fuse, as distributions do; and a place that the user may enter."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,dev", "tmpfs", str(place)], check=True)
    device = place / "fuse"
    os.mknod(device, stat.S_IFCHR | 0o666, os.stat(DEVICE).st_rdev)
    device.chmod(0o666)
    subprocess.run(["mount", "--bind", str(device), str(DEVICE)], check=True)


def as_user(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program as that user."""
    return subprocess.run(
        command, user=USER, group=USER, extra_groups=[], capture_output=True, text=True, timeout=60, check=False
    )


def check_owners(mount: Mounted) -> None:
    """Files of other devices belong to the user who mounts."""
    assert as_user("touch", mount.path / "mine").returncode == 0
    mount.change_elsewhere("theirs", b"of root there")
    assert soon(lambda: as_user("cat", mount.path / "theirs").stdout == "of root there")
    told = as_user("stat", "-c", "%u %g", mount.path / "mine", mount.path / "theirs", mount.path)
    assert told.stdout == f"{USER} {USER}\n" * 3
    assert as_user("sh", "-c", f"echo more >> {mount.path}/theirs").returncode == 0
    assert as_user("cat", mount.path / "theirs").stdout == "of root theremore\n"
    assert "not permitted" in as_user("chown", "0:0", mount.path / "mine").stderr


def check_walls(mount: Mounted) -> None:
    """It is closed to others, and devices and setuid are nothing in it."""
    assert failure(lambda: os.listdir(mount.path)) == "EACCES"
    table = Path("/proc/self/mountinfo").read_text()
    (line,) = (line for line in table.splitlines() if str(mount.path) in line)
    assert {"nosuid", "nodev"} <= set(line.split()[5].split(","))
    assert as_user("mknod", mount.path / "device", "c", "1", "3").returncode != 0


CHECKS: tuple[Callable[[Mounted], None], ...] = (check_owners, check_walls)


def main() -> None:
    """Mount as the user, and look."""
    place = Path(sys.argv[1])
    open_device(place)
    home = place / "home"
    home.mkdir()
    mounted = Mounted(home)
    for path in (home, mounted.path):
        os.chown(path, USER, USER)
    try:
        mounted.start("--user", str(USER))
        for check in CHECKS:
            check(mounted)
    finally:
        mounted.clean()


if __name__ == "__main__":
    main()
