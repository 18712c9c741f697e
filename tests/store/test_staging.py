"""What lies in the spool: over which rows, for how long, and what a crash, a full disk or a forger makes of it."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from blobfs.errors import NoSpace, StoreDamaged
from blobfs.store import spool, staging
from blobfs.store.journal import Journal
from blobfs.store.spool import Spool, segments
from blobfs.store.store import Store
from blobfs.values.extents import EXTENT, ROW, BlobId
from blobfs.values.nodes import ROOT_INODE, Content, Inode
from tests.store.conftest import Bench, content, make, write

BLOB = BlobId("cd" * 32)
SIZE = 8 * ROW


@pytest.fixture(autouse=True)
def everything_is_staged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "LEAST", 1)


def staged(store: Store) -> int:
    """How many pieces lie over rows."""
    return int(store._ledger.one(store._ledger.blobs, "SELECT COUNT(*) FROM staged")[0])


def rows(store: Store) -> int:
    return int(store._ledger.one(store._ledger.blobs, "SELECT COUNT(*) FROM rows")[0])


def number_of(store: Store, inode: Inode) -> Content:
    number = store.tree.get(inode).content
    assert number is not None
    return number


def overlaid(store: Store, source: random.Random, name: bytes = b"f") -> tuple[Inode, bytearray]:
    """A file whose rows are in the database, with pieces over some, and over each other."""
    data = bytearray(source.randbytes(SIZE + 777))
    inode = make(store, name, data=bytes(data)).inode
    store._settler.settle_all()
    assert (staged(store), segments(store.path)) == (0, [])
    for _ in range(60):
        start, piece = source.randrange(SIZE), source.randbytes(source.choice((1, 700, 4096, ROW, ROW + 5)))
        data[start : start + len(piece)] = piece
        write(store, inode, start, piece)
    assert staged(store)
    return inode, data


def test_later_pieces_lie_over_earlier_ones_and_stay_so_when_they_are_settled(bench: Bench, store: Store) -> None:
    source = random.Random(1)
    inode, data = overlaid(store, source)
    number = number_of(store, inode)
    for _ in range(2):
        assert content(store, inode) == data
        for _ in range(50):
            start = source.randrange(len(data))
            length = min(len(data) - start, source.choice((1, 5000, 3 * ROW)))
            assert store.attachments.read(number, start, length) == data[start : start + length]
        assert store.check() == []
        store._settler.settle_all()
    assert (staged(store), segments(store.path)) == (0, [])
    assert content(bench.crash(store), inode) == data


def test_a_row_written_as_a_whole_has_one_piece(store: Store) -> None:
    inode = make(store, b"f", data=os.urandom(2 * ROW)).inode
    for _ in range(5):
        write(store, inode, 0, os.urandom(ROW))
    assert (staged(store), rows(store)) == (2, 0)


def test_ticks_settle_when_nobody_writes(store: Store) -> None:
    inode = make(store, b"f", data=os.urandom(SIZE)).inode
    data = content(store, inode)
    store.tick()
    assert staged(store) == 8  # somebody wrote just now
    store.tick()
    assert (staged(store), rows(store), segments(store.path)) == (0, 8, [])
    assert content(store, inode) == data


def test_ticks_settle_beside_a_writer_when_much_is_staged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MOST", 6 * ROW)
    inode = make(store, b"f", data=os.urandom(2 * ROW)).inode
    store.tick()
    assert staged(store) == 2
    write(store, inode, 2 * ROW, os.urandom(2 * ROW))
    store.tick()
    assert staged(store) == 0


def test_beyond_the_bound_writers_tell_the_database_themselves(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "MOST", 6 * ROW)
    inode, data = make(store, b"f").inode, os.urandom(12 * ROW)
    for start in range(0, len(data), 2 * ROW):
        write(store, inode, start, data[start : start + 2 * ROW])
    assert (staged(store), rows(store)) == (4, 8)
    write(store, inode, ROW + 5, b"small")  # over what is staged
    wanted = data[: ROW + 5] + b"small" + data[ROW + 10 :]
    assert content(store, inode) == wanted
    assert content(bench.crash(store), inode) == wanted


@pytest.mark.parametrize("size", [0, 1, ROW, 2 * ROW + 100, SIZE, SIZE + ROW])
def test_a_file_is_cut_and_grown_through_pieces(bench: Bench, store: Store, size: int) -> None:
    inode, data = overlaid(store, random.Random(size))
    store.attachments.resize(inode, size, 5)
    wanted = bytes(data[:size]).ljust(size, b"\0")
    assert content(store, inode) == wanted
    store.attachments.resize(inode, SIZE + 2 * ROW, 6)
    wanted = wanted.ljust(SIZE + 2 * ROW, b"\0")
    assert content(store, inode) == wanted
    assert store.check() == []
    store = bench.crash(store)
    store._settler.settle_all()
    assert content(store, inode) == wanted
    assert store.check() == []


def test_what_is_frozen_is_read_as_it_was_through_writing_cutting_and_settling(store: Store) -> None:
    source = random.Random(3)
    inode, data = overlaid(store, source)
    number = number_of(store, inode)

    def frozen() -> bytes:
        return store.attachments.read_frozen(number, 0, len(data))

    store.attachments.freeze(number)
    write(store, inode, ROW + 5, source.randbytes(2 * ROW))
    assert frozen() == data
    store.attachments.resize(inode, 3 * ROW + 9, 5)
    assert frozen() == data
    write(store, inode, 3 * ROW, source.randbytes(5 * ROW))
    store._settler.settle_all()
    store.attachments.resize(inode, 2 * ROW, 6)
    assert frozen() == data
    store.attachments.thaw(number)
    store.tick()
    assert store.check() == []


def test_what_was_fetched_is_evicted_from_the_spool(store: Store) -> None:
    node, data = make(store, b"f", data=os.urandom(EXTENT)), os.urandom(EXTENT)
    number = number_of(store, node.inode)
    local = store.documents.local(node.doc_id)
    assert local is not None
    assert store.attachments.settle(node.inode, local.edit, {0: (BLOB, EXTENT)})
    assert store.attachments.evict(number, [0]) == EXTENT
    assert staged(store) == 0
    store.attachments.keep(number, 0, BLOB, 0, data)
    assert (staged(store), rows(store), store.attachments.stored()) == (32, 0, EXTENT)
    assert content(store, node.inode) == data
    assert store.attachments.evict(number, [0]) == EXTENT
    store._ledger.commit()
    assert (staged(store), segments(store.path), store.attachments.stored()) == (0, [], 0)
    assert store.check() == []


def test_a_deleted_file_leaves_no_segment(store: Store) -> None:
    for size in (ROW // 2, SIZE):
        make(store, b"f", data=b"x")
        write(store, store.tree.lookup(ROOT_INODE, b"f").inode, 0, os.urandom(size))
        assert segments(store.path)
        store.tree.purge(store.tree.unlink(ROOT_INODE, b"f", 5).inode)
        store.tick()
        store._ledger.commit()
        assert (staged(store), segments(store.path)) == (0, [])
        assert store.check() == []


def test_a_segment_goes_when_the_last_piece_of_it_is_settled(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "SEGMENT", 2 * ROW)
    inode, data = make(store, b"f").inode, os.urandom(SIZE)
    for start in range(0, SIZE, ROW):
        write(store, inode, start, data[start : start + ROW])
    assert len(segments(store.path)) == 4
    for row in range(3):
        with store.transaction():
            store._ledger.staging.settle(number_of(store, inode) << 27 | row)
    assert len(segments(store.path)) == 4  # only what is on the disk may go
    store._ledger.commit()
    assert len(segments(store.path)) == 3
    assert content(store, inode) == data


def test_a_large_read_goes_on_while_its_rows_are_settled(store: Store) -> None:
    inode, data = overlaid(store, random.Random(4))
    store._ledger.commit()
    number, found = number_of(store, inode), list[bytes]()

    def read() -> None:
        found.extend(store.attachments.read_beside(number, 0, len(data)) for _ in range(200))

    thread = threading.Thread(target=read)
    thread.start()
    for start in range(0, SIZE, ROW):
        store._settler.settle_all()
        write(store, inode, start, bytes(data[start : start + ROW]))
    thread.join()
    assert set(found) == {bytes(data)}


# --- ends -----------------------------------------------------------------------------------------------


def interrupted(bench: Bench, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, action: Callable[[], None]) -> Store:
    """What SIGKILL leaves just before a step of the action."""
    real, images = getattr(owner, method), list[Path]()

    def step(self: object, *arguments: object) -> object:
        images.append(bench.image(bench.latest))
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, step)
        action()
    return bench.open(images[0])
