"""What happens on a full disk, told by assertions. Runs in a mount namespace of its own: a small tmpfs is at PATH.

unshare --user --map-root-user --mount python -m tests.store.full_disk PATH WHAT
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from blobfs.errors import NoSpace
from blobfs.store import staging
from blobfs.store.reserve import NAME, SIZE
from blobfs.store.spool import segments
from blobfs.store.store import Store
from blobfs.values.extents import ROW
from blobfs.values.nodes import ROOT_INODE
from tests.store.conftest import KEYS, content, make, write


def fill(place: Path) -> Path:
    """Take what room there is."""
    ballast = place / "ballast"
    with open(ballast, "ab", buffering=0) as file:
        for piece in (1 << 16, 4096, 512, 1):
            try:
                while True:
                    file.write(bytes(piece))
            except OSError:
                continue
    return ballast


def look(store: Store) -> dict[bytes, bytes]:
    """All files."""
    return {entry.name: content(store, entry.node.inode) for entry in store.tree.entries(ROOT_INODE, 0, 10_000)}


class Trial:
    """A store on a disk that gets full, and what it must hold."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store = Store.create(place / "store", KEYS, device_name="full")
        self.wanted: dict[bytes, bytes] = {}
        self.refused = 0

    def attempt(self, name: bytes, offset: int, data: bytes) -> bool:
        """Write; when it is refused nothing has changed."""
        node = None
        try:
            if name not in self.wanted:
                make(self.store, name)
                self.wanted[name] = b""
            node = self.store.tree.lookup(ROOT_INODE, name)
            write(self.store, node.inode, offset, data)
        except NoSpace:
            self.refused += 1
            return False
        old = self.wanted[name].ljust(offset, b"\0")
        self.wanted[name] = old[:offset] + data + old[offset + len(data) :]
        return True

    def compare(self) -> None:
        """All that was acknowledged, and nothing else, is there."""
        assert look(self.store) == self.wanted
        assert self.store.check() == []

    def reopen(self) -> None:
        """In order."""
        self.store.close()
        self.store = Store.open(self.place / "store", KEYS)

    def recover(self) -> None:
        """The disk is full, then it is not: each time everything is there, and work goes on."""
        self.compare()
        for action in (self.store.tick, self.store._ledger.commit, self.store.sync):
            try:
                action()
            except NoSpace:
                self.refused += 1
            self.compare()
        (self.place / "ballast").unlink(missing_ok=True)
        self.compare()
        assert self.attempt(b"later", 0, b"l" * 5000)
        self.compare()
        self.reopen()
        self.compare()


def run_small_writes(place: Path) -> None:
    """Small files until the disk is full."""
    trial = Trial(place)
    with open(place / "ballast", "wb") as file:
        file.write(bytes(20 << 20))
    number = 0
    while trial.attempt(b"f%d" % number, 0, os.urandom(3000)):
        number += 1
    assert number > 100
    for extra in range(20):
        trial.attempt(b"x%d" % extra, 0, b"x" * 100)
        trial.attempt(b"f%d" % extra, 100, b"y" * 100)
    trial.recover()


def run_heavy_writes(place: Path) -> None:
    """Large writes until the disk is full, then smaller ones."""
    trial = Trial(place)
    with open(place / "ballast", "wb") as file:
        file.write(bytes(20 << 20))
    offset = 0
    for size in (4 * ROW, 2 * ROW, ROW, 1000, 10):
        while trial.attempt(b"big", offset, os.urandom(size)):
            offset += size
    assert trial.refused
    trial.recover()


def run_full_at_once(place: Path) -> None:
    """No room at all from one moment to the next, in the middle of a batch."""
    trial = Trial(place)
    trial.store._ledger.commit()
    for number in range(50):
        assert trial.attempt(b"f%d" % number, 0, os.urandom(2000))
    assert trial.attempt(b"heavy", 0, os.urandom(4 * ROW))
    assert trial.attempt(b"f1", 50, b"over")
    fill(place)
    for number in range(10):
        assert not trial.attempt(b"f%d" % number, 0, os.urandom(ROW))
        assert not trial.attempt(b"heavy", ROW * number, os.urandom(4 * ROW))
    trial.attempt(b"new", 0, b"x")
    trial.recover()


def run_spilled_batch(place: Path) -> None:
    """A batch that is larger than SQLite's memory, so that the disk gets full between two commits."""
    trial = Trial(place)
    data = os.urandom(ROW - 1)
    for number in range(100):
        assert trial.attempt(b"f", number * ROW, data)
    trial.store._ledger.commit()
    trial.store._ledger.blobs._connection.execute("PRAGMA cache_size = 20")
    trial.store._ledger.documents._connection.execute("PRAGMA cache_size = 5")
    number = 0
    while trial.attempt(b"f", number % 100 * ROW + number, b"s" * 100) and number < 3000:
        number += 1
        if number == 300:
            fill(place)
    assert trial.refused
    for extra in range(3):
        trial.attempt(b"g%d" % extra, 0, b"x" * 10)
    trial.recover()


