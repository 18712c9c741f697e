"""A real server, and accounts that programs open on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import blobfs
from tests.e2e.devices import PASSPHRASE, Server

OpenDevice = Callable[..., blobfs.Account]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A real server process with no users."""
    running = Server(tmp_path / "server")
    yield running
    running.stop()


@pytest.fixture
def device(tmp_path: Path, server: Server) -> Iterator[OpenDevice]:
    """Open an account on a device by name, made at the first time; all devices have one account."""
    invite = server.add_user("alice")["invite"]
    opened: list[blobfs.Account] = []

    def open_device(name: str = "one") -> blobfs.Account:
        store = tmp_path / name
        if store.exists():
            opened.append(blobfs.open_account(store, passphrase=PASSPHRASE).open())
        else:
            opened.append(blobfs.create_account(store, passphrase=PASSPHRASE, invite=invite).open())
        return opened[-1]

    yield open_device
    for account in opened:
        account.close()


@pytest.fixture
def account(device: OpenDevice) -> blobfs.Account:
    """One open account."""
    return device()
