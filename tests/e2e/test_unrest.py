"""Three mounted devices that get in each other's way, part, and die: no acknowledged write is lost, and all end alike.

`--long` plays many rounds with everything in them; `BLOBFS_SEED` begins them elsewhere. What it finds
becomes a plain test.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.devices import Server
from tests.e2e.unrest import World


def play(place: Path, server: Server, begin: int, rounds: int, steps: int, *, is_calm: bool = False) -> None:
    """So many rounds, each with what the one before has left; the story of the one that fails is told."""
    world = World(place, server, ("left", "mid", "right"))
    try:
        for seed in range(begin, begin + rounds):
            try:
                world.round(seed, steps, is_calm=is_calm)
                world.check_server()
            except BaseException:
                print("\n".join(world.witness.story))
                raise
    finally:
        world.close()


def test_three_devices_that_collide_end_alike_and_lose_no_write(server: Server, tmp_path: Path) -> None:
    play(tmp_path, server, 1, 1, 50, is_calm=True)


@pytest.mark.long
def test_whatever_three_devices_do_and_whoever_is_killed_no_write_is_lost(server: Server, tmp_path: Path) -> None:
    play(tmp_path, server, int(os.environ.get("BLOBFS_SEED", "1")), 40, 150)
