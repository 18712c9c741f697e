"""What one device does one after the other is no conflict to the others, though they look after every request."""

from __future__ import annotations

import os
from typing import Final

import pytest

from blobfs import protocol
from blobfs.sync import candidates as candidates_room
from blobfs.sync.candidates import Candidates, Timing
from blobfs.sync.copies import is_conflict_name
from blobfs.sync.order import in_order
from blobfs.values.documents import Kind
from tests.sync.kit import Account, Device, converge, look_after_each_request, noise, trio_test

LARGE: Final = 300 << 10
"""Bytes of a file that is sent alone."""


class Corner:
    """A directory of a device, for one deed."""

    def __init__(self, device: Device, name: str) -> None:
        self._device, self._name = device, name
        self.store = device.store

    def _path(self, name: str) -> str:
        return f"{self._name}/{name}"

    def furnish(self) -> None:
        self._device.mkdir(self._name)
        for name in ("a", "b", "log", "log.1", "log.2", *(f"n{number}" for number in range(12))):
            self.write(name, f"first {name}".encode())
        self.make("link", Kind.SYMLINK, b"old")
        self.mkdir("empty")
        self.mkdir("full")
        self.write("full/x", b"x")
        self.write("full/y", b"y")

    def write(self, name: str, data: bytes, offset: int = 0, *, truncate: bool = True) -> None:
        self._device.write(self._path(name), data, offset, truncate=truncate)

    def make(self, name: str, kind: Kind, target: bytes = b"") -> None:
        self._device.make(self._path(name), kind, target)

    def mkdir(self, name: str) -> None:
        self._device.mkdir(self._path(name))

    def rename(self, old: str, new: str) -> None:
        self._device.rename(self._path(old), self._path(new))

    def exchange(self, one: str, other: str) -> None:
        here = self._device.node(self._name).inode
        self.store.tree.rename(here, one.encode(), here, other.encode(), 7, exchange=True)

    def remove(self, name: str) -> None:
        self._device.remove(self._path(name))


def replace_a_file(here: Corner) -> None:
    here.rename("a", "b")


def replace_files_by_a_directory_and_back(here: Corner) -> None:
    here.remove("a")
    here.mkdir("a")
    here.write("a/in", b"new")
    here.remove("empty")
    here.write("empty", b"a file now")


def replace_a_link(here: Corner) -> None:
    here.remove("link")
    here.make("link", Kind.SYMLINK, b"new")


def exchange_two_files(here: Corner) -> None:
    here.write("b", noise(LARGE), truncate=False)
    here.exchange("a", "b")


def make_a_directory_where_one_was_moved_away(here: Corner) -> None:
    here.rename("full", "moved")
    here.mkdir("full")
    here.write("full/new", b"new")


def make_a_directory_where_a_full_one_was_removed(here: Corner) -> None:
    here.remove("full/x")
    here.remove("full/y")
    here.remove("full")
    here.mkdir("full")
    here.write("full/x", b"new")


def replace_a_directory_by_one_with_its_files(here: Corner) -> None:
    here.mkdir("other")
    here.rename("full/x", "other/x")
    here.rename("full/y", "other/y")
    here.remove("full")
    here.rename("other", "full")


def rotate_logs(here: Corner) -> None:
    here.write("log", noise(LARGE), 5, truncate=False)
    here.remove("log.2")
    here.rename("log.1", "log.2")
    here.rename("log", "log.1")
    here.write("log", b"the next one")


def move_every_name_on(here: Corner) -> None:
    here.remove("n0")
    for number in range(1, 12):
        here.rename(f"n{number}", f"n{number - 1}")


DEEDS: Final = (
    replace_a_file,
    replace_files_by_a_directory_and_back,
    replace_a_link,
    exchange_two_files,
    make_a_directory_where_one_was_moved_away,
    make_a_directory_where_a_full_one_was_removed,
    replace_a_directory_by_one_with_its_files,
    rotate_logs,
    move_every_name_on,
)


