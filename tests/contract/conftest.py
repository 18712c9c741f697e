"""The real engines that the contract suites share; each is started by the first test that asks for it."""

from collections.abc import Iterator

import pytest

from tests.ceph import CephCluster
from tests.postgresql import PostgresqlCluster


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlCluster]:
    cluster = PostgresqlCluster()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def ceph() -> Iterator[CephCluster]:
    cluster = CephCluster()
    yield cluster
    cluster.stop()
