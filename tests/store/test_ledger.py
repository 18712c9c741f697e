"""Crashes between the steps of a transaction, of a batch and of recovery."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from blobfs.errors import Exists, NoSpace, StoreDamaged, StoreInUse, StoreMissing, UsageError
from blobfs.store.database import Database
from blobfs.store.journal import Journal
from blobfs.store.ledger import BATCH_BYTES, HEAVY, OVERDUE
from blobfs.store.store import Store
from blobfs.values.extents import EXTENT
from blobfs.values.nodes import ROOT_INODE
from tests.store.conftest import KEYS, Bench, content, make, write


class Interrupted(Exception):
    """Stands for the end of the process at this place."""


def names(store: Store) -> list[bytes]:
    return [entry.name for entry in store.tree.entries(ROOT_INODE, 0, 1000)]


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, when: Callable[..., None]) -> None:
    """Call `when` before a step that is still taken by the real thing."""
    real = getattr(owner, method)

    def step(self: object, *arguments: object) -> object:
        when(self)
        return real(self, *arguments)

    monkeypatch.setattr(owner, method, step)


@pytest.mark.parametrize("size", [100, HEAVY, 3 * EXTENT])
def test_what_a_write_acknowledged_survives_a_crash(bench: Bench, store: Store, size: int) -> None:
    node = make(store, b"f", data=os.urandom(size))
    data = content(store, node.inode)
    store = bench.crash(bench.open(bench.image(store)))
    assert content(store, node.inode) == data
    assert store.check() == []


@pytest.mark.usefixtures("unstaged")
@pytest.mark.parametrize("steps", range(8))
def test_a_heavy_write_is_there_whole_or_not_at_all(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """An image is taken before each step of the write walk and of the batch's commit after it."""
    node = make(store, b"f", data=b"old" * 1000)
    images: list[Path] = []

    def take(_: object) -> None:
        images.append(bench.image(store))

    with monkeypatch.context() as patch:
        for owner, method in ((Journal, "append"), (Database, "commit"), (Database, "flush"), (Journal, "flush")):
            interrupt(patch, owner, method, take)
        write(store, node.inode, 0, b"n" * HEAVY)
        store._ledger.commit()
    image = bench.open(images[min(steps, len(images) - 1)])
    assert content(image, node.inode) in (b"old" * 1000, b"n" * HEAVY)
    assert image.check() == []
    image.attachments.resize(node.inode, 2 * HEAVY, 30)
    assert content(image, node.inode)[HEAVY:] == bytes(HEAVY)
    assert image.check() == []


