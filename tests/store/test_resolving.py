"""The extents of a very large file become known in several transactions; what happens in between harms nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from blobfs.errors import BytesAbsent
from blobfs.store.store import Store
from blobfs.values.documents import DocId
from blobfs.values.extents import EXTENT, Attachment, BlobId, build
from blobfs.values.nodes import Content
from tests.store.conftest import Bench
from tests.store.test_documents import blob, remote, revision, sound


class Interrupted(dict[int, BlobId]):
    """What the index blobs name, of which something happens in the middle."""

    happens: Callable[[], None]

    def items(self) -> Any:
        for at, item in enumerate(super().items()):
            if at == len(self) // 2:
                self.happens()
            yield item


def unresolved(store: Store) -> tuple[Content, Attachment, Interrupted]:
    """A file of so many extents that they are made known in several transactions."""
    ids = Interrupted({index: blob(index + 1) for index in range(9000)})
    attachment = build(9000 * EXTENT, dict(ids), lambda plaintext: blob(1000 + plaintext[-1]))
    inode = store.documents.apply(remote("r1", attachment=attachment), revision(1), False, 50).inode
    number = store.tree.get(inode).content
    assert number is not None
    return number, attachment, ids


def test_a_crash_while_the_extents_of_a_large_file_are_made_known_leaves_it_as_unknown_as_before(
    bench: Bench, store: Store
) -> None:
    number, attachment, ids = unresolved(store)

    def crash() -> None:
        raise InterruptedError

    ids.happens = crash
    with pytest.raises(InterruptedError):
        store.attachments.resolve(number, ids)
    with pytest.raises(BytesAbsent):
        store.attachments.read(number, 0, 10)
    store = sound(bench, store)
    assert store.attachments.unresolved(number) == attachment
    store.attachments.resolve(number, dict(ids))
    assert store.attachments.unresolved(number) is None
    assert len(store.attachments.extents(number)) == 9000
    assert list(store.attachments.extents(number, 2047, 2049)) == [2047, 2048, 2049]
    sound(bench, store)


def test_a_large_file_that_is_emptied_while_its_extents_are_made_known_leaves_none_of_them(
    bench: Bench, store: Store
) -> None:
    number, _, ids = unresolved(store)

    def empty() -> None:
        inode = store.documents.inode(DocId("r1"))
        assert inode is not None
        store.attachments.resize(inode, 0, 60)
        while store._content.sweep():
            pass

    ids.happens = empty
    store.attachments.resolve(number, ids)
    store.tick()
    assert store.attachments.extents(number) == {}
    sound(bench, store)
