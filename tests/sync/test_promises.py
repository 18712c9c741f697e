"""What sync promises beside convergence: nothing is sent twice, readers come first, and news travel by themselves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import trio

from blobfs.protocol import MAX_WAIT_S
from blobfs.store.store import Store
from blobfs.values.extents import EXTENT, BlobId
from tests.sync.kit import KEYS, Account, converge, trio_test, until
from tests.sync.proxy import proxying


@trio_test
async def test_equal_extents_are_sent_and_stored_once(account: Account) -> None:
    extent = os.urandom(EXTENT)
    async with account.device("one") as one, account.device("two") as two:
        one.write("same thrice", extent * 3)
        one.write("same again", extent + b"and more")
        one.write("the same", extent)
        await converge(one, two)
        blobs = [path.stat().st_size for path in (account.server.data / "blobs" / account.user).rglob("*")]
        assert len([size for size in blobs if size > EXTENT]) == 1
        assert await two.read("same thrice") == extent * 3


@trio_test
async def test_a_changed_byte_of_a_gibibyte_of_holes_sends_one_extent(account: Account) -> None:
    async with proxying(account.server.url) as proxy, account.device("one", url=proxy.url) as one:
        node = one.write("disk image", b"")
        one.store.attachments.write(node.inode, [(0, os.urandom(1000))], 1 << 30, 1, 1)
        await one.settle()
        before = proxy.sent
        one.write("disk image", b"x", 700 << 20, truncate=False)
        await one.settle()
        assert one.node("disk image").size == 1 << 30
        assert proxy.sent - before < EXTENT + (256 << 10)


@trio_test
async def test_what_arrived_before_a_kill_is_not_sent_again(account: Account) -> None:
    data = os.urandom(12 * EXTENT)
    image = account.directory / "image"
    async with proxying(account.server.url) as proxy:
        async with account.device("one", url=proxy.url) as one:
            await one.settle()
            one.write("big", data)
            one.engine.retry()
            await until(lambda: proxy.sent > 7 * EXTENT)
            proxy.refusing = True
            await proxy.cut()
            with one.store.transaction():
                shutil.copytree(one.store.path, image)
        first = proxy.sent
        _replace(account.directory / "one", image)
        proxy.refusing = False
        async with account.device("one", url=proxy.url) as one:
            await one.settle()
            second = proxy.sent - first
            # What was on its way when the line broke goes once more: six blobs at most.
            assert first + second < len(data) + 7 * EXTENT
            # Of seven that were begun one at least had arrived, and maybe no other one.
            assert second < 11 * EXTENT + (512 << 10)
            async with account.device("two") as two:
                await two.settle()
                assert await two.read("big") == data


@trio_test
async def test_blobs_that_take_long_hold_up_no_others_of_their_file(account: Account) -> None:
    async with account.device("one") as one:
        await one.settle()
        put, free, begun, arrived = one.client.put, trio.Event(), 0, 0

        async def put_five_slowly(blob_id: BlobId, sealed: bytes | memoryview, digest: bytes | None = None) -> None:
            nonlocal begun, arrived
            begun += 1
            if begun <= 5:
                await free.wait()
            await put(blob_id, sealed, digest)
            arrived += 1

        one.client.put = put_five_slowly  # type: ignore[method-assign]
        one.write("big", os.urandom(16 * EXTENT))
        one.engine.retry()
        await until(lambda: arrived == 11)
        free.set()
        await one.settle()
        assert arrived == begun == 16


def _replace(path: Path, image: Path) -> None:
    shutil.rmtree(path)
    image.rename(path)
    Store.open(path, KEYS).close()


@trio_test
async def test_a_change_is_there_at_once_though_nobody_asks_again_and_again(account: Account) -> None:
    async with (
        proxying(account.server.url) as proxy,
        account.device("one") as one,
        account.device("two", url=proxy.url) as two,
    ):
        await converge(one, two)
        # It asks once what the account holds, and not again soon, since it sends nothing.
        await until(lambda: two.engine.allowance.last is not None)
        requests = proxy.requests
        for name in "abcde":
            one.write(name, b"now")
            await one.settle()
            # With the news itself: a question that is held open ends by itself only after a minute.
            with trio.fail_after(MAX_WAIT_S / 2):
                await until(lambda name=name: two.exists(name))
        # One question held open at the server for each piece of news, whatever the time between them.
        assert proxy.requests - requests <= 6


@trio_test
async def test_a_reader_waits_for_none_of_a_hundred_files_on_their_way_up(account: Account) -> None:
    async with account.device("one") as one:
        one.write("wanted", os.urandom(100_000))
        await one.settle()
    async with proxying(account.server.url) as proxy, account.device("two", url=proxy.url) as two:
        await two.settle()
        for number in range(100):
            two.write(f"up {number}", os.urandom(600_000))
        # Uploads hang in the line, as many as there are connections for; no answer of theirs comes.
        proxy.stalled_uploads = True
        two.engine.retry()
        await until(lambda: proxy.waiting_uploads > 0)
        assert len(await two.read("wanted")) == 100_000
        assert two.engine.status().pending_documents == 100
        proxy.stalled_uploads = False
        await two.settle()


@trio_test
async def test_a_server_that_asks_for_time_gets_it(account: Account) -> None:
    async with proxying(account.server.url) as proxy, account.device("one", url=proxy.url) as one:
        await one.settle()
        # Nobody but the feed is to meet the failure: who asks what the account holds makes nobody else wait.
        await until(lambda: one.engine.allowance.last is not None)
        proxy.retry_after_s, proxy.failures = 2, 1
        await proxy.cut()
        await until(lambda: proxy.failures == 0)
        asked = proxy.requests
        one.write("f", b"waits")
        await until(lambda: proxy.requests > asked)
        assert trio.current_time() - proxy.failed_at >= 2
        await one.settle()
