"""The log of blobs.db moves into the database beside the writers, and gives its room back."""

from __future__ import annotations

import os

import pytest

from blobfs.store.database import SHORT_LOG
from blobfs.store.store import Store
from blobfs.values.documents import Kind
from blobfs.values.nodes import ROOT_INODE, Inode
from tests.store.conftest import Bench

CHUNK = 4 << 20


def fill(store: Store, name: bytes, size: int) -> tuple[Inode, bytes]:
    """A file of random bytes, written as large files are."""
    node = store.tree.create(ROOT_INODE, name, Kind.FILE, mode=0o600, uid=0, gid=0, now_ns=1)
    data = os.urandom(size)
    for start in range(0, size, CHUNK):
        piece = data[start : start + CHUNK]
        store.attachments.write(node.inode, [(start, piece)], start + len(piece), 2, 2)
    return node.inode, data


def read(store: Store, inode: Inode) -> bytes:
    node = store.tree.get(inode)
    assert node.content is not None
    return store.attachments.read(node.content, 0, node.size)


@pytest.mark.usefixtures("unstaged")
def test_a_long_log_is_moved_when_nobody_writes(bench: Bench) -> None:
    store = bench.create()
    path = store.path
    inode, data = fill(store, b"large", SHORT_LOG + (8 << 20))
    log, database = path / "blobs.db-wal", path / "blobs.db"
    assert log.stat().st_size > len(data) > database.stat().st_size  # no commit has waited for it
    store.tick()
    assert log.stat().st_size > len(data)  # somebody wrote just now
    store.sync()
    store.tick()
    store.tick()
    assert log.stat().st_size <= SHORT_LOG
    assert database.stat().st_size > len(data)
    assert read(store, inode) == data
    bench.close(store)
    assert read(bench.open(path), inode) == data


@pytest.mark.usefixtures("unstaged")
def test_an_open_batch_does_not_keep_a_log_from_being_moved(bench: Bench) -> None:
    store = bench.create()
    inode, data = fill(store, b"large", SHORT_LOG + (8 << 20))
    small = store.tree.create(ROOT_INODE, b"small", Kind.FILE, mode=0o600, uid=0, gid=0, now_ns=1)
    store.attachments.write(small.inode, [(0, b"small")], 5, 2, 2)  # its batch is not committed yet
    store.tick()
    store.tick()
    assert (store.path / "blobs.db").stat().st_size > len(data)
    assert read(store, inode) == data
    assert read(store, small.inode) == b"small"


@pytest.mark.usefixtures("unstaged")
def test_a_start_after_a_kill_moves_no_log_since_the_disk_may_have_no_room_for_it(bench: Bench) -> None:
    store = bench.create()
    inode, data = fill(store, b"large", 24 << 20)  # more than SQLite leaves in a log by itself
    store._ledger.commit()
    database = store.path / "blobs.db"
    before = database.stat().st_size
    assert before < len(data)
    store = bench.crash(store)
    assert (store.path / "blobs.db").stat().st_size == before
    assert (store.path / "blobs.db-wal").stat().st_size > len(data)
    assert read(store, inode) == data


@pytest.mark.usefixtures("unstaged")
def test_a_log_stays_where_it_is_while_the_disk_has_no_room_for_a_longer_database(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take all that is free in vain, which deleting and the next start need."""
    store = bench.create()
    fill(store, b"large", SHORT_LOG + (8 << 20))
    database, disk = store.path / "blobs.db", os.statvfs(store.path)
    store.sync()
    before = database.stat().st_size
    with monkeypatch.context() as patch:
        fields = list(disk)
        fields[4] = (16 << 20) // disk.f_frsize  # f_bavail
        patch.setattr(os, "statvfs", lambda path: os.statvfs_result(fields))
        for _ in range(3):
            store.tick()
        assert database.stat().st_size == before
    store.tick()
    store.tick()
    assert database.stat().st_size > SHORT_LOG
