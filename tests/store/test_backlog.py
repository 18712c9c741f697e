"""What waits in memory for the databases: told in any order and in parts, it comes to the same."""

from __future__ import annotations

import pytest

from blobfs.store import ledger
from blobfs.store.store import Store
from blobfs.values.extents import ROW
from blobfs.values.nodes import ROOT_INODE
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


def test_a_backlog_is_bounded(bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "BACKLOG", 50)
    nodes = [make(store, b"%d" % number, data=bytes([number]) * 5000) for number in range(200)]
    assert store._ledger.documents.backlog.waiting <= 50 + 3 * ledger.RELIEF
    assert store._ledger.blobs.backlog.waiting <= 50 + 3 * ledger.RELIEF
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
