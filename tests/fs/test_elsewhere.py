"""Files that another device deletes while they are open here, without a mount."""

from __future__ import annotations

import pytest
import trio

from blobfs.errors import NotFound
from blobfs.fs.filesystem import FileSystem
from blobfs.fs.stale import Stale
from blobfs.store.documents import Applied
from blobfs.store.store import Store
from blobfs.values.documents import ROOT, DocId, Document, Kind, Name
from blobfs.values.extents import EXTENT
from blobfs.values.nodes import ROOT_INODE, Inode
from blobfs.values.revisions import Revision
from tests.fs.conftest import OTHER, Remote, reopened


def test_a_file_deleted_elsewhere_lives_while_it_is_open_here(fs: FileSystem, remote: Remote, store: Store) -> None:
    async def run() -> None:
        remote.put(b"a", b"x" * 100)
        inode = fs.lookup(ROOT_INODE, b"a").inode
        await fs.open(inode)
        assert await fs.read(inode, 0, 5) == b"xxxxx"
        fs.notify(remote.put(b"a", b"", deleted=True))
        assert await fs.read(inode, 0, 5) == b"xxxxx"
        await fs.release(inode)
        fs.forget(inode, 1)
        await fs.flush_all()
        with pytest.raises(NotFound):
            store.tree.get(inode)

    trio.run(run)


def test_what_is_written_into_a_file_deleted_elsewhere_is_kept(fs: FileSystem, remote: Remote, store: Store) -> None:
    async def run() -> None:
        fs.notify(remote.put(b"a.txt", b"x" * (EXTENT + 10)))
        inode = fs.lookup(ROOT_INODE, b"a.txt").inode
        await fs.open(inode)
        await fs.write(inode, 5, b"kept")
        fs.notify(remote.put(b"a.txt", b"", deleted=True))
        assert fs.getattr(inode).nlink == 0
        fs.notify(remote.put(b"a.txt", b"somebody else's", doc_id="other"))
        await fs.flush(inode)
        (copy,) = [entry for entry in fs.entries(ROOT_INODE, 0, 10) if entry.node.inode == inode]
        assert copy.name.startswith(b"a (conflict ")
        assert (copy.node.nlink, copy.node.size) == (1, EXTENT + 10)
        assert await fs.read(inode, 0, 20) == b"x" * 5 + b"kept" + b"x" * 11
        await fs.release(inode)
        fs.forget(inode, 1)
        await fs.flush_all()
        assert store.tree.lookup(ROOT_INODE, copy.name).stored > 0
        local = store.documents.local(DocId("remote"))
        assert local is not None
        assert local.edit > local.synced

    trio.run(run)


def test_what_is_written_into_a_file_deleted_elsewhere_brings_its_folders_back(fs: FileSystem, store: Store) -> None:
    def put(doc_id: str, kind: Kind, name: Name, number: int, *, deleted: bool = False) -> Applied:
        document = Document(doc_id=DocId(doc_id), kind=kind, names=(name,), mtime_ns=number)
        applied = store.documents.apply(document, Revision.of({OTHER: number}), deleted, number)
        if deleted and kind is Kind.DIRECTORY:
            store.tree.purge(applied.inode)
        return applied

    outer = ("outer", Kind.DIRECTORY, Name(ROOT, b"outer"))
    inner = ("inner", Kind.DIRECTORY, Name(DocId("outer"), b"inner"))
    leaf = ("leaf", Kind.FILE, Name(DocId("inner"), b"leaf"))

    def find() -> Inode:
        folder = fs.lookup(fs.lookup(ROOT_INODE, b"outer").inode, b"inner").inode
        return fs.lookup(folder, b"leaf").inode

    async def run() -> None:
        for number, document in enumerate((outer, inner, leaf)):
            fs.notify(put(*document, number + 1))
        inode = find()
        await fs.open(inode)
        gone = [put(*document, number + 4, deleted=True) for number, document in enumerate((leaf, inner, outer))]
        for applied in gone:
            fs.notify(applied)
        await fs.write(inode, 0, b"kept")
        await fs.flush(inode)
        assert find() == inode
        assert await fs.read(inode, 0, 10) == b"kept"
        assert store.documents.pending()[0] == 3

    trio.run(run)


