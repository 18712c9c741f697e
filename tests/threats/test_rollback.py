"""A server that was set back or tells different stories: noticed by whoever has seen newer, and a way back for all."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
import trio

from blobfs.errors import Rollback
from blobfs.sync.status import SyncState
from blobfs.values.documents import Kind
from blobfs.values.extents import EXTENT
from tests.sync.kit import Account, Device, Server, converge, serving, trio_test, until
from tests.threats.evil import Evil, evil_before, on_feed


class Backup:
    """A copy of a server's data, as its operator takes and restores it."""

    def __init__(self, server: Server, place: Path) -> None:
        self._server, self._copy = server, place / "backup"

    def take(self) -> None:
        self._server.stop(signal.SIGTERM)
        shutil.copytree(self._server.data, self._copy)
        self._server.start()

    def restore(self) -> None:
        self._server.stop(signal.SIGTERM)
        shutil.rmtree(self._server.data)
        shutil.copytree(self._copy, self._server.data)
        self._server.start()


@pytest.fixture
def backup(own_server: Server, tmp_path: Path) -> Backup:
    return Backup(own_server, tmp_path)


@trio_test
async def test_a_restored_backup_is_noticed_after_a_restart_though_others_wrote_on(
    own_account: Account, backup: Backup
) -> None:
    """The numbers of the restored server have grown past what this device had seen: they prove nothing."""
    async with own_account.device("one") as one:
        one.write("f", b"first")
        await one.settle()
    backup.take()
    async with own_account.device("one") as one:
        one.write("f", b"second")
        await one.settle()
    backup.restore()
    async with own_account.device("other") as other:
        for number in range(20):
            other.write(f"later {number}", b"later")
            await other.settle()
    for _ in range(2):
        async with own_account.device("one") as one:
            with pytest.raises(Rollback, match="blobfs recover"):
                await one.settle()
            status = one.engine.status()
            assert status.state is SyncState.ROLLED_BACK
            assert "restored from a backup" in status.reason
            assert await one.read("f") == b"second"
            one.write("written meanwhile", b"stays")
    async with own_account.device("one") as one:
        assert await one.read("written meanwhile") == b"stays"


@trio_test
async def test_what_was_acknowledged_a_moment_before_a_crash_is_missed_after_it(
    own_account: Account, backup: Backup
) -> None:
    async with own_account.device("one") as one:
        one.write("a", b"a")
        await one.settle()
    backup.take()
    async with own_account.device("one") as one:
        one.write("f", b"confirmed")
        await until(lambda: one.engine.status().pending_documents == 0 and bool(one.engine.rounds))
        await one.settle()
    backup.restore()
    async with own_account.device("one") as one:
        with pytest.raises(Rollback):
            await one.settle()


@trio_test
async def test_recovery_sends_again_what_a_restored_server_lost_and_every_device_ends_alike(
    own_account: Account, backup: Backup
) -> None:
    big = bytes(range(256)) * 4096 * 5
    async with own_account.device("one") as one, own_account.device("two") as two:
        one.mkdir("kept")
        one.write("kept/old", b"old")
        one.write("edited", b"before")
        one.write("deleted", b"before")
        one.write("moved", b"moved")
        await converge(one, two)
    backup.take()
    async with own_account.device("one") as one, own_account.device("two") as two:
        one.mkdir("new")
        one.write("new/file", b"new")
        one.write("new/big", big)
        one.make("new/link", Kind.SYMLINK, b"file")
        one.write("edited", b"after")
        one.remove("deleted")
        one.rename("moved", "new/moved")
        await converge(one, two)
        expected = await one.tree()
    backup.restore()
    async with own_account.device("one") as one, own_account.device("two") as two:
        for device in (one, two):
            with pytest.raises(Rollback):
                await device.settle()
        assert await one.tree() == expected
        one.engine.recover()
        await one.settle()
        assert await one.tree() == expected
        assert not one.engine.status().parked
        async with own_account.device("fresh") as fresh:
            await fresh.settle()
            assert await fresh.tree() == expected
        two.engine.recover()
        await converge(two, one)
        assert await two.tree() == expected == await one.tree()
        two.write("edited", b"works on")
        await converge(two, one)
        assert await one.read("edited") == b"works on"
    assert len(big) > EXTENT


@trio_test
async def test_recovery_keeps_both_where_the_restored_server_went_on(own_account: Account, backup: Backup) -> None:
    async with own_account.device("one") as one:
        one.write("f.txt", b"base")
        one.write("g.txt", b"base")
        one.write("h.txt", b"base")
        await one.settle()
    backup.take()
    async with own_account.device("one") as one:
        one.write("f.txt", b"lost on the server")
        one.write("g.txt", b"lost on the server")
        one.remove("h.txt")
        await one.settle()
    backup.restore()
    async with own_account.device("new") as new, own_account.device("one") as one:
        await new.settle()
        new.write("f.txt", b"written on the restored server")
        new.remove("g.txt")
        new.write("h.txt", b"an edit beats a deletion")
        await new.settle()
        with pytest.raises(Rollback):
            await one.settle()
        one.engine.recover()
        await converge(one, new)
        tree = await one.tree()
        assert tree == await new.tree()
        texts = sorted(data for _, _, data in tree.values())
        assert texts == sorted(
            [
                b"written on the restored server",
                b"lost on the server",
                b"lost on the server",
                b"an edit beats a deletion",
            ]
        )
        assert tree["f.txt"][2] == b"written on the restored server"


