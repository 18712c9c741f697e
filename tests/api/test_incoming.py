"""The incoming box for programs, on real devices of one account and a real server."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest
import trio

import blobfs
from blobfs.errors import DocumentExists, RemoteUnavailable, UsageError
from blobfs.remote.box import Box
from blobfs.remote.transport import Limits, Transport
from blobfs.values import drops
from tests.api.conftest import OpenDevice
from tests.e2e.devices import PASSPHRASE, Device, Server
from tests.e2e.devices import blobfs as run_blobfs


def leave(address: str, name: str, content: bytes) -> str:
    """As a sender; the id of the item."""
    to, item_id = drops.parse_address(address), drops.new_item_id()
    item = b"".join(drops.seal_item(to, item_id, name, content))

    async def send() -> None:
        async with Transport(to.url, to.user, to.token, limits=Limits()) as transport:
            await Box(transport, to.user).leave(item_id, item)

    trio.run(send)
    return item_id


def names(account: blobfs.Account, **options: int) -> list[str]:
    """What a consumer that keeps nothing is handed."""
    found: list[str] = []
    account.incoming.consume(lambda item: found.append(item.name), **options)
    return found


def test_items_are_handed_out_once_oldest_first_and_saved_after_they_were_processed(device: OpenDevice) -> None:
    one, two, steps = device("one"), device("two"), list[tuple[str, object]]()
    address, content = one.incoming.address(days=1), os.urandom(200_000)
    leave(address, "first", content)
    leave(address, "second", b"")

    def process(item: blobfs.Item) -> int:
        with item.open() as file:
            file.seek(-3, 2) if item.size else None
            steps.append((item.name, file.read()))
        return len(item.read())

    assert one.incoming.consume(process, lambda item, result: steps.append((item.name, result))) == 2
    assert steps == [("first", content[-3:]), ("first", 200_000), ("second", b""), ("second", 0)]
    assert names(one) == names(two) == []
    one.sync()
    two.sync()
    assert names(two) == names(one) == []
    assert list(one.get_all_docs()) == []


def test_two_programs_on_two_devices_get_different_items(device: OpenDevice) -> None:
    one, two = device("one"), device("two")
    address = one.incoming.address()
    wanted = [f"item {number}" for number in range(10)]
    for name in wanted:
        leave(address, name, b"x")
    found: list[list[str]] = [[], []]

    def consume(account: blobfs.Account, mine: list[str]) -> None:
        mine += names(account)

    threads = [threading.Thread(target=consume, args=pair) for pair in zip((one, two), found, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found[0] + found[1]) == sorted(wanted)


def test_what_fails_is_kept_with_its_reason_and_tried_again_by_a_newer_consumer(device: OpenDevice) -> None:
    one, two = device("one"), device("two")
    item_id = leave(one.incoming.address(), "odd", b"bytes")

    def process(item: blobfs.Item) -> None:
        raise ValueError("cannot read this")

    assert one.incoming.consume(process) == 0
    assert one.incoming.consume(process) == 0
    assert one.incoming.failures() == [blobfs.Failure(item_id, "ValueError: cannot read this", 1, 1)]
    one.sync()
    two.sync()
    assert two.incoming.failures() == one.incoming.failures()
    assert names(two) == []
    assert two.incoming.consume(process, version=2) == 0
    assert [failure.count for failure in two.incoming.failures()] == [2]
    assert names(two, version=3) == ["odd"]
    assert two.incoming.failures() == []
    with pytest.raises(UsageError):
        names(two, version=0)


def test_a_consumer_that_is_killed_after_it_saved_can_see_that_it_did(
    device: OpenDevice, server: Server, tmp_path: Path
) -> None:
    account = device("one")
    item_id = leave(account.incoming.address(), "mail", b"bytes")
    account.close()
    code = f"""
import os, signal, blobfs
def save(item, result):
    account.create_doc({{"saved": result}}, doc_id=item.item_id)
    os.kill(os.getpid(), signal.SIGKILL)
account = blobfs.open_account({str(tmp_path / "one")!r}, passphrase={PASSPHRASE!r}).open()
account.incoming.consume(lambda item: item.read().decode(), save)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == -signal.SIGKILL
    with contextlib.closing(sqlite3.connect(server.data / "catalog.db")) as catalog, catalog:
        # In place of a quarter of an hour until the reservation is over.
        catalog.execute("UPDATE blobs SET flagged_ns = 1 WHERE blob_id = ?", (item_id,))
    account, again = device("one"), list[str]()

    def save(item: blobfs.Item, result: str) -> None:
        again.append(item.item_id)
        with pytest.raises(DocumentExists):
            account.create_doc({"saved": result}, doc_id=item.item_id)

    assert account.incoming.consume(lambda item: "bytes", save) == 1
    assert again == [item_id]
    document = account.get_doc(item_id)
    assert document is not None
    assert document.content == {"saved": "bytes"}


def test_without_the_server_a_consumer_is_told_so(device: OpenDevice, server: Server) -> None:
    account = device()
    account.sync()
    server.stop()
    with pytest.raises(RemoteUnavailable):
        names(account)
    with pytest.raises(RemoteUnavailable):
        account.incoming.address()
    for days in (0, -1, 99999):
        with pytest.raises(UsageError):
            account.incoming.address(days=days)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_async_programs_consume_too(account: blobfs.Account, backend: str) -> None:
    incoming, found = blobfs.AsyncIncoming(account.incoming), list[object]()

    async def process(item: blobfs.Item) -> bytes:
        return item.read()

    async def save(item: blobfs.Item, result: bytes) -> None:
        if result == b"bad":
            raise ValueError("no")
        found.append(result)

    async def use() -> None:
        address = await incoming.address(days=3)
        for content in (b"good", b"bad"):
            await anyio.to_thread.run_sync(leave, address, "name", content)
        assert await incoming.consume(process, save) == 1
        assert [failure.reason for failure in await incoming.failures()] == ["ValueError: no"]
        assert await incoming.consume(process) == 0

    anyio.run(use, backend=backend)
    assert found == [b"good"]


def test_a_program_consumes_through_a_mount_that_leaves_the_box_to_it(invite: str, tmp_path: Path) -> None:
    mounted = Device(tmp_path, "mounted", invite)
    try:
        mounted.up()
        assert run_blobfs("config", str(mounted.mount), "incoming", "off").returncode == 0
        with blobfs.open_account(mounted.store, passphrase=PASSPHRASE) as account:
            data = os.urandom(100_000)
            leave(account.incoming.address(), "item", data)
            found: list[bytes] = []
            assert account.incoming.consume(blobfs.Item.read, lambda _, result: found.append(result)) == 1
            assert found == [data]
            assert account.incoming.failures() == []
            assert os.listdir(mounted.mount) == []
    finally:
        mounted.close()
