"""The hidden directory: documents that no listing and no query of programs shows."""

from __future__ import annotations

import pytest

from blobfs.errors import NotADirectory
from blobfs.store.store import Store
from blobfs.values.documents import DocId, Kind
from blobfs.values.nodes import ROOT_INODE
from tests.store.conftest import make


def test_a_hidden_directory_is_made_once_with_all_that_leads_to_it(store: Store) -> None:
    assert store.hidden.find(b"devices") is None
    made = store.hidden.directory(b"blobs", b"inbox")
    assert made.kind is Kind.DIRECTORY
    assert store.hidden.directory(b"blobs", b"inbox") == made
    assert store.hidden.find(b"blobs", b"inbox") == made


def test_a_file_where_a_hidden_directory_should_be_is_named(store: Store) -> None:
    make(store, b"devices", parent=store.hidden.directory().inode)
    with pytest.raises(NotADirectory, match="delete it by its id"):
        store.hidden.directory(b"devices")
    assert store.hidden.find(b"devices", b"a") is None


def test_neither_walks_nor_queries_find_what_is_hidden(store: Store) -> None:
    store.queries.create("by-n", ["n"])
    kept, shown = make(store, b"a", parent=store.hidden.directory(b"blobs").inode), make(store, b"b")
    for node in (kept, shown):
        store.documents.edit(node.doc_id, 9, content={"n": 1})
    assert store.queries.ids(None, 10) == [shown.doc_id]
    assert store.queries.find("by-n", [1]) == [shown.doc_id]
    assert store.queries.keys("by-n") == [(1,)]
    assert [found.path for found in store.survey.below(ROOT_INODE)] == [b"", b"/b"]
    hidden = store.hidden.directory(b"blobs")
    assert [found.path for found in store.survey.below(hidden.inode)] == [b"", b"/a"]


def test_what_is_hidden_is_known_by_its_place(store: Store) -> None:
    directory = store.hidden.directory(b"blobs")
    kept, shown = make(store, b"a", parent=directory.inode), make(store, b"b")
    nowhere = store.documents.create(DocId("nowhere"), {}, 5, uid=0, gid=0)
    assert [store.hidden.contains(node.inode) for node in (directory, kept, shown, nowhere)] == [
        True,
        True,
        False,
        False,
    ]
    store.tree.rename(directory.inode, b"a", ROOT_INODE, b"a", 30)
    assert not store.hidden.contains(kept.inode)
