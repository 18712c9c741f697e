"""What is deleted gives its room back to the disk, not only to what is written next."""

from __future__ import annotations

import os

import pytest

from blobfs.store import store as module
from blobfs.store.store import Store
from blobfs.values.nodes import ROOT_INODE
from tests.store.conftest import Bench, content, make, write

MIB = 1 << 20


def fill(store: Store, name: bytes, mib: int) -> bytes:
    """A file; its bytes."""
    node, body = make(store, name), os.urandom(mib * MIB)
    for start in range(0, len(body), 4 * MIB):
        write(store, node.inode, start, body[start : start + 4 * MIB])
    return body


@pytest.mark.usefixtures("unstaged")
def test_the_database_gets_smaller_when_nothing_is_written_for_some_seconds(bench: Bench, store: Store) -> None:
    path = store.path / "blobs.db"
    fill(store, b"first", 120)
    body = fill(store, b"last", 8)
    store._ledger.commit()
    store.tree.purge(store.tree.unlink(ROOT_INODE, b"first", 1).inode)
    for _ in range(2):
        store.tick()
    store._ledger.commit()
    assert store.spare() > 40 * MIB
    fill(store, b"used", 4)
    store._ledger.commit()
    for _ in range(module._QUIET + 40):
        store.tick()
    assert store.spare() == 0
    assert path.stat().st_size < 100 * MIB
    assert content(store, store.tree.lookup(ROOT_INODE, b"last").inode) == body
    assert store.check() == []
    store = bench.crash(store)
    assert content(store, store.tree.lookup(ROOT_INODE, b"last").inode) == body
    assert store.check() == []


def test_on_a_full_disk_all_of_it_goes_back_at_once(store: Store) -> None:
    fill(store, b"a", 40)
    store._ledger.commit()
    store.tick()
    store._ledger.reserve.spend()
    store.tree.purge(store.tree.unlink(ROOT_INODE, b"a", 1).inode)
    store._ledger.reserve.refill = lambda: None  # type: ignore[method-assign]
    for _ in range(20):
        store.tick()
    assert (store.path / "blobs.db").stat().st_size < 4 * MIB
    assert store.check() == []
