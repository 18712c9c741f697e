"""Small files that are read one after the other come together; those that are read alone, alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from blobfs.errors import CorruptBlob
from tests.sync.kit import Account, Device, Server, converge, trio_test
from tests.sync.proxy import proxying

COUNT = 300
PAGE = 4096


async def _filled(account: Account, one: Device, folders: int = 1) -> dict[str, bytes]:
    data = {f"d{number % folders}/{number:04}": os.urandom(PAGE) for number in range(COUNT)}
    for number in range(folders):
        one.mkdir(f"d{number}")
    for path, content in data.items():
        one.write(path, content)
    await one.settle()
    return data


def _counted(device: Device, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The path of every request that this device makes from now on for blobs."""
    asked, request = list[str](), device.client.transport.open

    def open_and_note(lane, method, path, **rest):  # type: ignore[no-untyped-def]
        if "/stream/" in path or "/blobs/" in path:
            asked.append(path)
        return request(lane, method, path, **rest)

    monkeypatch.setattr(device.client.transport, "open", open_and_note)
    return asked


@trio_test
async def test_a_directory_that_is_read_through_takes_few_requests(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with account.device("one") as one, account.device("two") as two:
        data = await _filled(account, one)
        await two.settle()
        asked = _counted(two, monkeypatch)
        for path, content in data.items():
            assert await two.read(path) == content
        assert len(asked) <= 10


@trio_test
async def test_the_order_of_names_is_an_order_too(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    async with account.device("one") as one, account.device("two") as two:
        one.mkdir("d0")
        data = {f"d0/{number * 7919 % COUNT:04}": os.urandom(PAGE) for number in range(COUNT)}
        for path, content in data.items():
            one.write(path, content)
        await converge(one, two)
        asked = _counted(two, monkeypatch)
        for path in sorted(data):
            assert await two.read(path) == data[path]
        assert len(asked) <= 12


@trio_test
async def test_a_tree_that_is_read_through_takes_about_one_request_a_directory(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with account.device("one") as one, account.device("two") as two:
        data = await _filled(account, one, folders=6)
        await two.settle()
        asked = _counted(two, monkeypatch)
        for path in sorted(data):
            assert await two.read(path) == data[path]
        assert len(asked) <= 6 * 2 + 6


@trio_test
async def test_directories_that_are_read_in_turns_come_together(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with account.device("one") as one, account.device("two") as two:
        data = {f"{number % 30:02}/{number:04}": os.urandom(PAGE) for number in range(COUNT)}
        for number in range(30):
            one.mkdir(f"{number:02}")
        for path, content in data.items():
            one.write(path, content)
        await converge(one, two)
        asked = _counted(two, monkeypatch)
        for path, content in data.items():
            assert await two.read(path) == content
        assert len(asked) <= 15


@trio_test
async def test_who_goes_on_in_one_directory_draws_no_more_of_those_that_he_was_in(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        data = await _filled(account, one, folders=3)
        await two.settle()
        paths = list(data)
        for path in [*paths[:3], *paths[3::3]]:
            assert await two.read(path) == data[path]
        for folder in ("d1", "d2"):
            assert sum(node.stored > 0 for node in two.paths(folder).values()) < 40


@trio_test
async def test_a_file_that_is_read_alone_draws_no_other_one_after_it(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        data = await _filled(account, one)
        await two.settle()
        for number in (0, 150, 60, 290):
            path = f"d0/{number:04}"
            assert await two.read(path) == data[path]
        assert sum(node.stored > 0 for node in two.paths("d0").values()) == 4


@trio_test
async def test_who_waits_for_one_file_does_not_wait_for_those_after_it(account: Account) -> None:
    async with account.device("one") as one, proxying(account.server.url) as proxy:
        data = await _filled(account, one)
        async with account.device("two", url=proxy.url) as two:
            await two.settle()
            # The answer with all of them is longer than what passes.
            assert await two.read("d0/0000") == data["d0/0000"]
            proxy.cut_after = 3 * PAGE
            assert await two.read("d0/0001") == data["d0/0001"]
            proxy.cut_after = None
            assert await two.read("d0/0002") == data["d0/0002"]


@trio_test
async def test_many_readers_of_one_directory_share_requests(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    async with account.device("one") as one, account.device("two") as two:
        data = await _filled(account, one)
        await two.settle()
        asked = _counted(two, monkeypatch)

        async def read_all() -> None:
            for path, content in data.items():
                assert await two.read(path) == content

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(read_all)
        assert len(asked) <= 20


@trio_test
async def test_a_spoilt_file_among_others_spoils_only_itself(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        data = await _filled(account, one)
        await two.settle()
        spoilt = "d0/0007"
        content = one.node(spoilt).content
        assert content is not None
        _spoil(account.server, one.store.attachments.extents(content)[0].blob_id)
        for path, expected in data.items():
            if path == spoilt:
                with pytest.raises(CorruptBlob):
                    await two.read(path)
            else:
                assert await two.read(path) == expected


def _spoil(server: Server, blob_id: str | None) -> None:
    """Change a byte of a blob where the server keeps it."""
    assert blob_id is not None
    for path in filter(Path.is_file, server.data.rglob(f"*{blob_id}*")):
        sealed = bytearray(path.read_bytes())
        sealed[-1] ^= 1
        path.write_bytes(sealed)
