"""A machine that thinks up what devices do and what befalls them, and tells the shortest story that breaks a promise.

`--long` runs thousands of steps; `BLOBFS_SEED` begins them elsewhere. What it finds becomes a plain test.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from blobfs.values.documents import Kind
from tests.sync.kit import Server, serving
from tests.sync.machine import Fault, World

NAMES: Final = ("one", "two", "three", "four")
LETTERS: Final = st.sampled_from("ab")
PICKS: Final = st.integers(0, 7)
WHO: Final = st.integers(0, len(NAMES) - 1)
SIZES: Final = st.sampled_from([20, 20, 20, 300_000])
"""Bytes of a file: one that shares requests, and one that is frozen and sent alone."""


class Deed(NamedTuple):
    """What somebody does on a device."""

    who: int
    verb: str
    pick: int
    other: int
    letter: str
    size: int


DEEDS: Final = st.builds(
    Deed,
    WHO,
    st.sampled_from(["write", "edit", "edit", "save", "mkdir", "rename", "rename", "remove"]),
    PICKS,
    PICKS,
    LETTERS,
    SIZES,
)
BREAKS: Final = st.builds(Fault, breaks_after=st.integers(0, 12), dies=st.booleans())
FAULTS: Final = st.one_of(
    BREAKS,
    BREAKS,
    st.builds(Fault, failures=st.integers(1, 3)),
    st.just(Fault()),
    st.just(Fault(delay_s=0.005)),
)
_USERS = itertools.count(1)


def machine(directory: Path, server: Server) -> type[RuleBasedStateMachine]:
    """The machine on this server."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.place = directory / f"story{next(_USERS)}"
            self.place.mkdir()
            self.world: World

        @initialize(count=st.integers(2, 4))
        def begin(self, count: int) -> None:
            self.names = NAMES[:count]
            self.world = World(self.place, server, self.place.name, self.names)

        def _who(self, who: int) -> str:
            return self.names[who % len(self.names)]

        def _place(self, name: str, pick: int, letter: str) -> str:
            """A place below a directory that is there."""
            directories = ["", *self.world.paths(name, Kind.DIRECTORY)]
            return f"{directories[pick % len(directories)]}/{letter}".lstrip("/")

        def _some(self, name: str, pick: int) -> str:
            """Something that is there."""
            paths = self.world.paths(name) or ["a"]
            return paths[pick % len(paths)]

        @rule(deeds=st.lists(DEEDS, min_size=1, max_size=8))
        def work(self, deeds: list[Deed]) -> None:
            for deed in deeds:
                name = self._who(deed.who)
                some, place = self._some(name, deed.pick), self._place(name, deed.other, deed.letter)
                files = self.world.paths(name, Kind.FILE) or [place]
                match deed.verb:
                    case "write":
                        self.world.write(name, place, deed.size)
                    case "edit":
                        self.world.write(name, files[deed.pick % len(files)], 20)
                    case "save":
                        self.world.save(name, files[deed.pick % len(files)])
                    case "mkdir":
                        self.world.mkdir(name, place)
                    case "rename":
                        self.world.rename(name, some, place)
                    case "remove":
                        self.world.remove(name, some)

        @rule(who=WHO, what=st.sampled_from(["evict", "restart", "crash"]))
        def befall(self, who: int, what: str) -> None:
            getattr(self.world, what)(self._who(who))

        @rule(who=WHO, other=PICKS, fault=FAULTS)
        def sync(self, who: int, other: int, fault: Fault) -> None:
            pair = dict.fromkeys([self._who(who), self._who(who + other)])
            self.world.sync(list(pair), fault)

        @rule(pick=PICKS, fault=FAULTS)
        def clash(self, pick: int, fault: Fault) -> None:
            """All know the same tree, each edits the same file, and one of them tells it."""
            self.world.sync(self.names, Fault())
            for name in self.names:
                files = self.world.paths(name, Kind.FILE) or ["a"]
                self.world.write(name, files[pick % len(files)], 20)
            self.world.sync(self.names[:1], fault)

        @precondition(lambda self: bool(self.world.sent))
        @rule()
        def kill_server(self) -> None:
            self.world.kill_server()

        def teardown(self) -> None:
            try:
                if hasattr(self, "world"):
                    try:
                        self.world.check()
                    finally:
                        self.world.close()
            finally:
                shutil.rmtree(self.place)

    return Machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that stories may kill."""
    with serving(tmp_path_factory.mktemp("machine")) as server:
        yield server


def run(directory: Path, server: Server, *, stories: int, steps: int, begin: int) -> None:
    """Think up stories, the same ones for the same `begin`."""
    options = settings(
        max_examples=stories,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(begin)(machine(directory, server)), settings=options)


def test_whatever_devices_do_and_whatever_befalls_them_no_byte_is_lost(tmp_path: Path, server: Server) -> None:
    run(tmp_path, server, stories=6, steps=12, begin=1)


@pytest.mark.long
def test_thousands_of_steps_lose_no_byte(tmp_path: Path, server: Server) -> None:
    run(tmp_path, server, stories=120, steps=50, begin=int(os.environ.get("BLOBFS_SEED", "0")))
