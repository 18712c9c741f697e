"""What tells the kernel to forget: in a thread of its own, and whoever asks knows when it has been said."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from blobfs.fs.filesystem import FileSystem
from blobfs.fs.stale import Invalidator, Stale
from blobfs.values.nodes import Inode

TIMEOUT_S = 60


class Kernel:
    """It hears of names when it may."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.may_hear = threading.Event()

    def forget_name(self, parent: Inode, name: bytes) -> None:
        assert self.may_hear.wait(TIMEOUT_S)
        self.heard.append(name)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def invalidator(kernel: Kernel) -> Iterator[Invalidator]:
    made = Invalidator(lambda inode, has_content: None, kernel.forget_name)
    yield made
    kernel.may_hear.set()
    assert made.stop(TIMEOUT_S)


def name(text: bytes) -> Stale:
    return Stale((), ((Inode(1), text),))


def test_it_is_known_when_everything_was_said(kernel: Kernel, invalidator: Invalidator) -> None:
    assert invalidator.wait(TIMEOUT_S)
    for text in (b"a", b"b"):
        invalidator.put(name(text))
        assert not invalidator.wait(0)
    kernel.may_hear.set()
    assert invalidator.wait(TIMEOUT_S)
    assert kernel.heard == [b"a", b"b"]


def test_a_command_is_answered_when_the_kernel_was_told(
    fs: FileSystem, kernel: Kernel, invalidator: Invalidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blobfs.fs.filesystem.TOLD_S", TIMEOUT_S)
    fs.wait_told = invalidator.wait
    invalidator.put(name(b"a"))
    heard: list[bytes] = []

    async def main() -> None:
        async def answer() -> None:
            await fs.until_told()
            heard.extend(kernel.heard)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            await trio.testing.wait_all_tasks_blocked()
            kernel.may_hear.set()

    trio.run(main)
    assert heard == [b"a"]


def test_a_kernel_that_hears_nothing_holds_up_no_answer(
    fs: FileSystem, kernel: Kernel, invalidator: Invalidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blobfs.fs.filesystem.TOLD_S", 0.01)
    fs.wait_told = invalidator.wait
    invalidator.put(name(b"a"))
    trio.run(fs.until_told)
    assert kernel.heard == []
