"""Waiting for the kernel's descriptor: by polling, and never at the cost of another task."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from blobfs.fs.polling import TURN_S, PollingTrio

LIMIT_S = 30.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends; the one that is read does not block."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_whoever_waits_returns_when_there_is_something_to_read_and_not_before(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    wait = PollingTrio().lowlevel.wait_readable
    told: list[str] = []

    async def write() -> None:
        await trio.testing.wait_all_tasks_blocked()  # the other one has stopped polling
        told.append("written")
        os.write(writer, b"x")

    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(write)
                    await wait(reader)
                    told.append("woken")
                    assert os.read(reader, 1) == b"x"

    trio.run(main)
    assert told == ["written", "woken"] * 3


class Other:
    """A task that has always something to do."""

    turns = 0

    async def run(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self.turns += 1


def test_other_tasks_get_their_turn_while_requests_follow_each_other(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    wait = PollingTrio().lowlevel.wait_readable
    other = Other()

    async def main() -> None:
        os.write(writer, b"x")  # from now on there is always something to read
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other.run)
                while other.turns < 3:
                    await wait(reader)
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_other_tasks_get_their_turn_after_each_request_that_takes_long(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    wait = PollingTrio().lowlevel.wait_readable
    other = Other()

    async def main() -> None:
        os.write(writer, b"x")
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other.run)
                for _ in range(5):
                    started = time.perf_counter()
                    while time.perf_counter() - started <= TURN_S:
                        pass  # a request that is answered
                    await wait(reader)
                # Of two tasks that are ready either goes first: one turn fewer, and one in which it only begins.
                assert other.turns >= 3
                nursery.cancel_scope.cancel()

    trio.run(main)
