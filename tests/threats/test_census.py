"""What counts as lost on the server, and what does not: nobody's honest server is taken for one that was set back."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import pytest

from blobfs.errors import ProtocolError
from blobfs.protocol import ChangeStatus
from blobfs.remote.client import Change, Page, Sealed
from blobfs.sync.census import find_lost, is_lost
from blobfs.sync.status import SyncState
from blobfs.values import crypto
from blobfs.values.documents import DocId, encode
from blobfs.values.revisions import DeviceId, Revision
from tests.sync.kit import KEYS, Account, converge, trio_test, until
from tests.threats.evil import Answer, Asked, Evil


@trio_test
async def test_what_comes_and_goes_while_the_server_is_asked_for_what_it_has_makes_no_doubt(account: Account) -> None:
    """Between any two answers a page is taken, and something is sent: what was known by then is what counts."""
    async with account.device("one") as one, account.device("two") as two:
        for number in range(6):
            one.write(f"f{number}", b"first")
            await converge(one, two)
        feed, look, ask = one.engine._feed, one.client.feed, one.client.revisions
        turns = 0

        async def disturb() -> None:
            nonlocal turns
            turns += 1
            two.write(f"f{turns % 6}", b"by two %d" % turns)
            two.write(f"new {turns}", b"by two")
            await two.settle()
            asked = feed._ask()
            await feed._take(asked, await look(asked.cursor))
            one.write(f"f{turns * 5 % 6}", b"by one %d" % turns)
            await one.engine._upload.round(hurry=True)

        async def look_slowly(since: str | None, **options: Any) -> Page:
            if options.get("wait_s"):
                return await look(since, **options)
            await disturb()
            page = await look(since, **options)
            await disturb()
            return page

        async def ask_slowly(doc_id: DocId, limit: int = 100) -> list[Sealed]:
            await disturb()
            found = await ask(doc_id, limit)
            await disturb()
            return found

        one.client.feed, one.client.revisions = look_slowly, ask_slowly  # type: ignore[method-assign]
        await feed._probe()
        assert turns > 2
        assert await find_lost(one.store, one.client) is None
        one.client.feed, one.client.revisions = look, ask  # type: ignore[method-assign]
        await converge(one, two)
        assert await one.tree() == await two.tree()


@trio_test
async def test_what_a_newer_blobfs_wrote_is_not_lost(account: Account) -> None:
    async with account.device("two") as two:
        doc_id = two.write("f", b"of today").doc_id
        await two.settle()
        base = two.store.documents.base(doc_id)
        assert base is not None
        revision = base.revision.advanced(DeviceId("e" * 16))
        newer = encode(base.document).replace(b'"format":1', b'"format":2')
        sealed = crypto._seal_document(KEYS, doc_id, newer, revision, False, secrets.token_bytes(12))
        [result] = await two.client.push([Change(doc_id, str(base.revision), str(revision), False, sealed, (), ())])
        assert result.status is ChangeStatus.OK
        await until(lambda: "newer blobfs" in (two.engine.failure(doc_id) or ""))
        assert not await is_lost(two.store, two.client, doc_id)
        assert await find_lost(two.store, two.client) is None
    async with account.device("two") as two:
        await two.settle()
        assert two.engine.status().state is SyncState.CONNECTED


@trio_test
async def test_a_404_that_is_not_of_the_server_says_nothing_of_what_it_has(account: Account, evil: Evil) -> None:
    async with account.device("one", url=evil.url) as one:
        doc_id = one.write("f", b"there").doc_id
        await one.settle()

        def hide(asked: Asked, answer: Answer) -> Answer:
            return Answer(404, {}, b"<html>no such page") if asked.path.endswith("/revisions") else answer

        evil.attack = hide
        with pytest.raises(ProtocolError):
            await is_lost(one.store, one.client, doc_id)


@trio_test
async def test_a_document_that_the_server_never_had_or_has_only_as_it_was_is_lost(account: Account, evil: Evil) -> None:
    async with account.device("one", url=evil.url) as one:
        kept = one.write("kept", b"as it was").doc_id
        await one.settle()
        assert not await is_lost(one.store, one.client, kept)
        base = one.store.documents.base(kept)
        assert base is not None
        with one.store.transaction():
            later = base.revision.advanced(one.store.device)
            one.store.documents.record_synced(kept, 0, later, base.document, False)
        assert await is_lost(one.store, one.client, kept)
        assert await find_lost(one.store, one.client) == kept
        with one.store.transaction():
            one.store.documents.record_synced(kept, 0, base.revision, base.document, False)
            never = replace(base.document, doc_id=DocId("f" * 32))
            one.store.documents.record_synced(never.doc_id, 0, Revision.of({one.store.device: 1}), never, True)
        assert await find_lost(one.store, one.client) == never.doc_id
