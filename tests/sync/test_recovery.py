"""What a server lost is sent again by whoever has it, byte for byte as it was; what nobody has is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blobfs.errors import BlobfsError, Rollback
from blobfs.protocol import ChangeStatus
from blobfs.remote.client import Change, Page, RemoteClient, Result
from tests.sync.kit import Account, Server, converge, trio_test, until
from tests.threats.test_rollback import Backup


@pytest.fixture
def backup(own_server: Server, tmp_path: Path) -> Backup:
    return Backup(own_server, tmp_path)


@trio_test
async def test_recovery_sends_padded_files_again_as_they_were(own_account: Account, backup: Backup) -> None:
    backup.take()
    async with own_account.device("one") as one:
        one.store.settings.set("padded", True)
        one.write("small", b"x" * 70_001)
        one.write("large", bytes(range(256)) * 40_003)
        await one.settle()
        expected = await one.tree()
    backup.restore()
    async with own_account.device("one") as one:
        with pytest.raises(Rollback):
            await one.settle()
        one.engine.recover()
        await one.settle()
        async with own_account.device("fresh") as fresh:
            await fresh.settle()
            assert await fresh.tree() == expected


@trio_test
async def test_recovery_names_a_file_of_which_nobody_has_all_bytes_and_sends_the_others(
    own_account: Account, backup: Backup
) -> None:
    backup.take()
    async with own_account.device("one") as one:
        one.write("evicted", b"gone with the server")
        one.write("here", b"still here")
        await one.settle()
        content = one.node("evicted").content
        assert content is not None
        one.store.attachments.evict(content, [0])
    backup.restore()
    async with own_account.device("one") as one:
        with pytest.raises(Rollback):
            await one.settle()
        one.engine.recover()
        with pytest.raises(BlobfsError):
            await one.settle()
        assert [entry.reason for entry in one.engine.status().parked] == [
            "the server lost parts of the file that are not on this device either"
        ]
        async with own_account.device("fresh") as fresh:
            await fresh.settle()
            assert await fresh.read("here") == b"still here"


async def go_on(account: Account) -> None:
    """A device that knew nothing works on with a restored server, so that what is sent again has later numbers."""
    async with account.device("other") as other:
        for number in range(3):
            other.mkdir(f"new {number}")
        await other.settle()


@trio_test
async def test_a_device_that_finds_all_it_knew_after_anothers_recovery_misses_nothing_that_was_made_since(
    own_account: Account, backup: Backup
) -> None:
    """The restored server gives out numbers again under which this device has seen something else."""
    async with own_account.device("one") as one, own_account.device("two") as two:
        one.write("kept", b"in the backup")
        await converge(one, two)
    backup.take()
    async with own_account.device("one") as one, own_account.device("two") as two:
        for number in range(5):
            one.write(f"lost {number}", b"since")
            await one.settle()
        await converge(one, two)
    backup.restore()
    async with own_account.device("one") as one:
        one.remove("kept")
        one.write("new", b"made before the recovery")
        with pytest.raises(Rollback):
            await one.settle()
        one.engine.recover()
        await one.settle()
        expected = await one.tree()
    async with own_account.device("two") as two:
        await two.settle()
        assert await two.tree() == expected


@trio_test
async def test_what_came_with_a_conflict_is_missed_on_a_server_that_was_set_back(
    own_account: Account, backup: Backup
) -> None:
    async with own_account.device("one") as one, own_account.device("two") as two:
        one.write("f", b"first")
        await converge(one, two)
    backup.take()
    async with own_account.device("two") as two:
        await two.settle()
        two.engine.pause()

        async def drop(asked: object, page: object) -> bool:
            return False

        two.engine._feed._take = drop  # type: ignore[method-assign]
        async with own_account.device("one") as one:
            one.write("f", b"second")
            await one.settle()
        two.write("f", b"another second")
        # The feed would bring it a moment later; the answer to a push does now.
        await two.engine._upload.round(hurry=True)
        assert len(two.paths()) == 2
    backup.restore()
    async with own_account.device("two") as two, own_account.device("one") as one:
        with pytest.raises(Rollback):
            await two.settle()
        for device in (one, two):
            device.engine.recover()
        await converge(one, two)
        assert await one.tree() == await two.tree()
        assert sorted([await two.read(path) for path in two.paths()]) == [b"another second", b"second"]


@trio_test
async def test_a_change_that_was_repeated_to_a_restored_server_does_not_stand_for_those_before_it(
    own_account: Account, backup: Backup
) -> None:
    """What a crash of the server left unanswered is sent to its backup: so the last that others have seen is there."""
    async with own_account.device("one") as one, own_account.device("two") as two:
        await converge(one, two)
    backup.take()
    pushed = list[Change]()
    async with own_account.device("one") as one, own_account.device("two") as two:
        two.write("lost", b"on the server, for all that two knows")
        await two.settle()
        push = one.client.push

        async def note(changes: Sequence[Change]) -> list[Result]:
            pushed.extend(changes)
            return await push(changes)

        one.client.push = note  # type: ignore[method-assign]
        one.mkdir("last")
        await converge(one, two)
    backup.restore()
    await go_on(own_account)
    async with RemoteClient(own_account.server.url, own_account.user, own_account.token) as client:
        assert [result.status for result in await client.push(pushed)] == [ChangeStatus.OK]
    async with own_account.device("two") as two:
        with pytest.raises(Rollback):
            await two.settle()
        two.engine.recover()
        await two.settle()
    async with own_account.device("fresh") as fresh:
        await fresh.settle()
        assert await fresh.read("lost") == b"on the server, for all that two knows"
        assert fresh.exists("last")


@trio_test
async def test_a_server_that_is_set_back_during_a_pause_is_noticed_before_anything_is_sent(
    own_account: Account, backup: Backup
) -> None:
    backup.take()
    async with own_account.device("one") as one:
        ask, asking = one.client.feed, list[str | None]()

        async def note(since: str | None, **options: Any) -> Page:
            asking.append(since)
            try:
                return await ask(since, **options)
            finally:
                asking.remove(since)

        one.client.feed = note  # type: ignore[method-assign]
        one.write("lost", b"on the server")
        await one.settle()
        one.engine.pause()
        async with own_account.device("two") as two:
            # It ends the request that waits for news, if one does: no connection breaks with the server.
            two.mkdir("news")
            await two.settle()
            await until(lambda: not asking)
        backup.restore()
        one.write("after", b"the pause")
        one.engine.resume()
        with pytest.raises(Rollback):
            await one.settle()
        assert one.store.documents.base(one.node("after").doc_id) is None
        one.engine.recover()
        await one.settle()
        async with own_account.device("fresh") as fresh:
            await fresh.settle()
            assert {"after", "lost"} <= fresh.paths().keys()
            assert await fresh.read("lost") == b"on the server"


@trio_test
async def test_what_another_devices_recovery_could_not_bring_back_is_missed_though_all_that_came_last_is_there(
    own_account: Account, backup: Backup
) -> None:
    async with own_account.device("one") as one, own_account.device("two") as two:
        await converge(one, two)
    backup.take()
    async with own_account.device("two") as two:
        two.write("lost", b"only two has it")
        await two.settle()
        async with own_account.device("one") as one:
            hidden = two.node("lost").doc_id
            take = one.engine._feed._take

            async def pass_over(asked: Any, page: Page) -> bool:
                documents = tuple(sealed for sealed in page.documents if sealed.doc_id != hidden)
                return await take(asked, replace(page, documents=documents))

            one.engine._feed._take = pass_over  # type: ignore[method-assign]
            for number in range(6):
                one.mkdir(f"later {number}")
                await one.settle()
            await two.settle()
            assert not one.exists("lost")
    backup.restore()
    await go_on(own_account)
    async with own_account.device("one") as one:
        with pytest.raises(Rollback):
            await one.settle()
        one.engine.recover()
        await one.settle()
    for _ in range(2):
        async with own_account.device("two") as two:
            with pytest.raises(Rollback):
                await two.settle()
    async with own_account.device("two") as two, own_account.device("one") as one:
        two.engine.recover()
        await converge(two, one)
        assert await one.read("lost") == b"only two has it"
        assert await one.tree() == await two.tree()
        assert len(one.paths()) == 10
