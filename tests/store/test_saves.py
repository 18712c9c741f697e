"""An editor's save: a file is written anew and renamed over the old one, whose document it becomes."""

from __future__ import annotations

from blobfs.store.store import Store
from blobfs.values.extents import Attachment
from blobfs.values.nodes import ROOT_INODE, Inode
from tests.store.conftest import Bench, content, make
from tests.store.test_documents import blob, changed, revision, send, sound


def save(store: Store, data: bytes) -> Inode:
    node = make(store, b".f.tmp", data=data)
    replaced = store.tree.rename(ROOT_INODE, b".f.tmp", ROOT_INODE, b"f", 60)
    assert replaced is not None
    assert replaced.deleted
    return node.inode


def test_an_editors_save_is_a_revision_of_the_document(bench: Bench, store: Store) -> None:
    node = make(store, b"f", data=b"old")
    send(store, node.doc_id)
    inode = save(store, b"newer")
    assert store.tree.get(inode).doc_id == node.doc_id
    assert changed(store) == [node.doc_id]
    store = sound(bench, store)
    assert content(store, store.tree.lookup(ROOT_INODE, b"f").inode) == b"newer"
    sent = send(store, node.doc_id, 2, 7)
    assert sent.attachment == Attachment(5, (blob(7),))
    assert changed(store) == []


def test_a_save_leaves_the_name_where_it_was_in_the_directory(bench: Bench, store: Store) -> None:
    """Or whoever saves each file as they list a directory would meet it again, behind those that come after it."""
    for name in (b"e", b"f", b"g"):
        make(store, name)
    inode = save(store, b"newer")
    for _ in range(2):
        entries = store.tree.entries(ROOT_INODE, 0, 9)
        assert [entry.name for entry in entries] == [b"e", b"f", b"g"]
        assert entries[1].node.inode == inode
        assert store.tree.newest_cookie() >= entries[2].cookie
        store = bench.crash(store)


def test_a_save_while_the_old_version_is_on_its_way_is_sent_too(store: Store) -> None:
    """The send of the old file confirmed its edit number, which the new file had not reached: it was never sent."""
    node = make(store, b"f", data=b"old")
    send(store, node.doc_id)
    for number in range(20):
        store.tree.update(node.inode, 40 + number, mode=0o600)
    local = store.documents.local(node.doc_id)
    assert local is not None
    save(store, b"newer")
    store.documents.record_synced(node.doc_id, local.edit, revision(2), local.document, False)
    assert changed(store) == [node.doc_id]


def test_a_save_of_a_file_on_its_way_is_deleted_there_under_its_first_id(store: Store) -> None:
    node = make(store, b"f", data=b"old")
    send(store, node.doc_id)
    new = make(store, b".f.tmp", data=b"newer")
    for number in range(20):
        store.tree.update(new.inode, 40 + number, mode=0o600)
    local = store.documents.local(new.doc_id)
    assert local is not None
    store.tree.rename(ROOT_INODE, b".f.tmp", ROOT_INODE, b"f", 60)
    store.documents.record_synced(new.doc_id, local.edit, revision(1), local.document, False)
    assert sorted(changed(store)) == sorted([node.doc_id, new.doc_id])


def test_a_save_over_one_of_two_names_makes_a_new_document(store: Store) -> None:
    node = make(store, b"f", data=b"old")
    store.tree.link(node.inode, ROOT_INODE, b"g", 30)
    send(store, node.doc_id)
    new = make(store, b".f.tmp", data=b"newer")
    replaced = store.tree.rename(ROOT_INODE, b".f.tmp", ROOT_INODE, b"f", 60)
    assert replaced is not None
    assert (replaced.nlink, replaced.deleted) == (1, False)
    assert store.tree.get(new.inode).doc_id == new.doc_id
    assert store.tree.lookup(ROOT_INODE, b"g").doc_id == node.doc_id
    assert store.check() == []
