"""The power goes while a mount works, told by assertions: a real ext4 on a disk whose every write is known.

Runs in a mount namespace of its own: unshare --mount python -m tests.mount.power PATH SEED MOMENTS
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from blobfs.store.store import Store
from blobfs.values.nodes import ROOT_INODE
from tests.mount.block_log import lose_power, read_log
from tests.mount.conftest import Mounted
from tests.mount.daemon import fixed_keys

SIZE = 64 << 20
STEPS = 80
NAMES = [f"f{number}" for number in range(12)]
LENGTHS = (0, 9, 3000, 70_000, 300_000, 1_000_000)


class Version(NamedTuple):
    """A state that a file was given."""

    body: bytes | None
    """None: it is not there."""
    begun: int
    """Where the log was before the first call of it, in bytes."""
    safe: int | None
    """Where the log was once an fsync had been answered after it; None: nobody asked for one."""


class Trial:
    """A disk, a filesystem on it, a mount on that, and what it was told."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.draw = place, random.Random(seed)
        self.image, self.log = place / "image", place / "log"
        self.history: dict[str, list[Version]] = {name: [Version(None, 0, 0)] for name in NAMES}
        with open(self.image, "wb") as file:
            file.truncate(SIZE)
        options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        _call("mkfs.ext4", "-q", "-F", "-J", "size=4", "-E", options, str(self.image))
        self.blank = self.image.read_bytes()

    def record(self) -> None:
        """Work on the disk, and note what was acknowledged."""
        disk = self.place / "disk"
        disk.mkdir()
        command = [sys.executable, "-m", "tests.mount.block_log", str(self.image), str(self.log), str(disk)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == b"ready\n"
                with mounted(disk / "image", self.place / "ext4") as ext4:
                    self._work(ext4)
            finally:
                server.send_signal(signal.SIGTERM)

    def _work(self, ext4: Path) -> None:
        mount = Mounted(ext4)
        try:
            mount.start()
            for number in range(STEPS):
                self._step(mount.path, number)
            mount.stop(signal.SIGKILL)
        finally:
            mount.clean()

    def _step(self, top: Path, number: int) -> None:
        name, begun = self.draw.choice(NAMES), self._position()
        body: bytes | None = None
        if self.draw.random() < 0.8:
            body = self.draw.randbytes(self.draw.choice(LENGTHS))
            with open(top / "new", "wb", buffering=0) as file:
                file.write(body)
                if self.draw.random() < 0.5:
                    os.fsync(file.fileno())
            os.rename(top / "new", top / name)
        elif (top / name).exists():
            os.unlink(top / name)
        self.history[name].append(Version(body, begun, None))
        if self.draw.random() < 0.5:
            _sync(top)
            safe = self._position()
            for versions in self.history.values():
                if versions[-1].safe is None:
                    versions[-1] = versions[-1]._replace(safe=safe)

    def _position(self) -> int:
        return self.log.stat().st_size

    def lose_power(self, moments: int) -> None:
        """At as many moments: what was safe by then is there, or what replaced it later."""
        records = list(read_log(self.log))
        flushes = [record.end for record in records if record.data is None]
        assert len(flushes) > STEPS // 4, "the disk hears of no flushes"
        started = min(version.begun for versions in self.history.values() for version in versions[1:])
        late = [record.end for record in records if record.end >= started]
        found = self.place / "found"
        for _ in range(moments):
            end = self.draw.choice(late)
            found.write_bytes(lose_power(self.blank, records, end, self.draw))
            with mounted(found, self.place / "after") as after:
                self._check(after / "store", end)

    def _check(self, path: Path, end: int) -> None:
        store = Store.open(path, fixed_keys())
        try:
            assert store.check() == []
            nodes = {entry.name.decode(): entry.node for entry in store.tree.entries(ROOT_INODE, 0, 999)}
            assert nodes.keys() <= {*NAMES, "new"}
            for name, versions in self.history.items():
                node = nodes.get(name)
                body = None if node is None else b""
                if node is not None and node.content is not None:
                    body = store.attachments.read(node.content, 0, node.size)
                assert body in allowed(versions, end), f"{name} at {end}"
        finally:
            store.close()


def allowed(versions: list[Version], end: int) -> list[bytes | None]:
    """What a file may be when the power went at `end` of the log."""
    last = max(number for number, version in enumerate(versions) if version.safe is not None and version.safe <= end)
    return [version.body for version in versions[last:] if version.begun <= end]


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """An ext4 in a file, on a loop device."""
    at.mkdir(exist_ok=True)
    _call("mount", "-t", "ext4", "-o", "loop", str(image), str(at))
    try:
        yield at
    finally:
        _call("umount", str(at))


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def main() -> None:
    """Record once, lose power often; in memory, since the disk that matters is the one that is made here."""
    _call("mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", sys.argv[1])
    trial = Trial(Path(sys.argv[1]), int(sys.argv[2]))
    trial.record()
    trial.lose_power(int(sys.argv[3]))


if __name__ == "__main__":
    main()
