"""Files that are opened or edited in the very moment in which a version of another device is about to be applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from blobfs.remote.client import Sealed
from blobfs.sync.situation import Remote
from blobfs.sync.view import News
from tests.sync.kit import Account, Device, converge, trio_test, until


def in_between(device: Device, monkeypatch: pytest.MonkeyPatch, deed: Callable[[], object]) -> None:
    """Have something happen once, when files were looked at and what arrived for them is not applied yet."""
    feed, left = device.engine._feed, [deed]
    find = feed._find_equal

    def find_and_do(arrivals: Sequence[Remote], news: News) -> object:
        found = find(arrivals, news)
        if arrivals and left:
            left.pop()()
        return found

    monkeypatch.setattr(feed, "_find_equal", find_and_do)


@trio_test
async def test_an_edit_beside_the_arrival_of_equal_bytes_is_not_taken_for_them(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with account.device("one") as one:
        one.write("f.txt", b"the same on both")
        await one.settle()
        async with account.device("two") as two:
            two.write("f.txt", b"the same on both")
            in_between(two, monkeypatch, lambda: two.write("f.txt", b"edited right then", truncate=False))
            await converge(two, one)
            for device in (one, two):
                found = sorted(data for _, _, data in (await device.tree()).values())
                assert found == [b"edited right then", b"the same on both"]


@trio_test
async def test_a_file_that_is_opened_when_a_newer_version_is_about_to_be_applied_keeps_its_bytes(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with account.device("one") as one, account.device("two") as two:
        one.write("f", b"old")
        await converge(one, two)
        assert await two.read("f") == b"old"
        inode = two.node("f").inode
        in_between(two, monkeypatch, lambda: two.open.add(inode))
        one.write("f", b"newer")
        await converge(one, two)
        assert await two.read("f") == b"old"
        assert two.engine.status().held == (two.node("f").doc_id,)
        two.open.remove(inode)
        await until(lambda: two.node("f").size == 5)
        assert await two.read("f") == b"newer"


@trio_test
async def test_a_recovery_that_begins_while_a_page_is_applied_sends_no_document_that_the_server_has(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page counts as not read: what is in it would be sent in vain, again and again."""
    async with account.device("one") as one, account.device("two") as two:
        one.write("f", b"of one")
        await converge(one, two)
        feed, left = one.engine._feed, [one.engine.recover]
        apply_all = feed._apply_all

        async def apply_and_recover(documents: Sequence[Sealed]) -> object:
            came = await apply_all(documents)
            if documents and left:
                left.pop()()
            return came

        monkeypatch.setattr(feed, "_apply_all", apply_and_recover)
        two.write("g", b"of two")
        await two.settle()
        await until(lambda: not left)
        await one.settle()
        await until(lambda: not feed.recovery.active)
        assert not feed.recovery.lost
        assert {path: data for path, (_, _, data) in (await one.tree()).items()} == {"f": b"of one", "g": b"of two"}