RINGS: Final = (exchange_two_files, replace_a_directory_by_one_with_its_files)
"""Whatever goes first takes a name that is not left: these take one request."""


@pytest.mark.parametrize("most", [protocol.MAX_CHANGES, 1])
def test_nobody_sees_a_name_taken_before_it_was_left(account: Account, most: int) -> None:
    @trio_test
    async def run() -> None:
        async with account.device("one") as one, account.device("two") as two:
            corners = {deed: Corner(one, deed.__name__) for deed in DEEDS if most > 1 or deed not in RINGS}
            for corner in corners.values():
                corner.furnish()
            await converge(one, two)
            look_after_each_request(one, two, most=most)
            for deed, corner in corners.items():
                deed(corner)
            wanted = await one.tree()
            await converge(one, two)
            assert not [path for path in two.paths() if is_conflict_name(os.fsencode(path.rpartition("/")[2]))]
            assert await two.tree() == wanted
            assert await one.tree() == wanted

    run()


@trio_test
async def test_a_device_that_was_away_reads_page_by_page_without_conflict(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        corners = {deed: Corner(one, deed.__name__) for deed in DEEDS}
        for corner in corners.values():
            corner.furnish()
        await converge(one, two)
        two.engine.pause()
        for deed, corner in corners.items():
            deed(corner)
        await one.settle()
        # What gave a name up comes last, whatever took it.
        for path, node in one.paths().items():
            if node.kind is Kind.FILE:
                one.write(path, b"edited", truncate=False)
        wanted = await one.tree()
        await one.settle()
        feed = two.client.feed
        two.client.feed = lambda since, **options: feed(since, **options | {"limit": 1})  # type: ignore[method-assign]
        two.engine.resume()
        await converge(two, one)
        assert not [path for path in two.paths() if is_conflict_name(os.fsencode(path.rpartition("/")[2]))]
        assert await two.tree() == wanted
        assert await one.tree() == wanted


@trio_test
async def test_whoever_takes_a_name_or_lets_a_directory_go_waits_for_a_file_that_is_still_written(
    account: Account,
) -> None:
    async with account.device("one") as one:
        for directory in ("taken", "gone"):
            one.mkdir(directory)
            one.mkdir(f"{directory}/in")
            one.write(f"{directory}/in/log", b"begun")
        one.write("other", b"x")
        await one.settle()
        one.engine.pause()
        look = Candidates(one.store, Timing(3600, 3600), lambda inode: True).look
        for directory in ("taken", "gone"):
            one.write(f"{directory}/in/log", b", and goes on", 5, truncate=False)
        assert look((), hurry=False).ready == []
        one.rename("taken/in/log", "taken/in/log.1")
        one.rename("other", "taken/in/log")
        one.rename("gone/in/log", "log")
        one.remove("gone/in")
        one.remove("gone")
        found = look((), hurry=False)
        # The directories, whose times changed; neither the file that was moved nor the directories that went.
        order = in_order(found.ready, found.leaving, more=False)
        assert (order.knots, order.files, order.gone, order.held) == ([], [], [], 3)
        order = in_order(look((), hurry=True).ready, {}, more=False)
        assert [len(knot) for knot in order.knots] == [2]
        assert (len(order.files), len(order.gone), order.held) == (1, 2, 0)


@trio_test
async def test_a_backlog_of_nothing_but_names_that_are_passed_on_is_sent(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates_room, "LOOK", 3)
    async with account.device("one") as one, account.device("two") as two:
        one.mkdir("d")
        for number in range(8):
            one.write(f"d/{number}", b"x")
        await converge(one, two)
        one.engine.pause()
        for number in range(8):
            one.remove(f"d/{number}")
        one.remove("d")
        one.mkdir("d")
        for number in range(5):
            one.mkdir(f"d/new{number}")
        one.engine.resume()
        await converge(one, two)
        assert sorted(two.paths()) == ["d", *(f"d/new{number}" for number in range(5))]
