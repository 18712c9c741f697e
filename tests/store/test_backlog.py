"""What waits in memory for the databases: told in any order and in parts, it comes to the same."""

from __future__ import annotations

import contextlib
import os
import random

import pytest

from blobfs.errors import FileError, NotEmpty
from blobfs.store import backlogs, ledger
from blobfs.store.store import Store
from blobfs.values.documents import Kind
from blobfs.values.extents import ROW
from blobfs.values.nodes import ROOT_INODE, Inode
from tests.store.conftest import Bench, content, make, write


def names(store: Store) -> dict[bytes, int]:
    return {entry.name: entry.node.inode for entry in store.tree.entries(ROOT_INODE, 0, 9999)}


def test_a_file_that_is_soon_gone_never_reaches_the_databases(bench: Bench, store: Store) -> None:
    store._ledger.commit()
    node = make(store, b"a", data=b"bytes")
    store.tree.update(node.inode, 20, mode=0o600)
    store.tree.rename(ROOT_INODE, b"a", ROOT_INODE, b"b", 30)
    store.tree.purge(store.tree.unlink(ROOT_INODE, b"b", 40).inode)
    assert store._ledger.documents.backlog.waiting == 1  # the directory's times
    assert store._ledger.blobs.backlog.waiting == 0
    store = bench.crash(store)
    assert names(store) == {}
    assert store.check() == []


def test_a_listing_is_remembered_and_never_against_what_has_changed_since(bench: Bench, store: Store) -> None:
    nodes = [make(store, b"%d" % number) for number in range(30)]
    store._ledger.commit()
    for _ in range(2):
        store._ledger.shrink()
        assert len(store.tree.entries(ROOT_INODE, 0, 20)) == 20
    store.tree.unlink(ROOT_INODE, b"3", 50)
    store.tree.rename(ROOT_INODE, b"4", ROOT_INODE, b"four", 50)
    store.tree.update(nodes[5].inode, 50, mode=0o751)
    store.tree.unlink(ROOT_INODE, b"25", 50)
    make(store, b"3")
    wanted = {b"%d" % number for number in range(30)} - {b"4", b"25"} | {b"four"}
    for _ in range(2):
        first = store.tree.entries(ROOT_INODE, 0, 20)
        rest = store.tree.entries(ROOT_INODE, first[-1].cookie, 20)
        assert {entry.name for entry in (*first, *rest)} == wanted
        assert [entry.cookie for entry in (*first, *rest)] == sorted({entry.cookie for entry in (*first, *rest)})
        assert {entry.name: entry.node for entry in first}[b"5"].mode == 0o751
        assert store.tree.lookup(ROOT_INODE, b"3").inode != nodes[3].inode
        store = bench.crash(store)


def test_a_backlog_is_bounded(bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlogs, "BACKLOG", 50)
    nodes = [make(store, b"%d" % number, data=bytes([number]) * 5000) for number in range(200)]
    assert store._ledger.documents.backlog.waiting <= 50 + 3 * backlogs.RELIEF
    assert store._ledger.blobs.backlog.waiting <= 50 + 3 * backlogs.RELIEF
    wanted = [bytes([number]) * 5000 for number in range(200)]
    assert [content(store, node.inode) for node in nodes] == wanted
    store = bench.crash(store)
    assert [content(store, node.inode) for node in nodes] == wanted


def test_large_contents_weigh_more_than_small_ones(store: Store) -> None:
    make(store, b"a", data=bytes(ROW))
    assert store._ledger.blobs.backlog.waiting > 30


@pytest.mark.parametrize("most", [1, 2, 3, None])
@pytest.mark.parametrize("turns", range(3))
def test_names_that_change_places_are_settled_in_any_order(
    bench: Bench, store: Store, most: int | None, turns: int
) -> None:
    wanted = {b"%d" % number: make(store, b"%d" % number).inode for number in range(4)}
    store._ledger.commit()

    def move(old: bytes, new: bytes) -> None:
        store.tree.rename(ROOT_INODE, old, ROOT_INODE, new, 50)
        wanted[new] = wanted.pop(old)

    for _ in range(turns):
        move(b"0", b"spare")
        for number in range(3):
            move(b"%d" % (number + 1), b"%d" % number)
        move(b"spare", b"3")
        move(b"3", b"spare")
        move(b"spare", b"3")
    while store._ledger.documents.backlog.waiting:
        store._ledger.documents.backlog.settle(most)
        store._ledger.documents.backlog.shed()
        assert {name: store.tree.lookup(ROOT_INODE, name).inode for name in wanted} == wanted
    assert names(store) == wanted
    assert store.check() == []
    store = bench.crash(store)
    assert names(store) == wanted


def test_bytes_that_wait_are_read_cut_and_added_to(bench: Bench, store: Store) -> None:
    node = make(store, b"a", data=b"0123456789")
    make(store, b"b", data=b"other")
    assert store._ledger.blobs.backlog.waiting
    assert content(store, node.inode) == b"0123456789"
    write(store, node.inode, 10, b"more")
    assert content(store, node.inode) == b"0123456789more"
    store.attachments.resize(node.inode, 4, 60)
    assert content(store, node.inode) == b"0123"
    store.attachments.resize(node.inode, 0, 70)
    write(store, node.inode, 0, b"new")
    assert content(bench.crash(store), node.inode) == b"new"


