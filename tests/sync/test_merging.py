"""Two devices change what a document has beside its bytes: its names, what programs wrote about it."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from blobfs.remote.client import RemoteClient
from blobfs.store.store import Store
from blobfs.sync.copies import is_copy_of
from blobfs.sync.engine import SyncEngine
from blobfs.values.documents import DocId, Json, Kind
from tests.ports import Port
from tests.sync.kit import KEYS, Account, Device, converge, trio_test


def link(device: Device, old: str, new: str) -> None:
    parent, name = device._place(new)
    device.store.tree.link(device.node(old).inode, parent, name, 7)


@trio_test
async def test_a_file_of_which_two_devices_remove_one_name_each_stays_with_what_was_written(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        for name in ("written", "untouched"):
            one.write(name, b"first")
            link(one, name, f"{name} too")
        await converge(one, two)
        two.engine.pause()
        for name in ("written", "untouched"):
            one.remove(name)
            two.remove(f"{name} too")
        two.write("written", b"acknowledged, and never sent")
        await one.settle()
        two.engine.resume()
        await converge(two, one)
        for device in (one, two):
            assert sorted(device.paths()) == ["untouched too", "written too"]
            assert await device.read("written too") == b"acknowledged, and never sent"
            assert await device.read("untouched too") == b"first"


@trio_test
async def test_a_symlink_and_a_fifo_with_several_names_are_sound_on_every_device(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        one.make("symlink", Kind.SYMLINK, b"somewhere")
        one.make("fifo", Kind.FIFO)
        for name in ("symlink", "fifo"):
            link(one, name, f"{name} too")
        await converge(one, two)
        for device in (one, two):
            assert device.node("symlink too").inode == device.node("symlink").inode
            assert device.node("fifo too").nlink == 2
            assert device.store.check() == []


def tell(device: Device, doc_id: DocId, content: Json) -> None:
    device.store.documents.edit(doc_id, time.time_ns(), content=content)


@trio_test
async def test_two_devices_that_write_json_about_one_folder_keep_both_and_the_folder(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        one.mkdir("folder")
        one.write("folder/file", b"in it")
        await converge(one, two)
        doc_id = one.node("folder").doc_id
        two.engine.pause()
        tell(one, doc_id, {"by": "one"})
        tell(two, doc_id, {"by": "two", "also": "two"})
        await one.settle()
        two.engine.resume()
        await converge(two, one)
        for device in (one, two):
            folder, copy, file = sorted(device.paths())
            assert (folder, file) == ("folder", "folder/file")
            assert is_copy_of(copy.encode(), b"folder")
            assert device.node("folder").doc_id == doc_id
            assert device.store.documents.content(doc_id) == {"by": "one"}
            assert device.store.documents.content(device.node(copy).doc_id) == {"by": "two", "also": "two"}
            assert await device.read("folder/file") == b"in it"
            assert device.store.check() == []


@trio_test
async def test_of_two_new_folders_of_one_name_that_become_one_no_json_is_lost(account: Account) -> None:
    nobody = Port()
    async with account.device("two", url=f"http://127.0.0.1:{nobody.number}") as two:
        two.mkdir("folder")
        two.write("folder/two", b"two")
        tell(two, two.node("folder").doc_id, {"by": "two"})
    async with account.device("one") as one:
        one.mkdir("folder")
        one.write("folder/one", b"one")
        tell(one, one.node("folder").doc_id, {"by": "one"})
        await one.settle()
        async with account.device("two") as two:
            await converge(two, one)
            for device in (one, two):
                folder, copy, *files = sorted(device.paths())
                assert (folder, files) == ("folder", ["folder/one", "folder/two"])
                assert is_copy_of(copy.encode(), b"folder")
                assert device.store.documents.content(device.node("folder").doc_id) == {"by": "one"}
                assert device.store.documents.content(device.node(copy).doc_id) == {"by": "two"}
                assert device.store.check() == []


@pytest.mark.parametrize("is_deletion_first", [True, False])
@trio_test
async def test_a_deleted_folder_that_comes_back_for_what_is_in_it_is_what_it_was(
    account: Account, is_deletion_first: bool
) -> None:
    def delete(device: Device) -> None:
        inode = device.node("folder").inode
        device.remove("folder")
        device.store.tree.purge(inode)

    def fill(device: Device) -> None:
        device.write("folder/file", b"by somebody who does not know that it goes")

    first, second = (delete, fill) if is_deletion_first else (fill, delete)
    nobody = Port()
    async with account.device("one") as one:
        one.mkdir("folder")
        tell(one, one.node("folder").doc_id, {"by": "one"})
        one.store.tree.set_xattr(one.node("folder").inode, b"user.colour", b"red", time.time_ns())
        await one.settle()
        async with account.device("two") as two:
            await converge(one, two)
        async with account.device("two", url=f"http://127.0.0.1:{nobody.number}") as two:
            second(two)
        first(one)
        await one.settle()
        # Heard of before anything is sent, so that each of the two orders is met.
        store = Store.open(account.directory / "two", KEYS)
        with closing(store):
            async with RemoteClient(account.server.url, account.user, account.token) as client:
                await SyncEngine(store, client)._feed.catch_up()
        async with account.device("two") as two:
            await converge(two, one)
            for device in (one, two):
                assert sorted(device.paths()) == ["folder", "folder/file"]
                assert device.store.documents.content(device.node("folder").doc_id) == {"by": "one"}
                assert device.store.tree.get_xattr(device.node("folder").inode, b"user.colour") == b"red"
                assert device.store.check() == []
