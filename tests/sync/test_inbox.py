"""The incoming box, with real devices and a real server: each item becomes one document, whatever happens when."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest
import trio

from blobfs.protocol import Flag
from blobfs.remote.box import Box
from blobfs.sync.inbox import VERSION, Inbox
from blobfs.values import drops
from blobfs.values.drops import Address
from blobfs.values.keys import AccountId, derive_keys
from tests.sync.kit import ACCOUNT, KEYS, Account, Device, converge, trio_test


def box_of(account: Account, device: Device) -> Box:
    return Box(device.client.transport, account.user)


def inbox_of(account: Account, device: Device, reserved_s: float = 900.0) -> Inbox:
    return Inbox(device.store, box_of(account, device), reserved_s=reserved_s)


def sealed(account: Account, item_id: str, name: str, content: bytes) -> bytes:
    address = Address(account.server.url, account.user, "t", ACCOUNT, drops.public_key(KEYS))
    return b"".join(drops.seal_item(address, item_id, name, content))


async def leave(account: Account, device: Device, contents: Iterable[bytes], name: str = "mail.eml") -> list[str]:
    """Leave an item of each; their ids."""
    ids = []
    for content in contents:
        ids.append(drops.new_item_id())
        await box_of(account, device).leave(ids[-1], sealed(account, ids[-1], name, content))
    return ids


async def left(account: Account, device: Device) -> dict[str, list[str]]:
    """What the server has, by flag."""
    box = box_of(account, device)
    return {flag: found for flag in Flag if (found := await box.items(flag))}


async def files(device: Device) -> list[bytes]:
    return sorted([data for path, (_, _, data) in (await device.tree()).items() if path.startswith("Incoming/")])


async def empty(account: Account, device: Device, inbox: Inbox) -> None:
    """Take everything, and see it gone from the server."""
    await inbox.take_files(device.engine.on_applied)
    await device.settle()
    await inbox.take_files(device.engine.on_applied)
    assert not set(await left(account, device)) - {Flag.FAILED}


@trio_test
async def test_two_devices_that_take_at_once_make_one_file_of_each_item(account: Account) -> None:
    contents = sorted(os.urandom(size) for size in (0, 1, 70_000, 300_000, 5, 6, 7, 8))
    async with account.device("one") as one, account.device("two") as two:
        await leave(account, one, contents)
        async with trio.open_nursery() as nursery:
            for device in (one, two):
                nursery.start_soon(inbox_of(account, device).take_files, device.engine.on_applied)
        await converge(one, two)
        for device in (one, two):
            assert await files(device) == contents
            await inbox_of(account, device).take_files(device.engine.on_applied)
        assert await left(account, one) == {}


@trio_test
async def test_an_item_stays_at_the_server_until_that_has_the_file(account: Account) -> None:
    async with account.device("one") as one:
        (item_id,) = await leave(account, one, [b"bytes"])
        one.engine.pause()
        inbox = inbox_of(account, one)
        await inbox.take_files(one.engine.on_applied)
        assert await files(one) == [b"bytes"]
        assert await left(account, one) == {Flag.PROCESSING: [item_id]}
        one.engine.resume()
        await one.settle()
        await inbox.take_files(one.engine.on_applied)
        assert await left(account, one) == {}


@trio_test
async def test_a_device_that_dies_between_saving_and_telling_makes_no_second_file(account: Account) -> None:
    async with account.device("one") as one:
        await leave(account, one, [b"bytes"])
        one.engine.pause()
        await inbox_of(account, one).take_files(one.engine.on_applied)
    async with account.device("one") as one, account.device("two") as two:
        # Somebody else has taken it for dead meanwhile.
        other = inbox_of(account, two, reserved_s=0.001)
        await other.take_files(two.engine.on_applied)
        await converge(one, two)
        await empty(account, one, inbox_of(account, one))
        assert await files(one) == await files(two) == [b"bytes"]


@trio_test
async def test_a_reservation_expires_and_not_before(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        await leave(account, one, [b"bytes"])
        assert await inbox_of(account, one).take(VERSION) is not None
        assert await inbox_of(account, two).take(VERSION) is None
        waiting, taken = inbox_of(account, two, reserved_s=0.3), None
        while taken is None:
            taken = await waiting.take(VERSION)
        # Reserved anew: again it is nobody else's.
        assert await inbox_of(account, one).take(VERSION) is None
        await waiting.deliver(taken, two.engine.on_applied)
        assert await files(two) == [b"bytes"]


@trio_test
async def test_an_item_that_the_server_shows_again_is_not_taken_again(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        (item_id,) = await leave(account, one, [b"bytes"])
        await empty(account, one, inbox_of(account, one))
        one.rename("Incoming/mail.eml", "kept")
        await converge(one, two)
        replayed = sealed(account, item_id, "mail.eml", b"bytes")
        for device in (one, two):
            await box_of(account, device).leave(item_id, replayed)
            await empty(account, device, inbox_of(account, device))
            assert await files(device) == []
        one.remove("kept")
        await converge(one, two)
        for device in (two, one):
            await box_of(account, device).leave(item_id, replayed)
            await empty(account, device, inbox_of(account, device))
            assert not device.exists("kept")
            assert await files(device) == []


@trio_test
async def test_what_was_not_sealed_for_this_item_of_this_account_fails_and_stays(account: Account) -> None:
    good = sealed(account, "a", "name", b"x" * 90_000)
    stranger = derive_keys(AccountId("cd" * 16), b"s" * 32)
    address = Address(account.server.url, account.user, "t", ACCOUNT, drops.public_key(stranger))
    changed = sealed(account, "changed", "name", b"x" * 9)
    items = {
        "moved": good,
        "cut": sealed(account, "cut", "name", b"x" * 90_000)[:-1],
        "half": sealed(account, "half", "name", b"x" * 200_000)[: 66_000 + 200],
        "longer": sealed(account, "longer", "name", b"x") + b"\0",
        "changed": changed[:-1] + bytes([changed[-1] ^ 1]),
        "stranger": b"".join(drops.seal_item(address, "stranger", "name", b"x")),
        "noise": os.urandom(3000),
        "empty": b"",
    }
    async with account.device("one") as one, account.device("two") as two:
        for item_id, item in items.items():
            await box_of(account, one).leave(item_id, item)
        await leave(account, one, [b"good"])
        await empty(account, one, inbox_of(account, one))
        await converge(one, two)
        for device in (one, two):
            assert await files(device) == [b"good"]
            failures = device.store.arrivals.failures()
            assert set(failures) == set(items)
            assert all(failure["count"] == 1 and failure["reason"] for failure in failures.values())
            # The same consumer does not try again, on any device; a newer one does.
            assert await inbox_of(account, device).take(VERSION) is None
        assert sorted((await left(account, one))[Flag.FAILED]) == sorted(items)
        assert await inbox_of(account, two).take(VERSION + 1) is None
        assert all(failure["count"] == 2 for failure in two.store.arrivals.failures().values())


@trio_test
async def test_what_failed_is_taken_by_a_newer_consumer(account: Account) -> None:
    async with account.device("one") as one:
        (item_id,) = await leave(account, one, [b"bytes"])
        inbox = inbox_of(account, one)
        taken = await inbox.take(VERSION)
        assert taken is not None
        await inbox.fail(item_id, "the program has a bug", VERSION)
        assert await inbox.take(VERSION) is None
        again = await inbox.take(VERSION + 1)
        assert again is not None
        await inbox.deliver(again, one.engine.on_applied)
        assert await files(one) == [b"bytes"]
        assert one.store.arrivals.failures() == {}
        await empty(account, one, inbox)
        assert await left(account, one) == {}


@trio_test
async def test_names_are_made_harmless_and_those_that_are_taken_get_numbers(account: Account) -> None:
    async with account.device("one") as one:
        one.write("Incoming", b"a file in the way")
        for name in ("../../x.txt", "x.txt", "C:\\x.txt", ".bashrc", "lock.swp", "a\nb", ""):
            await leave(account, one, [name.encode()], name)
        await empty(account, one, inbox_of(account, one))
        found = {path for path in one.paths() if path.startswith("Incoming (2)/")}
        names = {"x.txt", "x (2).txt", "x (3).txt", "_bashrc", "lock.swp.item", "a_b", "item"}
        assert found == {f"Incoming (2)/{name}" for name in names}
        assert await one.read("Incoming") == b"a file in the way"


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200_000])
def test_an_item_opens_however_its_bytes_arrive(size: int, account: Account) -> None:
    content = os.urandom(size)
    item = sealed(account, "item", "name", content)
    for step in (1 << 20, 65_552, 7001):
        opener = drops.Opener([KEYS], "item")
        pieces = [b"".join(opener.feed(item[at : at + step])) for at in range(0, len(item), step)]
        assert b"".join(pieces) == content
        assert opener.end() == ("name", size)
