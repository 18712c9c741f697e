"""What a real server lost, files and index blobs, is found by asking and sent again from what is here."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from blobfs.values.extents import EXTENT
from tests.sync.kit import REPOSITORY, Account, trio_test


def lose_everything(account: Account) -> int:
    """The server loses all blobs, and knows it; how many."""
    lost = [path for path in (account.server.data / "blobs" / account.user).rglob("*") if path.is_file()]
    for path in lost:
        path.unlink()
    command = [sys.executable, "-m", "server", "check", "--repair", "--json", "--data", str(account.server.data)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    # Other accounts of this server may lack blobs of their own: of other tests.
    missing = [found for found in json.loads(done.stdout)["missing"] if found.startswith(f"{account.user}/")]
    assert (done.returncode, len(missing)) == (6, len(lost))
    assert lost
    return len(lost)


@trio_test
async def test_a_very_large_file_comes_back_with_its_list_of_blobs(account: Account) -> None:
    content = os.urandom(1000)
    async with account.device("one") as one:
        one.write("large", content, offset=1500 * EXTENT)
        one.write("small", b"x" * 5000)
        await one.settle()
        count, told = lose_everything(account), list[tuple[int, int]]()
        restock = one.engine.restock()
        losses = await restock.look(lambda done, total: told.append((done, total)))
        assert (len(losses.lacking), losses.here, told) == (count, losses.lacking.keys(), [(0, losses.asked)])
        left = await restock.send(losses, lambda done, total: None)
        assert not left.lacking
        assert not (await one.engine.restock().look(lambda done, total: None)).lacking
    async with account.device("two") as two:
        await two.settle()
        assert await two.read("large", 1500 * EXTENT, 1000) == content
        assert await two.read("small") == b"x" * 5000


@trio_test
async def test_what_was_edited_or_is_not_here_is_not_sent_in_place_of_what_was_lost(account: Account) -> None:
    async with account.device("one") as one:
        one.write("edited", b"before" * 1000)
        one.write("elsewhere", b"y" * 5000)
        await one.settle()
        lose_everything(account)
        restock = one.engine.restock()
        losses = await restock.look(lambda done, total: None)
        assert len(losses.here) == len(losses.lacking) == 2
        one.write("edited", b"after" * 1000)
        node = one.node("elsewhere")
        assert node.content is not None
        one.store.attachments.evict(node.content, [0])
        left = await restock.send(losses, lambda done, total: None)
        assert left.lacking.keys() == losses.lacking.keys()
