"""One device that writes while its daemon is killed again and again, and sync goes on all the time."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.devices import Device, Server, contents

MakeDevice = Callable[..., Device]


def digest(data: bytes | None) -> str:
    """A few letters for what a file holds."""
    return "nothing" if data is None else f"{hashlib.sha256(data).hexdigest()[:6]} ({len(data)})"


class Writer:
    """A person's afternoon in one folder, and what the filesystem acknowledged of it."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.kept: dict[str, bytes] = {}
        """Acknowledged: what each file has to be."""
        self.open: dict[str, set[bytes | None]] = {}
        """What a file may be whose last step was cut off; None: not there."""
        self.steps: list[str] = []
        """What was done, and where it was cut off."""

    def run(self) -> None:
        """Go on until the mount dies."""
        try:
            while True:
                self.step()
        except OSError as error:
            self.steps.append(f"cut off: {error}")
            if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
                raise AssertionError("\n".join(self.steps[-20:])) from error

    def step(self) -> None:
        """One thing that a program does; OSError when the mount died meanwhile."""
        name, verb = (
            f"file{self.random.randrange(12)}",
            self.random.choice(("write", "save", "append", "move", "remove")),
        )
        # One request each at the most: what is cut off is there whole or not at all.
        data = self.random.randbytes(self.random.choice((0, 10, 5000, 100_000)))
        before = self.kept.get(name)
        self.steps.append(f"{verb} {name}: {digest(data)}, had {digest(before)}")
        match verb:
            case "write":
                # Emptied by the open, so that a cut may leave nothing of it.
                self._try({name: data}, {name: {before, b"", data}}, lambda: (self.root / name).write_bytes(data))
            case "save":
                self._try({name: data}, {name: {before, data}}, lambda: self._save(name, data))
            case "append" if before is not None:
                self._try({name: before + data}, {name: {before, before + data}}, lambda: self._append(name, data))
            case "remove" if before is not None:
                self._try({name: None}, {name: {before, None}}, (self.root / name).unlink)
            case "move" if before is not None:
                other = f"moved{self.random.randrange(4)}"
                self.steps.append(f"  to {other}, which had {digest(self.kept.get(other))}")
                there = self.kept.get(other)
                maybe = {name: {before, None}, other: {there, before}}
                self._try({name: None, other: before}, maybe, lambda: (self.root / name).rename(self.root / other))

    def _try(
        self, after: dict[str, bytes | None], maybe: dict[str, set[bytes | None]], act: Callable[[], object]
    ) -> None:
        self.open = maybe
        act()
        self.open = {}
        for name, data in after.items():
            if data is None:
                self.kept.pop(name, None)
            else:
                self.kept[name] = data

    def _save(self, name: str, data: bytes) -> None:
        temporary = self.root / f".{name}.tmp"
        temporary.write_bytes(data)
        temporary.rename(self.root / name)

    def _append(self, name: str, data: bytes) -> None:
        descriptor = os.open(self.root / name, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def check(self) -> None:
        """Every acknowledged byte is there, nothing else is; go on from what is there."""
        there = {name: data for name, data in contents(self.root).items() if not name.startswith(".")}
        for name in {*there, *self.kept, *self.open}:
            permitted = self.open.get(name, {self.kept.get(name)})
            assert there.get(name) in permitted, self._story(name, there.get(name), permitted)
        self.steps.append("checked")
        self.kept, self.open = there, {}

    def _story(self, name: str, there: bytes | None, permitted: set[bytes | None]) -> str:
        """What a person wants to know of a file that is not what it has to be."""
        steps = [step for step in self.steps if name in step or "moved" in name or step.startswith(("cut", "checked"))]
        found = f"{name} is {digest(there)}, not one of {[digest(data) for data in permitted]}"
        return "\n".join([found, *steps[-60:]])


@pytest.mark.parametrize(
    ("seed", "rounds"), [(1, 4), *(pytest.param(seed, 60, marks=pytest.mark.long) for seed in range(2, 6))]
)
def test_a_device_that_is_killed_while_it_syncs_loses_nothing_and_makes_no_conflict_with_itself(
    server: Server, device: MakeDevice, seed: int, rounds: int
) -> None:
    invite = server.add_user("alice")["invite"]
    left, right = device("left", invite), device("right", invite)
    left.up()
    writer = Writer(left.mount, seed)
    for _ in range(rounds):
        killer = threading.Timer(writer.random.uniform(0.1, 1.2), left.kill, (left.pid(),))
        killer.start()
        writer.run()
        killer.join()
        left.up()
        writer.check()
    left.sync(120)
    right.up()
    right.sync(120)
    assert {name: data for name, data in contents(right.mount).items() if not name.startswith(".")} == writer.kept
    assert [name for name in (*os.listdir(left.mount), *os.listdir(right.mount)) if "conflict" in name] == []