@pytest.mark.usefixtures("unstaged")
def test_a_heavy_write_that_was_cut_short_leaves_no_stale_bytes(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make(store, b"f", data=b"old")
    write(store, node.inode, 0, b"older" * HEAVY)
    with monkeypatch.context() as patch:
        images: list[Path] = []
        interrupt(patch, Database, "commit", lambda _: images.append(bench.image(store)))
        write(store, node.inode, 5 * HEAVY, b"x" * 2 * HEAVY)
    image = bench.open(images[0])
    assert content(image, node.inode) == b"older" * HEAVY
    image.attachments.resize(node.inode, 7 * HEAVY, 30)
    assert content(image, node.inode)[5 * HEAVY :] == bytes(2 * HEAVY)


@pytest.mark.usefixtures("unstaged")
def test_replacing_content_in_one_heavy_transaction_never_loses_the_old_one(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make(store, b"f", data=b"o" * HEAVY)
    with monkeypatch.context() as patch:
        images: list[Path] = []
        interrupt(patch, Database, "commit", lambda _: images.append(bench.image(store)))
        with store.transaction():
            store.attachments.resize(node.inode, 0, 20)
            write(store, node.inode, 0, b"n" * HEAVY)
    image = bench.open(images[0])
    assert content(image, node.inode) == b"o" * HEAVY


@pytest.mark.usefixtures("unstaged")
def test_recovery_can_be_interrupted_at_every_step(bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    node = make(store, b"f", data=b"a" * 1000)
    write(store, node.inode, 0, b"b" * HEAVY)
    make(store, b"g")
    first = bench.image(store)
    images = [first]
    with monkeypatch.context() as patch:
        copies = bench.directory / "copies"
        for owner, method in ((Journal, "__init__"), (Database, "commit"), (Database, "flush"), (Journal, "flush")):
            interrupt(
                patch,
                owner,
                method,
                lambda _: images.append(Path(shutil.copytree(first, copies / str(len(images))))),
            )
        bench.open(first)
    assert len(images) > 5
    for image in images[1:]:
        again = bench.crash(bench.open(image))
        assert names(again) == [b"f", b"g"]
        assert content(again, node.inode) == b"b" * HEAVY
        assert again.check() == []


@pytest.mark.usefixtures("unstaged")
def test_a_record_that_did_not_fit_leaves_no_gap(bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery took the missing number for a loss, and dropped all that was acknowledged after it."""
    make(store, b"before")

    def refuse(_: object) -> None:
        raise NoSpace("full")

    with monkeypatch.context() as patch:
        interrupt(patch, Journal, "append", refuse)
        with pytest.raises(NoSpace):
            make(store, b"refused")
        with pytest.raises(NoSpace):
            write(store, store.tree.lookup(ROOT_INODE, b"before").inode, 0, b"x" * HEAVY)
    make(store, b"after")
    write(store, store.tree.lookup(ROOT_INODE, b"after").inode, 0, b"y" * HEAVY)
    store = bench.crash(store)
    assert names(store) == [b"before", b"after"]
    assert content(store, store.tree.lookup(ROOT_INODE, b"after").inode) == b"y" * HEAVY
    assert store.check() == []


@pytest.mark.usefixtures("unstaged")
def test_a_commit_that_fails_loses_nothing(bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    node = make(store, b"f", data=b"a" * 1000)

    def refuse(database: object) -> None:
        assert isinstance(database, Database)
        database.drop()
        database.failed = True
        raise NoSpace("full")

    with monkeypatch.context() as patch:
        interrupt(patch, Database, "commit", refuse)
        with pytest.raises(NoSpace):
            write(store, node.inode, 0, b"x" * HEAVY)
        assert content(store, node.inode) == b"a" * 1000
        store._ledger.commit()
        assert content(store, node.inode) == b"a" * 1000
        make(store, b"g")
    assert names(store) == [b"f", b"g"]
    write(store, node.inode, 0, b"x" * HEAVY)
    store = bench.crash(store)
    assert names(store) == [b"f", b"g"]
    assert content(store, node.inode) == b"x" * HEAVY
    assert store.check() == []


def test_a_journal_that_cannot_be_followed_by_another_goes_on(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store, b"a")

    def refuse(_: object) -> None:
        raise NoSpace("full")

    with monkeypatch.context() as patch:
        interrupt(patch, Journal, "_write", refuse)
        store._ledger.commit()
    assert len(list(store.path.glob("journal-*"))) == 1
    make(store, b"b")
    store._ledger.commit()
    make(store, b"c")
    assert names(bench.crash(store)) == [b"a", b"b", b"c"]


@pytest.mark.usefixtures("unstaged")
def test_who_outruns_the_committer_commits_the_batch_himself(bench: Bench, store: Store) -> None:
    store._ledger._committer.close()
    number = store._ledger._journal.number
    node = make(store, b"f")
    piece = os.urandom(HEAVY // 2)
    for index in range((BATCH_BYTES + OVERDUE) // len(piece) + 10):
        write(store, node.inode, index % 7 * len(piece), piece)
    assert store._ledger._journal.number == number + 1
    store = bench.crash(store)
    assert content(store, node.inode) == piece * 7


@pytest.mark.usefixtures("unstaged")
def test_batches_follow_one_another_without_a_tick(bench: Bench, store: Store) -> None:
    node = make(store, b"f")
    piece = os.urandom(HEAVY // 2)
    committed, number = threading.Semaphore(0), store._ledger._journal.number
    commit = store._ledger._committer._commit
    store._ledger._committer._commit = lambda: (commit(), committed.release())
    for wanted in (number + 1, number + 2):
        for index in range(BATCH_BYTES // len(piece) + 10):
            write(store, node.inode, index % 7 * len(piece), piece)
        while store._ledger._journal.number < wanted:
            assert committed.acquire(timeout=60)
    # The new journal is there before the old one is gone; what is copied meanwhile is no image of a moment.
    store._ledger._committer.close()
    store = bench.crash(store)
    assert content(store, node.inode) == piece * 7
    assert store.check() == []


def test_a_record_larger_than_any_batch_is_read_again(bench: Bench, store: Store) -> None:
    with store.transaction():
        for index in range(300):
            store.settings.set(f"s{index}", "x" * (256 << 10))
    store = bench.crash(store)
    assert store.settings.get("s299") == "x" * (256 << 10)


def test_an_orderly_end_leaves_no_journal(bench: Bench, store: Store) -> None:
    make(store, b"f", data=b"x")
    store._ledger.commit()
    make(store, b"g")
    bench.close(store)
    assert sorted(path.name for path in store.path.iterdir()) == ["blobs.db", "documents.db", "lock"]
    assert not bench.open(store.path)._ledger.unclean


def test_a_transaction_that_fails_leaves_nothing(bench: Bench, store: Store) -> None:
    make(store, b"f")

    def fail() -> None:
        with store.transaction():
            make(store, b"g", data=b"x" * HEAVY)
            make(store, b"f")

    with pytest.raises(Exists):
        fail()
    assert names(store) == [b"f"]
    assert names(bench.crash(store)) == [b"f"]


def test_what_was_discarded_is_freed_by_ticks(bench: Bench, store: Store) -> None:
    nodes = [make(store, b"%d" % index, data=b"x" * 1000) for index in range(600)]
    big = make(store, b"big", data=bytes(70 << 20))
    for node in nodes:
        store.tree.purge(store.tree.unlink(ROOT_INODE, b"%d" % (node.inode - nodes[0].inode), 30).inode)
    store.attachments.resize(big.inode, 0, 30)
    store = bench.crash(store)
    store.tick()
    assert store._ledger.all(store._ledger.blobs, "SELECT * FROM discarded") == []
    assert store._ledger.all(store._ledger.blobs, "SELECT position FROM rows") == []
    assert store._ledger.all(store._ledger.blobs, "SELECT content FROM extents") == []
    assert store.check() == []


def test_blobs_of_another_store_or_none_are_refused(bench: Bench, store: Store) -> None:
    make(store, b"f", data=b"x")
    bench.close(store)
    other = bench.create("other")
    make(other, b"g", data=b"y")
    bench.close(other)
    shutil.copy(other.path / "blobs.db", store.path / "blobs.db")
    with pytest.raises(StoreDamaged):
        Store.open(store.path, KEYS)
    (store.path / "blobs.db").unlink()
    with pytest.raises(StoreDamaged):
        Store.open(store.path, KEYS)


def test_a_store_has_one_owner_and_is_made_once(bench: Bench, store: Store) -> None:
    with pytest.raises(StoreInUse):
        Store.open(store.path, KEYS)
    with pytest.raises(UsageError):
        Store.create(store.path, KEYS, device_name="again")
    with pytest.raises(StoreMissing):
        Store.open(bench.directory / "nowhere", KEYS)
    (bench.directory / "empty").mkdir()
    with pytest.raises(StoreMissing):
        Store.open(bench.directory / "empty", KEYS)


def test_a_store_that_was_never_finished_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.directory / "half"

    def stop(_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        interrupt(patch, Journal, "append", stop)
        with pytest.raises(Interrupted):
            Store.create(path, KEYS, device_name="x")
    with pytest.raises(StoreMissing, match="never finished"):
        Store.open(path, KEYS)
