"""Worker threads beside the thread of the loop: no deadlock, no half of a transaction seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from blobfs.errors import BytesAbsent
from blobfs.store.store import Store
from blobfs.values.extents import EXTENT, ROW, BlobId
from tests.store.conftest import Bench, content, make, write


def test_workers_and_the_loop_never_see_half_of_a_transaction(bench: Bench, store: Store) -> None:
    """One file is written as a whole with one byte, another is settled, evicted and kept again, all at once."""
    written = make(store, b"written", data=bytes(8 * ROW))
    fetched = make(store, b"fetched", data=b"f" * EXTENT)
    assert fetched.content is not None
    blob_id = BlobId("ab" * 32)
    local = store.documents.local(fetched.doc_id)
    assert local is not None
    assert store.attachments.settle(fetched.inode, local.edit, {0: (blob_id, EXTENT)})
    end = threading.Event()
    failures: list[BaseException] = []

    def repeat(action: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                while not end.is_set():
                    action()
            except BaseException as error:
                failures.append(error)

        return run

    def read_extent() -> None:
        node = store.tree.get(written.inode)
        assert node.content is not None
        data = store.attachments.read_extent(node.content, 0, node.size)
        assert data == data[:1] * len(data)

    def read_beside() -> None:
        node = store.tree.get(written.inode)
        assert node.content is not None
        data = store.attachments.read_beside(node.content, 0, node.size)
        assert data == data[:1] * len(data)

    def read_fetched_beside() -> None:
        with suppress(BytesAbsent):
            data = store.attachments.read_beside(fetched.content, 0, EXTENT)  # type: ignore[arg-type]
            assert data == b"f" * EXTENT

    def read_fetched() -> None:
        try:
            assert store.attachments.read_extent(fetched.content, 0, EXTENT) == b"f" * EXTENT  # type: ignore[arg-type]
        except BytesAbsent:
            store.attachments.keep(fetched.content, 0, blob_id, 0, b"f" * EXTENT)  # type: ignore[arg-type]

    def evict() -> None:
        store.attachments.evict(fetched.content, [0])  # type: ignore[arg-type]

    actions = [
        read_extent,
        read_beside,
        read_beside,
        read_fetched,
        read_fetched_beside,
        evict,
        store.tick,
        store._ledger.commit,
        store.sync,
        store._ledger.commit,
    ]
    threads = [threading.Thread(target=repeat(action)) for action in actions]
    for thread in threads:
        thread.start()
    try:
        until = time.monotonic() + 2
        round_number = 0
        while time.monotonic() < until and not failures:
            round_number += 1
            with store.transaction():
                write(store, written.inode, 0, b"?" * ROW)
                write(store, written.inode, 0, bytes([round_number % 256]) * 8 * ROW)
    finally:
        end.set()
        for thread in threads:
            thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
    assert store.check() == []
    last = content(store, written.inode)
    assert content(bench.crash(store), written.inode) == last


def test_a_worker_gives_way_only_to_a_main_thread_that_waited_and_never_with_the_lock_held(store: Store) -> None:
    turns = store._ledger._turns
    found: list[bool] = []

    def work() -> None:
        found.append(turns.may_rest())
        with store._ledger.lock:
            found.append(turns.may_rest())
        with store.transaction():
            found.append(turns.may_rest())

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert found == [True, False, False]
    assert not turns.may_rest()