@pytest.mark.parametrize("ending", ["flush", "release", "flight"])
def test_what_is_written_between_the_deletion_elsewhere_and_the_news_of_it_is_kept(
    fs: FileSystem, remote: Remote, store: Store, ending: str
) -> None:
    async def run() -> None:
        fs.notify(remote.put(b"a.txt", b"x" * 100))
        inode = fs.lookup(ROOT_INODE, b"a.txt").inode
        await fs.open(inode)
        news = remote.put(b"a.txt", b"", deleted=True, name_stays=True)
        await fs.write(inode, 5, b"kept")
        if ending == "flight":
            # What a full buffer does behind its writer: the store has the bytes before anybody closes.
            await fs._writeback.flush(fs._files[inode])
        if ending == "flush":
            await fs.flush(inode)
            assert fs.lookup(ROOT_INODE, b"a.txt").inode == inode
            fs.notify(news)
            assert fs.getattr(inode).nlink == 1
        await fs.release(inode)
        assert fs.lookup(ROOT_INODE, b"a.txt").inode == inode
        fs.notify(news)
        fs.forget(inode, 2)
        await fs.flush_all()
        assert reopened(store) == {b"a.txt": b"x" * 5 + b"kept" + b"x" * 91}

    trio.run(run)


def test_a_file_deleted_elsewhere_that_nobody_writes_stays_deleted(
    fs: FileSystem, remote: Remote, store: Store
) -> None:
    async def run() -> None:
        fs.notify(remote.put(b"a", b"x" * 100))
        inode = fs.lookup(ROOT_INODE, b"a").inode
        await fs.open(inode)
        fs.notify(remote.put(b"a", b"", deleted=True))
        await fs.flush(inode)
        await fs.release(inode)
        fs.forget(inode, 1)
        await fs.flush_all()
        assert fs.entries(ROOT_INODE, 0, 10) == []

    trio.run(run)


def test_a_name_that_comes_back_is_told_to_the_kernel_before_close_returns(fs: FileSystem, remote: Remote) -> None:
    async def run() -> None:
        fs.notify(remote.put(b"a", b"x" * 100))
        inode = fs.lookup(ROOT_INODE, b"a").inode
        await fs.open(inode)
        fs.notify(remote.put(b"a", b"", deleted=True, name_stays=True))
        await fs.write(inode, 0, b"kept")
        waiting: list[Stale] = []

        def wait_told(timeout_s: float) -> bool:
            if timeout_s:
                waiting.clear()
            return not waiting

        fs.on_stale, fs.wait_told = waiting.append, wait_told
        await fs.flush(inode)
        assert waiting == []
        assert fs.lookup(ROOT_INODE, b"a").inode == inode

    trio.run(run)


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("deleter", ["this device", "another"])
def test_what_is_written_into_a_deleted_open_file_that_an_edit_elsewhere_brought_back_is_kept(
    fs: FileSystem, remote: Remote, store: Store, deleter: str, is_told: bool
) -> None:
    async def run() -> None:
        fs.notify(remote.put(b"a", b"x" * 100))
        inode = fs.lookup(ROOT_INODE, b"a").inode
        await fs.open(inode)
        if deleter == "this device":
            fs.unlink(ROOT_INODE, b"a")
        else:
            fs.notify(remote.put(b"a", b"", deleted=True))
        news = remote.put(b"a", b"y" * 100)
        if is_told:
            fs.notify(news)
        assert fs.lookup(ROOT_INODE, b"a").inode == inode
        await fs.open(inode)
        await fs.write(inode, 0, b"kept")
        await fs.flush(inode)
        await fs.release(inode)
        fs.notify(news)
        assert [entry.name for entry in fs.entries(ROOT_INODE, 0, 10)] == [b"a"]
        await fs.release(inode)
        fs.forget(inode, 2)
        await fs.flush_all()
        assert reopened(store) == {b"a": b"kept" + b"y" * 96}

    trio.run(run)
