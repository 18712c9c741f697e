"""Files with several names, of which devices remove some at the same time."""

from __future__ import annotations

from blobfs.values.documents import Kind
from tests.sync.kit import Account, Device, converge, trio_test


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
