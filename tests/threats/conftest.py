"""A server for the folder, accounts on it, and an evil server before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sync.conftest import account, own_account, own_server, shared_server
from tests.sync.kit import Account
from tests.threats.evil import Evil, evil_before

__all__ = ["account", "evil", "own_account", "own_server", "place", "shared_server"]


@pytest.fixture
def evil(account: Account) -> Iterator[Evil]:
    """An evil server before the account's honest one."""
    with evil_before(account.server.url) as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of the test's own."""
    return tmp_path
