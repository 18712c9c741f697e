"""Random work on three devices with partitions, restarts and evictions: in the end one tree that holds every byte.

What the devices do overlaps as chance has it, so a failure is told by its seed and its steps, not shrunk.
`BLOBFS_DISORDER_STEPS=5000 pytest tests/sync/test_disorder.py` is the long form.
"""

from __future__ import annotations

import itertools
import os
import random
import signal

import pytest
import trio

from blobfs.errors import FileError, RemoteError, StoreError
from blobfs.sync.evict import CacheLimits, evict
from blobfs.values.documents import Kind
from tests.sync.kit import Account, Device, converge, trio_test

STEPS = int(os.environ.get("BLOBFS_DISORDER_STEPS", "120"))
NAMES = ("one", "two", "three")
WEIGHTS = {
    "write": 8,
    "mkdir": 3,
    "rename": 4,
    "remove": 3,
    "part": 1,
    "meet": 2,
    "evict": 1,
    "restart": 1,
    "kill server": 0.3,
    "rest": 6,
}


class Machine:
    """The devices that run, and the bytes that somebody still counts on."""

    def __init__(self, account: Account, seed: int, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.account, self.dice = account, random.Random(seed)
        self.devices: dict[str, Device] = {}
        self.kept: set[bytes] = set()
        self.log: list[str] = []
        self._ends: dict[str, tuple[trio.Event, trio.Event]] = {}
        self._numbers = itertools.count(1)

    async def start(self, name: str) -> None:
        await self._nursery.start(self._live, name)

    async def _live(self, name: str, task_status: trio.TaskStatus[None]) -> None:
        """A device's life, in a task of its own: nurseries must not be closed out of order."""
        end, gone = self._ends[name] = trio.Event(), trio.Event()
        async with self.account.device(name) as device:
            self.devices[name] = device
            task_status.started()
            await end.wait()
        gone.set()

    async def stop(self, name: str) -> None:
        del self.devices[name]
        end, gone = self._ends.pop(name)
        end.set()
        await gone.wait()

    async def step(self) -> None:
        """Do something somewhere; what cannot be done is left."""
        name = self.dice.choice(NAMES)
        verb = self.dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        device = self.devices[name]
        self.log.append(f"{name}: {verb}")
        if verb == "restart":
            await self.stop(name)
            await self.start(name)
        elif verb == "kill server":
            self.account.server.stop(signal.SIGKILL)
            await trio.to_thread.run_sync(self.account.server.start)
        elif verb == "part":
            device.engine.pause()
        elif verb == "meet":
            device.engine.resume()
        elif verb == "evict":
            await trio.to_thread.run_sync(evict, device.store, CacheLimits(most=0), lambda content: False)
        elif verb == "rest":
            await trio.sleep(self.dice.random() / 10)
        else:
            try:
                await self._work(device, verb)
            except (FileError, RemoteError, StoreError) as error:
                self.log[-1] += f" failed: {error}"

    async def _work(self, device: Device, verb: str) -> None:
        paths = device.paths()
        directories = ["", *(path for path, node in paths.items() if node.kind is Kind.DIRECTORY)]
        place = f"{self.dice.choice(directories)}/{self.dice.choice('abc')}".lstrip("/")
        some = self.dice.choice([place, *paths])
        self.log[-1] += f" {some} {place}"
        if verb == "mkdir":
            device.mkdir(place)
            return
        target = place if verb == "rename" else some
        node = device.node(target) if device.exists(target) else None
        former = await device.read(target) if node is not None and node.kind is Kind.FILE else None
        # In one transaction, since a worker may apply what another device did: what is given up is what was read.
        with device.store.transaction():
            if (device.node(target) if device.exists(target) else None) != node:
                return  # another device's work arrived while it was read
            if verb == "write" and (node is None or former is not None):
                data = f"bytes {next(self._numbers)}".encode()
                device.write(target, data)
                self.kept.add(data)
            elif verb == "rename" and some != place:
                device.rename(some, place)
            elif verb == "remove":
                device.remove(target)
            else:
                return
        if former is not None:
            self.kept.discard(former)


@pytest.mark.parametrize("seed", range(2) if STEPS < 1000 else [random.randrange(1 << 32)])
def test_disorder_ends_with_one_tree_that_holds_every_byte(own_account: Account, seed: int) -> None:
    @trio_test
    async def run() -> None:
        async with trio.open_nursery() as nursery:
            await work(Machine(own_account, seed, nursery), seed)

    run()


async def work(machine: Machine, seed: int) -> None:
    """Disorder, then rest, then the truth."""
    for name in NAMES:
        await machine.start(name)
    for _ in range(STEPS):
        await machine.step()
    for device in machine.devices.values():
        device.engine.resume()
    await converge(*machine.devices.values())
    await converge(*machine.devices.values())
    trees = [await device.tree() for device in machine.devices.values()]
    found = {data for _, _, data in trees[0].values()}
    story = "\n".join(machine.log)
    assert trees[0] == trees[1] == trees[2], f"seed {seed}\n{story}"
    assert machine.kept <= found, f"seed {seed}: {machine.kept - found} are gone\n{story}"
    assert [entry.reason for device in machine.devices.values() for entry in device.engine.status().parked] == []
    for name in list(machine.devices):
        await machine.stop(name)
