"""What is remembered of where rows lie: no read is answered from before a change, whoever made it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from blobfs.errors import BytesAbsent, NoSpace, NotFound
from blobfs.store import places, staging
from blobfs.store.store import Store
from blobfs.values.extents import EXTENT, ROW, Attachment, BlobId
from blobfs.values.nodes import ROOT_INODE, Content, Inode, Node
from tests.store.conftest import Bench, content, make, write

PAGE = 4096
SIZE = EXTENT + 3 * ROW + 777
BLOBS = (BlobId("ab" * 32), BlobId("cd" * 32))
OTHER = BlobId("ef" * 32)


class File:
    """A file of which every page was read before, and what must be read of it now."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.data = os.urandom(SIZE)
        self.inode: Inode = make(store, b"f", data=self.data).inode

    @property
    def node(self) -> Node:
        return self.store.tree.get(self.inode)

    @property
    def content(self) -> Content:
        number = self.node.content
        assert number is not None
        return number

    def read(self, offset: int, length: int = PAGE) -> bytes:
        """A few bytes, as a random reader has them."""
        return self.store.attachments.read(self.content, offset, min(length, self.node.size - offset))

    def read_all(self) -> bytes:
        """By pages."""
        return b"".join(self.read(offset) for offset in range(0, self.node.size, PAGE))

    def write(self, offset: int, piece: bytes) -> None:
        """Overwrite."""
        write(self.store, self.inode, offset, piece)
        self.data = self.data[:offset] + piece + self.data[offset + len(piece) :]

    def seal(self) -> None:
        """The server has it."""
        local = self.store.documents.local(self.node.doc_id)
        assert local is not None
        lengths = ((BLOBS[0], EXTENT), (BLOBS[1], SIZE - EXTENT))
        assert self.store.attachments.settle(self.inode, local.edit, dict(enumerate(lengths)))


@pytest.fixture(params=["staged", "settled", "unstaged"])
def file(request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch) -> File:
    """In the spool; in the database, with small writes to the spool; or all of it in the database."""
    monkeypatch.setattr(staging, "LEAST", 1 << 60 if request.param == "unstaged" else 1)
    file = File(store)
    if request.param == "settled":
        store._settler.settle_all()
    for _ in range(2):
        assert file.read_all() == file.data
    return file


