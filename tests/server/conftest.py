"""One server process for the tests that leave it whole; each test gets an account of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import Account, RunningServer

from tests.postgresql import PostgresqlCluster


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path_factory.mktemp("server") / "data")
    yield running
    code = running.stop()
    assert code == 0, "the server did not end in good order"
    checked = running.run("check", "--digests", "--json")
    assert checked.returncode == 0, checked.stdout


@pytest.fixture
def account(server: RunningServer, request: pytest.FixtureRequest) -> Account:
    return server.account(f"u{abs(hash(request.node.nodeid))}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgresqlCluster]:
    cluster = PostgresqlCluster()
    yield cluster
    cluster.stop()
