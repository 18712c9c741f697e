"""Real mounts, each by a daemon in a process of its own, taken off and reaped whatever happens."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.fs.mountpoint import DEVICE, is_mounted, unmount

ROOT = Path(__file__).parent.parent.parent
START_S = 120
STOP_S = 120


class Mounted:
    """A store, a mountpoint, and the daemon between them while it runs."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "store"
        self.path = directory / "mount"
        self.path.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        """Mount; on return it can be used."""
        command = [sys.executable, "-m", "tests.mount.daemon", str(self.store), str(self.path), *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._answer() == b"ready\n", "the daemon did not mount; its reason is on stderr"

    def _answer(self) -> bytes:
        assert self.process is not None
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        return self.process.stdout.readline() if ready else b""

    def change_elsewhere(self, name: str, body: bytes) -> None:
        """Another device puts a file into the root, or with no bytes deletes it; on return it is in the store."""
        self._tell(f"{name} {body.hex()}")

    def evict(self) -> None:
        """All that is stored goes to a server, and no byte of it stays here; reading brings it back."""
        self._tell("/evict")

    def _tell(self, line: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        assert self._answer() == b"done\n"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the daemon with a signal; its exit status."""
        process = self.process
        assert process is not None
        process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the daemon's end; its exit status."""
        process, self.process = self.process, None
        assert process is not None
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()
            process.stdin.close()

    def umount(self) -> int:
        """Unmount from outside, as a user does; the daemon's exit status."""
        subprocess.run(["umount", str(self.path)], check=True, timeout=STOP_S)
        return self.wait()

    def clean(self) -> None:
        """Leave no process and no mount behind."""
        if self.process is not None:
            self.stop(signal.SIGKILL)
        if is_mounted(self.path):
            unmount(self.path)


@pytest.fixture(scope="session", autouse=True)
def _fuse_is_there() -> None:
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        pytest.fail(f"these tests need {DEVICE}, readable and writable; load the module fuse and run them as root")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounted]:
    """A mount of an empty store, for a test that stops or kills it."""
    mounted = Mounted(tmp_path)
    try:
        mounted.start("--allow-other")
        yield mounted
    finally:
        mounted.clean()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """One mount for all tests of a module."""
    mounted = Mounted(tmp_path_factory.mktemp("shared"))
    try:
        mounted.start("--allow-other")
        yield mounted
    finally:
        mounted.clean()


@pytest.fixture
def folder(shared: Mounted, request: pytest.FixtureRequest) -> Path:
    """A fresh directory in the shared mount."""
    path = shared.path / request.node.name[:200].replace("/", "-")
    path.mkdir()
    return path
