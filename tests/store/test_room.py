"""Whatever the tree lets a file become, its document can be sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pytest

from blobfs.errors import DocumentFull, FileError, TooManyLinks
from blobfs.store.store import Store
from blobfs.values import crypto
from blobfs.values.documents import MAX_CONTENT, MAX_XATTR, MAX_XATTRS
from blobfs.values.nodes import ROOT_INODE, Node
from blobfs.values.revisions import Revision
from tests.store.conftest import KEYS, make


def seal(store: Store, node: Node) -> bytes:
    """The document as it would be sent; raises when it cannot be."""
    local = store.documents.local(node.doc_id)
    assert local is not None
    return crypto.seal_document(KEYS, local.document, Revision.of({store.device: 1}))


def refused_after(kind: type[FileError], calls: Iterable[Callable[[int], object]]) -> int:
    """How many of the calls were obeyed before one was refused with an error of this kind."""
    for count, call in enumerate(calls):
        try:
            call(1)
        except kind:
            return count
    raise AssertionError("none was refused")


def test_the_longest_names_are_refused_before_their_document_is_too_large(store: Store) -> None:
    node = make(store, b"a")
    store.documents.edit(node.doc_id, 1, content={"": "x" * (MAX_CONTENT - 10)})
    names = (bytes((0x80 + number % 100, 0x80 + number // 100)) + b"\xff" * 253 for number in range(1000))
    count = 1 + refused_after(TooManyLinks, (partial(store.tree.link, node.inode, ROOT_INODE, name) for name in names))
    assert 100 < count < 1000
    seal(store, store.tree.get(node.inode))
    assert store.tree.get(node.inode).nlink == count


def test_a_thousand_plain_names_fit_with_all_else_at_its_limit(store: Store) -> None:
    node = make(store, b"a")
    for number in range(999):
        store.tree.link(node.inode, ROOT_INODE, b"%0100d" % number, 1)
    with pytest.raises(TooManyLinks):
        store.tree.link(node.inode, ROOT_INODE, b"one more", 1)
    store.documents.edit(node.doc_id, 1, content={"": "x" * (MAX_CONTENT - 10)})
    seal(store, store.tree.get(node.inode))


def test_a_name_of_many_that_grows_too_long_is_refused(store: Store) -> None:
    node = make(store, b"a")
    for number in range(999):
        store.tree.link(node.inode, ROOT_INODE, b"%0200d" % number, 1)
    renames = (
        partial(store.tree.rename, ROOT_INODE, b"%0200d" % number, ROOT_INODE, b"\xff" * 250 + b"%d" % number)
        for number in range(999)
    )
    assert refused_after(DocumentFull, renames) > 10
    seal(store, store.tree.get(node.inode))


@pytest.mark.parametrize(("name", "value"), [(b"", b"v" * (MAX_XATTR - 300)), (b"\xff" * 240, b"")])
def test_attributes_are_refused_before_their_document_is_too_large(store: Store, name: bytes, value: bytes) -> None:
    node = make(store, b"a")
    store.documents.edit(node.doc_id, 1, content={"": "x" * (MAX_CONTENT - 10)})
    names = (b"user.%d" % number + name for number in range(2000))
    assert refused_after(DocumentFull, (partial(store.tree.set_xattr, node.inode, key, value) for key in names)) > 2
    seal(store, node)
    assert sum(len(key) for key in store.tree.list_xattrs(node.inode)) < MAX_XATTRS
    store.tree.remove_xattr(node.inode, b"user.0" + name, 1)
    store.tree.set_xattr(node.inode, b"user.0" + name, value, 1)
