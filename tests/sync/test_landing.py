"""Bytes that are opened and not in the store yet: who reads them, and what becomes of them when the world moves on."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import pytest
import trio

from blobfs.errors import BytesAbsent, NoSpace
from blobfs.fs.filesystem import FileSystem, Owner
from blobfs.sync import landing
from blobfs.values.extents import EXTENT, ROW
from blobfs.values.nodes import Content
from tests.sync.kit import TIMEOUT_S, Account, Device, converge, noise, trio_test, until

REQUEST: Final = 128 << 10
"""Bytes of one of the kernel's reads."""


@contextmanager
def slow_store(device: Device) -> Iterator[threading.Event]:
    """A store that takes no fetched bytes in before the event is set."""
    keep, gate = device.store.attachments.keep, threading.Event()

    def wait(*arguments: Any) -> None:
        assert gate.wait(TIMEOUT_S)
        keep(*arguments)

    device.store.attachments.keep = wait  # type: ignore[method-assign]
    try:
        yield gate
    finally:
        gate.set()


class Reader:
    """A file of a device, opened through its filesystem."""

    def __init__(self, device: Device, path: str) -> None:
        self.inode = device.node(path).inode
        self.fs = FileSystem(
            device.store,
            fetch=device.engine.fetch,
            prefetch=device.engine.prefetch,
            arrivals=device.engine,
            owner=Owner(os.getuid(), os.getgid(), False),
            fetch_deadline_s=TIMEOUT_S,
        )

    async def read(self, offset: int = 0, length: int = 1 << 40) -> bytes:
        """As the kernel reads: one request after the other."""
        found, end = list[bytes](), min(offset + length, self.fs.getattr(self.inode).size)
        for at in range(offset, end, REQUEST):
            found.append(await self.fs.read(self.inode, at, min(REQUEST, end - at)))
        return b"".join(found)


@asynccontextmanager
async def opened(device: Device, path: str) -> AsyncIterator[Reader]:
    """A reader with a handle."""
    reader = Reader(device, path)
    device.open.add(reader.inode)
    await reader.fs.open(reader.inode)
    try:
        yield reader
    finally:
        await reader.fs.release(reader.inode)
        device.open.discard(reader.inode)


def is_here(device: Device, content: Content, offset: int, length: int) -> bool:
    try:
        device.store.attachments.read(content, offset, length)
    except BytesAbsent:
        return False
    return True


@trio_test
async def test_a_reader_has_the_bytes_before_the_store_has_them(account: Account) -> None:
    data = noise(3 * EXTENT + 12345)
    async with account.device("one") as one, account.device("two") as two:
        one.write("big", data)
        await converge(one, two)
        content = two.node("big").content
        assert content is not None
        async with opened(two, "big") as reader:
            with slow_store(two):
                assert await reader.read() == data
                assert two.node("big").stored == 0
            await until(lambda: two.node("big").stored == len(data))
            assert await reader.read() == data
        assert two.store.attachments.read(content, 0, len(data)) == data


@trio_test
async def test_what_is_on_its_way_is_known_until_something_is_written_here(account: Account) -> None:
    data = noise(2 * EXTENT)
    async with account.device("one") as one, account.device("two") as two:
        one.write("big", data)
        await converge(one, two)
        content, opener = two.node("big").content, two.engine._download._opener
        assert content is not None
        bring, gate = opener.bring, trio.Event()

        async def wait(*arguments: Any, **options: Any) -> Any:
            await gate.wait()
            return await bring(*arguments, **options)

        opener.bring = wait  # type: ignore[method-assign]
        async with opened(two, "big") as reader, trio.open_nursery() as nursery:
            assert not two.engine.is_coming(content, 0, REQUEST)
            nursery.start_soon(reader.read, 0, REQUEST)
            await until(lambda: two.engine.is_coming(content, 0, REQUEST))
            assert not two.engine.is_coming(content, EXTENT, REQUEST)
            two.write("other", b"anything")
            assert not two.engine.is_coming(content, 0, REQUEST)
            gate.set()
            assert await reader.read() == data
            assert not two.engine.is_coming(content, 0, REQUEST)


@trio_test
async def test_bytes_that_are_opened_and_not_kept_are_not_fetched_again(account: Account) -> None:
    data = noise(2 * EXTENT)
    async with account.device("one") as one, account.device("two") as two:
        one.write("big", data)
        await converge(one, two)
        async with opened(two, "big") as reader:
            with slow_store(two):
                assert await reader.read() == data
                # Whatever was not in memory would have to come from here.
                account.server.freeze()
                try:
                    with trio.fail_after(TIMEOUT_S):
                        assert await reader.read(ROW + 5, EXTENT) == data[ROW + 5 : ROW + 5 + EXTENT]
                finally:
                    account.server.thaw()


@trio_test
async def test_a_store_without_room_does_not_keep_a_reader_from_the_bytes(account: Account) -> None:
    data = noise(EXTENT + ROW)
    async with account.device("one") as one, account.device("two") as two:
        one.write("big", data)
        for number in range(20):
            one.write(f"small{number}", data[:1000])
        await converge(one, two)
        keep = two.store.attachments.keep

        def refuse(*_: Any) -> None:
            raise NoSpace("full")

        two.store.attachments.keep = refuse  # type: ignore[method-assign]
        for path in ("big", *(f"small{number}" for number in range(20))):
            async with opened(two, path) as reader:
                assert await reader.read() == data[: two.node(path).size]
        content = two.node("big").content
        assert content is not None
        with pytest.raises(NoSpace):
            await two.engine.fetch(content, 0, 1)
        # What was read ahead is refused as well, before there is room again.
        await until(lambda: not two.engine.status().transfers)
        assert two.node("big").stored == 0
        two.store.attachments.keep = keep  # type: ignore[method-assign]
        assert await two.read("big") == data


