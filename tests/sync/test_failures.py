"""What goes wrong between a device and its server: said clearly, harmless to what is here, over when it is over."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
import trio

from blobfs import protocol
from blobfs.errors import (
    AccessDenied,
    CorruptBlob,
    DataMissing,
    QuotaExceeded,
    RemoteUnavailable,
    Rollback,
    WrongAccount,
)
from blobfs.sync import feed
from blobfs.sync.engine import SyncOptions
from blobfs.sync.evict import CacheLimits, evict
from blobfs.sync.status import SyncState
from blobfs.values import documents
from blobfs.values.extents import EXTENT
from blobfs.values.keys import AccountId, derive_keys
from tests.sync.kit import TIMEOUT_S, Account, Device, Server, converge, trio_test, until
from tests.sync.proxy import proxying

SHORT = SyncOptions(quiet_s=0.05, max_wait_s=0.5, debounce_s=0.01, fetch_deadline_s=0.5, reopen_s=0.02)


async def read_in_the_end(device: Device, path: str) -> bytes:
    """As a program that asks again: with a deadline of `SHORT`, the first answers may come too late for it."""
    with trio.fail_after(TIMEOUT_S):
        while True:
            try:
                return await device.read(path)
            except RemoteUnavailable:
                await trio.lowlevel.checkpoint()


@trio_test
async def test_a_cold_start_without_a_server_works_and_a_read_fails_in_time(
    own_account: Account, own_server: Server
) -> None:
    async with own_account.device("one") as one, own_account.device("two") as two:
        one.write("far", b"on the server")
        await converge(one, two)
        two.write("near", b"here")
        await two.settle()
    own_server.stop()
    async with own_account.device("two", options=SHORT) as two:
        assert await two.read("near") == b"here"
        two.rename("near", "nearer")
        two.write("new", b"offline")
        with pytest.raises(RemoteUnavailable), trio.fail_after(TIMEOUT_S):
            await two.read("far")
        await until(lambda: two.engine.status().state is SyncState.OFFLINE)
        assert two.engine.status().pending_documents == 2
        with pytest.raises(RemoteUnavailable):
            await two.engine.settle(0.2)
        own_server.start()
        await two.settle()
        await until(lambda: two.engine.status().state is SyncState.CONNECTED)
        assert await read_in_the_end(two, "far") == b"on the server"
    async with own_account.device("one") as one:
        await one.settle()
        assert {path: data for path, (_, _, data) in (await one.tree()).items()} == {
            "far": b"on the server",
            "nearer": b"here",
            "new": b"offline",
        }


@trio_test
async def test_a_server_that_is_killed_again_and_again_gets_everything(
    own_account: Account, own_server: Server
) -> None:
    async with own_account.device("one") as one:
        await one.settle()
        for number in range(3):
            one.mkdir(f"d{number}")
            for name in range(30):
                one.write(f"d{number}/{name}", os.urandom(20_000))
            own_server.stop(signal.SIGKILL)
            own_server.start()
        await one.settle()
        async with own_account.device("two") as two:
            await two.settle()
            assert await two.tree() == await one.tree()
    assert own_server.command("check")["clean"]


@trio_test
async def test_a_revoked_token_stops_sync_and_nothing_else(account: Account) -> None:
    token = account.server.command("token", "add", account.user)
    async with account.device("one", token=token["token"]) as one:
        one.write("f", b"sent")
        await one.settle()
        account.server.command("token", "revoke", account.user, str(token["number"]))
        one.write("f", b"kept")
        with pytest.raises(AccessDenied):
            await one.settle()
        assert one.engine.status().state is SyncState.REFUSED
        assert "invite" in one.engine.status().reason
        assert await one.read("f") == b"kept"
    async with account.device("one") as one, account.device("two") as two:
        await converge(one, two)
        assert await two.read("f") == b"kept"


@trio_test
async def test_a_full_quota_stops_uploads_only(shared_server: Server, account: Account) -> None:
    shared_server.command("quota", "set", account.user, "300000")
    async with account.device("one") as one, account.device("two") as two:
        await converge(one, two)
        one.write("big", os.urandom(1 << 20))
        with pytest.raises(QuotaExceeded):
            await one.settle()
        assert one.engine.status().state is SyncState.OVER_QUOTA
        two.write("small", b"fits")
        await two.settle()
        await until(lambda: one.exists("small"))
        assert len(await one.read("big")) == 1 << 20
        shared_server.command("quota", "set", account.user, "none")
        one.engine.retry()
        await converge(one, two)
        assert await two.read("big") == await one.read("big")


@trio_test
async def test_a_server_with_another_accounts_data_gets_and_gives_nothing(account: Account) -> None:
    async with account.device("one") as one:
        one.write("f", b"mine")
        await one.settle()
    other = derive_keys(AccountId("cd" * 16), b"o" * 32)
    async with account.device("stranger", keys=other) as stranger:
        stranger.write("g", b"not for you")
        with pytest.raises(WrongAccount):
            await stranger.settle()
        assert stranger.engine.status().state is SyncState.WRONG_ACCOUNT
        assert sorted(stranger.paths()) == ["g"]


@trio_test
async def test_a_server_that_was_set_back_is_noticed(own_account: Account, own_server: Server) -> None:
    async with own_account.device("one") as one:
        one.write("f", b"first")
        await one.settle()
        own_server.stop(signal.SIGTERM)
        shutil.copytree(own_server.data, own_server.data.parent / "backup")
        own_server.start()
        one.engine.retry()
        one.write("f", b"second")
        await one.settle()
        own_server.stop(signal.SIGTERM)
        shutil.rmtree(own_server.data)
        shutil.move(own_server.data.parent / "backup", own_server.data)
        await until(lambda: one.engine.status().state is SyncState.OFFLINE)
        own_server.start()
        with pytest.raises(Rollback):
            await one.settle()
        assert one.engine.status().state is SyncState.ROLLED_BACK
        assert await one.read("f") == b"second"


@trio_test
async def test_changed_and_missing_blobs_are_named_and_never_read(account: Account) -> None:
    async with (
        account.device("one") as one,
        account.device("two") as two,
        account.device("three", options=SHORT) as three,
    ):
        one.write("spoilt", os.urandom(100_000))
        one.write("gone", os.urandom(100_001))
        one.write("good", b"well")
        await converge(one, two, three)
        # This account's alone: those of other tests are on this server, too.
        files = [path for path in (account.server.data / "blobs" / account.user).rglob("*") if path.is_file()]
        _, spoilt, gone = sorted(files, key=lambda path: path.stat().st_size)
        data = bytearray(spoilt.read_bytes())
        data[5000] ^= 1
        spoilt.write_bytes(data)
        gone.unlink()
        with pytest.raises(CorruptBlob):
            await two.read("spoilt")
        with pytest.raises((DataMissing, RemoteUnavailable)):
            await three.read("gone")
        assert await two.read("good") == b"well"
        assert two.node("spoilt").stored == 0
        assert "authentication" in two.engine.status().parked[0].reason


@trio_test
async def test_connections_that_are_cut_cost_nothing_but_time(account: Account) -> None:
    data = os.urandom(2 * EXTENT + 999)
    async with proxying(account.server.url) as proxy, account.device("one", url=proxy.url) as one:
        await one.settle()
        one.write("big", data)
        for number in range(40):
            one.write(f"f{number}", os.urandom(3000))
        for _ in range(4):
            moved = proxy.moved
            one.engine.retry()
            with trio.move_on_after(1):
                await until(lambda moved=moved: proxy.moved > moved)
            await proxy.cut()
        await one.settle()
        async with account.device("two", url=proxy.url) as two:
            await two.settle()
            proxy.cut_after = 700_000
            one.engine.retry()
            with trio.move_on_after(1):
                await two.read("big", 0, EXTENT)
            proxy.cut_after = None
            assert await two.tree() == await one.tree()


@trio_test
async def test_a_stalled_server_holds_a_reader_no_longer_than_the_deadline(account: Account) -> None:
    async with account.device("one") as one:
        one.write("f", os.urandom(500_000))
        await one.settle()
    async with (
        proxying(account.server.url) as proxy,
        account.device("two", url=proxy.url, options=SHORT) as two,
    ):
        await two.settle()
        proxy.stalled = True
        # Long before the connection is given up, which takes half a minute of silence.
        with trio.fail_after(20), pytest.raises(RemoteUnavailable, match="in time"):
            await two.engine.fetch(two.node("f").content, 0, 4096)  # type: ignore[arg-type]
        proxy.stalled = False
        assert len(await read_in_the_end(two, "f")) == 500_000


@trio_test
async def test_readers_that_give_up_do_not_use_up_the_connections(account: Account) -> None:
    async with account.device("one") as one:
        for number in range(30):
            one.write(f"f{number}", os.urandom(300_000))
        await one.settle()
    async with proxying(account.server.url) as proxy, account.device("two", url=proxy.url) as two:
        await two.settle()
        proxy.delay_s = 0.05
        for number in range(30):
            with trio.move_on_after(0.01):
                await two.read(f"f{number}")
        proxy.delay_s = 0.0
        for number in range(30):
            assert len(await two.read(f"f{number}")) == 300_000


@trio_test
async def test_a_poisoned_document_holds_up_nobody(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        await converge(one, two)
        await one.client.push(
            [_change("poison", b"BLFD\x01" + bytes(100)), _change("f" * 32, b"garbage that is no document")]
        )
        one.write("fine", b"yes")
        await converge(one, two)
        assert await two.read("fine") == b"yes"
        assert {entry.doc_id for entry in two.engine.status().parked} == {"poison", "f" * 32}
        await until(lambda: two.engine.status().state is SyncState.CONNECTED)


def _change(doc_id: str, payload: bytes):  # type: ignore[no-untyped-def]
    from blobfs.remote.client import Change
    from blobfs.values.documents import DocId

    return Change(DocId(doc_id), None, "0123456789abcdef:1", False, payload)


@trio_test
async def test_clean_extents_are_evicted_and_come_back(account: Account) -> None:
    data = os.urandom(2 * EXTENT)
    async with account.device("one") as one:
        one.write("big", data)
        await one.settle()
        one.engine.pause()
        one.write("dirty", data[:1000])
        freed = await trio.to_thread.run_sync(evict, one.store, CacheLimits(most=0), lambda content: False)
        assert freed == len(data)
        assert (one.node("big").stored, one.node("dirty").stored) == (0, 1000)
        one.engine.resume()
        assert await one.read("big") == data


@trio_test
async def test_a_file_that_is_written_all_the_time_is_sent_as_it_was_at_one_moment(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        await converge(one, two)
        half = EXTENT
        one.write("log", bytes(2 * half))
        stop = trio.Event()

        async def keep_writing() -> None:
            number = 1
            while not stop.is_set():
                # Both ends in one transaction: a version that has only one of them is torn.
                mark = number.to_bytes(8, "big")
                node = one.node("log")
                one.store.attachments.write(node.inode, [(0, mark), (half, mark)], node.size, number, number)
                number += 1
                await trio.sleep(0.002)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_writing)
            await until(lambda: two.exists("log") and two.node("log").size == 2 * half)
            for _ in range(3):
                node = two.node("log")
                assert node.content is not None
                two.open.add(node.inode)
                ends = [await two.read("log", 0, 8), await two.read("log", half, 8)]
                two.open.discard(node.inode)
                assert ends[0] == ends[1]
                seen = node.mtime_ns
                await until(lambda seen=seen: two.node("log").mtime_ns != seen)
            stop.set()


@trio_test
async def test_a_change_beyond_the_limits_is_named_and_holds_up_nobody(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with account.device("one") as one, account.device("two") as two:
        await converge(one, two)
        monkeypatch.setattr(protocol, "MAX_DOCUMENTS_BODY", (32 << 10) + 600)
        node = one.write("huge", b"")
        pieces = [(index * EXTENT, bytes([index + 1])) for index in range(10)]
        one.store.attachments.write(node.inode, pieces, 9 * EXTENT + 1, 1, 1)
        one.write("small", b"passes")
        await until(lambda: two.exists("small"))
        await until(lambda: bool(one.engine.status().parked))
        assert "write it in steps" in one.engine.status().parked[0].reason
        assert not two.exists("huge")
        monkeypatch.undo()
        one.write("huge", b"less")
        await converge(one, two)
        assert await two.read("huge") == b"less"


@trio_test
async def test_a_document_of_a_newer_blobfs_is_read_once_this_one_is_as_new(account: Account) -> None:
    with pytest.MonkeyPatch.context() as newer:
        newer.setattr(documents, "FORMAT", documents.FORMAT + 1)
        async with account.device("one") as one:
            one.write("of tomorrow", b"bytes")
            await one.settle()
    async with account.device("two") as two:
        await two.settle()
        assert [entry.reason for entry in two.engine.status().parked if "newer blobfs" in entry.reason]
        assert not two.exists("of tomorrow")
    with pytest.MonkeyPatch.context() as updated:
        newest = documents.FORMAT + 1
        for module in (documents, feed):
            updated.setattr(module, "FORMAT", newest)
        async with account.device("two") as two:
            await two.settle()
            assert two.engine.status().parked == ()
            assert await two.read("of tomorrow") == b"bytes"
