"""What lies in the spool: over which rows, for how long, and what a crash, a full disk or a forger makes of it."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from blobfs.errors import NoSpace, StoreDamaged
from blobfs.store import settling, spool, staging
from blobfs.store.database import Database
from blobfs.store.journal import Journal
from blobfs.store.spool import Segment, Spool, segments
from blobfs.store.store import Store
from blobfs.values.extents import EXTENT, ROW, BlobId
from blobfs.values.nodes import ROOT_INODE, Content, Inode
from tests.store.conftest import Bench, content, make, write

BLOB = BlobId("cd" * 32)
SIZE = 8 * ROW


@pytest.fixture(autouse=True)
def everything_is_staged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "LEAST", 1)


def staged(store: Store) -> int:
    """How many pieces lie over rows."""
    return int(store._ledger.one(store._ledger.blobs, "SELECT COUNT(*) FROM staged")[0])


def rows(store: Store) -> int:
    return int(store._ledger.one(store._ledger.blobs, "SELECT COUNT(*) FROM rows")[0])


def number_of(store: Store, inode: Inode) -> Content:
    number = store.tree.get(inode).content
    assert number is not None
    return number


def overlaid(store: Store, source: random.Random, name: bytes = b"f") -> tuple[Inode, bytearray]:
    """A file whose rows are in the database, with pieces over some, and over each other."""
    data = bytearray(source.randbytes(SIZE + 777))
    inode = make(store, name, data=bytes(data)).inode
    store._settler.settle_all()
    assert (staged(store), segments(store.path)) == (0, [])
    for _ in range(60):
        start, piece = source.randrange(SIZE), source.randbytes(source.choice((1, 700, 4096, ROW, ROW + 5)))
        data[start : start + len(piece)] = piece
        write(store, inode, start, piece)
    assert staged(store)
    return inode, data


def test_later_pieces_lie_over_earlier_ones_and_stay_so_when_they_are_settled(bench: Bench, store: Store) -> None:
    source = random.Random(1)
    inode, data = overlaid(store, source)
    number = number_of(store, inode)
    for _ in range(2):
        assert content(store, inode) == data
        for _ in range(50):
            start = source.randrange(len(data))
            length = min(len(data) - start, source.choice((1, 5000, 3 * ROW)))
            assert store.attachments.read(number, start, length) == data[start : start + length]
        assert store.check() == []
        store._settler.settle_all()
    assert (staged(store), segments(store.path)) == (0, [])
    assert content(bench.crash(store), inode) == data


def test_a_row_written_as_a_whole_has_one_piece(store: Store) -> None:
    inode = make(store, b"f", data=os.urandom(2 * ROW)).inode
    for _ in range(5):
        write(store, inode, 0, os.urandom(ROW))
    assert (staged(store), rows(store)) == (2, 0)


def test_ticks_settle_when_nobody_writes(store: Store) -> None:
    inode = make(store, b"f", data=os.urandom(SIZE)).inode
    data = content(store, inode)
    store.tick()
    assert staged(store) == 8  # somebody wrote just now
    store.tick()
    assert (staged(store), rows(store), segments(store.path)) == (0, 8, [])
    assert content(store, inode) == data


def test_readers_are_left_alone_for_some_seconds(store: Store) -> None:
    inode = make(store, b"f", data=os.urandom(SIZE)).inode
    store.tick()
    for _ in range(settling.PATIENCE - 1):
        content(store, inode)
        store.tick()
        assert staged(store) == 8
    content(store, inode)
    store.tick()
    assert staged(store) == 0


def test_a_change_of_names_is_waited_for_and_not_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "PATIENCE", 5)
    inode = make(store, b"f", data=os.urandom(SIZE)).inode
    store.tick()
    for number in range(settling.PATIENCE - 2):
        make(store, b"%d" % number)
        store.tick()
        assert staged(store) == 8
    make(store, b"last")
    store.tick()
    assert (staged(store), store.tree.get(inode).stored) == (0, SIZE)


def test_ticks_settle_beside_a_writer_when_much_is_staged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MOST", 6 * ROW)
    inode = make(store, b"f", data=os.urandom(2 * ROW)).inode
    store.tick()
    assert staged(store) == 2
    write(store, inode, 2 * ROW, os.urandom(2 * ROW))
    store.tick()
    assert staged(store) == 0


@pytest.mark.parametrize(("bound", "most"), [("MOST", 6 * ROW), ("MOST_PIECES", 3)])
def test_beyond_the_bound_writers_tell_the_database_themselves(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(staging, bound, most)
    inode, data = make(store, b"f").inode, os.urandom(12 * ROW)
    for start in range(0, len(data), 2 * ROW):
        write(store, inode, start, data[start : start + 2 * ROW])
    assert (staged(store), rows(store)) == (4, 8)
    write(store, inode, ROW + 5, b"small")  # over what is staged
    wanted = data[: ROW + 5] + b"small" + data[ROW + 10 :]
    assert content(store, inode) == wanted
    assert content(bench.crash(store), inode) == wanted


@pytest.mark.parametrize("size", [0, 1, ROW, 2 * ROW + 100, SIZE, SIZE + ROW])
def test_a_file_is_cut_and_grown_through_pieces(bench: Bench, store: Store, size: int) -> None:
    inode, data = overlaid(store, random.Random(size))
    store.attachments.resize(inode, size, 5)
    wanted = bytes(data[:size]).ljust(size, b"\0")
    assert content(store, inode) == wanted
    store.attachments.resize(inode, SIZE + 2 * ROW, 6)
    wanted = wanted.ljust(SIZE + 2 * ROW, b"\0")
    assert content(store, inode) == wanted
    assert store.check() == []
    store = bench.crash(store)
    store._settler.settle_all()
    assert content(store, inode) == wanted
    assert store.check() == []


def test_what_is_frozen_is_read_as_it_was_through_writing_cutting_and_settling(store: Store) -> None:
    source = random.Random(3)
    inode, data = overlaid(store, source)
    number = number_of(store, inode)

    def frozen() -> bytes:
        return store.attachments.read_frozen(number, 0, len(data))

    store.attachments.freeze(number)
    write(store, inode, ROW + 5, source.randbytes(2 * ROW))
    assert frozen() == data
    store.attachments.resize(inode, 3 * ROW + 9, 5)
    assert frozen() == data
    write(store, inode, 3 * ROW, source.randbytes(5 * ROW))
    store._settler.settle_all()
    store.attachments.resize(inode, 2 * ROW, 6)
    assert frozen() == data
    store.attachments.thaw(number)
    store.tick()
    assert store.check() == []


def test_what_was_fetched_is_evicted_from_the_spool(store: Store) -> None:
    node = make(store, b"f", data=os.urandom(EXTENT))
    data = os.urandom(EXTENT).replace(b"\0", b"1")  # zeros at the end of a row would take no room
    number = number_of(store, node.inode)
    local = store.documents.local(node.doc_id)
    assert local is not None
    assert store.attachments.settle(node.inode, local.edit, {0: (BLOB, EXTENT)})
    assert store.attachments.evict(number, [0]) == EXTENT
    assert staged(store) == 0
    store.attachments.keep(number, 0, BLOB, 0, data)
    assert (staged(store), rows(store), store.attachments.stored()) == (32, 0, EXTENT)
    assert content(store, node.inode) == data
    assert store.attachments.evict(number, [0]) == EXTENT
    store._ledger.commit()
    assert (staged(store), segments(store.path), store.attachments.stored()) == (0, [], 0)
    assert store.check() == []


def test_what_the_system_need_not_cache_is_read_as_before(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, let_go = list[int](), Segment.let_go

    def note(segment: Segment) -> None:
        gone.append(segment.number)
        let_go(segment)

    monkeypatch.setattr(spool, "SEGMENT", ROW)
    monkeypatch.setattr(Segment, "let_go", note)
    node, data = make(store, b"f", data=os.urandom(SIZE)), os.urandom(SIZE)
    number, local = number_of(store, node.inode), store.documents.local(node.doc_id)
    assert local is not None
    assert store.attachments.settle(node.inode, local.edit, {0: (BLOB, SIZE)})
    store.attachments.evict(number, [0])
    for row in range(SIZE // ROW):
        piece = data[row * ROW : (row + 1) * ROW]
        store.attachments.keep(number, 0, BLOB, row, piece)
        store.attachments.let_go()
        store.attachments.let_go()
    assert gone == list(range(1, store._ledger.spool._newest - 1))  # each once, and not the last two
    assert content(store, node.inode) == data
    store._ledger.spool.flush()
    for segment in list(store._ledger.spool._segments.values()):
        let_go(segment)
    assert content(store, node.inode) == data
    assert content(bench.crash(store), node.inode) == data


def test_a_closed_segment_has_nothing_to_let_go_of(tmp_path: Path) -> None:
    files = Spool(tmp_path, bytes(32))
    (place,) = files.append([b"x" * ROW], 0)
    segment = files._segments[place.segment]
    segment.close()
    with open(tmp_path / "another", "wb"):  # has the descriptor now
        segment.let_go()
    with pytest.raises(spool.Unreadable):
        files.read(place, 0, 1)


def test_a_deleted_file_leaves_no_segment(store: Store) -> None:
    for size in (ROW // 2, SIZE):
        make(store, b"f", data=b"x")
        write(store, store.tree.lookup(ROOT_INODE, b"f").inode, 0, os.urandom(size))
        assert segments(store.path)
        store.tree.purge(store.tree.unlink(ROOT_INODE, b"f", 5).inode)
        store.tick()  # finds that somebody writes
        store.tick()
        store._ledger.commit()
        assert (staged(store), segments(store.path)) == (0, [])
        assert store.check() == []


def test_a_segment_goes_when_the_last_piece_of_it_is_settled(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "SEGMENT", 2 * ROW)
    inode, data = make(store, b"f").inode, os.urandom(SIZE)
    for start in range(0, SIZE, ROW):
        write(store, inode, start, data[start : start + ROW])
    assert len(segments(store.path)) == 4
    for row in range(3):
        with store.transaction():
            store._ledger.staging.settle(number_of(store, inode) << 27 | row)
    assert len(segments(store.path)) == 4  # only what is on the disk may go
    store._ledger.commit()
    assert len(segments(store.path)) == 3
    assert content(store, inode) == data


def test_a_large_read_goes_on_while_its_rows_are_settled(store: Store) -> None:
    inode, data = overlaid(store, random.Random(4))
    store._ledger.commit()
    number, found = number_of(store, inode), list[bytes]()

    def read() -> None:
        found.extend(store.attachments.read_beside(number, 0, len(data)) for _ in range(200))

    thread = threading.Thread(target=read)
    thread.start()
    for start in range(0, SIZE, ROW):
        store._settler.settle_all()
        write(store, inode, start, bytes(data[start : start + ROW]))
    thread.join()
    assert set(found) == {bytes(data)}


# --- ends -----------------------------------------------------------------------------------------------


def images_before(
    bench: Bench, store: Store, steps: list[tuple[type, str]], action: Callable[[], object]
) -> list[Path]:
    """What SIGKILL would leave just before each of these steps of an action, and after it."""
    images: list[Path] = []

    def stepping(real: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object) -> object:
            images.append(bench.image(store))
            return real(*arguments)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for owner, method in steps:
            patch.setattr(owner, method, stepping(getattr(owner, method)))
        action()
    return [*images, bench.image(store)]


def test_a_kill_between_spool_and_journal_leaves_what_was_there_before(bench: Bench, store: Store) -> None:
    inode = make(store, b"f", data=b"o" * SIZE).inode
    action = lambda: write(store, inode, 5, b"n" * SIZE)  # noqa: E731
    before, after = images_before(bench, store, [(Journal, "append")], action)
    assert sum(path.stat().st_size for path in segments(before)) > 2 * SIZE
    for image, wanted in ((before, b"o" * SIZE), (after, b"ooooo" + b"n" * SIZE)):
        found = bench.open(image)
        assert content(found, inode) == wanted
        assert found.check() == []
        found._settler.settle_all()
        assert content(found, inode) == wanted
        assert segments(image) == []


def test_a_kill_at_any_step_of_settling_loses_nothing(bench: Bench, store: Store) -> None:
    inode, data = overlaid(store, random.Random(5))
    steps = [(Journal, "append"), (Database, "commit"), (Database, "flush"), (Journal, "flush"), (Segment, "close")]
    images = images_before(bench, store, steps, store._settler.settle_all)
    assert len(images) > 12
    for image in images[:: len(images) // 8]:
        found = bench.open(image)
        assert content(found, inode) == data
        write(found, inode, ROW - 5, b"after the crash")
        wanted = data[: ROW - 5] + b"after the crash" + data[ROW + 10 :]
        assert content(bench.crash(found), inode) == wanted


def test_small_writes_after_a_row_was_settled_survive_a_crash(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run again, they meet a row that lies in the spool once more, and must not end up below it."""
    inode, data = overlaid(store, random.Random(6))
    store._ledger.commit()
    monkeypatch.setattr(staging, "LEAST", 1 << 60)
    for start in (0, ROW + 9, 3 * ROW - 2, SIZE - 8):
        write(store, inode, start, b"small")
        data[start : start + 5] = b"small"
    store = bench.crash(store)
    assert content(store, inode) == data
    assert store.check() == []


