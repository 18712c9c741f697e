"""A server that holds a folder back, so that no path leads to what another device moved into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blobfs.answers.health import Health
from blobfs.answers.past import Past
from blobfs.errors import UsageError
from tests.sync.kit import Account, Device, converge, trio_test, until
from tests.threats.evil import Evil, on_feed


async def folders_of(device: Device, place: Path, **question: Any) -> list[dict[str, Any]]:
    """What doctor says of folders."""
    health = Health(device.store, device.engine, device.client, place / "none")
    findings = (await health.answer(question))["findings"]
    return [finding for finding in findings if finding["name"] == "folders"]


@trio_test
async def test_what_is_in_a_folder_that_the_server_holds_back_is_counted_and_can_be_brought_back(
    account: Account, evil: Evil, place: Path
) -> None:
    async with account.device("one") as one, account.device("two", url=evil.url) as two:
        for name in ("f", "g", "stays"):
            one.write(name, name.encode())
        await converge(one, two)
        two.write("f", b"edited here")
        assert await folders_of(two, place) == []
        one.mkdir("folder")
        folder = one.node("folder").doc_id
        evil.attack = on_feed(lambda documents: [entry for entry in documents if entry["doc_id"] != folder])
        for name in ("f", "g"):
            one.rename(name, f"folder/{name}")
        await one.settle()
        await until(lambda: not two.exists("f") and not two.exists("g"))
        await two.settle()
        (finding,) = await folders_of(two, place)
        assert finding["ok"] is False
        assert finding["text"].startswith("2 files")
        assert "--repair" in finding["advice"]
        two.write("g", b"another one")
        (finding,) = await folders_of(two, place, repair=True)
        assert finding["ok"] is True
        assert await two.read("f") == b"edited here"
        assert await two.read("g") == b"another one"
        assert await two.read("g (restored)") == b"g"
        assert await folders_of(two, place) == []
        evil.attack = None
        await converge(two, one)
        # It is a move as any other, for those who have the folder, too.
        assert await one.read("f") == b"edited here"
        assert sorted(one.paths()) == ["f", "folder", "g", "g (restored)", "stays"]


@trio_test
async def test_nothing_is_copied_to_where_blobfs_keeps_its_own(account: Account) -> None:
    async with account.device("one") as one:
        one.write("f", b"f")
        await one.settle()
        past = Past(one.store, one.client, one.engine.is_busy, lambda applied: None)
        for target in (".blobfs", "./.blobfs", ".blobfs/devices"):
            with pytest.raises(UsageError, match="for blobfs itself"):
                await past.copy({"path": "f", "target": target})
        await past.copy({"path": "f", "target": ".blobfs2"})
        assert await one.read(".blobfs2") == b"f"
