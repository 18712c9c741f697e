"""Large reads beside the ledger: they wait for no writer, and see whatever was acknowledged."""

from __future__ import annotations

import os
import threading

import pytest

from blobfs.errors import BytesAbsent
from blobfs.store.store import Store
from blobfs.values.extents import EXTENT, ROW, BlobId
from blobfs.values.nodes import Content, Inode
from tests.store.conftest import Bench, make, write

BLOB = BlobId("ab" * 32)
BYTES = os.urandom(EXTENT)


def content_of(store: Store, inode: Inode) -> Content:
    number = store.tree.get(inode).content
    assert number is not None
    return number


def test_a_large_read_ends_while_a_transaction_is_open(bench: Bench) -> None:
    store = bench.create()
    inode = make(store, b"f").inode
    write(store, inode, 0, BYTES)
    store._ledger.commit()
    content, found = content_of(store, inode), list[bytes]()

    def read() -> None:
        found.append(store.attachments.read_beside(content, 0, EXTENT))

    with store.transaction():
        other = make(store, b"other").inode
        thread = threading.Thread(target=read)
        thread.start()
        thread.join(30)
        assert found == [BYTES]
        assert store.tree.get(other).size == 0


@pytest.mark.parametrize("offset", [0, ROW - 7, 3 * ROW + 5])
def test_what_is_not_committed_yet_is_seen(bench: Bench, offset: int) -> None:
    store = bench.create()
    inode = make(store, b"f").inode
    write(store, inode, 0, BYTES)
    write(store, inode, offset, b"small")
    wanted = BYTES[:offset] + b"small" + BYTES[offset + 5 :]
    assert store.attachments.read_beside(content_of(store, inode), 0, EXTENT) == wanted
    write(store, inode, EXTENT, BYTES)  # enough for a commit
    assert store.attachments.read_beside(content_of(store, inode), 0, 2 * EXTENT) == wanted + BYTES
    store.attachments.resize(inode, offset, 5)
    store.attachments.resize(inode, EXTENT, 6)
    wanted = BYTES[:offset].ljust(EXTENT, b"\0")
    assert store.attachments.read_beside(content_of(store, inode), 0, EXTENT) == wanted


def test_rows_that_were_evicted_are_absent(bench: Bench) -> None:
    store = bench.create()
    node = make(store, b"f")
    write(store, node.inode, 0, BYTES)
    content = content_of(store, node.inode)
    local = store.documents.local(node.doc_id)
    assert local is not None
    store.attachments.evict(content, [0])  # what the server lacks stays
    assert store.attachments.read_beside(content, 0, EXTENT) == BYTES
    assert store.attachments.settle(node.inode, local.edit, {0: (BLOB, EXTENT)})
    store.attachments.evict(content, [0])
    store._ledger.commit()
    with pytest.raises(BytesAbsent):
        store.attachments.read_beside(content, 0, EXTENT)
    store.attachments.keep(content, 0, BLOB, 0, BYTES)
    assert store.attachments.read_beside(content, 0, EXTENT) == BYTES
