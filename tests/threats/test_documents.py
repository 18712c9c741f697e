"""Documents of a server that replays, forges, injects, deletes and renumbers: refused by name, and the others go on."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from blobfs.errors import IntegrityError
from blobfs.sync.status import SyncState
from blobfs.values import crypto
from blobfs.values.documents import ROOT, DocId, Document, Name, dump, encode
from blobfs.values.keys import AccountId, derive_keys
from blobfs.values.revisions import DeviceId, Revision
from tests.sync.kit import KEYS, Account, Device, converge, trio_test, until
from tests.threats.evil import Answer, Asked, Evil, flip, on_feed

Entry = dict[str, Any]
INTRUDER = "f" * 32
OTHER_KEYS = derive_keys(AccountId("cd" * 16), b"x" * 32)


def _parked(device: Device, doc_id: str) -> list[str]:
    return [entry.reason for entry in device.engine.status().parked if entry.doc_id == doc_id]


def _forged(doc_id: str, payload: bytes, *, deleted: bool = False, revision: str = f"{'1' * 16}:1") -> Entry:
    payload64 = base64.b64encode(payload).decode()
    return {"doc_id": doc_id, "seq": 0, "revision": revision, "deleted": deleted, "payload": payload64}


def _document(doc_id: str = INTRUDER) -> Document:
    return Document(DocId(doc_id), names=(Name(ROOT, b"incriminating"),))


INJECTED: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "plaintext": lambda: encode(_document()),
    "plaintext behind the magic": lambda: b"BLFD\x01" + bytes(12) + encode(_document()),
    "sealed by another account": lambda: crypto.seal_document(
        OTHER_KEYS, _document(), Revision.of({DeviceId("1" * 16): 1})
    ),
    "another version of the format": lambda: b"BLFD\x02" + os.urandom(200),
    "version 0": lambda: b"BLFD\x00" + os.urandom(200),
    "random": lambda: os.urandom(500),
    "large": lambda: os.urandom((1 << 20) - 100),
}


@trio_test
async def test_nothing_exists_that_no_device_sealed(account: Account, evil: Evil) -> None:
    async with account.device("one") as one, account.device("two", url=evil.url) as two:
        for number, (what, payload) in enumerate(INJECTED.items()):
            doc_id = f"{number:032x}"
            evil.attack = on_feed(
                lambda documents, payload=payload, doc_id=doc_id: [*documents, _forged(doc_id, payload())]
            )
            one.write(f"real {number}", b"real")
            await one.settle()
            await until(lambda number=number: two.exists(f"real {number}"))
            await until(lambda doc_id=doc_id: bool(_parked(two, doc_id)))
            assert two.store.documents.inode(DocId(doc_id)) is None, what
        evil.attack = None
        assert set(two.paths()) == {f"real {number}" for number in range(len(INJECTED))}
        assert two.engine.status().state is SyncState.CONNECTED


FORGERIES: dict[str, Callable[[Entry], Entry]] = {
    "deleted": lambda entry: {**entry, "deleted": True},
    "deleted, and empty": lambda entry: {**entry, "deleted": True, "payload": ""},
    "a later revision": lambda entry: {**entry, "revision": _advanced(entry["revision"])},
    "a revision of a device that is none": lambda entry: {**entry, "revision": f"{'0' * 16}:7," + entry["revision"]},
    "a malformed revision": lambda entry: {**entry, "revision": "newest"},
    "first bit": lambda entry: flip(entry, 0),
    "version": lambda entry: flip(entry, 4),
    "nonce": lambda entry: flip(entry, 5),
    "ciphertext": lambda entry: flip(entry, 40),
    "tag": lambda entry: flip(entry, -1),
    "cut": lambda entry: {**entry, "payload": entry["payload"][:80]},
}


def _advanced(revision: str) -> str:
    device, _, counter = revision.rpartition(":")
    return f"{device}:{int(counter) + 1}"


@trio_test
async def test_every_edit_of_a_sealed_document_is_refused_and_named_and_the_old_state_stays(
    account: Account, evil: Evil
) -> None:
    async with account.device("one") as one, account.device("two", url=evil.url) as two:
        names = [f"file {number}" for number in range(len(FORGERIES))]
        for name in names:
            one.write(name, b"first")
        await converge(one, two)
        for name in names:
            assert await two.read(name) == b"first"
        for name, (what, forge) in zip(names, FORGERIES.items(), strict=True):
            doc_id = one.node(name).doc_id

            def change(documents: list[Entry], doc_id: str = doc_id, forge: Any = forge) -> list[Entry]:
                return [forge(entry) if entry["doc_id"] == doc_id else entry for entry in documents]

            evil.attack = on_feed(change)
            one.write(name, b"second")
            one.write("beside " + name, b"goes on")
            await one.settle()
            await until(lambda name=name: two.exists("beside " + name))
            await until(lambda doc_id=doc_id: bool(_parked(two, doc_id)))
            assert await two.read(name) == b"first", what
        evil.attack = None
        status = two.engine.status()
        assert status.state is SyncState.CONNECTED
        # Beside them it may say that the server owes what the other device has seen, which is true.
        assert len([entry for entry in status.parked if entry.doc_id]) == len(FORGERIES)
        # What comes next as it should mends it.
        for name in names:
            one.write(name, b"third")
        await one.settle()
        await until(lambda: not two.engine.status().parked)
        assert [await two.read(name) for name in names] == [b"third"] * len(names)


@trio_test
async def test_a_document_under_anothers_id_is_refused(account: Account, evil: Evil) -> None:
    async with account.device("one") as one, account.device("two", url=evil.url) as two:
        one.write("a", b"of a")
        one.write("b", b"of b")
        await converge(one, two)
        first, second = one.node("a").doc_id, one.node("b").doc_id

        def swap(documents: list[Entry]) -> list[Entry]:
            other = {first: second, second: first}
            return [{**entry, "doc_id": other.get(entry["doc_id"], entry["doc_id"])} for entry in documents]

        evil.attack = on_feed(swap)
        one.write("a", b"of a, later")
        one.write("b", b"of b, later")
        await one.settle()
        await until(lambda: bool(_parked(two, first)) and bool(_parked(two, second)))
        assert (await two.read("a"), await two.read("b")) == (b"of a", b"of b")


@trio_test
async def test_a_replayed_old_revision_is_refused_also_after_a_restart(account: Account, evil: Evil) -> None:
    async with account.device("one") as one:
        async with account.device("two", url=evil.url) as two:
            one.write("f", b"version 1")
            await converge(one, two)
            doc_id = one.node("f").doc_id
            old = [entry for entry in evil.documents() if entry["doc_id"] == doc_id][-1]
            one.write("f", b"version 2")
            one.write("gone", b"deleted later")
            await converge(one, two)
            gone_id = one.node("gone").doc_id
            gone = [entry for entry in evil.documents() if entry["doc_id"] == gone_id][-1]
            one.remove("gone")
            await converge(one, two)
            assert await two.read("f") == b"version 2"
        evil.attack = on_feed(lambda documents: [*documents, old, gone])
        async with account.device("two", url=evil.url) as two:
            one.write("other", b"goes on")
            await one.settle()
            await until(lambda: two.exists("other"))
            await until(lambda: bool(_parked(two, doc_id)) and bool(_parked(two, gone_id)))
            assert "older" in _parked(two, doc_id)[0]
            assert await two.read("f") == b"version 2"
            assert not two.exists("gone")


def _turning_down(
    evil: Evil, doc_id: str, current: Callable[[Entry], Entry | None]
) -> Callable[[Asked], Answer | None]:
    """A server that takes no change of a document, and says that it has another one; what else comes is stored."""

    def answer(asked: Asked) -> Answer | None:
        if not asked.is_push:
            return None
        changes = json.loads(asked.body)["changes"]
        others = [change for change in changes if change["doc_id"] != doc_id]
        honest = (
            evil.ask(replace(asked, body=json.dumps({"changes": others}).encode())).json()["results"] if others else []
        )
        results = {result["doc_id"]: result for result in honest}
        for change in changes:
            if change["doc_id"] == doc_id:
                refusal = {"status": "conflict", "seq": None, "missing": [], "current": current(change)}
                results[doc_id] = {"doc_id": doc_id, **refusal}
        in_order = [results[change["doc_id"]] for change in changes]
        return Answer(200, {}, json.dumps({"results": in_order}).encode())

    return answer


@trio_test
async def test_an_old_revision_in_the_answer_to_a_push_is_refused_and_the_edit_stays_and_status_says_why(
    account: Account, evil: Evil
) -> None:
    async with account.device("two", url=evil.url) as two:
        two.write("f", b"version 1")
        await two.settle()
        doc_id = two.node("f").doc_id
        two.write("f", b"version 2")
        await two.settle()
        old = next(entry for entry in evil.documents() if entry["doc_id"] == doc_id)
        known = {name: old[name] for name in ("doc_id", "revision", "deleted", "payload")} | {"seq": 1}
        evil.answer = _turning_down(evil, doc_id, lambda change: known)
        two.write("f", b"version 3")
        with pytest.raises(IntegrityError, match="older"):
            await two.settle()
        assert _parked(two, doc_id)
        assert await two.read("f") == b"version 3"
        evil.answer = lambda asked: None
        two.write("f", b"version 4")
        await two.settle()
        assert await two.read("f") == b"version 4"


@trio_test
async def test_a_server_that_denies_a_document_it_had_is_named(account: Account, evil: Evil) -> None:
    async with account.device("two", url=evil.url) as two:
        two.write("f", b"version 1")
        await two.settle()
        doc_id = two.node("f").doc_id
        denying = _turning_down(evil, doc_id, lambda change: None)
        denial = json.dumps({"error": {"code": "not-found", "message": "no such document", "request_id": "r"}}).encode()
        evil.answer = lambda asked: Answer(404, {}, denial) if asked.path.endswith("/revisions") else denying(asked)
        two.write("f", b"version 2")
        with pytest.raises(IntegrityError, match="lost"):
            await two.settle()
        assert any("lost" in reason for reason in _parked(two, doc_id))
        assert await two.read("f") == b"version 2"


@trio_test
async def test_an_acknowledgement_without_storing_loses_nothing_here(account: Account, evil: Evil) -> None:
    """The server says that it took a change and throws it away: every byte is still on the device."""
    async with account.device("one") as one, account.device("two", url=evil.url) as two:
        await converge(one, two)

        def lie(asked: Asked) -> Answer | None:
            if not asked.is_push:
                return None
            changes = json.loads(asked.body)["changes"]
            results = [
                {"doc_id": change["doc_id"], "status": "ok", "seq": 1 << 40, "missing": [], "current": None}
                for change in changes
            ]
            return Answer(200, {}, json.dumps({"results": results}).encode())

        evil.answer = lie
        two.write("f", b"only here")
        await two.settle()
        evil.answer = lambda asked: None
        assert await two.read("f") == b"only here"
        assert not one.exists("f")


BAD_PAGES: dict[str, bytes] = {
    "not JSON": b"<html>",
    "not UTF-8": b'{"documents": "\xff"}',
    "NaN": b'{"documents": [], "cursor": NaN, "more": false}',
    "a list": b"[]",
    "duplicate keys": b'{"documents": [], "documents": [], "cursor": "1", "more": false}',
    "deep": b'{"documents": ' + b"[" * 200_000 + b"]" * 200_000 + b', "cursor": "1", "more": false}',
    "a huge number": b'{"documents": [{"seq": ' + b"9" * 100_000 + b'}], "cursor": "1", "more": false}',
    "no cursor": b'{"documents": [], "more": false}',
    "a huge cursor": dump({"documents": [], "cursor": "1" * 100_000, "more": False}),
    "more without end": dump({"documents": [], "cursor": "1", "more": True}),
    "a path for an id": dump(
        {"documents": [{**_forged("../../etc/passwd", b""), "seq": 1}], "cursor": "1", "more": False}
    ),
    "SQL for an id": dump(
        {"documents": [{**_forged("x'); DROP TABLE bases--", b""), "seq": 1}], "cursor": "1", "more": False}
    ),
    "a huge id": dump({"documents": [{**_forged("a" * 10_000, b""), "seq": 1}], "cursor": "1", "more": False}),
    "a negative number": dump({"documents": [{**_forged("a", b""), "seq": -1}], "cursor": "1", "more": False}),
    "a true number": dump({"documents": [{**_forged("a", b""), "seq": True}], "cursor": "1", "more": False}),
    "too many documents": dump(
        {"documents": [{**_forged("a", b""), "seq": n + 1} for n in range(1001)], "cursor": "1", "more": False}
    ),
    "loose base64": dump(
        {"documents": [{**_forged("a", b""), "seq": 1, "payload": "!"}], "cursor": "1", "more": False}
    ),
    "terminal escapes": dump({"documents": [], "cursor": 1, "more": "\x1b]0;owned\x07"}),
}


@trio_test
async def test_a_feed_that_breaks_the_protocol_is_named_and_harms_nothing(account: Account, evil: Evil) -> None:
    async with account.device("two", url=evil.url) as two:
        two.write("f", b"here")
        await two.settle()
        for what, body in BAD_PAGES.items():

            def attack(asked: Asked, answer: Answer, body: bytes = body) -> Answer:
                return replace(answer, status=200, body=body) if asked.is_feed else answer

            evil.attack = attack
            two.engine.retry()
            with pytest.raises(Exception, match="not one of a blobfs server"):
                await two.client.feed(None)
            evil.attack = None
            assert await two.read("f") == b"here", what


@trio_test
async def test_while_the_feed_breaks_the_protocol_status_says_so(account: Account, evil: Evil) -> None:
    evil.attack = lambda asked, answer: Answer(200, {}, b"<html>") if asked.is_feed else answer
    async with account.device("two", url=evil.url) as two:
        await until(lambda: two.engine.status().state is SyncState.INCOMPATIBLE)
        assert "check the address" in two.engine.status().reason
        evil.attack = None
        two.engine.retry()
        await until(lambda: two.engine.status().state is SyncState.CONNECTED)


@trio_test
async def test_sequence_numbers_and_cursors_that_lie_stop_nobody_for_good(account: Account, evil: Evil) -> None:
    async with account.device("one") as one, account.device("two", url=evil.url) as two:
        await converge(one, two)
        one.write("a", b"1")
        await one.settle()
        await until(lambda: two.exists("a"))

        def shuffle(asked: Asked, answer: Answer) -> Answer:
            if not asked.is_feed or not answer.body:
                return answer
            page = answer.json()
            return replace(answer, body=json.dumps({**page, "documents": page["documents"][::-1]}).encode())

        evil.attack = shuffle
        one.write("b", b"2")
        one.write("c", b"3")
        await one.settle()
        evil.attack = None
        two.engine.retry()
        await until(lambda: two.exists("b") and two.exists("c"))


@trio_test
async def test_the_servers_own_words_reach_no_terminal_raw(account: Account, evil: Evil) -> None:
    nasty = "\x1b[2J\x1b]0;owned\x07 \u202egnp.exe \n" + "x" * 10_000
    body = json.dumps({"error": {"code": "forbidden", "message": nasty, "request_id": "r"}}).encode()
    evil.attack = lambda asked, answer: Answer(403, {}, body)
    async with account.device("two", url=evil.url) as two:
        await until(lambda: two.engine.status().state is SyncState.REFUSED)
        reason = two.engine.status().reason
        assert reason.isascii()
        assert reason.isprintable()
        assert len(reason) < 400


@trio_test
async def test_another_accounts_secret_at_the_server_stops_sync_before_anything_moves(
    account: Account, evil: Evil
) -> None:
    other = dump({"version": 1, "account": "cd" * 16})
    evil.attack = lambda asked, answer: Answer(200, {"etag": '"1"'}, other) if asked.is_secret else answer
    async with account.device("two", url=evil.url) as two:
        two.write("f", b"stays here")
        await until(lambda: two.engine.status().state is SyncState.WRONG_ACCOUNT)
        assert "another account" in two.engine.status().reason
        assert not evil.recorded(lambda asked: asked.is_push)
        assert await two.read("f") == b"stays here"


@trio_test
async def test_no_request_holds_a_name_or_bytes_of_a_file_or_a_key(account: Account, evil: Evil) -> None:
    planted = b"planted-canary-0123456789"
    async with account.device("two", url=evil.url) as two:
        two.mkdir(planted.decode())
        two.write(planted.decode() + "/" + planted.decode(), planted * 100)
        await two.settle()
    wanted = [planted, *(getattr(KEYS, name) for name in ("document", "blob", "blob_id", "chain", "documents_db"))]
    forms = [form for secret in wanted for form in (secret, secret.hex().encode(), base64.b64encode(secret))]
    assert evil.recorded(lambda asked: asked.is_push)
    for asked, _ in evil.recorded(lambda asked: True):
        whole = repr((asked.path, asked.query, asked.headers)).encode() + asked.body
        for change in json.loads(asked.body).get("changes", []) if asked.is_push else []:
            whole += base64.b64decode(change["payload"])
        assert not [form for form in forms if form in whole]


@trio_test
async def test_a_replayed_request_changes_nothing_at_an_honest_server(account: Account, evil: Evil) -> None:
    async with account.device("one", url=evil.url) as one, account.device("two") as two:
        one.write("f", b"version 1")
        await one.settle()
        one.write("f", b"version 2")
        one.write("gone", b"deleted later")
        await one.settle()
        one.remove("gone")
        await converge(one, two)
        before = await two.tree()
        for asked, _ in evil.recorded(lambda asked: asked.method != "GET"):
            evil.ask(asked)
        two.write("beside", b"goes on")
        await converge(two, one)
        tree = await two.tree()
        assert tree.pop("beside")[2] == b"goes on"
        assert tree == before
        assert not two.engine.status().parked


def test_the_same_bytes_of_two_accounts_have_nothing_in_common_at_the_server() -> None:
    data = b"a known file" * 10_000
    plains = [crypto.Plain(keys, data) for keys in (KEYS, OTHER_KEYS)]
    assert plains[0].blob_id != plains[1].blob_id
    blobs = [b"".join(plain.seal()) for plain in plains]
    # But for the preamble, which every blob of this length has.
    pieces = [{blob[at : at + 16] for at in range(16, len(blob) - 16)} for blob in blobs]
    assert not pieces[0] & pieces[1]