def test_what_is_read_again_needs_no_query(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a query")

    monkeypatch.setattr(file.store._ledger, "peek", refuse)
    monkeypatch.setattr(file.store._ledger, "peek_all", refuse)
    assert file.read_all() == file.data


def test_a_write_is_read(file: File) -> None:
    for length in (1, PAGE, ROW + 5, 3 * ROW):
        for offset in (ROW - 1, EXTENT - 50):
            file.write(offset, os.urandom(length))
            assert file.read_all() == file.data


def test_a_write_within_a_transaction_is_read_in_it_and_is_gone_with_it(file: File) -> None:
    def spoil() -> None:
        with file.store.transaction():
            write(file.store, file.inode, ROW, b"new" * 100)
            for _ in range(places.VISITS):
                assert file.read(ROW, 3) == b"new"
            raise NotFound("it ends here")

    def cut() -> None:
        with file.store.transaction():
            file.store.attachments.resize(file.inode, 2 * ROW, 5)
            file.store.attachments.resize(file.inode, SIZE, 5)
            assert file.read(2 * ROW) == bytes(PAGE)
            raise NotFound("it ends here")

    for action in (spoil, cut):
        with pytest.raises(NotFound):
            action()
        assert file.read_all() == file.data


def test_a_transaction_that_a_full_disk_ended_is_read_nowhere(file: File) -> None:
    file.store._ledger.commit()

    def spoil() -> None:
        with file.store.transaction():
            write(file.store, file.inode, ROW, b"new" * ROW)
            for _ in range(places.VISITS):
                assert file.read(ROW, 3) == b"new"
            file.store._ledger.blobs.failed = True  # as when SQLite took back the batch

    with pytest.raises(NoSpace):
        spoil()
    assert file.read_all() == file.data


def test_what_a_full_disk_took_back_is_run_again_and_read(file: File) -> None:
    file.write(ROW, b"new" * 100)
    assert file.read_all() == file.data
    with file.store._ledger.lock:
        file.store._ledger._catch_up()
    assert file.read_all() == file.data


def test_what_was_cut_off_is_zeros_when_the_file_grows_again(file: File) -> None:
    for size in (EXTENT + 5, EXTENT, 2 * ROW + 100, ROW, 5, 0):
        file.store.attachments.resize(file.inode, size, 5)
        assert file.read_all() == file.data[:size]
        file.data = file.data[:size].ljust(SIZE + ROW, b"\0")
        file.store.attachments.resize(file.inode, SIZE + ROW, 6)
        assert file.read_all() == file.data


def test_settling_shows_nowhere(file: File) -> None:
    file.write(ROW + 5, os.urandom(3 * PAGE))
    for row in (1, 0, 2, 33):
        assert file.read_all() == file.data
        with file.store.transaction():
            file.store._ledger.staging.settle(file.content << 27 | row)
    file.store._settler.settle_all()
    assert file.read_all() == file.data
    file.store._ledger.commit()
    assert file.read_all() == file.data


def test_what_was_evicted_is_absent_until_it_is_fetched(file: File) -> None:
    file.seal()
    assert file.read_all() == file.data
    assert file.store.attachments.evict(file.content, [0]) == EXTENT
    for offset in (0, ROW + 5, EXTENT - PAGE):
        with pytest.raises(BytesAbsent) as absent:
            file.read(offset)
        assert (absent.value.offset, absent.value.length) == (offset - offset % ROW, ROW)
    assert file.read(EXTENT) == file.data[EXTENT : EXTENT + PAGE]
    file.store.attachments.keep(file.content, 0, BLOBS[0], 2, file.data[2 * ROW : 4 * ROW])
    assert file.read(3 * ROW) == file.data[3 * ROW : 3 * ROW + PAGE]
    with pytest.raises(BytesAbsent):
        file.read(ROW)
    file.store.attachments.keep(file.content, 0, BLOBS[0], 0, file.data[:EXTENT])
    assert file.read_all() == file.data


def test_a_remote_version_takes_the_rows_that_are_the_same_along(file: File) -> None:
    file.seal()
    assert file.read_all() == file.data
    old = file.content
    attachment = Attachment(SIZE, (BLOBS[0], OTHER))
    with file.store.transaction():
        file.store.attachments.adopt(file.inode, attachment)
    assert file.content != old
    assert b"".join(file.read(offset) for offset in range(0, EXTENT, PAGE)) == file.data[:EXTENT]
    with pytest.raises(BytesAbsent):
        file.read(EXTENT)
    with pytest.raises(BytesAbsent):  # they went
        file.store.attachments.read(old, 0, PAGE)


def test_a_version_whose_index_is_not_here_is_absent_and_no_hole(file: File) -> None:
    attachment = Attachment(SIZE, (OTHER,), depth=1)
    with file.store.transaction():
        file.store.attachments.adopt(file.inode, attachment)
    with pytest.raises(BytesAbsent):
        file.read(0)
    file.store.attachments.resolve(file.content, dict(enumerate(BLOBS)))
    with pytest.raises(BytesAbsent):
        file.read(0)
    file.store.attachments.keep(file.content, 0, BLOBS[0], 0, file.data[:ROW])
    assert file.read(0) == file.data[:PAGE]


def test_what_was_swept_is_gone(file: File) -> None:
    number = file.content
    file.store.tree.purge(file.store.tree.unlink(ROOT_INODE, b"f", 5).inode)
    assert file.store.attachments.read(number, 0, PAGE) == file.data[:PAGE]
    while file.store._content.sweep():
        pass
    assert file.store.attachments.read(number, 0, PAGE) == bytes(PAGE)


@pytest.mark.parametrize(("most", "few"), [(1, places.FEW), (40, 2), (places.MOST, places.FEW)])
def test_whatever_happens_in_whatever_order_is_read(
    file: File, most: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MOST", most)
    monkeypatch.setattr(places, "FEW", few)
    monkeypatch.setattr(places, "VISITS", 1 + most % 2)
    source = random.Random(most)

    def scribble() -> None:
        offset = source.randrange(SIZE - 2 * ROW)
        file.write(offset, source.randbytes(source.choice((1, 500, PAGE, ROW + 3))))

    def cut() -> None:
        size = source.randrange(SIZE)
        file.store.attachments.resize(file.inode, size, 5)
        file.store.attachments.resize(file.inode, SIZE, 6)
        file.data = file.data[:size].ljust(SIZE, b"\0")

    def settle() -> None:
        with file.store.transaction():
            file.store._ledger.staging.settle(file.content << 27 | source.randrange(36))

    steps: list[Callable[[], object]] = [scribble, scribble, scribble, settle, settle, cut, file.store._ledger.commit]
    for _ in range(60):
        source.choice(steps)()
        for _ in range(12):
            offset = source.randrange(SIZE)
            length = min(source.choice((1, PAGE, ROW)), SIZE - offset)
            assert file.read(offset, length) == file.data[offset : offset + length]
    assert content(file.store, file.inode) == file.data


def test_small_files_are_read_from_wherever_they_are(bench: Bench, store: Store) -> None:
    contents = {
        make(store, b"%d" % number, data=b"%d" % number * 500).inode: b"%d" % number * 500 for number in range(80)
    }

    def check() -> None:
        assert {inode: content(store, inode) for inode in contents} == contents

    check()
    store.tick()  # the databases are told
    check()
    for inode in list(contents)[::2]:
        contents[inode] = os.urandom(700)
        store.attachments.resize(inode, 0, 5)
        write(store, inode, 0, contents[inode])
        check()
    store.tick()
    check()
