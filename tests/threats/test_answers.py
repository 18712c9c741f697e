"""A server whose answers are well-formed and meant to harm: what they swell to, their headers, when they come."""

from __future__ import annotations

import base64
import json
import secrets
import time
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from blobfs.control import MAX_ANSWER
from blobfs.errors import ProtocolError
from blobfs.protocol import MAX_CHANGES
from blobfs.remote.client import MAX_PAGE, MAX_REVISION, Change, _parse_page, _parse_results
from blobfs.values.documents import DocId, dump
from blobfs.values.extents import BlobId
from tests.sync.kit import Account, trio_test, until
from tests.threats.evil import Answer, Asked, Evil

PEAK = 64 << 20
"""Bytes of memory that an answer may need beside itself."""


def _growth(body: bytes) -> int:
    """Bytes that parsing a page takes at its peak."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            _parse_page(body, None)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("piece", [b"{}", b"[]", b'"ab"', b"1.5", b"[[]]", b'{"a":1}'])
def test_a_page_of_nothing_but_small_values_costs_no_more_memory_than_a_page(piece: bytes) -> None:
    number = MAX_PAGE // (len(piece) + 1) - 10
    body = b'{"documents":[' + b",".join([piece] * number) + b"]}"
    assert len(body) <= MAX_PAGE
    assert _growth(body) < PEAK


@trio_test
async def test_the_largest_page_of_an_honest_server_is_taken(account: Account, evil: Evil) -> None:
    revision = ",".join(f"{number:016x}:{10**17}" for number in range(256))
    assert len(revision) <= MAX_REVISION
    entry = {"doc_id": "a" * 128, "revision": revision, "deleted": False, "payload": "AAAA"}
    page = {"documents": [{**entry, "seq": number + 1} for number in range(MAX_CHANGES)], "cursor": "1", "more": False}
    evil.attack = lambda asked, answer: Answer(200, {}, dump(page)) if asked.is_feed else answer
    async with account.device("two", url=evil.url) as two:
        assert len((await two.client.feed(None)).documents) == MAX_CHANGES


@trio_test
async def test_a_list_of_what_is_nested_deep_is_a_protocol_error(account: Account, evil: Evil) -> None:
    """To make text of it takes more stack than to parse it."""
    deep = b"[" * 600 + b"]" * 600
    change = Change(DocId("a"), None, "r", False, b"x", (BlobId("a" * 64),))
    for answer in (b'{"results": [{"status": %s, "doc_id": "a"}]}', b'{"results": [{"doc_id": "a", "missing": [%s]}]}'):
        with pytest.raises(ProtocolError):
            _parse_results(answer % deep, [change])
    evil.attack = lambda asked, answer: (
        Answer(200, {}, b'{"missing": [%s]}' % deep) if asked.path.endswith("/missing") else answer
    )
    async with account.device("two", url=evil.url) as two:
        with pytest.raises(ProtocolError, match="JSON"):
            await two.client.missing([BlobId(f"{number:064x}") for number in range(100)])


DATES = (
    "Mon, 01 Jan 99999999999999 00:00:00 GMT",
    "Mon, 01 Jan 2020 00:00:00 +99999999",
    "Mon, 99 Jan 2020",
    "\xff",
    "",
)


@trio_test
async def test_a_date_that_is_none_is_no_time_of_the_server(account: Account, evil: Evil) -> None:
    async with account.device("two", url=evil.url) as two:
        for date in DATES:
            evil.attack = lambda asked, answer, date=date: replace(answer, headers={**answer.headers, "date": date})  # type: ignore[misc]
            assert await two.client.clock() is None, date
        evil.attack = lambda asked, answer: replace(answer, headers={"date": "Mon, 01 Jan 2024 00:00:00 GMT"})
        assert await two.client.clock() == 1704067200


@trio_test
async def test_a_tag_that_is_no_header_is_not_sent_back(account: Account, evil: Evil) -> None:
    evil.attack = lambda asked, answer: Answer(200, {"etag": '"\xe9"'}, b"{}") if asked.is_secret else answer
    async with account.device("two", url=evil.url) as two:
        with pytest.raises(ProtocolError, match="tag"):
            await two.client.fetch_secret()


@trio_test
async def test_a_feed_that_answers_at_once_with_nothing_is_asked_once_a_second(account: Account, evil: Evil) -> None:
    asked_s: list[float] = []

    def hurry(asked: Asked) -> Answer | None:
        if not asked.is_feed or "wait" not in asked.query:
            return None
        asked_s.append(time.monotonic())
        return Answer(200, {}, dump({"documents": [], "cursor": asked.query["since"], "more": False}))

    evil.answer = hurry
    async with account.device("two", url=evil.url) as two:
        two.write("f", b"goes on")
        await until(lambda: len(asked_s) >= 3)
        await two.settle()
    # As the server sees it: the first may come late, the others do not come sooner for it.
    assert asked_s[2] - asked_s[0] > 1


def _made_up(number: int) -> dict[str, Any]:
    payload = base64.b64encode(secrets.token_bytes(60)).decode()
    return {
        "doc_id": f"{number:032x}",
        "seq": number,
        "revision": f"{number:016x}:1",
        "deleted": False,
        "payload": payload,
    }


@trio_test
async def test_documents_without_end_that_no_device_sealed_take_no_room_without_end(
    account: Account, evil: Evil, caplog: pytest.LogCaptureFixture
) -> None:
    pages = 0

    def invent(asked: Asked) -> Answer | None:
        nonlocal pages
        if not asked.is_feed or pages == 3:
            return None
        pages += 1
        documents = [_made_up(pages * 1000 + number) for number in range(1000)]
        return Answer(200, {}, dump({"documents": documents, "cursor": f"{1000 + pages}", "more": True}))

    async with account.device("one") as one:
        one.write("f", b"version 1")
        await one.settle()
        doc_id = one.node("f").doc_id
        async with account.device("two", url=evil.url) as two:
            await until(lambda: two.exists("f"))
            evil.answer = invent
            one.write("g", b"made afterwards")
            await until(lambda: pages == 3 and two.exists("g"))
            parked = two.engine.status().parked
            assert len(parked) == 1001
            assert "there are others" in parked[-1].reason
            assert len([entry for entry in caplog.records if "was not applied" in entry.getMessage()]) == 1001
            # What is here is named all the same, whatever came before.
            evil.attack = lambda asked, answer: (
                replace(answer, body=answer.body.replace(b'"payload":"', b'"payload":"AAAA'))
                if asked.is_feed
                else answer
            )
            one.write("f", b"version 2")
            await until(lambda: any(entry.doc_id == doc_id for entry in two.engine.status().parked))
            told = two.engine.status().to_json()
            assert len(told["parked"]) == 1001
            assert "more documents" in told["parked"][-1]["reason"]
            assert len(json.dumps(told)) < MAX_ANSWER // 8
