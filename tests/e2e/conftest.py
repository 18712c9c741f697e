"""A server and devices that a test may start, all ended after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.devices import Device, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A real server process with no users."""
    running = Server(tmp_path / "server")
    yield running
    running.stop()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Make a device by name, with an invite or, without one, with a server of its own."""
    made: list[Device] = []

    def make(name: str, invite: str | None = None) -> Device:
        made.append(Device(tmp_path, name, invite))
        return made[-1]

    yield make
    for one in made:
        one.close()
