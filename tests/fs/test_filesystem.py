"""FileSystem without a mount: buffers, deleted files, and bytes that are elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from blobfs.errors import FileTooBig, NoSpace, NotFound, RemoteUnavailable, StaleHandle
from blobfs.fs import filesystem
from blobfs.fs.filesystem import FileSystem, Owner
from blobfs.fs.space import Allowance, Space, disk_of, within
from blobfs.fs.stale import Stale
from blobfs.fs.views import DOC_ID, STATE, ViewedFileSystem
from blobfs.fs.writeback import MAX_HELD, SPILL
from blobfs.store.store import Store
from blobfs.values.documents import Kind
from blobfs.values.extents import EXTENT, MAX_SIZE, ROW
from blobfs.values.nodes import ROOT_INODE, Inode
from tests.fs.conftest import Remote, reopened


def do(action: Callable[[], Awaitable[object]]) -> None:
    """Run a test's coroutine."""
    trio.run(action)  # type: ignore[arg-type]


def new(fs: FileSystem, name: bytes = b"a") -> Inode:
    """A new, open file."""
    return fs.create(ROOT_INODE, name, 0o644, 0, 0).inode


def test_bytes_reach_the_store_at_close(fs: FileSystem, store: Store) -> None:
    async def run() -> None:
        inode = new(fs)
        await fs.write(inode, 0, b"hello")
        assert await fs.read(inode, 0, 100) == b"hello"
        assert fs.getattr(inode).size == 5
        assert reopened(store) == {b"a": b""}
        await fs.flush(inode)
        assert reopened(store) == {b"a": b"hello"}
        await fs.release(inode)
        assert not fs.is_open(inode)

    do(run)


def test_two_handles_share_one_buffer(fs: FileSystem) -> None:
    async def run() -> None:
        inode = new(fs)
        await fs.open(inode)
        await fs.write(inode, 0, b"one")
        await fs.release(inode)
        await fs.write(inode, 3, b"two")
        assert await fs.read(inode, 1, 4) == b"netw"
        await fs.release(inode)
        with pytest.raises(StaleHandle):
            await fs.write(inode, 0, b"x")

    do(run)


def test_what_came_after_the_last_flush_is_stored_at_release(fs: FileSystem, store: Store) -> None:
    async def run() -> None:
        inode = new(fs)
        await fs.flush(inode)
        await fs.write(inode, 0, b"from a mapping")
        await fs.release(inode)
        assert reopened(store) == {b"a": b"from a mapping"}

    do(run)


def test_a_buffer_is_bounded(fs: FileSystem, store: Store) -> None:
    async def run() -> None:
        inode = new(fs)
        body = os.urandom(3 * SPILL + 12345)
        for offset in range(0, len(body), 100_000):
            await fs.write(inode, offset, body[offset : offset + 100_000])
        assert len(reopened(store)[b"a"]) >= 2 * SPILL
        assert await fs.read(inode, 0, len(body)) == body
        await fs.flush(inode)
        assert reopened(store)[b"a"] == body

    do(run)


def test_all_buffers_together_are_bounded(fs: FileSystem, store: Store) -> None:
    async def run() -> None:
        inodes = [new(fs, b"%d" % number) for number in range(12)]
        for inode in inodes:
            for offset in range(0, SPILL, 1 << 20):
                await fs.write(inode, offset, bytes(1 << 20))
        stored = sum(map(len, reopened(store).values()))
        assert len(inodes) * SPILL - stored <= MAX_HELD + (1 << 20)

    do(run)


def test_truncating_forgets_what_was_buffered_behind(fs: FileSystem, store: Store) -> None:
    async def run() -> None:
        inode = new(fs)
        await fs.write(inode, 0, b"x" * 10)
        await fs.flush(inode)
        await fs.write(inode, 5, b"y" * 200_000)
        await fs.setattr(inode, size=8)
        await fs.setattr(inode, size=12)
        assert await fs.read(inode, 0, 100) == b"xxxxxyyy\0\0\0\0"
        await fs.flush(inode)
        assert reopened(store)[b"a"] == b"xxxxxyyy\0\0\0\0"

    do(run)


