"""Nothing that was acknowledged is lost, whenever the daemon is killed.

A writer in a process of its own says before and after each call what it does, so the record is outside the mount.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted

WRITER = """
import os, random, sys
draw, base = random.Random(int(sys.argv[1])), sys.argv[1]
names, held = [], []
def body(key): return random.Random(key).randbytes(random.Random(key + "s").choice((0, 7, 5000, 140000, 900000)))
def say(*words): print(*words, flush=True)
def save(name, version):
    with open(name + ".tmp", "wb") as file:
        file.write(body(f"{name}/{version}"))
    os.rename(name + ".tmp", name)
try:
    for number in range(10**9):
        name = f"{base}-{number}"
        say("begin", name, 0)
        if draw.random() < 0.3:
            held = (held + [open(name, "wb", buffering=0)])[-5:]
            whole = body(f"{name}/0")
            for start in range(0, len(whole), 70000):
                held[-1].write(whole[start : start + 70000])
            os.fsync(held[-1].fileno())
        else:
            save(name, 0)
        say("there", name, 0)
        names.append(name)
        if draw.random() < 0.3:
            gone = names.pop(draw.randrange(len(names)))
            say("end", gone, 0)
            os.unlink(gone)
            say("gone", gone, 0)
        elif names and draw.random() < 0.3:
            old = draw.choice(names)
            say("swap", old, number)
            save(old, number)
            say("there", old, number)
except OSError:
    pass
"""

EVERYTHING = 25
"""Rounds after which every file is read again, not only those of the last round."""


def body(name: str, version: int) -> bytes:
    """What the writer puts into a file, worked out from its name and how many saves came before."""
    key = f"{name}/{version}"
    return random.Random(key).randbytes(random.Random(key + "s").choice((0, 7, 5000, 140000, 900000)))


class Record:
    """What the writer said, and what was found after each kill."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, int]] = {}
        """Name → (version, bytes) of each file that must be there."""
        self._under_way: dict[str, tuple[str, int]] = {}
        """Name → (what, version) that was begun and not answered."""
        self._touched: set[str] = set()

    def note(self, word: str, name: str, version: int) -> None:
        """A line of the writer's."""
        self._touched.add(name)
        if word in ("begin", "swap", "end"):
            self._under_way[name] = (word, version)
            return
        del self._under_way[name]
        if word == "there":
            self._held[name] = (version, len(body(name, version)))
        else:
            del self._held[name]

    def check(self, directory: Path, *, reads_all: bool) -> None:
        """All names are as acknowledged, and so are the bytes of what changed since the last check, or of all files.

        What was under way is there as a whole, or not at all; of a file that was never closed, its beginning.
        """
        found = {path.name for path in directory.iterdir()}
        for name in self._under_way:
            self._settle(directory, name, is_there=name in found)
            (directory / f"{name}.tmp").unlink(missing_ok=True)
        found -= {f"{name}.tmp" for name in self._under_way}
        assert self._held.keys() - found == set(), "lost"
        assert found - self._held.keys() == set(), "back"
        self._under_way.clear()
        self._read(directory, self._held if reads_all else self._touched & self._held.keys())
        self._touched.clear()

    def _settle(self, directory: Path, name: str, *, is_there: bool) -> None:
        word, version = self._under_way[name]
        if word == "swap" and is_there:
            if (directory / name).read_bytes() == body(name, version):
                self._held[name] = (version, len(body(name, version)))
        elif word == "end" and not is_there:
            del self._held[name]
        elif word == "begin" and is_there:
            self._held[name] = (version, (directory / name).stat().st_size)

    def _read(self, directory: Path, names: Iterable[str]) -> None:
        for name in names:
            version, length = self._held[name]
            assert (directory / name).read_bytes() == body(name, version)[:length], f"{name} is torn"


def write_until_killed(mount: Mounted, seed: int, lines: int, record: Record) -> None:
    """Let a writer work, and kill the daemon after some lines of its record."""
    command = [sys.executable, "-c", WRITER, str(seed)]
    with subprocess.Popen(command, cwd=mount.path, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for count, line in enumerate(writer.stdout):
            word, name, version = line.split()
            record.note(word, name, int(version))
            if count == lines:
                mount.stop(signal.SIGKILL)


def survive(mount: Mounted, rounds: int) -> None:
    """Kill and come back this many times."""
    draw = random.Random(rounds)
    record = Record()
    for seed in range(rounds):
        write_until_killed(mount, seed, draw.randrange(5, 150), record)
        mount.start()
        record.check(mount.path, reads_all=(seed + 1) % EVERYTHING == 0 or seed + 1 == rounds)


def test_everything_acknowledged_survives_kills(mount: Mounted) -> None:
    survive(mount, 15)


@pytest.mark.long
def test_everything_acknowledged_survives_hundreds_of_kills(mount: Mounted) -> None:
    survive(mount, 200)
