"""A file that does not fit into the account holds up nothing that does."""

from __future__ import annotations

import pytest

from blobfs.errors import QuotaExceeded
from blobfs.sync.status import SyncState
from blobfs.values.extents import EXTENT
from tests.sync.kit import Account, Device, Server, converge, noise, trio_test, until


async def _used(device: Device) -> int:
    usage = await device.client.usage()
    assert usage is not None
    return usage.used


@trio_test
async def test_a_file_that_does_not_fit_takes_no_room_from_those_that_do(
    shared_server: Server, account: Account
) -> None:
    shared_server.command("quota", "set", account.user, "6000000")
    async with account.device("one") as one, account.device("two") as two:
        await converge(one, two)
        one.engine.pause()
        one.write("big", noise(2 * EXTENT))
        for number in range(5):
            one.write(f"small{number}", noise(1000 + number))
        one.write("medium", noise(1 << 20))
        one.engine.resume()
        with pytest.raises(QuotaExceeded, match=r"a file with 8\.0 MiB to send does not fit into"):
            await one.settle()
        await until(lambda: len(two.paths()) == 6)
        assert sorted(two.paths()) == ["medium", *(f"small{number}" for number in range(5))]
        assert await _used(one) < 2 << 20
        assert one.engine.status().state is SyncState.OVER_QUOTA
        assert one.engine.failure(one.node("big").doc_id)
        heard = one.engine.health.changed
        one.engine.retry()
        await heard.wait()  # whoever asks again is answered
        await until(lambda: one.engine.status().state is SyncState.OVER_QUOTA)
        one.write("later", b"goes at once")
        await until(lambda: two.exists("later"))
        one.remove("big")
        await until(lambda: one.engine.status().state is SyncState.CONNECTED)
        data = noise(2 * EXTENT)
        one.write("big", data)
        shared_server.command("quota", "set", account.user, "none")
        await converge(one, two)
        assert await two.read("big") == data


@trio_test
async def test_of_two_files_that_fit_only_one_by_one_the_first_is_sent(shared_server: Server, account: Account) -> None:
    shared_server.command("quota", "set", account.user, str(8 << 20))
    async with account.device("one") as one, account.device("two") as two:
        await converge(one, two)
        one.engine.pause()
        for name in ("left", "right"):
            one.write(name, name.encode() * (5 << 18))
        one.engine.resume()
        with pytest.raises(QuotaExceeded):
            await one.settle()
        await until(lambda: two.exists("left") or two.exists("right"))
        assert len(two.paths()) == 1
        assert await _used(one) < 7 << 20


@trio_test
async def test_what_the_server_has_already_needs_no_room(shared_server: Server, account: Account) -> None:
    shared_server.command("quota", "set", account.user, str(6 << 20))
    async with account.device("one") as one:
        data = noise(5 << 20)
        one.write("first", data)
        await one.settle()
        one.write("same", data)
        await one.settle()
        assert await _used(one) < 6 << 20