def test_a_size_past_the_limit_is_refused(fs: FileSystem) -> None:
    async def run() -> None:
        inode = new(fs)
        with pytest.raises(FileTooBig):
            await fs.write(inode, MAX_SIZE, b"x")
        with pytest.raises(FileTooBig):
            await fs.setattr(inode, size=MAX_SIZE + 1)

    do(run)


def test_times_set_while_bytes_are_buffered_stay(fs: FileSystem, store: Store) -> None:
    async def run() -> None:
        inode = new(fs)
        await fs.write(inode, 0, b"x")
        assert (await fs.setattr(inode, mtime_ns=7)).mtime_ns == 7
        await fs.flush(inode)
        await fs.release(inode)
        assert store.tree.get(inode).mtime_ns == 7

    do(run)


def test_a_deleted_file_goes_with_its_last_reference(fs: FileSystem, store: Store) -> None:
    async def run() -> None:
        inode = new(fs)
        await fs.write(inode, 0, b"x" * 300_000)
        await fs.flush(inode)
        fs.unlink(ROOT_INODE, b"a")
        assert await fs.read(inode, 0, 3) == b"xxx"
        fs.forget(inode, 1)
        await fs.flush_all()
        assert store.tree.get(inode).deleted
        await fs.release(inode)
        await fs.flush_all()
        with pytest.raises(NotFound):
            store.tree.get(inode)

    do(run)


def test_a_deleted_file_that_the_kernel_remembers_can_still_be_opened(fs: FileSystem, store: Store) -> None:
    async def run() -> None:
        inode = new(fs)
        await fs.write(inode, 0, b"x")
        await fs.flush(inode)
        await fs.release(inode)
        other = new(fs, b"b")
        await fs.release(other)
        fs.rename(ROOT_INODE, b"b", ROOT_INODE, b"a")
        await fs.open(inode)
        assert await fs.read(inode, 0, 3) == b"x"
        await fs.release(inode)
        fs.forget(inode, 1)
        await fs.flush_all()
        assert store.tree.orphans() == []

    do(run)


