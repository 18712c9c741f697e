"""Power loss: of what was written since the last flush to the disk, any pages may be there or not.

What was flushed is known by watching `fdatasync` and `fsync`. The databases' main files are written by checkpoints
alone, and there is none here: it takes a log of more than 32 MiB.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from blobfs.store import spool, staging
from blobfs.store.store import Store
from blobfs.values.extents import ROW
from blobfs.values.nodes import ROOT_INODE
from tests.store import writer
from tests.store.conftest import Bench
from tests.store.test_sigkill import look

PAGE = 4096
State = dict[str, bytes]


class Disk:
    """Follows what is certainly on the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.directory = directory
        self.durable: dict[str, bytes] = {}
        self.names: set[str] = set()
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._following(getattr(os, name)))

    def _following(self, real):  # type: ignore[no-untyped-def]
        def flush(descriptor: int) -> None:
            real(descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if path == self.directory:
                self.names |= set(os.listdir(path))
            elif path.parent == self.directory and path.exists():
                self.durable[path.name] = path.read_bytes()

        return flush

    def lose_power(self, image: Path, source: random.Random) -> None:
        """A copy of the directory as it might be found."""
        image.mkdir()
        for path in self.directory.iterdir():
            if not path.name.startswith(("journal-", "spool-")) and not path.name.endswith("-wal"):
                shutil.copy(path, image / path.name)
            elif path.name in self.names or source.random() < 0.5:
                data = self._pages(self.durable.get(path.name, b""), path.read_bytes(), source)
                (image / path.name).write_bytes(data)
        for name in self.names & self.durable.keys():
            # The removal of a name is never flushed: the file may come back.
            if not (self.directory / name).exists() and source.random() < 0.5:
                (image / name).write_bytes(self.durable[name])

    @staticmethod
    def _pages(old: bytes, new: bytes, source: random.Random) -> bytes:
        way = source.randrange(4)
        if way == 0:
            return old
        if way == 1:
            return new
        if way == 2:
            return old + new[len(old) : source.randint(len(old), max(len(old), len(new)))]
        data = bytearray(old.ljust(len(new), b"\0"))
        for start in range(0, len(new), PAGE):
            if source.random() < 0.8:
                data[start : start + PAGE] = new[start : start + PAGE]
        return bytes(data)


def agrees(found: State, states: list[State], index: int) -> bool:
    """Names and sizes are those of one state; each byte is of that one or, written since, of a later one."""
    wanted = states[index]
    if {name: len(data) for name, data in found.items()} != {name: len(data) for name, data in wanted.items()}:
        return False
    for name, data in found.items():
        if data != wanted[name]:
            # By any name: the file may have been renamed before it was written.
            later = {version for state in states[index:] for version in state.values()} | {wanted[name]}
            if any(
                all(data[at : at + 1] != version[at : at + 1] for version in later) for at in range(0, len(data), 97)
            ):
                return False
    return True


SEEDS = [pytest.param(seed, marks=[pytest.mark.long] if seed > 1 else []) for seed in range(60)]


@pytest.mark.parametrize("way", ["small", "heavy", "staged", "mixed"])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_flushed_survives_power_loss_and_the_rest_goes_in_order(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, seed: int, way: str
) -> None:
    """Heavy writes tell blobs.db at once, all others the journal; or all go through the spool; or what it takes."""
    monkeypatch.setattr(staging, "LEAST", 1 if way in ("staged", "mixed") else 1 << 60)
    monkeypatch.setattr(staging, "MOST", 6 * ROW if way == "mixed" else 512 << 20)
    monkeypatch.setattr(spool, "SEGMENT", 3 * ROW)
    source = random.Random(f"power-{seed}-{way}")
    store = bench.create()
    bench.close(store)
    disk = Disk(monkeypatch, store.path)
    store = bench.open(store.path)
    model: dict[str, bytearray] = {}
    states: list[State] = [{}]
    flushed = 0
    for number, step in enumerate(writer.steps(seed, 1)[:150]):
        kind = step[0]
        if kind == "heavy" and way == "small":
            continue
        if kind == "flush" and source.random() < 0.5:
            continue
        writer.run(store, *step)
        writer.apply(model, *step)
        states.append({name: bytes(data) for name, data in model.items()})
        if kind in ("flush", "commit"):
            flushed = len(states) - 1
        if source.random() < 0.15:
            image = bench.directory / f"lost-{number}"
            disk.lose_power(image, source)
            found = check_image(bench, image)
            if way in ("heavy", "mixed"):
                assert any(agrees(found, states, index) for index in range(flushed, len(states)))
            else:
                assert found in states[flushed:]
            shutil.rmtree(image)


def check_image(bench: Bench, image: Path) -> State:
    """What the next start finds, and once more after that."""
    store: Store = bench.open(image)
    assert store.check() == []
    found = look(store)
    for entry in store.tree.entries(ROOT_INODE, 0, 99):
        store.attachments.resize(entry.node.inode, entry.node.size + 5 * ROW, 40)
        name = entry.name.decode()
        assert look(store)[name] == found[name] + bytes(5 * ROW)
        store.attachments.resize(entry.node.inode, entry.node.size, 41)
    store.tick()
    bench.close(store)
    store = bench.open(image)
    assert look(store) == found
    assert store.check() == []
    bench.close(store)
    return found
