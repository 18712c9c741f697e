"""Two and three devices on a real server: what one does, the others have."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import trio

from blobfs.values.documents import Kind
from blobfs.values.extents import EXTENT
from blobfs.values.nodes import ROOT_INODE
from tests.sync.kit import FAST, TIMEOUT_S, Account, converge, trio_test, until


@trio_test
async def test_what_one_device_writes_the_other_reads(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        one.mkdir("d")
        one.write("d/f", b"hello")
        one.make("d/l", Kind.SYMLINK, b"f")
        one.write("empty", b"")
        await converge(one, two)
        assert await two.tree() == await one.tree()
        assert sorted(two.paths()) == ["d", "d/f", "d/l", "empty"]
        two.write("d/f", b"there")
        two.rename("d", "e")
        await converge(two, one)
        assert await one.tree() == await two.tree()
        assert await one.read("e/f") == b"there"


@trio_test
async def test_a_change_shows_on_the_other_device_by_itself(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        await converge(one, two)
        one.write("f", b"now")
        await until(lambda: two.exists("f"))
        assert await two.read("f") == b"now"


@trio_test
async def test_bytes_come_only_when_they_are_read(account: Account) -> None:
    data = os.urandom(2 * EXTENT + 12345)
    async with account.device("one") as one, account.device("two") as two:
        one.write("big", data)
        await converge(one, two)
        assert two.node("big").size == len(data)
        assert two.node("big").stored == 0
        assert await two.read("big", EXTENT + 7, 4096) == data[EXTENT + 7 : EXTENT + 7 + 4096]
        assert 4096 <= two.node("big").stored <= 256 << 10
        assert await two.read("big") == data


@trio_test
async def test_a_changed_byte_sends_one_extent(account: Account) -> None:
    data = os.urandom(3 * EXTENT)
    async with account.device("one") as one, account.device("two") as two:
        one.write("big", data)
        await converge(one, two)
        before = account.server.command("user", "list")
        one.write("big", b"x", EXTENT + 1, truncate=False)
        await converge(one, two)
        after = account.server.command("user", "list")
        used = [next(row["used"] for row in rows if row["user"] == account.user) for rows in (before, after)]
        assert used[1] - used[0] < EXTENT + (64 << 10)
        assert await two.read("big") == data[: EXTENT + 1] + b"x" + data[EXTENT + 2 :]


@trio_test
async def test_an_editors_save_is_the_next_version_of_one_document(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        one.write("letter.txt", b"first")
        await converge(one, two)
        before = two.node("letter.txt").doc_id
        one.write("letter.txt~new", b"second")
        one.rename("letter.txt~new", "letter.txt")
        await converge(one, two)
        assert two.node("letter.txt").doc_id == before
        assert await two.read("letter.txt") == b"second"
        assert sorted(two.paths()) == ["letter.txt"]


@trio_test
async def test_lock_and_swap_files_stay_here(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        for name in (".~lock.a.odt#", ".a.swp", "a.swp", ".goutputstream-AB12"):
            one.write(name, b"mine")
        one.write("a", b"ours")
        await converge(one, two)
        assert sorted(two.paths()) == ["a"]
        assert one.engine.status().pending_documents == 0


@trio_test
async def test_edits_of_one_file_on_two_devices_keep_both(account: Account) -> None:
    async with account.device("one") as one:
        one.write("f.txt", b"base")
        await one.settle()
        async with account.device("two") as two:
            await converge(two, one)
    async with account.device("two") as two:
        two.engine.pause()
        two.write("f.txt", b"of two")
        async with account.device("one") as one:
            one.write("f.txt", b"of one")
            await one.settle()
            two.engine.resume()
            await converge(two, one)
            tree = await one.tree()
            assert tree == await two.tree()
            assert sorted(data for _, _, data in tree.values()) == [b"of one", b"of two"]
            assert tree["f.txt"][2] == b"of one"
            assert any(path.startswith("f (conflict two ") and path.endswith(").txt") for path in tree)


@trio_test
async def test_a_file_open_for_reading_keeps_its_version(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        one.write("f", b"old")
        await converge(one, two)
        inode = two.node("f").inode
        two.open.add(inode)
        one.write("f", b"newer")
        await converge(one, two)
        assert await two.read("f") == b"old"
        assert two.engine.status().held == (two.node("f").doc_id,)
        two.open.remove(inode)
        await until(lambda: two.node("f").size == 5)
        assert await two.read("f") == b"newer"
        assert not two.engine.status().held


@trio_test
async def test_an_open_file_without_bytes_yet_is_no_version(account: Account) -> None:
    patient = replace(FAST, max_wait_s=3600)
    async with account.device("one", options=patient) as one, account.device("two") as two:
        one.write("emptied", b"first")
        await converge(one, two)
        for name in ("emptied", "new"):
            node = one.make(name, Kind.FILE) if name == "new" else one.node(name)
            one.open.add(node.inode)
            one.store.attachments.resize(node.inode, 0, time.time_ns())
        one.write("later", b"closed")
        await until(lambda: two.exists("later"))
        assert not two.exists("new")
        assert two.node("emptied").size == 5
        one.write("emptied", b"second")
        one.open.clear()
        await converge(one, two)
        assert two.node("new").size == 0
        revisions = await one.client.revisions(one.node("emptied").doc_id, 10)
        assert len(revisions) == 2


@trio_test
async def test_what_was_written_before_the_clock_was_set_back_is_sent_all_the_same(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        await converge(one, two)
        later_ns = time.time_ns() + 3600 * 10**9
        with one.store.transaction():
            node = one.store.tree.create(ROOT_INODE, b"f", Kind.FILE, mode=0o600, uid=0, gid=0, now_ns=later_ns)
            one.store.attachments.write(node.inode, [(0, b"of an hour later")], 16, later_ns, later_ns)
        await until(lambda: two.exists("f"))
        assert await two.read("f") == b"of an hour later"


@trio_test
async def test_what_was_not_sent_before_the_end_is_sent_after_the_next_start(account: Account) -> None:
    async with account.device("one") as one:
        await one.settle()
        one.engine.pause()
        one.write("f", b"later")
    async with account.device("one") as one, account.device("two") as two:
        await converge(one, two)
        assert await two.read("f") == b"later"


@trio_test
async def test_three_devices_in_disorder_end_alike(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two, account.device("three") as three:
        for device in (one, two, three):
            device.mkdir("shared")
            name = device.store.settings.get("device_name")
            device.write(f"shared/{name}", name.encode())
            device.write("same", b"one text")
        async with trio.open_nursery() as nursery:
            for device in (one, two, three):
                nursery.start_soon(device.settle)
        await converge(one, two, three)
        trees = [await device.tree() for device in (one, two, three)]
        assert trees[0] == trees[1] == trees[2]
        assert sorted(trees[0]) == ["same", "shared", "shared/one", "shared/three", "shared/two"]


@trio_test
async def test_many_small_files_share_requests(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        one.mkdir("many")
        with one.store.transaction():
            for number in range(600):
                one.write(f"many/{number}", f"file {number}".encode())
        await converge(one, two)
        assert len(two.paths()) == 601
        assert await two.read("many/599") == b"file 599"
        assert one.engine.rounds < 20


@trio_test
async def test_a_large_file_that_is_never_quiet_is_not_sent_whole_again(account: Account) -> None:
    data = os.urandom(6 * EXTENT)
    async with account.device("one") as one, account.device("two") as two:
        await converge(one, two)
        one.write("image", data)
        inode = one.node("image").inode

        def dirty() -> list[int]:
            content = one.node("image").content
            assert content is not None
            return [index for index, extent in one.store.attachments.extents(content).items() if extent.dirty]

        def touch() -> None:
            now_ns = time.time_ns()
            one.store.attachments.write(inode, [(EXTENT, now_ns.to_bytes(8, "big"))], len(data), now_ns, now_ns)

        with trio.fail_after(TIMEOUT_S):
            while len(dirty()) > 1:
                touch()
                await trio.sleep(0.002)
        touch()
        assert dirty() == [1]
        await converge(one, two)
        end = await two.read("image", 2 * EXTENT, 4 * EXTENT)
        assert end == data[2 * EXTENT :]
        assert await two.read("image", 0, EXTENT + 8) == await one.read("image", 0, EXTENT + 8)


@trio_test
async def test_two_devices_that_make_the_hidden_directory_end_with_one(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        for device, name in ((one, b"first"), (two, b"second")):
            parent = device.store.hidden.directory(b"devices").inode
            device.store.tree.create(parent, name, Kind.FILE, mode=0o600, uid=1, gid=1, now_ns=5)
        await converge(one, two)
        assert await one.tree() == await two.tree()
        for device in (one, two):
            assert set(device.paths()) == {
                ".blobfs",
                ".blobfs/devices",
                *(f".blobfs/devices/{n}" for n in ("first", "second")),
            }


@trio_test
async def test_a_device_that_joins_knows_how_much_is_to_come(account: Account) -> None:
    async with account.device("one") as one:
        for number in range(1200):
            one.make(f"f{number}", Kind.FILE)
        await one.settle()
    seen = []
    async with account.device("two") as two:
        two.engine.on_applied = lambda applied: seen.append(two.engine.status().to_json()["reading"])
        await two.settle()
        assert two.engine.status().reading is None
    assert {reading["total"] for reading in seen} == {1200}
    assert sorted({reading["done"] for reading in seen}) == [reading * 100 for reading in range(12)]
