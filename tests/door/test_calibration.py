"""What a guess at a passphrase costs: a time on this machine, between the floor and what the machine can spare."""

from __future__ import annotations

import json
import subprocess

import pytest

from blobfs.calibration import MOST_KIB, calibrate, free_memory_kib, spend
from blobfs.config import GUESS_S
from blobfs.errors import StoreError
from blobfs.values.keys import CEILING, FLOOR, Argon2Cost
from tests.door.conftest import Desk

PLENTY = 64 << 20


class Machine:
    """One that hashes so many MiB a second, and remembers what it was asked to spend."""

    def __init__(self, mib_per_s: float) -> None:
        self.mib_per_s = mib_per_s
        self.most_kib = 0

    def __call__(self, cost: Argon2Cost) -> float:
        self.most_kib = max(self.most_kib, cost.memory_kib)
        # Beyond the caches everything is dearer.
        factor = 1.0 if cost.memory_kib <= FLOOR.memory_kib else 1.2
        return factor * (cost.memory_kib >> 10) * cost.iterations / self.mib_per_s


@pytest.mark.parametrize("mib_per_s", [300, 1300, 5000, 10_000])
def test_a_guess_takes_the_time_that_was_asked_for(mib_per_s: float) -> None:
    machine = Machine(mib_per_s)
    assert GUESS_S * 0.8 < machine(calibrate(GUESS_S, machine, PLENTY)) < GUESS_S * 1.1


def test_a_slow_machine_gets_the_floor_and_a_fast_one_never_more_than_the_ceiling() -> None:
    assert calibrate(GUESS_S, Machine(50), PLENTY) == FLOOR
    fast = calibrate(60, Machine(1e6), PLENTY)
    assert (fast.memory_kib, fast.iterations) == (MOST_KIB, CEILING.iterations)


def test_no_more_than_a_quarter_of_the_free_memory_is_ever_used_and_passes_make_up_for_it() -> None:
    machine = Machine(2000)
    cost = calibrate(GUESS_S, machine, 400 << 10)
    assert machine.most_kib == cost.memory_kib == 100 << 10
    assert cost.iterations > FLOOR.iterations
    assert GUESS_S * 0.8 < machine(cost) < GUESS_S * 1.1


def test_with_no_memory_to_spare_it_is_the_floor() -> None:
    assert calibrate(GUESS_S, Machine(5000), 0).memory_kib == FLOOR.memory_kib

    def spent(cost: Argon2Cost) -> float:
        raise StoreError("too little memory")

    assert calibrate(GUESS_S, spent, PLENTY) == FLOOR


def test_no_time_is_the_floor_and_nothing_is_measured() -> None:
    machine = Machine(1)
    assert calibrate(0, machine, PLENTY) == FLOOR
    assert machine.most_kib == 0


def test_a_new_store_on_this_machine_takes_about_that_long_for_a_guess(desk: Desk) -> None:
    assert free_memory_kib() > 0
    command = desk.command(*desk.mount_arguments("--background"))
    assert command[-2:] == ["--guess-time", "0"]
    subprocess.run(command[:-2], env=desk.environment, cwd="/", check=True, stdout=subprocess.DEVNULL)
    slot = next(slot for slot in json.loads((desk.store / "secrets.json").read_bytes())["slots"] if "lanes" in slot)
    cost = Argon2Cost(slot["memory_kib"], slot["iterations"], slot["lanes"])
    # A quarter of it to four times as much: other tests share the processors, their caches and their clock.
    assert cost == FLOOR or GUESS_S / 4 < spend(cost) < GUESS_S * 4
