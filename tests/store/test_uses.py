"""Which bytes go first when the cache is full."""

from __future__ import annotations

from blobfs.store.store import Store
from blobfs.store.uses import FIRST
from blobfs.values.extents import EXTENT
from blobfs.values.nodes import ROOT_INODE, Content
from tests.store.conftest import Bench, make, write
from tests.store.test_documents import send


def _sent(store: Store, name: bytes, blob: int) -> Content:
    node = make(store, name, data=name * 100)
    send(store, node.doc_id, 1, blob)
    assert node.content is not None
    return node.content


def _order(store: Store) -> list[Content]:
    return [use.content for use in store.attachments.uses.oldest(100, FIRST)]


def test_what_was_sent_or_opened_last_goes_last(bench: Bench, store: Store) -> None:
    first, second, third = (_sent(store, name, at) for at, name in enumerate((b"first", b"second", b"third"), 1))
    assert _order(store) == [first, second, third]
    store.attachments.uses.note(first)
    store.attachments.uses.tell()
    assert _order(store) == [second, third, first]
    node = store.tree.lookup(ROOT_INODE, b"second")
    write(store, node.inode, 0, b"edited")
    assert _order(store) == [third, first]  # the server does not have it
    send(store, node.doc_id, 2, 4)
    assert _order(store) == [third, first, second]
    store = bench.crash(store)
    fourth = _sent(store, b"fourth", 5)
    assert _order(store) == [third, first, second, fourth]


def test_what_was_used_while_a_clock_was_wrong_is_not_the_newest_for_ever(bench: Bench, store: Store) -> None:
    """Earlier versions kept the time there."""
    first = _sent(store, b"first", 1)
    with store.transaction():
        store._ledger.blobs.run("UPDATE extents SET used = 4000000000", ())
    store = bench.crash(store)
    second = _sent(store, b"second", 2)
    assert _order(store) == [first, second]


def test_all_that_may_go_is_found_a_few_at_a_time_though_nothing_goes(store: Store) -> None:
    node = make(store, b"f", data=b"x")
    for index in range(1, 8):
        write(store, node.inode, index * EXTENT, b"x")
    send(store, node.doc_id)
    last, found = FIRST, list[int]()
    while some := store.attachments.uses.oldest(3, last):
        assert len(some) <= 3
        found += [use.extent for use in some]
        last = some[-1]
    assert found == list(range(8))
