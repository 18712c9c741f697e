"""A store of an older version: copied first, brought up in whole steps, and never lost in between."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from pathlib import Path

import pytest

from blobfs.errors import StoreDamaged, StoreTooNew
from blobfs.store import schema, upgrade
from blobfs.store.rekey import DATABASES, connect
from blobfs.store.store import Store
from blobfs.values.nodes import ROOT_INODE
from tests.store.conftest import content, make
from tests.store.renewer import OLD

NOW = schema.VERSION
FILES = {b"small": b"bytes", b"large": bytes(range(256)) * (5 << 12)}
NEXT = {
    "documents.db": "ALTER TABLE pins ADD COLUMN since_ns INTEGER NOT NULL DEFAULT 7;",
    "blobs.db": "CREATE TABLE news (id INTEGER PRIMARY KEY); INSERT INTO news VALUES (1);",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of this version with some files, closed."""
    with closing(Store.create(tmp_path / "store", OLD, device_name="test")) as store:
        for name, data in FILES.items():
            make(store, name, data=data)
    return tmp_path / "store"


@pytest.fixture
def newer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on there is a version more, and a step to it."""
    step(monkeypatch, NEXT)
    monkeypatch.setattr(schema, "VERSION", NOW + 1)


def step(monkeypatch: pytest.MonkeyPatch, sql: dict[str, str]) -> None:
    monkeypatch.setattr(upgrade, "STEPS", {**upgrade.STEPS, NOW: sql})


def check(path: Path) -> None:
    with closing(Store.open(path, OLD)) as store:
        found = {entry.name: content(store, entry.node.inode) for entry in store.tree.entries(ROOT_INODE, 0, 99)}
        assert found == FILES
        assert store.check() == []


def versions(path: Path) -> list[int]:
    found = []
    for name, page in DATABASES:
        with closing(connect(path / name, page, OLD)) as connection:
            found.append(connection.execute("PRAGMA user_version").fetchone()[0])
    return found


@pytest.mark.usefixtures("newer")
def test_an_older_store_is_copied_and_brought_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(path)
    assert versions(path) == [NOW + 1, NOW + 1]
    saved = upgrade.copies(path)
    assert [entry.name.partition(f".v{NOW}-")[0] for entry in saved] == ["blobs.db", "documents.db"]
    assert {entry.stat().st_mode & 0o777 for entry in saved} == {0o600}
    check(path)
    assert upgrade.copies(path) == saved
    # The copies are the store as it was, for the version that it was of.
    for entry in saved:
        shutil.move(entry, path / entry.name.partition(f".v{NOW}-")[0])
    monkeypatch.setattr(schema, "VERSION", NOW)
    check(path)


@pytest.mark.usefixtures("newer")
def test_a_step_that_fails_changes_nothing_of_its_database_and_goes_on_the_next_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step(monkeypatch, NEXT | {"blobs.db": "CREATE TABLE half (id INTEGER); SELECT nothing FROM nowhere;"})
    with pytest.raises(StoreDamaged):
        Store.open(path, OLD)
    assert versions(path) == [NOW + 1, NOW]
    saved = upgrade.copies(path)
    step(monkeypatch, NEXT)
    check(path)
    assert (versions(path), upgrade.copies(path)) == ([NOW + 1, NOW + 1], saved)


def test_what_waits_in_a_journal_is_run_before_the_step(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(path, OLD)
    make(store, b"last", data=b"acknowledged")
    crashed = path.parent / "crashed"
    shutil.copytree(path, crashed)
    store.close()
    step(monkeypatch, NEXT)
    monkeypatch.setattr(schema, "VERSION", NOW + 1)
    with closing(Store.open(crashed, OLD)) as opened:
        assert content(opened, opened.tree.lookup(ROOT_INODE, b"last").inode) == b"acknowledged"
        assert opened.check() == []
    assert versions(crashed) == [NOW + 1, NOW + 1]


@pytest.mark.usefixtures("newer")
def test_copies_go_after_their_time(path: Path) -> None:
    check(path)
    old, young = upgrade.copies(path)
    os.utime(old, (time.time() - upgrade.KEPT_S - 60,) * 2)
    check(path)
    assert upgrade.copies(path) == [young]


def test_a_newer_store_is_refused_and_left_alone(path: Path) -> None:
    name, page = DATABASES[0]
    with closing(connect(path / name, page, OLD)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.suffix == ".db"}
    with pytest.raises(StoreTooNew):
        Store.open(path, OLD)
    assert {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.suffix == ".db"} == before


def test_no_step_is_missing() -> None:
    assert set(upgrade.STEPS) == set(range(1, schema.VERSION))
