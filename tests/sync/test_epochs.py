"""An account that has begun a new epoch: old blobs stay as they are, and devices with old keys wait."""

from __future__ import annotations

import os
import random

import pytest

from blobfs.errors import KeysChanged
from blobfs.sync.keyring import FORKED
from blobfs.sync.status import SyncState
from blobfs.values.documents import Json, dump, load
from blobfs.values.epochs import seal_older
from blobfs.values.extents import EXTENT
from blobfs.values.keys import FLOOR, derive_keys, wrap
from tests.sync.kit import ACCOUNT, Account, converge, trio_test, until

SECRETS = (b"k" * 32, b"l" * 32)
NEWER = derive_keys(ACCOUNT, SECRETS[1], SECRETS[:1])


def secrets_file() -> bytes:
    """One of the second epoch; another one each time."""
    return dump(
        wrap(ACCOUNT, SECRETS[1], b"passphrase", bytes(32), FLOOR, older=seal_older(ACCOUNT, SECRETS[:1], SECRETS[1]))
    )


FILE = secrets_file()


@trio_test
async def test_what_was_sent_in_an_older_epoch_is_read_and_changed_in_the_newer_one(account: Account) -> None:
    large, small = random.Random(1).randbytes(2 * EXTENT + 70_000), [os.urandom(900) for _ in range(20)]
    async with account.device("one") as one:
        one.write("large", large)
        one.mkdir("d")
        for number, data in enumerate(small):
            one.write(f"d/{number}", data)
        await one.settle()
    blobs = set(account.server.data.rglob("*"))
    async with (
        account.device("one", keys=NEWER, secret=FILE) as one,
        account.device("two", keys=NEWER, secret=FILE) as two,
    ):
        await converge(one, two)
        assert one.store.documents.pending() == (0, 0)
        # A little of a blob of an older epoch brings all of it, which is checked against its name.
        assert await two.read("large", EXTENT + 100_000, 1000) == large[EXTENT + 100_000 :][:1000]
        assert two.engine._download.fetched == EXTENT
        assert await two.read("large") == large
        assert [await two.read(f"d/{number}") for number in range(20)] == small
        two.write("large", b"!", 5, truncate=False)
        await converge(two, one)
        assert await one.read("large") == large[:5] + b"!" + large[6:]
        new = [path for path in set(account.server.data.rglob("*")) - blobs if path.is_file() and len(path.name) == 64]
        assert [path.stat().st_size > EXTENT for path in new] == [True]
        two.write("d/3", b"rewritten")
        await converge(two, one)
        assert await one.read("d/3") == b"rewritten"


@trio_test
async def test_the_index_of_a_very_large_file_stays_while_no_byte_changes(account: Account) -> None:
    async with account.device("one") as one:
        node = one.write("huge", b"x", 5 << 30)
        await one.settle()
    async with account.device("one", keys=NEWER, secret=FILE) as one:
        one.rename("huge", "renamed")
        local = one.store.documents.local(node.doc_id)
        assert local is not None
        assert not local.content_changed
        await one.settle()
        one.write("renamed", b"y", 1, truncate=False)
        await one.settle()
    async with account.device("two", keys=NEWER, secret=FILE) as two:
        await until(lambda: two.exists("renamed"))
        assert await two.read("renamed", 0, 3) == b"\0y\0"
        assert await two.read("renamed", 5 << 30) == b"x"


@trio_test
async def test_a_device_with_old_keys_parks_nothing_and_goes_on_where_it_was(account: Account) -> None:
    kept: list[Json] = []
    async with account.device("two", kept=kept) as two:
        async with account.device("one") as one:
            one.write("f", b"old")
            await converge(one, two)
        async with account.device("one", keys=NEWER, secret=FILE) as one:
            one.write("f", b"new")
            one.write("g", b"new, too")
            await one.settle()
            await until(lambda: two.engine.status().state is SyncState.KEYS_CHANGED)
            assert "unmount and mount again" in two.engine.status().reason
            assert two.engine.status().parked == ()
            assert kept[0] == load(FILE)
            two.write("mine", b"waits")
            with pytest.raises(KeysChanged):
                await two.settle()
            assert (await two.read("f"), two.exists("g")) == (b"old", False)
    async with (
        account.device("two", keys=NEWER, secret=FILE) as two,
        account.device("one", keys=NEWER, secret=FILE) as one,
    ):
        await converge(one, two)
        assert await one.tree() == await two.tree()
        assert {path: await two.read(path) for path in two.paths()} == {"f": b"new", "g": b"new, too", "mine": b"waits"}


@trio_test
async def test_what_was_put_aside_for_want_of_keys_is_read_again_with_them(account: Account) -> None:
    async with account.device("two", kept=[]) as two:
        async with account.device("one", keys=NEWER) as one:  # a server that has only the old secrets file
            one.write("f", b"new")
            await one.settle()
        await until(lambda: bool(two.engine.status().parked))
    async with account.device("two", keys=NEWER, secret=FILE) as two:
        await two.settle()
        assert await two.read("f") == b"new"
        assert two.engine.status().parked == ()


@trio_test
async def test_a_server_with_an_older_secrets_file_gets_the_newer_one_before_any_document(account: Account) -> None:
    async with account.device("one") as one:
        await one.settle()
    async with account.device("one", keys=NEWER, secret=FILE) as one:
        await one.settle()
        found = await one.client.fetch_secret()
        assert found is not None
        assert found[0] == FILE


@trio_test
async def test_two_changes_of_keys_at_once_are_never_mixed(account: Account) -> None:
    async with account.device("one", keys=NEWER, secret=FILE) as one:
        await one.settle()
    async with account.device("two", keys=NEWER, secret=secrets_file()) as two:
        await until(lambda: two.engine.status().state is SyncState.KEYS_CHANGED)
        assert two.engine.status().reason == FORKED