def in_batches(store: Store, limit: int, folder: Inode = ROOT_INODE) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while batch := store.tree.entries(folder, found[-1][0] if found else 0, limit):
        found += [(entry.cookie, entry.name) for entry in batch]
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_a_directory_is_listed_without_telling_the_database_of_it(store: Store, limit: int) -> None:
    folder = make(store, b"folder", Kind.DIRECTORY).inode
    for number in range(12):
        make(store, b"old %d" % number)
    store._ledger.commit()
    for number in (0, 1, 2, 5, 11):
        store.tree.unlink(ROOT_INODE, b"old %d" % number, 20)
    store.tree.rename(ROOT_INODE, b"old 3", ROOT_INODE, b"moved", 20)
    store.tree.rename(ROOT_INODE, b"old 4", folder, b"elsewhere", 20)
    store.tree.rename(ROOT_INODE, b"old 6", ROOT_INODE, b"old 7", 20)
    for number in range(5):
        make(store, b"new %d" % number)
    store.tree.unlink(ROOT_INODE, b"new 1", 20)
    waiting = store._ledger.documents.backlog.waiting
    found = in_batches(store, limit)
    assert store._ledger.documents.backlog.waiting == waiting > 0
    store._ledger.commit()
    assert found == in_batches(store, limit)
    left = {b"folder", b"moved", b"old 7", b"old 8", b"old 9", b"old 10", b"new 0", b"new 2", b"new 3", b"new 4"}
    assert {name for _, name in found} == left


class Mistake(FileError):
    """What ends a transaction after all that is in it went well."""


@pytest.mark.parametrize("seed", range(4))
def test_a_directory_is_listed_from_memory_as_from_the_database(store: Store, seed: int) -> None:
    chance, tree = random.Random(seed), store.tree
    folders = [make(store, b"folder %d" % number, Kind.DIRECTORY).inode for number in range(3)]
    there: set[tuple[Inode, bytes]] = set()
    for step in range(400):
        old, new = ((chance.choice(folders), b"%d" % chance.randrange(12)) for _ in range(2))
        changed = set(there)
        with contextlib.suppress(FileError):
            with store._ledger.transaction():
                if chance.random() < 0.4:
                    make(store, old[1], parent=old[0])
                    changed |= {old}
                elif chance.random() < 0.3:
                    tree.unlink(*old, step)
                    changed -= {old}
                else:
                    exchanges = new in there and chance.random() < 0.3
                    tree.rename(*old, *new, step, exchange=exchanges)
                    changed -= set() if exchanges or old == new else {old}
                    changed |= {new}
                if chance.random() < 0.1:
                    raise Mistake
            there = changed
        found = {folder: in_batches(store, chance.choice([1, 2, 5, 100]), folder) for folder in folders}
        assert {(folder, name) for folder, entries in found.items() for _, name in entries} == there
        assert sum(map(len, found.values())) == len(there)
        if chance.random() < 0.1:
            chance.choice([store._ledger.commit, store._ledger.shrink, store._ledger.documents.backlog.settle])()
            assert found == {folder: in_batches(store, chance.choice([1, 100]), folder) for folder in folders}
        for folder in folders:
            for entry in tree.entries(folder, 0, 100):
                assert tree.lookup(folder, entry.name) == entry.node
            with contextlib.suppress(NotEmpty):
                tree.check_empty(folder)
                assert not found[folder]


