"""A server for the whole folder, and an account of its own for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sync.kit import Account, Server, serving

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server process that no test stops."""
    with serving(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
def account(shared_server: Server, tmp_path: Path) -> Account:
    """A new account on the shared server."""
    user = f"user{next(_NUMBERS)}"
    return Account(tmp_path, shared_server, user, shared_server.add_user(user))


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server that the test may stop, kill and restart."""
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
def own_account(own_server: Server, tmp_path: Path) -> Account:
    """An account on the test's own server."""
    return Account(tmp_path, own_server, "alone", own_server.add_user("alone"))
