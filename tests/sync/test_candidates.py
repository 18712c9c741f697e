"""What was put aside: when it is tried again, and when it is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.errors import IntegrityError
from blobfs.store.store import Store
from blobfs.sync.candidates import Candidates, Timing
from blobfs.values.documents import Kind
from blobfs.values.keys import AccountId, derive_keys
from blobfs.values.nodes import ROOT_INODE


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.create(tmp_path / "store", derive_keys(AccountId("ab" * 16), b"k" * 32), device_name="bench")
    made.tree.create(ROOT_INODE, b"f", Kind.FILE, mode=0o600, uid=1, gid=2, now_ns=10)
    yield made
    made.close()


def _aside(store: Store) -> Candidates:
    """All that waits was put aside."""
    candidates = Candidates(store, Timing(0.0, 0.0), lambda inode: False)
    for outgoing in candidates.look((), hurry=True).ready:
        candidates.park(outgoing, IntegrityError("the server does not take it"))
    assert candidates.parked
    return candidates


def test_a_document_that_was_put_aside_is_tried_again_though_nothing_else_happens(store: Store) -> None:
    look = _aside(store).look((), hurry=False)
    assert look.ready == []
    assert look.next_s is not None
    assert 0 < look.next_s <= 300


def test_a_file_that_was_put_aside_and_deleted_is_not_shown_for_ever(store: Store) -> None:
    candidates = _aside(store)
    node = store.tree.unlink(ROOT_INODE, b"f", 20)
    if node.deleted:
        store.tree.purge(node.inode)
    candidates.look((), hurry=False)
    assert candidates.parked == {}
