"""What `check` finds and how far it says it is, however the rows are divided."""

from __future__ import annotations

import os

import pytest

from blobfs.store import mending
from blobfs.store.schema import ROW_BITS
from blobfs.store.store import Store
from blobfs.values.documents import ROOT, DocId, Document, Kind, Name
from blobfs.values.extents import ROW
from blobfs.values.nodes import ROOT_INODE
from blobfs.values.revisions import Revision
from tests.store.conftest import Bench, make


@pytest.mark.parametrize("slice_bytes", [1, ROW, 1 << 40])
def test_every_row_is_looked_at_whatever_is_looked_up_at_once_and_the_way_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, slice_bytes: int
) -> None:
    monkeypatch.setattr(mending, "_SLICE", slice_bytes)
    sizes = (10, 3 * ROW, 0, ROW + 1)
    nodes = [make(store, b"%d" % number, data=os.urandom(size)) for number, size in enumerate(sizes)]
    told: list[tuple[int, int]] = []
    assert store.check(lambda done, total: told.append((done, total))) == []
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (sum(sizes), sum(sizes))
    contents = [node.content for node in nodes if node.content is not None]
    astray = [min(contents) - 1, max(contents) + 1]
    with store.transaction():
        for content in astray:
            store._ledger.blobs.run("INSERT INTO rows VALUES (?, ?)", (content << ROW_BITS, b"astray"))
    found = store.check()
    for content in astray:
        assert f"row 0 of content {content} is in no extent" in found


def test_attributes_of_what_was_held_while_its_deletion_was_sent_pass_to_no_other_file(
    bench: Bench, store: Store
) -> None:
    document = Document(DocId("d"), Kind.DIRECTORY, (Name(ROOT, b"d"),))
    gone = store.documents.apply(document, Revision.parse(f"{'d' * 16}:1"), False, 50).inode
    store.tree.set_xattr(gone, b"user.secret", b"1", 60)
    store.tree.rmdir(ROOT_INODE, b"d", 60)
    local = store.documents.local(DocId("d"))
    assert local is not None
    store.documents.record_synced(DocId("d"), local.edit, Revision.parse(f"{'d' * 16}:2"), local.document, True)
    store.tree.purge(gone)
    assert store.check() == []
    store = bench.crash(store)
    other = make(store, b"other")
    assert other.inode == gone
    assert store.tree.list_xattrs(other.inode) == []
