"""A real server, and accounts that programs open on it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

import blobfs
from blobfs.config import GUESS_S
from blobfs.values.keys import FLOOR, Argon2Cost
from tests.e2e.devices import PASSPHRASE, Device, Server

# As the installed package does it: tests also run from a checkout that is not installed.
fsspec.register_implementation("blobfs", "blobfs.api.urls.BlobfsFileSystem", clobber=True)

OpenDevice = Callable[..., blobfs.Account]


@pytest.fixture(scope="module", autouse=True)
def _quick_guesses() -> Iterator[None]:
    """The passphrase hash is as strong as allowed and no stronger: nearly every test sets one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blobfs.firstrun.calibrate", _as_cheap_as_allowed)
        yield


def _as_cheap_as_allowed(guess_s: float) -> Argon2Cost:
    assert guess_s == GUESS_S, "what a program sets is to be as hard to guess as what a person sets"
    return FLOOR


@pytest.fixture(scope="session")
def session_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server process for all tests of the API."""
    running = Server(tmp_path_factory.mktemp("api") / "server")
    yield running
    running.stop()


@pytest.fixture
def server(session_server: Server) -> Iterator[Server]:
    """A real server process. A test may stop it."""
    yield session_server
    if session_server.process is None:
        session_server.start()


@pytest.fixture
def invite(server: Server) -> str:
    """Of a new account."""
    return server.add_user(f"user-{secrets.token_hex(4)}")["invite"]


@pytest.fixture
def device(tmp_path: Path, invite: str) -> Iterator[OpenDevice]:
    """Open an account on a device by name, made at the first time; all devices have one account."""
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


@pytest.fixture
def mounted(invite: str, tmp_path: Path) -> Iterator[Device]:
    """A mounted device."""
    device = Device(tmp_path, "mounted", invite)
    device.up()
    yield device
    device.close()
