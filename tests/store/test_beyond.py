"""A store that a newer blobfs wrote: refused, or read through a copy where it says so; not one byte of it changes."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from blobfs.errors import StoreTooNew
from blobfs.store import beyond, schema, upgrade
from blobfs.store.rekey import DATABASES, connect
from blobfs.store.store import Store
from blobfs.values.nodes import ROOT_INODE
from tests.store.conftest import content, make
from tests.store.renewer import OLD

DATA = os.urandom(300_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(Store.create(tmp_path / "store", OLD, device_name="test")) as store:
        make(store, b"file", data=DATA)
    return tmp_path / "store"


def raise_numbers(path: Path, reader: int) -> None:
    """As a blobfs of version 99 leaves a store that `reader` and later ones can read; 0: it does not say."""
    for name, page in DATABASES:
        with closing(connect(path / name, page, OLD)) as connection:
            connection.execute("PRAGMA user_version = 99")
            connection.execute(f"PRAGMA application_id = {0x62660000 | reader if reader else 0}")


def bytes_of(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def test_what_this_version_makes_says_who_can_read_it(path: Path) -> None:
    for name, page in DATABASES:
        with closing(connect(path / name, page, OLD)) as connection:
            (mark,) = connection.execute("PRAGMA application_id").fetchone()
        assert schema.oldest_reader(mark) == schema.OLDEST_READER
    assert upgrade.newer(path, OLD) is None
    assert [schema.oldest_reader(mark) for mark in (0, 7, 0x62660000, 0x12340001, -1)] == [None] * 5


def test_a_newer_store_that_says_so_is_read_and_stays_as_it_is(path: Path) -> None:
    raise_numbers(path, schema.VERSION)
    before = bytes_of(path)
    with pytest.raises(StoreTooNew, match="mount it with --read-only"):
        Store.open(path, OLD)
    with beyond.reading(path, OLD) as store:
        assert content(store, store.tree.lookup(ROOT_INODE, b"file").inode) == DATA
        make(store, b"another", data=b"goes with the copy")
        store.sync()
    assert bytes_of(path) == before
    assert [entry.name for entry in path.parent.iterdir()] == ["store"]


@pytest.mark.parametrize("reader", [0, schema.VERSION + 1])
def test_one_that_does_not_say_so_is_refused(path: Path, reader: int) -> None:
    raise_numbers(path, reader)
    before = bytes_of(path)
    with pytest.raises(StoreTooNew, match="OTHER --store NEW"), beyond.reading(path, OLD):
        pass
    assert bytes_of(path) == before


def test_one_that_was_not_closed_in_order_is_refused_and_nothing_is_brought_in(path: Path) -> None:
    raise_numbers(path, schema.VERSION)
    crashed = path.parent / "crashed"
    with closing(connect(path / "documents.db", schema.DOCUMENTS_PAGE, OLD)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO settings VALUES ('news', '1')")
        shutil.copytree(path, crashed)
    assert (crashed / "documents.db-wal").stat().st_size
    before = bytes_of(crashed)
    with pytest.raises(StoreTooNew, match="read-only"):
        Store.open(crashed, OLD)
    with pytest.raises(StoreTooNew, match="not ended in order"), beyond.reading(crashed, OLD):
        pass
    assert bytes_of(crashed) == before
