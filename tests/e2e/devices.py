"""Real devices for end-to-end tests: a server process, and daemons with kernel mounts, driven by their commands.

Everything is started from here, in the scratch directory of one test, and ended by `close`, also after a failure.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from blobfs.config import Mount
from blobfs.outside import look
from tests import administration
from tests.ports import Port
from tests.watches import kill_for_good

PASSPHRASE = "correct horse battery staple"  # of accounts that live as long as a test
DEADLINE_S = 120.0


def wait_for(what: str, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Poll until `condition` holds; for what has no event that another process could wait for."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)


def command(*argv: str, timeout_s: float = 120.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is text."""
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False, **options)


def blobfs(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The client's command."""
    return command(sys.executable, "-m", "blobfs.cli", *argv, **options)


class Server:
    """A server process of its own, with its data in `data`."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._port = Port()
        self.port = self._port.number
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start, always on the same port; on return it accepts connections."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server", "--data", str(self.data), "--port", str(self.port)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert re.search(rf"listening on http://127\.0\.0\.1:{self.port}\b", line), line

    def add_user(self, name: str, *options: str) -> dict[str, str]:
        """What `user add --json` prints: user, token, invite."""
        made: dict[str, str] = administration.answer("user", "add", name, *options, "--data", self.data)
        return made

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the process and wait for it."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(DEADLINE_S)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


class Device:
    """One device: a store, a mount point and, while it is up, a daemon."""

    def __init__(self, place: Path, name: str, invite: str | None = None) -> None:
        self.mount = place / name
        self.store = place / f"{name}.store"
        self.passphrase = place / f"{name}.passphrase"
        self.passphrase.write_text(PASSPHRASE + "\n")
        self.mount.mkdir()
        self.invite = invite

    def up(self) -> None:
        """Mount in the background; ready on return."""
        argv = ["mount", str(self.mount), "--store", str(self.store), "--passphrase-file", str(self.passphrase)]
        if self.invite is not None:
            argv += ["--connect", self.invite]
        argv += ["--guess-time", "0"]  # tests set many passphrases
        done = blobfs(*argv, "--background")
        assert done.returncode == 0, done.stderr
        assert os.path.ismount(self.mount)

    def status(self) -> dict[str, Any]:
        """What `status --json` prints, without a process to print it."""
        return look(Mount(self.mount, self.store)).to_json()

    def sync(self, timeout_s: float = DEADLINE_S) -> None:
        """On return the server has confirmed everything."""
        done = blobfs("sync", str(self.mount), "--wait", "--timeout", str(timeout_s), timeout_s=timeout_s + 30)
        assert done.returncode == 0, done.stderr

    def down(self) -> None:
        """Unmount in an orderly way."""
        done = blobfs("umount", str(self.mount))
        assert done.returncode == 0, done.stderr
        wait_for("the mount is gone", lambda: not os.path.ismount(self.mount))

    def pid(self) -> int:
        """The daemon's."""
        return int(self.status()["pid"])

    def kill(self, pid: int | None = None) -> None:
        """End the daemon as a power switch would, at once when its `pid` is given, and leave the dead mount behind."""
        kill_for_good(self.pid() if pid is None else pid)

    def close(self) -> None:
        """Whatever state it is in: no process and no mount left behind."""
        with suppress(Exception):
            self.kill()
        subprocess.run(["fusermount3", "-u", "-z", "-q", str(self.mount)], check=False)


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """What two devices must agree on: kind, permissions, size, time and bytes of everything below `root`."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(folder, name)
            info = path.lstat()
            if path.is_symlink():
                state: tuple[object, ...] = ("link", os.readlink(path))
            elif path.is_dir():
                state = ("directory", info.st_mode)
            else:
                state = ("file", info.st_mode, info.st_size, info.st_mtime_ns, path.read_bytes())
            found[str(path.relative_to(root))] = state
    return found


def wait_for_version(here: Path, there: Path) -> None:
    """On return `here` is what `there` is. Looked at without opening it: a newer version waits while a file is open."""

    def has_come() -> bool:
        with suppress(FileNotFoundError):
            found, wanted = here.stat(), there.stat()
            return (found.st_size, found.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns)
        return False

    wait_for(f"{here} is {there}", has_come)
    wait_for(f"{here} has the bytes of {there}", lambda: here.read_bytes() == there.read_bytes())


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of every regular file below `root`."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}