@trio_test
async def test_a_recovery_that_is_interrupted_goes_on_after_the_next_start(
    own_account: Account, backup: Backup
) -> None:
    async with own_account.device("one") as one:
        one.write("a", b"a")
        await one.settle()
    backup.take()
    async with own_account.device("one") as one:
        for number in range(30):
            one.write(f"f{number}", b"%d" % number)
        await one.settle()
    backup.restore()
    async with own_account.device("one") as one:
        with pytest.raises(Rollback):
            await one.settle()
        one.engine.recover()
    async with own_account.device("one") as one:
        await one.settle()
        assert one.engine.status().state is SyncState.CONNECTED
        async with own_account.device("fresh") as fresh:
            await fresh.settle()
            assert len(fresh.paths()) == 31
    async with own_account.device("one") as one:
        await one.settle()
        assert one.store.settings.get("recovering") is None


def _doubts(device: Device) -> list[str]:
    return [entry.reason for entry in device.engine.status().parked if "different stories" in entry.reason]


@trio_test
async def test_a_change_that_the_server_hides_from_one_device_is_missed_with_the_next_that_it_shows(
    account: Account, evil: Evil, caplog: pytest.LogCaptureFixture
) -> None:
    async with account.device("one") as one, account.device("two", url=evil.url) as two:
        one.write("before", b"shown")
        await converge(one, two)
        hidden: set[str] = set()
        evil.attack = on_feed(lambda documents: [entry for entry in documents if entry["doc_id"] not in hidden])
        hidden.add(one.write("hidden", b"hidden from two").doc_id)
        await one.settle()
        one.write("after", b"shown")
        await one.settle()
        await until(lambda: two.exists("after") and bool(_doubts(two)))
        assert not two.exists("hidden")
        assert "blobfs recover" in _doubts(two)[0]
        assert "different stories" in caplog.text
        two.write("work", b"goes on")
        await two.settle()
    async with account.device("two", url=evil.url) as two:
        await until(lambda: bool(_doubts(two)))
        evil.attack = None
        two.engine.recover()
        await two.settle()
        assert two.store.settings.get("recovering") is None
        assert not _doubts(two)
        assert await two.read("hidden") == b"hidden from two"


@trio_test
async def test_two_copies_of_a_server_with_a_device_each_are_found_out_when_one_document_crosses(
    own_account: Account, own_server: Server, tmp_path: Path
) -> None:
    async with own_account.device("one") as one, own_account.device("two") as two:
        one.write("common", b"common")
        await converge(one, two)
    own_server.stop(signal.SIGTERM)
    (tmp_path / "fork").mkdir()
    shutil.copytree(own_server.data, tmp_path / "fork" / "server")
    own_server.start()
    with serving(tmp_path / "fork") as fork, evil_before(own_server.url) as left, evil_before(fork.url) as right:
        async with own_account.device("one", url=left.url) as one, own_account.device("two", url=right.url) as two:
            one.write("by one", b"1")
            await one.settle()
            two.write("by two", b"2")
            await two.settle()
            crossing = one.write("crossing", b"3").doc_id
            await one.settle()
            await until(lambda: any(entry["doc_id"] == crossing for entry in left.documents()))
            sealed = next(entry for entry in left.documents() if entry["doc_id"] == crossing)
            right.attack = on_feed(lambda documents: [*documents, sealed])
            two.write("more", b"4")
            await two.settle()
            await until(lambda: bool(_doubts(two)))
            assert (await two.read("by two"), await two.read("more")) == (b"2", b"4")


@trio_test
async def test_an_honest_server_is_never_doubted(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    dice = random.Random(7)
    async with account.device("one") as one, account.device("two") as two, account.device("three") as three:
        devices = (one, two, three)
        for _ in range(12):
            for device in devices:
                for _ in range(dice.randrange(4)):
                    name = f"f{dice.randrange(6)}"
                    # It may come or go by what arrives meanwhile, in another thread.
                    with device.store.transaction():
                        if device.exists(name) and dice.random() < 0.3:
                            device.remove(name)
                        else:
                            device.write(name, dice.randbytes(20))
            async with trio.open_nursery() as nursery:
                for device in dice.sample(devices, 2):
                    nursery.start_soon(device.settle)
        await converge(*devices)
        assert await one.tree() == await two.tree() == await three.tree()
        heads = [device.store.documents.heads() for device in devices]
        assert heads[0] == heads[1] == heads[2]
        assert len(heads[0]) == 3
    assert "different stories" not in caplog.text


@trio_test
async def test_a_server_is_not_doubted_for_what_it_showed_while_the_version_of_an_open_file_waited(
    account: Account,
) -> None:
    async with account.device("one") as one, account.device("two") as two:
        one.write("f", b"old")
        await converge(one, two)
        inode = two.node("f").inode
        two.open.add(inode)
        one.write("f", b"newer")
        await converge(one, two)
        assert two.engine.status().held == (two.node("f").doc_id,)
        two.write("mine", b"sent and shown again meanwhile")
        await two.settle()
        two.open.remove(inode)
        await until(lambda: two.node("f").size == 5)
        one.write("later", b"on a page that begins behind it")
        await converge(one, two)
        # As after a line that broke: the server has to show what this device knows it to have.
        two.engine._feed.suspect()
        await two.engine._feed.catch_up()