@pytest.mark.parametrize("loss", ["gone", "short", "garbled"])
def test_a_record_whose_pieces_the_power_took_ends_the_journal(bench: Bench, store: Store, loss: str) -> None:
    inode = make(store, b"f", data=b"o" * SIZE).inode
    store.sync()
    (kept,) = segments(store.path)
    flushed = kept.stat().st_size
    write(store, inode, ROW, b"n" * ROW)
    make(store, b"later")
    image = bench.image(store)
    (path,) = segments(image)
    if loss == "garbled":
        path.write_bytes(path.read_bytes()[:flushed].ljust(path.stat().st_size, b"\0"))
    else:
        os.truncate(path, flushed if loss == "gone" else flushed + ROW)
    found = bench.open(image)
    assert content(found, inode) == b"o" * SIZE
    assert [entry.name for entry in found.tree.entries(ROOT_INODE, 0, 9)] == [b"f"]
    assert found.check() == []


def test_a_flush_needs_no_database(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    inode = make(store, b"f", data=os.urandom(SIZE)).inode
    store._ledger.commit()
    flushed: list[str] = []
    real = os.fdatasync

    def flush(descriptor: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.rstrip("0123456789"))
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", flush)
    write(store, inode, 0, os.urandom(SIZE))
    store.sync()
    assert flushed == ["spool-", "journal-"]


def test_segments_that_nothing_leads_to_go_at_a_start(bench: Bench, store: Store) -> None:
    inode = make(store, b"f", data=b"x" * SIZE).inode
    path = store.path
    bench.close(store)
    (used,) = segments(path)
    for number in (1000, 1001):
        shutil.copy(used, path / f"spool-{number:010}")
    store = bench.open(path)
    assert segments(path) == [used]
    write(store, inode, 0, b"y" * ROW)
    assert content(bench.crash(store), inode) == b"y" * ROW + b"x" * (SIZE - ROW)


# --- damage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flipped", "moved", "older", "gone", "unknown"])
def test_a_damaged_piece_is_named_and_never_read_as_data(bench: Bench, store: Store, damage: str) -> None:
    inode = make(store, b"f", data=b"a" * ROW + b"b" * ROW).inode
    make(store, b"other")
    path = store.path
    bench.close(store)
    (segment,) = segments(path)
    data = bytearray(segment.read_bytes())
    if damage == "flipped":
        data[100] ^= 1
    elif damage == "moved":
        half = (len(data) - 37) // 2
        data[37:] = data[37 + half :] + data[37 : 37 + half]
    elif damage == "older":
        with closing(Spool(path, b"k" * 32)) as other:
            other.append([bytes(ROW), bytes(ROW)], 5)
        forged = segments(path)[-1]
        data = bytearray(forged.read_bytes())
        forged.unlink()
    elif damage == "unknown":
        data[4] += 1
    segment.write_bytes(data)
    if damage == "gone":
        segment.unlink()
    store = bench.open(path)
    for read in (store.attachments.read, store.attachments.read_beside):
        with pytest.raises(StoreDamaged, match="spool-"):
            read(number_of(store, inode), 0, 10)
    assert any("cannot be read from the spool" in line for line in store.check())
    for _ in range(3):
        store.tick()
    write(store, store.tree.lookup(ROOT_INODE, b"other").inode, 0, b"fine" * ROW)
    write(store, inode, 0, b"c" * 2 * ROW)  # as a whole: what could not be read is gone
    store = bench.crash(store)
    assert content(store, inode) == b"c" * 2 * ROW
    assert store.check() == []
    store._settler.settle_all()
    assert segments(store.path) == []


@pytest.mark.parametrize("make_odd", [lambda path: path.symlink_to("/dev/null"), os.mkfifo, os.mkdir])
def test_a_segment_that_is_no_plain_file_is_refused(
    bench: Bench, store: Store, make_odd: Callable[[Path], None]
) -> None:
    path = store.path
    bench.close(store)
    make_odd(path / "spool-0000000007")
    with pytest.raises(StoreDamaged, match="spool-0000000007"):
        bench.open(path)


def test_what_does_not_fit_into_the_spool_goes_into_the_database(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    inode = make(store, b"f", data=b"x" * SIZE).inode

    def refuse(*_: object) -> None:
        raise NoSpace("full")

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "append", refuse)
        write(store, inode, 0, b"y" * ROW)
    assert (staged(store), rows(store)) == (7, 1)
    assert content(store, inode) == b"y" * ROW + b"x" * (SIZE - ROW)


def test_something_else_in_a_segments_place_is_passed_by(store: Store) -> None:
    (store.path / "spool-0000000001").mkdir()
    inode = make(store, b"f", data=b"x" * SIZE).inode
    assert (staged(store), rows(store)) == (0, 8)
    write(store, inode, 0, b"y" * ROW)
    assert staged(store) == 1
    assert content(store, inode) == b"y" * ROW + b"x" * (SIZE - ROW)
