"""The PostgreSQL that the contract suites share."""

from collections.abc import Iterator

import pytest

from tests.postgresql import PostgresqlCluster


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlCluster]:
    cluster = PostgresqlCluster()
    yield cluster
    cluster.stop()