def test_a_flush_that_fails_keeps_the_bytes_for_later(
    fs: FileSystem, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise NoSpace("the disk is full")

    async def run() -> None:
        inode = new(fs)
        await fs.write(inode, 0, b"precious")
        with monkeypatch.context() as patch:
            patch.setattr(store.attachments, "write", full)
            with pytest.raises(NoSpace):
                await fs.flush(inode)
            with pytest.raises(NoSpace):
                await fs.release(inode)
            await fs.flush_all()
            assert fs.is_open(inode)
            assert await fs.read(inode, 0, 10) == b"precious"
        await fs.flush_all()
        assert not fs.is_open(inode)
        assert reopened(store) == {b"a": b"precious"}

    do(run)


def test_a_full_buffer_is_stored_while_its_writer_goes_on(fs: FileSystem, store: Store) -> None:
    async def run() -> None:
        body = os.urandom(3 * SPILL + 5)
        async with fs.at_work():
            inode = new(fs)
            for offset in range(0, len(body), 1 << 20):
                await fs.write(inode, offset, body[offset : offset + (1 << 20)])
                assert fs.getattr(inode).size == min(len(body), offset + (1 << 20))
                assert await fs.read(inode, 0, offset + (1 << 20)) == body[: offset + (1 << 20)]
            await fs.setattr(inode, size=len(body) - 1)
            await fs.flush(inode)
            assert reopened(store) == {b"a": body[:-1]}
            await fs.release(inode)
        assert not fs.is_open(inode)

    do(run)


def test_a_full_buffer_that_cannot_be_stored_is_kept_and_its_writer_told(
    fs: FileSystem, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise NoSpace("the disk is full")

    async def run() -> None:
        body = os.urandom(10 * SPILL)
        written = 0

        async def fill(inode: Inode) -> None:
            nonlocal written
            while True:
                await fs.write(inode, written, body[written : written + (1 << 20)])
                written += 1 << 20

        async with fs.at_work():
            inode = new(fs)
            with monkeypatch.context() as patch:
                patch.setattr(store.attachments, "write", full)
                with pytest.raises(NoSpace):
                    await fill(inode)
                assert SPILL <= written <= 2 * SPILL
            assert await fs.read(inode, 0, 3 * SPILL) == body[:written]
            await fs.flush(inode)
            assert reopened(store) == {b"a": body[:written]}
            await fs.write(inode, 0, b"goes on")
            await fs.release(inode)

    do(run)


# --- bytes that are elsewhere ---------------------------------------------------------------------------------


def test_absent_bytes_are_fetched_when_read(fs: FileSystem, remote: Remote) -> None:
    async def run() -> None:
        body = os.urandom(EXTENT + 300_000)
        remote.put(b"a", body)
        inode = fs.lookup(ROOT_INODE, b"a").inode
        await fs.open(inode)
        assert await fs.read(inode, 1000, 50) == body[1000:1050]
        assert remote.fetches == [(1000, 50)]
        assert await fs.read(inode, 0, len(body) + 5) == body
        remote.is_online = False
        assert await fs.read(inode, EXTENT - 10, 20) == body[EXTENT - 10 : EXTENT + 10]

    do(run)


def test_a_reader_in_sequence_has_bytes_brought_ahead(fs: FileSystem, remote: Remote) -> None:
    async def run() -> None:
        remote.put(b"a", os.urandom(EXTENT))
        inode = fs.lookup(ROOT_INODE, b"a").inode
        await fs.open(inode)
        for offset in (0, ROW, 2 * ROW):
            await fs.read(inode, offset, ROW)
        assert remote.prefetches == [(2 * ROW, filesystem.PREFETCH), (3 * ROW, filesystem.PREFETCH)]

    do(run)


def test_a_reader_offline_is_told(fs: FileSystem, remote: Remote) -> None:
    async def run() -> None:
        remote.put(b"a", b"x" * 1000)
        remote.is_online = False
        inode = fs.lookup(ROOT_INODE, b"a").inode
        await fs.open(inode)
        with pytest.raises(RemoteUnavailable, match="offline"):
            await fs.read(inode, 0, 10)

    do(run)


def test_a_reader_never_waits_past_the_deadline(fs: FileSystem, remote: Remote) -> None:
    async def run() -> None:
        remote.put(b"a", b"x" * 1000)
        remote.hangs = True
        inode = fs.lookup(ROOT_INODE, b"a").inode
        await fs.open(inode)
        with pytest.raises(RemoteUnavailable, match="within 600 s"):
            await fs.read(inode, 0, 10)

    trio.run(run, clock=MockClock(autojump_threshold=0))


def test_a_write_into_absent_rows_fetches_their_edges_only(fs: FileSystem, remote: Remote) -> None:
    async def run() -> None:
        body = bytearray(os.urandom(8 * ROW))
        remote.put(b"a", bytes(body))
        inode = fs.lookup(ROOT_INODE, b"a").inode
        await fs.open(inode)
        piece = os.urandom(4 * ROW)
        await fs.write(inode, ROW + 10, piece)
        body[ROW + 10 : 5 * ROW + 10] = piece
        assert sorted(offset // ROW for offset, _ in remote.fetches) == [1, 5]
        remote.is_online = False
        await fs.flush(inode)
        remote.is_online = True
        assert await fs.read(inode, 0, len(body)) == body

    do(run)


def test_a_write_that_cannot_be_completed_is_refused_when_it_is_made(fs: FileSystem, remote: Remote) -> None:
    async def run() -> None:
        remote.put(b"a", b"x" * ROW)
        remote.is_online = False
        inode = fs.lookup(ROOT_INODE, b"a").inode
        await fs.open(inode)
        with pytest.raises(RemoteUnavailable):
            await fs.write(inode, 5, b"y")
        assert await fs.write(inode, 0, b"z" * ROW) == ROW
        await fs.flush(inode)
        assert await fs.read(inode, 0, 2) == b"zz"

    do(run)


def test_a_truncation_within_an_absent_row_fetches_it(fs: FileSystem, remote: Remote) -> None:
    async def run() -> None:
        remote.put(b"a", b"x" * (3 * ROW))
        inode = fs.lookup(ROOT_INODE, b"a").inode
        assert (await fs.setattr(inode, size=ROW + 5)).size == ROW + 5
        await fs.open(inode)
        assert await fs.read(inode, 0, 10 * ROW) == b"x" * (ROW + 5)

    do(run)


# --- changes from other devices -------------------------------------------------------------------------------


def test_the_kernel_forgets_what_it_knew_of_a_remote_change(fs: FileSystem, remote: Remote) -> None:
    told: list[Stale] = []
    fs.on_stale = told.append
    first = remote.put(b"a", b"1")
    fs.notify(first)
    fs.lookup(ROOT_INODE, b"a")
    fs.notify(remote.put(b"a", b"22"))
    fs.notify(remote.put(b"b", b"22"))
    assert told[0] == Stale(((ROOT_INODE, False),), ((ROOT_INODE, b"a"),))
    assert told[1] == Stale(((first.inode, True),), ())
    assert (first.inode, True) in told[2].inodes
    assert told[2].names == ((ROOT_INODE, b"a"), (ROOT_INODE, b"b"))


def test_special_files_and_symlinks_are_made(fs: FileSystem) -> None:
    link = fs.make(ROOT_INODE, b"link", Kind.SYMLINK, 0o777, 0, 0, target=b"there")
    assert fs.readlink(link.inode) == b"there"
    device = fs.make(ROOT_INODE, b"null", Kind.CHARACTER, 0o666, 0, 0, rdev=os.makedev(1, 3))
    assert fs.getattr(device.inode).rdev == os.makedev(1, 3)


def test_the_space_shown_is_the_disks_until_the_server_has_told_the_quota(fs: FileSystem, store: Store) -> None:
    disk = disk_of(store.path)
    assert fs.space()[0].total == disk.total
    fs.allowance = lambda: Allowance(used=1000, quota=5000)
    assert fs.space() == (Space(5000, 4000), 1)


@pytest.mark.parametrize(
    ("allowance", "shown"),
    [
        (None, Space(1000, 400)),
        (Allowance(50, None), Space(450, 400)),
        (Allowance(50, 300), Space(300, 250)),
        (Allowance(50, 900), Space(450, 400)),
        (Allowance(300, 300), Space(300, 0)),
        (Allowance(900, 300), Space(900, 0)),
        (Allowance(0, 0), Space(0, 0)),
    ],
)
def test_free_space_is_what_both_the_quota_and_the_disk_leave(allowance: Allowance | None, shown: Space) -> None:
    assert within(Space(1000, 400), allowance) == shown


def test_what_blobfs_keeps_hidden_is_in_no_listing(store: Store, remote: Remote) -> None:
    store.hidden.directory(b"devices")
    owner = Owner(0, 0, is_root=True)
    fs = ViewedFileSystem(store, fetch=remote.fetch, prefetch=remote.prefetch, owner=owner, fetch_deadline_s=5)
    assert fs.entries(ROOT_INODE, 0, 1) == []
    fs.make(ROOT_INODE, b"a", Kind.DIRECTORY, 0o700, 0, 0)
    assert [entry.name for entry in fs.entries(ROOT_INODE, 0, 1)] == [b"a"]
    top = fs.lookup(ROOT_INODE, b".blobfs")
    assert [entry.name for entry in fs.entries(top.inode, 0, 9)] == [b"documents", b"by-id"]


def test_what_another_device_stored_under_the_names_of_our_attributes_is_neither_listed_nor_read(
    store: Store, remote: Remote
) -> None:
    owner = Owner(0, 0, is_root=True)
    fs = ViewedFileSystem(store, fetch=remote.fetch, prefetch=remote.prefetch, owner=owner, fetch_deadline_s=5)
    node = fs.make(ROOT_INODE, b"f", Kind.FILE, 0o600, 0, 0)
    for name in (STATE, DOC_ID, b"user.own"):
        store.tree.set_xattr(node.inode, name, b"another's", time.time_ns())
    assert fs.list_xattrs(node.inode) == [b"user.own"]
    assert fs.get_xattr(node.inode, DOC_ID) == node.doc_id.encode()
    assert fs.get_xattr(node.inode, STATE) == b"LOCAL dirty"
    assert fs.get_xattr(node.inode, b"user.own") == b"another's"
