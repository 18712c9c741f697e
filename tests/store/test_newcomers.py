"""Documents that this device has never heard of: what is found of a page of them at once, and what they become."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blobfs.errors import CorruptDocument, Exists
from blobfs.store.store import Store
from blobfs.values.documents import ROOT, DocId, Document, Kind, Name
from blobfs.values.extents import EXTENT, Attachment
from blobfs.values.nodes import ROOT_INODE
from tests.store.conftest import make
from tests.store.test_documents import DEVICE, blob, directory, remote, revision

KINDS = [
    remote("file", attachment=Attachment(EXTENT + 1, (blob(1), blob(2)))),
    remote("hole", attachment=Attachment(2 * EXTENT, (None, blob(2)))),
    remote("empty"),
    remote("bare", attachment=None, content={"a": [1, "x"]}),
    remote("linked", names=(Name(ROOT, b"one"), Name(ROOT, b"two"))),
    remote("nowhere", names=()),
    directory("folder", b"folder"),
    remote("link", kind=Kind.SYMLINK, attachment=None, target=b"there"),
    remote("device", kind=Kind.BLOCK, attachment=None, rdev=0x801),
    remote("labelled", xattrs={b"user.b": b"2", b"user.a": b"1"}, mode=0o640, uid=7, gid=8, mtime_ns=9, birth_ns=5),
]


@pytest.mark.parametrize("document", KINDS, ids=lambda document: document.doc_id)
def test_a_new_document_is_as_its_second_revision_leaves_it(store: Store, document: Document) -> None:
    # The second one is applied the long way: compared with what is here, and changed where it differs.
    documents, tree = store.documents, store.tree
    applied = documents.apply(document, revision(1), False, 100)
    first, node, root = documents.local(document.doc_id), tree.get(applied.inode), tree.get(ROOT_INODE)
    assert first is not None
    assert first.document == document
    assert (first.edit, first.synced, first.content_dirty, first.content_changed) == (1, 1, False, False)
    assert (applied.before, applied.names_before) == (None, ())
    assert applied.names_after == tuple(tree.names(applied.inode))
    assert applied.content_changed == (document.attachment is not None)
    assert documents.heads() == {DEVICE: 1}

    documents.apply(document, revision(2), False, 100)
    second = documents.local(document.doc_id)
    assert second is not None
    assert replace(second, base=first.base) == first
    assert (tree.get(applied.inode), tree.get(ROOT_INODE)) == (node, root)
    assert documents.heads() == {DEVICE: 2}
    assert documents.pending() == (0, 0)


def test_a_new_document_without_room_for_its_name_leaves_nothing(store: Store) -> None:
    taken = make(store, b"taken")
    for document, error in (
        (remote("late", b"taken"), Exists),
        (remote("inside", b"x", taken.doc_id), CorruptDocument),
    ):
        with pytest.raises(error):
            store.documents.apply(document, revision(1), False, 100)
        assert store.documents.strangers([document.doc_id]) == {document.doc_id}
    assert store.documents.heads() == {}


def test_a_stranger_is_who_has_neither_a_row_nor_a_base_nor_a_child(store: Store) -> None:
    here = make(store, b"here")
    store.documents.apply(remote("child", b"c", "parent"), revision(1), False, 100)
    store.documents.apply(remote("gone", b"g"), revision(1), True, 100)
    wanted = [here.doc_id, *map(DocId, ("child", "parent", "gone", "new", "other"))]
    assert store.documents.strangers(wanted) == {"new", "other"}
    assert store.documents.strangers([]) == set()


def test_names_are_free_that_nobody_has_whether_or_not_their_directory_is_known(store: Store) -> None:
    make(store, b"taken")
    store.documents.apply(directory("folder", b"folder"), revision(1), False, 100)
    store.documents.apply(remote("in", b"in", "folder"), revision(1), False, 100)
    store.documents.apply(remote("orphan", b"o", "unseen"), revision(1), False, 100)
    taken = [Name(ROOT, b"taken"), Name(DocId("folder"), b"in"), Name(DocId("unseen"), b"o"), Name(ROOT, b"folder")]
    free = [Name(ROOT, b"number %d" % number) for number in range(250)]
    free += [Name(DocId("folder"), b"taken"), Name(DocId("unknown"), b"in"), Name(ROOT, b"\xff'")]
    assert store.documents.free([*free, *taken]) == set(free)
    assert store.documents.free([]) == set()


def test_the_place_of_a_document_is_what_it_is_and_every_name_of_it(store: Store) -> None:
    documents = store.documents
    documents.apply(directory("folder", b"folder"), revision(1), False, 100)
    names = (Name(DocId("folder"), b"z"), Name(ROOT, b"a"))
    documents.apply(remote("linked", names=names), revision(1), False, 100)
    documents.apply(remote("orphan", b"o", "unseen"), revision(1), False, 100)
    documents.apply(remote("gone", b"g"), revision(1), True, 100)
    assert documents.place(DocId("folder")) == (Kind.DIRECTORY, (Name(ROOT, b"folder"),))
    assert documents.place(DocId("linked")) == (Kind.FILE, tuple(sorted(names)))
    assert documents.place(ROOT) == (Kind.DIRECTORY, ())
    for unknown in ("unseen", "gone", "never"):
        assert documents.place(DocId(unknown)) is None
