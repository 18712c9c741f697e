"""A content that is frozen reads as it was at that moment, whatever happens to the file meanwhile."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.errors import BytesAbsent, NotFound
from blobfs.store.store import Store
from blobfs.values.documents import Kind
from blobfs.values.extents import EXTENT, ROW, Attachment, BlobId, extent_count, extent_length
from blobfs.values.keys import AccountId, derive_keys
from blobfs.values.nodes import ROOT_INODE, Content, Inode

KEYS = derive_keys(AccountId("cd" * 16), b"s" * 32)
SIZE = 2 * EXTENT + 3 * ROW + 777


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.create(tmp_path / "store", KEYS, device_name="one")
    yield opened
    opened.close()


def _file(store: Store, data: bytes) -> tuple[Inode, Content]:
    made = store.tree.create(ROOT_INODE, b"f", Kind.FILE, mode=0o644, uid=1, gid=1, now_ns=1)
    content = store.attachments.write(made.inode, [(0, data)], len(data), 1, 1).content
    assert content is not None
    return made.inode, content


def _frozen(store: Store, content: Content, size: int) -> bytes:
    indices = range(extent_count(size))
    return b"".join(store.attachments.read_frozen(content, index, extent_length(size, index)) for index in indices)


def _sweep(store: Store) -> None:
    for _ in range(20):
        store.tick()


def test_what_is_overwritten_cut_and_grown_reads_as_it_was(store: Store) -> None:
    data, source = os.urandom(SIZE), random.Random(5)
    inode, content = _file(store, data)
    store.attachments.freeze(content)
    size = SIZE
    for number in range(60):
        if number % 10 == 9:
            size = source.randrange(1, SIZE + EXTENT)
            store.attachments.resize(inode, size, number)
        else:
            offset = source.randrange(size)
            piece = source.randbytes(source.choice((1, 5000, 2 * ROW)))
            size = max(size, offset + len(piece))
            store.attachments.write(inode, [(offset, piece)], size, number, number)
        if number % 20 == 19:
            assert _frozen(store, content, SIZE) == data
            _sweep(store)
    assert _frozen(store, content, SIZE) == data
    store.attachments.thaw(content)
    _sweep(store)
    assert store.check() == []
    assert store.tree.get(inode).stored == store.attachments.stored()


def test_a_small_file_that_is_deleted_reads_as_it_was(store: Store) -> None:
    data = os.urandom(5000)
    inode, content = _file(store, data)
    store.attachments.freeze(content)
    store.tree.unlink(ROOT_INODE, b"f", 3)
    store.tree.purge(inode)
    assert _frozen(store, content, len(data)) == data
    store.attachments.thaw(content)
    _sweep(store)
    assert store.check() == []


def test_a_file_that_is_emptied_or_deleted_reads_as_it_was(store: Store) -> None:
    data = os.urandom(SIZE)
    inode, content = _file(store, data)
    store.attachments.freeze(content)
    store.attachments.resize(inode, 0, 2)
    store.tree.unlink(ROOT_INODE, b"f", 3)
    store.tree.purge(inode)
    _sweep(store)
    assert _frozen(store, content, SIZE) == data
    store.attachments.thaw(content)
    _sweep(store)
    assert store.check() == []


def test_a_change_that_fails_spoils_nothing_that_is_frozen(store: Store) -> None:
    data = os.urandom(SIZE)
    inode, content = _file(store, data)
    store.attachments.freeze(content)

    def fail() -> None:
        with store.transaction():
            store.attachments.write(inode, [(0, b"x" * ROW)], SIZE, 2, 2)
            store.tree.lookup(ROOT_INODE, b"nobody")

    with pytest.raises(NotFound):
        fail()
    store.attachments.write(inode, [(5, b"y")], SIZE, 3, 3)
    assert _frozen(store, content, SIZE) == data


def test_what_was_put_by_goes_with_the_process(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", KEYS, device_name="one")
    inode, content = _file(store, os.urandom(SIZE))
    store.attachments.freeze(content)
    store.attachments.write(inode, [(0, os.urandom(EXTENT))], SIZE, 2, 2)
    store.close()
    again = Store.open(tmp_path / "store", KEYS)
    try:
        _sweep(again)
        assert again.check() == []
        assert again.tree.get(inode).stored == SIZE
    finally:
        again.close()


def test_a_dirty_extent_that_is_not_all_here_is_fetched_first(store: Store) -> None:
    made = store.tree.create(ROOT_INODE, b"f", Kind.FILE, mode=0o644, uid=1, gid=1, now_ns=1)
    store.attachments.adopt(made.inode, Attachment(EXTENT, (BlobId("ab" * 32),)))
    content = store.attachments.write(made.inode, [(0, b"x" * ROW)], EXTENT, 2, 2).content
    assert content is not None
    with pytest.raises(BytesAbsent) as caught:
        store.attachments.freeze(content)
    assert (caught.value.offset, caught.value.length) == (ROW, EXTENT - ROW)


def test_what_did_not_change_since_the_freeze_is_clean_once_it_is_sent(store: Store) -> None:
    data = os.urandom(SIZE)
    inode, content = _file(store, data)
    local = store.documents.local(store.tree.get(inode).doc_id)
    assert local is not None
    store.attachments.freeze(content)
    # The second extent gets other bytes, and the last one another length.
    store.attachments.write(inode, [(EXTENT + 9, b"other")], SIZE, 2, 2)
    store.attachments.resize(inode, SIZE + 5, 3)
    sealed = {index: (BlobId(f"{index:064x}"), extent_length(SIZE, index)) for index in range(extent_count(SIZE))}
    assert not store.attachments.settle(inode, local.edit, sealed, frozen_size=SIZE)
    store.attachments.thaw(content)
    dirty = [extent.dirty for extent in store.attachments.extents(content).values()]
    assert dirty == [False, True, True]
    assert not store.attachments.settle(inode, local.edit, sealed, frozen_size=SIZE)
    assert [extent.dirty for extent in store.attachments.extents(content).values()] == dirty
    assert store.check() == []
