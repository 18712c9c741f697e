"""Nothing that was acknowledged is lost, whenever the daemon is killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted

WRITER = """
import os, random, sys
draw, base = random.Random(int(sys.argv[1])), sys.argv[1]
names, held = [], []
def body(name): return random.Random(name).randbytes(random.Random(name + "s").choice((0, 7, 5000, 140000, 900000)))
try:
    for number in range(10**9):
        name = f"{base}-{number}"
        print("begin", name, flush=True)
        if draw.random() < 0.3:
            held = (held + [open(name, "wb", buffering=0)])[-5:]
            for start in range(0, len(body(name)), 70000):
                held[-1].write(body(name)[start : start + 70000])
            os.fsync(held[-1].fileno())
        else:
            with open(name + ".tmp", "wb") as file:
                file.write(body(name))
            os.rename(name + ".tmp", name)
        print("there", name, flush=True)
        names.append(name)
        if draw.random() < 0.3:
            gone = names.pop(draw.randrange(len(names)))
            print("end", gone, flush=True)
            os.unlink(gone)
            print("gone", gone, flush=True)
except OSError:
    pass
"""


def body(name: str) -> bytes:
    """What the writer puts into a file, worked out from its name."""
    return random.Random(name).randbytes(random.Random(name + "s").choice((0, 7, 5000, 140000, 900000)))


def write_until_killed(mount: Mounted, seed: int, lines: int, files: dict[str, str]) -> None:
    """Let a writer work, kill the daemon after some lines of its record, and note the last word on each file."""
    command = [sys.executable, "-c", WRITER, str(seed)]
    with subprocess.Popen(command, cwd=mount.path, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for count, line in enumerate(writer.stdout):
            state, name = line.split()
            files[name] = state
            if count == lines:
                mount.stop(signal.SIGKILL)


def check(directory: Path, files: dict[str, str]) -> None:
    """Every acknowledged state is found; what was under way is there as a whole, or not at all."""
    found = {path.name: path for path in directory.iterdir()}
    for name, state in files.items():
        path = found.pop(name, None)
        found.pop(name + ".tmp", None)
        if state == "there":
            assert path is not None, f"{name} is lost"
        if state in ("there", "gone", "end"):
            files[name] = "there" if path is not None else "gone"
        if state == "gone":
            assert path is None, f"{name} is back"
        if path is not None and state == "begin":
            assert body(name).startswith(path.read_bytes()), f"{name} is torn"
        elif path is not None:
            assert path.read_bytes() == body(name), f"{name} is torn"
    assert not found


def survive(mount: Mounted, rounds: int) -> None:
    """Kill and come back this many times."""
    draw = random.Random(rounds)
    files: dict[str, str] = {}
    for seed in range(rounds):
        write_until_killed(mount, seed, draw.randrange(5, 150), files)
        mount.start()
        check(mount.path, files)


def test_everything_acknowledged_survives_kills(mount: Mounted) -> None:
    survive(mount, 15)


@pytest.mark.long
def test_everything_acknowledged_survives_hundreds_of_kills(mount: Mounted) -> None:
    survive(mount, 200)
