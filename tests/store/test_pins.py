"""Pins, and the survey of what is below a directory."""

from __future__ import annotations

import pytest

from blobfs.store.store import Store
from blobfs.store.survey import absent_bytes
from blobfs.values.documents import Kind
from blobfs.values.extents import ALL_ROWS, EXTENT, ROW
from blobfs.values.nodes import ROOT_INODE
from tests.store.conftest import Bench, make
from tests.store.test_documents import send


def test_a_pinned_directory_covers_what_is_in_it_and_what_is_moved_out_no_more(store: Store) -> None:
    outer = make(store, b"outer", Kind.DIRECTORY)
    inner = make(store, b"inner", Kind.DIRECTORY, outer.inode)
    node = make(store, b"f", parent=inner.inode, data=b"x")
    assert not store.pins.covers(node.inode)
    store.pins.add(outer.doc_id)
    assert store.pins.covers(node.inode)
    assert node.content is not None
    assert store.pins.covers_content(node.content)
    assert store.pins.files() == [(node.content, 1)]
    store.tree.rename(inner.inode, b"f", ROOT_INODE, b"f", 30)
    assert not store.pins.covers(node.inode)
    assert store.pins.files() == []


def test_a_pin_survives_a_crash_and_an_editors_save(bench: Bench, store: Store) -> None:
    node = make(store, b"letter", data=b"old")
    send(store, node.doc_id)
    store.pins.add(node.doc_id)
    store.pins.add(node.doc_id)
    saved = make(store, b"letter~", data=b"new")
    store.tree.rename(ROOT_INODE, b"letter~", ROOT_INODE, b"letter", 30)
    store = bench.crash(store)
    assert store.pins.covers(store.tree.lookup(ROOT_INODE, b"letter").inode)
    assert store.tree.get(saved.inode).doc_id == node.doc_id
    assert store.pins.remove(node.doc_id)
    assert not store.pins.remove(node.doc_id)
    assert store.pins.all() == []


def test_the_survey_finds_every_name_below(store: Store) -> None:
    directory = make(store, b"d", Kind.DIRECTORY)
    node = make(store, b"\xff", parent=directory.inode, data=b"abc")
    store.tree.link(node.inode, directory.inode, b"again", 30)
    make(store, b"outside")
    found = store.survey.below(directory.inode)
    assert [entry.path for entry in found] == [b"", b"/again", b"/\xff"]
    assert {entry.inode for entry in found[1:]} == {node.inode}
    assert found[1].waits
    send(store, node.doc_id)
    assert not store.survey.below(node.inode)[0].waits


def test_the_survey_tells_what_is_not_here(store: Store) -> None:
    node = make(store, b"f", data=b"x" * (ROW + 5))
    assert store.survey.absent() == {}
    assert store.survey.sent() == []
    send(store, node.doc_id)
    assert node.content is not None
    store.attachments.evict(node.content, [0])
    assert store.survey.absent() == {node.content: ROW + 5}
    assert [found.whole for found in store.survey.sent()] == [False]


@pytest.mark.parametrize(
    ("length", "present", "absent"),
    [(EXTENT, 0, EXTENT), (EXTENT, ALL_ROWS, 0), (ROW + 5, 1, 5), (ROW + 5, 2, ROW), (5, 0, 5), (5, ~1 & ALL_ROWS, 5)],
)
def test_absent_bytes_of_an_extent(length: int, present: int, absent: int) -> None:
    assert absent_bytes(length, present) == absent