def test_a_directory_that_is_known_is_listed_without_a_query(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(store, b"folder", Kind.DIRECTORY).inode
    for number in range(20):
        make(store, b"%d" % number, parent=folder)
    store._ledger.commit()
    store._ledger.shrink()
    seen = in_batches(store, 7, folder), store.tree.parent(folder)
    store.tree.get(folder)
    monkeypatch.setattr(store._ledger, "_query", None)
    assert (in_batches(store, 100, folder), store.tree.parent(folder)) == seen
    store.tree.rename(folder, b"3", folder, b"three", 20)
    store.tree.unlink(folder, b"4", 20)
    make(store, b"20", parent=folder)
    names = [b"%d" % number for number in range(21) if number != 4]
    names[3] = b"three"
    assert [name for _, name in in_batches(store, 2, folder)] == names


def test_a_directory_emptied_in_memory_alone_can_be_removed_and_one_filled_there_cannot(store: Store) -> None:
    emptied, filled = (make(store, name, Kind.DIRECTORY).inode for name in (b"emptied", b"filled"))
    make(store, b"a", parent=emptied)
    store._ledger.commit()
    store.tree.unlink(emptied, b"a", 20)
    make(store, b"a", parent=filled)
    with pytest.raises(NotEmpty):
        store.tree.rmdir(ROOT_INODE, b"filled", 30)
    store.tree.rmdir(ROOT_INODE, b"emptied", 30)
    assert set(names(store)) == {b"filled"}


def test_a_directory_is_empty_when_all_that_the_database_has_there_is_gone(store: Store) -> None:
    folder, other = (make(store, name, Kind.DIRECTORY).inode for name in (b"folder", b"other"))
    for number in range(5):
        make(store, b"%d" % number, parent=folder)
    store._ledger.commit()
    store.tree.unlink(folder, b"0", 50)
    store.tree.unlink(folder, b"1", 50)
    make(store, b"1", parent=folder)
    store.tree.rename(folder, b"2", folder, b"two", 50)
    for name in (b"1", b"3", b"4"):
        store.tree.rename(folder, name, other, name, 50)
    with pytest.raises(NotEmpty):
        store.tree.check_empty(folder)
    store.tree.rename(folder, b"two", other, b"two", 50)
    store.tree.check_empty(folder)
    store.tree.rename(other, b"two", folder, b"2", 50)
    with pytest.raises(NotEmpty):
        store.tree.check_empty(folder)
    store.tree.unlink(folder, b"2", 50)
    for _ in range(2):
        store.tree.check_empty(folder)
        with pytest.raises(NotEmpty):
            store.tree.check_empty(other)
        store._ledger.commit()


def waiting(store: Store) -> tuple[bool, bool]:
    return store._ledger.documents.backlog.waiting > 0, store._ledger.blobs.backlog.waiting > 0


def test_what_is_little_waits_while_somebody_writes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "BATCH_AGE_S", 3600.0)
    make(store, b"a", data=b"bytes")
    store.tick()
    assert waiting(store) == (True, True)
    make(store, b"b")
    store.tick()
    assert waiting(store) == (True, True)
    store.tick()
    assert waiting(store) == (False, False)
    assert set(names(store)) == {b"a", b"b"}


def test_what_is_much_or_has_waited_long_is_told_beside_a_writer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "BATCH_AGE_S", 3600.0)
    monkeypatch.setattr(backlogs, "SHORT", 2)
    make(store, b"a", data=b"bytes")
    store.tick()
    assert waiting(store) == (False, False)
    monkeypatch.setattr(backlogs, "SHORT", 2048)
    monkeypatch.setattr(ledger, "BATCH_AGE_S", 0.0)
    make(store, b"b", data=b"bytes")
    commits = store._ledger.documents.commits
    store.tick()
    assert (waiting(store), store._ledger.documents.commits) == ((False, False), commits + 1)


def discarded(store: Store) -> int:
    return len(store._ledger.all(store._ledger.blobs, "SELECT content FROM discarded"))


def test_a_long_file_is_given_up_without_a_statement_and_freed_later(bench: Bench, store: Store) -> None:
    node = make(store, b"long", data=os.urandom(3 * ROW))
    store._ledger.commit()
    before = store._ledger.blobs.changes
    store.tree.purge(store.tree.unlink(ROOT_INODE, b"long", 50).inode)
    assert (store._ledger.blobs.changes, store._ledger.blobs.backlog.waiting) == (before, 1)
    store = bench.crash(store)
    assert discarded(store) == 1
    store.tick()
    assert (discarded(store), store._ledger.all(store._ledger.blobs, "SELECT * FROM extents")) == (0, [])
    assert make(store, b"next", data=b"x").content != node.content
    assert store.check() == []


@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_transaction_gives_up_beside_a_write_goes_or_stays_with_it(
    bench: Bench, store: Store, is_first: bool, fails: bool
) -> None:
    long, other = (make(store, name, data=os.urandom(3 * ROW)) for name in (b"long", b"other"))
    data = content(store, long.inode)
    try:
        with store.transaction():
            if is_first:
                write(store, other.inode, ROW, os.urandom(ROW))
            store.tree.purge(store.tree.unlink(ROOT_INODE, b"long", 50).inode)
            if not is_first:
                write(store, other.inode, ROW, os.urandom(ROW))
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert (content(store, long.inode), discarded(store)) == (data, 0)
    kept = content(store, other.inode)
    for _ in range(2):
        assert discarded(store) == (0 if fails else 1)
        assert content(store, other.inode) == kept
        assert (b"long" in names(store)) == fails
        store = bench.crash(store)
    assert store.check() == []


def test_attributes_of_a_purged_file_go_though_there_were_none_a_moment_before(bench: Bench, store: Store) -> None:
    make(store, b"first")
    second = make(store, b"second")
    store.tree.set_xattr(second.inode, b"user.a", b"1", 20)
    store = bench.crash(store)
    store.tree.remove_xattr(second.inode, b"user.a", 30)
    store.tree.purge(store.tree.unlink(ROOT_INODE, b"first", 40).inode)
    store.tree.set_xattr(second.inode, b"user.a", b"2", 50)
    store.tree.purge(store.tree.unlink(ROOT_INODE, b"second", 60).inode)
    assert store._ledger.all(store._ledger.documents, "SELECT * FROM xattrs") == []
    assert store.check() == []
