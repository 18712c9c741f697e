"""What programs meet in a mount whose store's disk gets full, told by assertions.

Runs in a mount namespace of its own, with a small tmpfs at PATH for the store:
unshare --mount python -m tests.mount.full_disk PATH WHAT
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.mount.conftest import Mounted
from tests.store.full_disk import fill

SOON_S = 120
MIB = 1 << 20


def body(name: str) -> bytes:
    """What belongs into a file, by its name."""
    draw = random.Random(name)
    return draw.randbytes(draw.choice((3000, MIB, 2 * MIB, 5 * MIB)))


class Trial:
    """A mount on a disk of 96 MiB, and what it must hold."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.mount = Mounted(place)
        self.there: list[str] = []
        self.count = 0

    def attempt(self) -> bool:
        """Write one more file. A refusal is ENOSPC, and the file goes again."""
        name = f"f{self.count}"
        self.count += 1
        path = self.mount.path / name
        try:
            with open(path, "wb", buffering=0) as file:
                data = memoryview(body(name))
                while data:
                    data = data[file.write(data[: 128 << 10]) :]
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            if path.exists():
                path.unlink()
            return False
        self.there.append(name)
        return True

    def compare(self) -> None:
        """All that was acknowledged is there, byte for byte, and nothing else."""
        assert sorted(os.listdir(self.mount.path)) == sorted(self.there)
        for name in self.there:
            assert (self.mount.path / name).read_bytes() == body(name), name

    def goes_on(self) -> None:
        """Soon files can be written again."""
        end = time.monotonic() + SOON_S
        while not self.attempt():
            assert time.monotonic() < end, "nothing can be written although there is room"
        self.compare()

    def remove(self, number: int) -> None:
        """Delete files."""
        for _ in range(number):
            (self.mount.path / self.there.pop()).unlink()

    def reserve(self) -> int:
        """Bytes that are set aside for deleting, once there are any: without them a full disk may refuse that too."""
        path = self.mount.store / "reserve"
        wait_until(lambda: path.exists() and path.stat().st_size > 0)
        return path.stat().st_size

    def run(self) -> None:
        """Full by its own writing, made room by deleting; full by others; killed while full."""
        others = self.place / "others"
        others.write_bytes(bytes(40 * MIB))
        reserve = self.reserve()
        while self.attempt():
            pass
        assert len(self.there) > 5
        self.compare()
        disk = os.statvfs(self.mount.path)
        assert disk.f_bavail * disk.f_frsize < 16 * MIB
        self.remove(len(self.there) - 1)
        self.goes_on()
        # How much of what was deleted is still the log's is a matter of when the daemon looked: so there is some more.
        os.truncate(others, 24 * MIB)
        wait_until(lambda: self.reserve() >= reserve)
        ballast = fill(self.place)
        while self.attempt():
            pass
        self.compare()
        self.remove(1)
        self.compare()
        self.mount.stop(signal.SIGKILL)
        ballast.unlink()
        others.unlink()
        self.mount.start("--allow-other")
        self.goes_on()
        assert self.mount.stop() == 0
        self.mount.start("--allow-other")
        self.compare()

    def run_to_the_last_byte(self) -> None:
        """Others take every byte of the disk: files can be deleted, and a killed daemon comes back at once."""
        self.reserve()
        for _ in range(20):
            assert self.attempt()
        ballast = fill(self.place)
        while self.attempt():
            fill(self.place)
        self.compare()
        self.remove(len(self.there) // 2)
        self.compare()
        fill(self.place)
        self.mount.stop(signal.SIGKILL)
        fill(self.place)
        self.mount.start("--allow-other")
        self.compare()
        self.remove(len(self.there) - 2)
        self.compare()
        self.mount.stop(signal.SIGKILL)
        self.mount.start("--allow-other")
        self.compare()
        ballast.unlink()
        self.goes_on()
        self.reserve()
        assert self.mount.stop() == 0


RUNS = {"small": (Trial.run, "96m"), "to-the-last-byte": (Trial.run_to_the_last_byte, "224m")}


def wait_until(condition: Callable[[], bool]) -> None:
    """What the daemon does within some seconds."""
    end = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def main() -> None:
    """Mount, and run one of `RUNS`."""
    place = Path(sys.argv[1])
    run, size = RUNS[sys.argv[2]]
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    trial = Trial(place)
    try:
        trial.mount.start("--allow-other")
        run(trial)
    finally:
        trial.mount.clean()


if __name__ == "__main__":
    main()