@trio_test
async def test_what_is_written_over_fetched_bytes_is_what_is_read_from_then_on(account: Account) -> None:
    data = bytearray(noise(2 * EXTENT))
    async with account.device("one") as one, account.device("two") as two:
        one.write("big", bytes(data))
        await converge(one, two)
        async with opened(two, "big") as reader:
            with slow_store(two) as gate:
                assert await reader.read() == data
                for at in (3 * ROW, EXTENT - ROW, EXTENT + 9 * ROW):
                    data[at : at + ROW] = noise(ROW)
                    two.write("big", bytes(data[at : at + ROW]), at, truncate=False)
                    # Between the rows that only memory has, those that only the store has.
                    for low in range(0, len(data), ROW):
                        assert await reader.read(low, ROW) == data[low : low + ROW]
                gate.set()
            assert await reader.read() == data
        await until(lambda: two.node("big").stored == len(data))
        assert await two.read("big") == data
        await converge(two, one)
        assert await one.read("big") == data


@trio_test
async def test_a_file_cut_and_lengthened_shows_nothing_of_what_was_on_its_way(account: Account) -> None:
    data = noise(EXTENT)
    async with account.device("one") as one, account.device("two") as two:
        one.write("big", data)
        await converge(one, two)
        async with opened(two, "big") as reader:
            with slow_store(two) as gate:
                assert await reader.read() == data
                two.store.attachments.resize(reader.inode, 4 * ROW, 1)
                two.store.attachments.resize(reader.inode, EXTENT, 2)
                assert await reader.read() == data[: 4 * ROW] + bytes(EXTENT - 4 * ROW)
                gate.set()
            await until(lambda: two.node("big").stored == 4 * ROW)
            assert await reader.read() == data[: 4 * ROW] + bytes(EXTENT - 4 * ROW)


@trio_test
async def test_bytes_of_a_version_that_was_replaced_meanwhile_are_not_kept(account: Account) -> None:
    old, new = noise(EXTENT), noise(EXTENT)
    async with account.device("one") as one, account.device("two") as two:
        one.write("big", old)
        await converge(one, two)
        before = two.node("big").content
        assert before is not None
        with slow_store(two) as gate:
            assert await two.engine.read(before, 0, EXTENT) == old
            one.write("big", new)
            await one.settle()
            await until(lambda: two.node("big").content != before)
            async with opened(two, "big") as reader:
                assert await reader.read() == new
            gate.set()
        assert await two.read("big") == new
        assert two.node("big").stored == EXTENT
        assert not is_here(two, before, 0, EXTENT) or two.store.attachments.read(before, 0, EXTENT) != new


@trio_test
async def test_evicted_bytes_come_again(account: Account) -> None:
    data = noise(2 * EXTENT)
    async with account.device("one") as one, account.device("two") as two:
        one.write("big", data)
        await converge(one, two)
        content = two.node("big").content
        assert content is not None
        for _ in range(2):
            async with opened(two, "big") as reader:
                assert await reader.read() == data
            # The store tells a moment before the memory is free, from which the bytes would be read again.
            await until(lambda: two.node("big").stored == len(data) and not two.engine.landing.held)
            two.store.attachments.evict(content, (0, 1))
            assert two.node("big").stored == 0
        assert await two.read("big", 5, EXTENT) == data[5 : 5 + EXTENT]


@trio_test
async def test_a_store_that_is_slow_bounds_what_is_in_memory(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "AT_MOST", 3 * EXTENT)
    monkeypatch.setattr(landing, "AHEAD", 2 * EXTENT)
    data, found = noise(8 * EXTENT), list[bytes]()
    async with account.device("one") as one, account.device("two") as two:
        one.write("big", data)
        await converge(one, two)
        async with opened(two, "big") as reader, trio.open_nursery() as nursery:
            with slow_store(two) as gate:

                async def read() -> None:
                    found.append(await reader.read())

                held, waiting, taken = two.engine.landing, list[int](), list[int]()
                reserve = held.reserve

                async def reserve_and_note(size: int, *, urgent: bool) -> None:
                    waiting.append(size)
                    await reserve(size, urgent=urgent)
                    waiting.remove(size)
                    taken.append(held.held)

                held.reserve = reserve_and_note  # type: ignore[method-assign]
                nursery.start_soon(read)
                # Sooner or later somebody waits for room; how much is taken by then, is up to who came first.
                await until(lambda: bool(waiting))
                gate.set()
        assert found == [data]
        assert EXTENT < max(taken) <= 3 * EXTENT


@trio_test
async def test_memory_is_free_again_once_nobody_reads(account: Account) -> None:
    data = noise(2 * EXTENT)
    async with account.device("one") as one, account.device("two") as two:
        one.write("big", data)
        await converge(one, two)
        async with opened(two, "big") as reader:
            assert await reader.read(0, EXTENT + ROW) == data[: EXTENT + ROW]
        await until(lambda: two.engine.landing.held == 0)


@trio_test
async def test_a_device_that_ends_with_bytes_on_their_way_keeps_none_of_them_half(account: Account) -> None:
    data = noise(2 * EXTENT)
    async with account.device("one") as one:
        one.write("big", data)
        await one.settle()
        async with account.device("two") as two:
            await converge(one, two)
            content = two.node("big").content
            assert content is not None
            with slow_store(two):
                assert await two.engine.read(content, 0, EXTENT) == data[:EXTENT]
        async with account.device("two") as two:
            assert await two.read("big") == data
