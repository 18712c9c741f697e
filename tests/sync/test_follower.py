"""One device works and another one follows: there is no conflict in it, whatever the work is and whenever it is sent.

`BLOBFS_FOLLOWER_STEPS=3000 pytest tests/sync/test_follower.py` is the long form; a failure tells seed and steps.
"""

from __future__ import annotations

import os
import random

import pytest
import trio

from blobfs.errors import FileError
from blobfs.sync.copies import is_conflict_name
from blobfs.values.documents import Kind
from tests.sync.kit import Account, Device, converge, look_after_each_request, noise, trio_test

STEPS = int(os.environ.get("BLOBFS_FOLLOWER_STEPS", "150"))
SEEDS = [int(seed) for seed in os.environ.get("BLOBFS_FOLLOWER_SEEDS", "1 2 3").split()]
LARGE = 300 << 10
VERBS = {
    "write": 6,
    "append": 3,
    "mkdir": 4,
    "symlink": 1,
    "link": 1,
    "rename": 10,
    "exchange": 1,
    "remove": 4,
    "remove all": 2,
    "save": 3,
    "open": 2,
    "close": 3,
    "rest": 8,
}


class Worker:
    """Somebody at a device."""

    def __init__(self, device: Device, seed: int) -> None:
        self.device, self.dice = device, random.Random(seed)
        self.log: list[str] = []

    async def step(self) -> None:
        verb = self.dice.choices(list(VERBS), list(VERBS.values()))[0]
        paths = self.device.paths()
        directories = ["", *(path for path, node in paths.items() if node.kind is Kind.DIRECTORY)]
        place = f"{self.dice.choice(directories)}/{self.dice.choice('abcd')}".lstrip("/")
        some = self.dice.choice(list(paths) or [place])
        self.log.append(f"{verb} {some} {place}")
        if verb == "rest":
            await trio.sleep(self.dice.random() / 8)
            return
        try:
            with self.device.store.transaction():
                self._do(verb, some, place)
        except FileError as error:
            self.log[-1] += f" failed: {error}"

    def _do(self, verb: str, some: str, place: str) -> None:
        device = self.device
        is_file = device.exists(some) and device.node(some).kind is Kind.FILE
        if verb == "write" and (not device.exists(place) or device.node(place).kind is Kind.FILE):
            device.write(place, noise(self.dice.choice([0, 10, 10, 5000, LARGE])))
        elif verb == "append" and is_file:
            device.write(some, noise(self.dice.choice([10, LARGE])), device.node(some).size, truncate=False)
        elif verb == "mkdir":
            device.mkdir(place)
        elif verb == "symlink":
            device.make(place, Kind.SYMLINK, b"somewhere")
        elif verb == "link" and is_file:
            parent, name = device._place(place)
            device.store.tree.link(device.node(some).inode, parent, name, 7)
        elif verb == "rename" and device.exists(some):
            device.rename(some, place)
        elif verb == "exchange" and device.exists(some) and device.exists(place):
            device.store.tree.rename(*device._place(some), *device._place(place), 7, exchange=True)
        elif verb == "remove" and device.exists(some):
            device.remove(some)
        elif verb == "remove all" and device.exists(some):
            self._remove_all(some)
        elif verb == "save" and is_file:
            device.write(some + "~new", noise(100))
            device.rename(some + "~new", some)
        elif verb == "open" and is_file:
            device.open.add(device.node(some).inode)
        elif verb == "close":
            device.open.clear()

    def _remove_all(self, path: str) -> None:
        if self.device.node(path).kind is Kind.DIRECTORY:
            for entry in self.device.store.tree.entries(self.device.node(path).inode, 0, 1 << 20):
                self._remove_all(f"{path}/{entry.name.decode()}")
        self.device.remove(path)


def look_page_by_page(follower: Device, most: int) -> None:
    """From now on it reads so many documents at a time."""
    feed = follower.client.feed
    follower.client.feed = lambda since, **options: feed(since, **options | {"limit": most})  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_follows_has_what_the_other_made(own_account: Account, seed: int) -> None:
    @trio_test
    async def run() -> None:
        async with own_account.device("one") as one, own_account.device("two") as two:
            worker = Worker(one, seed)
            if seed % 3 == 0:
                look_page_by_page(two, 2)
            elif seed % 3 == 1:
                look_after_each_request(one, two)
            for _ in range(STEPS):
                await worker.step()
                if seed % 3 == 0 and worker.dice.random() < 0.1:
                    (two.engine.resume if two.engine.health.paused else two.engine.pause)()
            one.open.clear()
            two.engine.resume()
            wanted = await one.tree()
            await converge(one, two)
            story = "\n".join(worker.log)
            strange = [path for path in two.paths() if is_conflict_name(os.fsencode(path.rpartition("/")[2]))]
            assert strange == [], f"seed {seed}\n{story}"
            assert await one.tree() == wanted, f"seed {seed}\n{story}"
            assert await two.tree() == wanted, f"seed {seed}\n{story}"

    run()
