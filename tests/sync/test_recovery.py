"""What a server lost is sent again by whoever has it, byte for byte as it was; what nobody has is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from blobfs.errors import BlobfsError, Rollback
from tests.sync.kit import Account, Server, trio_test
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
