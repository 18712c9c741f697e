"""New keys for a store: whatever interrupts it, everything is there afterwards, and the old keys open nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from blobfs.errors import StoreDamaged, StoreInUse
from blobfs.store.store import Store
from blobfs.values.documents import Kind
from blobfs.values.keys import AccountId, derive_keys
from blobfs.values.nodes import ROOT_INODE
from tests.store.conftest import Bench, content, make
from tests.store.renewer import NEWER, NEWEST, OLD, SECRETS

FILES = {b"small": b"bytes of a small file", b"large": bytes(range(256)) * (12 << 12), b"other": bytes(9 << 20)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of the first epoch with some files, closed."""
    with closing(Store.create(tmp_path / "store", OLD, device_name="test")) as store:
        for name, data in FILES.items():
            make(store, name, data=data)
    return tmp_path / "store"


def check(path: Path) -> None:
    """Everything is in the store, which opens with the newest keys, and with no others any more."""
    with closing(Store.open(path, NEWEST)) as store:
        found = {entry.name: content(store, entry.node.inode) for entry in store.tree.entries(ROOT_INODE, 0, 99)}
        assert found == FILES
        assert store.check() == []
    assert {entry.name for entry in path.iterdir()} - {"reserve"} == {"documents.db", "blobs.db", "lock"}
    for older in (OLD, NEWER):
        with pytest.raises(StoreDamaged):
            Store.open(path, older)


def test_a_store_that_was_closed_opens_with_newer_keys(path: Path) -> None:
    Store.open(path, NEWER).close()
    check(path)


def test_a_store_skips_an_epoch_that_it_has_never_seen(path: Path) -> None:
    check(path)


def renew(path: Path, name: str, share: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "tests.store.renewer", str(path), name, share],
        cwd=Path(__file__).parents[2],
        check=False,
        timeout=300,
    ).returncode


@pytest.mark.parametrize(
    ("name", "share"),
    [("documents.db", "100"), *(("blobs.db", share) for share in ("1", "60", "100"))],
)
def test_a_change_of_keys_that_is_killed_goes_on_at_the_next_start(path: Path, name: str, share: str) -> None:
    assert renew(path, name, share) == -signal.SIGKILL
    check(path)


@pytest.mark.long
@pytest.mark.parametrize("share", [str(share) for share in range(0, 100, 4)])
def test_a_change_of_keys_that_is_killed_anywhere_goes_on_at_the_next_start(path: Path, share: str) -> None:
    assert renew(path, "blobs.db", share) == -signal.SIGKILL
    check(path)


def test_without_room_nothing_is_lost_and_it_goes_on_when_there_is_some(path: Path) -> None:
    with closing(Store.open(path, OLD)) as store:
        store._settler.settle_all()
    assert renew(path, "blobs.db", "full") == 9
    check(path)


def test_without_room_to_settle_nothing_is_lost_and_it_goes_on_when_there_is_some(path: Path) -> None:
    assert list(path.glob("spool-*"))
    assert renew(path, "blobs.db", "full") == 9
    check(path)


def test_what_a_crash_left_in_the_journal_is_not_lost(bench: Bench, tmp_path: Path) -> None:
    bench.directory = tmp_path
    with closing(Store.create(tmp_path / "store", OLD, device_name="test")) as store:
        node = make(store, b"file", data=b"x" * 300)
        store.sync()
        crashed = bench.image(store)
    assert list(crashed.glob("journal-*"))
    with closing(Store.open(crashed, NEWEST)) as store:
        assert content(store, node.inode) == b"x" * 300
        assert [entry.doc_id for entry in store.documents.changed(9)] == [node.doc_id]
        assert store.check() == []


def test_keys_that_have_not_the_stores_own_among_the_older_ones_open_nothing(path: Path) -> None:
    before = {entry.name: entry.read_bytes() for entry in path.iterdir()}
    for older in ((), (b"9" * 32,), (b"9" * 32, SECRETS[1])):
        with pytest.raises(StoreDamaged):
            Store.open(path, derive_keys(AccountId("ab" * 16), SECRETS[2], older))
    assert {entry.name: entry.read_bytes() for entry in path.iterdir()} == before


def test_a_store_in_use_keeps_its_keys(path: Path) -> None:
    with closing(Store.open(path, OLD)) as store:
        with pytest.raises(StoreInUse):
            Store.open(path, NEWEST)
        make(store, b"more", Kind.FILE)