def run_full_at_recovery(place: Path) -> None:
    """The process is killed with a full disk, and started before there is room."""
    child = os.fork()
    if not child:
        trial = Trial(place)
        for number in range(50):
            trial.attempt(b"f%d" % number, 0, b"%d" % number * 500)
        trial.attempt(b"heavy", 0, b"h" * 4 * ROW)
        trial.attempt(b"f1", 0, b"z" * 500)
        fill(place)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    wanted = {b"f%d" % number: b"%d" % number * 500 for number in range(50)} | {b"heavy": b"h" * 4 * ROW}
    wanted[b"f1"] = b"z" * 500 + wanted[b"f1"][500:]
    for _ in range(3):
        try:
            store = Store.open(place / "store", KEYS)
        except NoSpace:
            continue
        assert look(store) == wanted
        store.close()
    (place / "ballast").unlink()
    store = Store.open(place / "store", KEYS)
    assert look(store) == wanted
    assert store.check() == []
    store.close()


def run_deleting_with_the_reserve(place: Path) -> None:
    """Not a byte is free: deleting works all the same, new bytes are refused, and a killed store opens."""
    child = os.fork()
    if not child:
        trial = Trial(place)
        trial.store.tick()
        for number in range(400):
            assert trial.attempt(b"f%d" % number, 0, b"%d" % number * 9000)
        fill(place)
        for number in range(300):
            delete(trial.store, b"f%d" % number)
            if number in (100, 200):
                fill(place)
        assert not trial.attempt(b"f399", 0, os.urandom(4 * ROW))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    wanted = {b"f%d" % number: b"%d" % number * 9000 for number in range(300, 400)}
    store = Store.open(place / "store", KEYS)
    assert look(store) == wanted
    assert store.check() == []
    (place / "ballast").unlink()
    store.tick()
    assert (place / "store" / NAME).stat().st_size == SIZE
    assert store.withheld() == 0
    store.close()


def run_settling_with_the_reserve(place: Path) -> None:
    """The disk gets full while much is in the spool: it can be read, deleted, and settled as room comes back."""
    staging.USEFUL = 0  # type: ignore[misc]
    trial = Trial(place)
    trial.store.tick()
    for number in range(6):
        assert trial.attempt(b"f%d" % number, 0, os.urandom(20 * ROW))
    assert len(segments(place / "store")) == 1
    fill(place)
    assert not trial.attempt(b"f0", 0, os.urandom(20 * ROW))
    for _ in range(4):
        try:
            trial.store.tick()
        except NoSpace:
            trial.refused += 1
        trial.compare()
    delete(trial.store, b"f5")
    del trial.wanted[b"f5"]
    trial.compare()
    trial.store.close()
    trial.store = Store.open(place / "store", KEYS)
    trial.compare()
    (place / "ballast").unlink()
    trial.recover()
    trial.store._settler.settle_all()
    assert segments(place / "store") == []
    trial.compare()


def delete(store: Store, name: bytes) -> None:
    """A file and its bytes."""

    def remove() -> None:
        with store.transaction():
            store.tree.purge(store.tree.unlink(ROOT_INODE, name, 1).inode)

    store.freeing(remove)


def run_full_between_two_runs(place: Path) -> None:
    """Others take all room while nobody has the store open; what was set aside is enough to open it again."""
    trial = Trial(place)
    trial.store._ledger.reserve.refill()
    assert trial.attempt(b"file", 0, b"f" * 3_000_000)
    trial.store.close()
    ballast = fill(place)
    trial.store = Store.open(place / "store", KEYS)
    trial.compare()
    # All of it is given up now. At the end there are a few MiB, most of which are kept from others.
    fill(place)
    os.truncate(ballast, ballast.stat().st_size - (6 << 20))
    trial.store.close()
    fill(place)
    trial.store = Store.open(place / "store", KEYS)
    trial.compare()
    trial.recover()


def run_full_from_the_start(place: Path) -> None:
    """There is no room for a store."""
    fill(place)
    try:
        Store.create(place / "store", KEYS, device_name="full")
    except NoSpace:
        return
    raise AssertionError("a store was made on a full disk")


RUNS: dict[str, tuple[Callable[[Path], None], str]] = {
    "small-writes": (run_small_writes, "24m"),
    "heavy-writes": (run_heavy_writes, "26m"),
    "full-at-once": (run_full_at_once, "8m"),
    "spilled-batch": (run_spilled_batch, "64m"),
    "full-at-recovery": (run_full_at_recovery, "8m"),
    "deleting-with-the-reserve": (run_deleting_with_the_reserve, "128m"),
    "settling-with-the-reserve": (run_settling_with_the_reserve, "128m"),
    "full-between-two-runs": (run_full_between_two_runs, "128m"),
    "full-from-the-start": (run_full_from_the_start, "1m"),
}


def main() -> None:
    """Mount, and run one of `RUNS`."""
    place = Path(sys.argv[1])
    run, size = RUNS[sys.argv[2]]
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    run(place)


if __name__ == "__main__":
    main()
