"""Whatever reads what others wrote meets noise with its documented error, and with nothing else.

Frames, preambles, sealed documents, slots and headers have theirs in tests/values; the server's in tests/server.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blobfs import control, protocol
from blobfs.api import wire
from blobfs.config import Source
from blobfs.errors import BlobfsError, ProtocolError, RemoteUnavailable, StoreDamaged, UsageError
from blobfs.firstrun import read_invite
from blobfs.remote.client import Change, _Items, _parse_page, _parse_results
from blobfs.status import read_pending
from blobfs.store.secrets import read_secrets
from blobfs.unlock import MAX_TEXT, read_source
from blobfs.values.documents import DocId, Json
from blobfs.values.extents import BlobId

checked = settings(deadline=None, max_examples=150)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just(1 << 70)
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
TRAPS = ["[" * 100_000, '{"a":' * 5000, "1" * 5000, '{"a":1,"a":2}', "NaN", '{"documents":[NaN]}', "", "null", "\ud800"]
NOISE = (
    st.binary(max_size=200)
    | JUNK.map(lambda value: json.dumps(value).encode())
    | st.sampled_from([text.encode("utf-8", "surrogatepass") for text in TRAPS])
)


def changed(body: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """`body` with one member changed or gone."""
    other = st.tuples(st.sampled_from(sorted(body)), JUNK).map(lambda change: body | {change[0]: change[1]})
    gone = st.sampled_from(sorted(body)).map(lambda name: {key: body[key] for key in body if key != name})
    return other | gone


# --- what a server answers ----------------------------------------------------------------------------------------

DOCUMENT = {"doc_id": "a" * 32, "seq": 1, "revision": "x:1", "deleted": False, "payload": "AAAA"}
PAGE = {"documents": [DOCUMENT], "cursor": "1", "more": False}
RESULT = {"doc_id": "a" * 32, "status": "ok", "seq": 1, "current": None, "missing": []}
CHANGE = Change(DocId("a" * 32), None, "x:1", False, b"x")
PAGES = changed(PAGE) | changed(DOCUMENT).map(lambda document: PAGE | {"documents": [document]})


# Found by it: text that is not even ASCII, and a number that no database takes.
@example(json.dumps(PAGE | {"documents": [DOCUMENT | {"payload": "\u00e9"}]}).encode())
@checked
@given(NOISE | PAGES.map(lambda page: json.dumps(page).encode()))
def test_noise_in_place_of_a_feed_is_a_protocol_error(answer: bytes) -> None:
    with suppress(ProtocolError):
        for document in _parse_page(answer, None).documents:
            assert protocol.is_id(document.doc_id)
            assert 0 < document.seq < 1 << 63


@example(json.dumps({"results": [RESULT | {"seq": 1 << 70}]}).encode())
@checked
@given(NOISE | changed(RESULT).map(lambda result: json.dumps({"results": [result]}).encode()))
def test_noise_in_place_of_the_answer_to_a_push_is_a_protocol_error(answer: bytes) -> None:
    with suppress(ProtocolError):
        (result,) = _parse_results(answer, [CHANGE])
        assert result.seq is None or 0 < result.seq < 1 << 63


@checked
@given(st.lists(st.binary(max_size=40), max_size=5), st.booleans())
def test_noise_in_a_stream_is_a_protocol_error_or_a_broken_connection(pieces: list[bytes], has_head: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        if has_head:
            yield protocol.pack_item_header("abc", 8)
        for piece in pieces:
            yield piece

    async def read() -> None:
        items = _Items(chunks())
        item = await items.next(BlobId("abc"), 8)
        assert item is None or len(item) == 8
        await items.end()

    with suppress(ProtocolError, RemoteUnavailable):
        trio.run(read)


# --- what another device, a file or a descriptor gives ---------------------------------------------------------------


@checked
@given(st.text(max_size=80) | NOISE.map(lambda data: "blobfs1:" + data.decode("latin-1")))
def test_noise_in_place_of_an_invite_is_a_sentence(text: str) -> None:
    with suppress(UsageError):
        assert protocol.is_server_url(read_invite(text.replace("@", "")).url)


@checked
@given(NOISE)
def test_noise_in_place_of_a_file_of_the_store_is_named_damaged(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "file"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(data)
        with suppress(StoreDamaged):
            read_secrets(path)
        read_pending(path)
        with suppress(UsageError):
            assert 0 < len(read_source(Source(file=path), "passphrase").encode()) <= MAX_TEXT


# --- the local sockets ------------------------------------------------------------------------------------------------


async def _echo(question: Json) -> Json:
    return {"heard": str(question["what"])}


@checked
@given(NOISE | JUNK.map(lambda what: json.dumps({"command": "echo", "what": what}).encode()))
def test_noise_in_place_of_a_question_to_the_daemon_is_answered_and_harms_nothing(question: bytes) -> None:
    answer = trio.run(control._answer, question, {"echo": _echo})
    assert set(answer) in ({"ok", "result"}, {"ok", "kind", "message"})
    assert json.dumps(answer)


ANSWERS = changed({"ok": True, "result": {}}) | changed({"ok": False, "kind": "UsageError", "message": "x"})


@checked
@given(NOISE | ANSWERS.map(lambda answer: json.dumps(answer).encode()))
def test_noise_in_place_of_the_daemons_answer_is_an_error_of_ours(line: bytes) -> None:
    with suppress(BlobfsError):
        assert isinstance(control._unpack(line), dict)


def _frame(value: Any) -> bytes:
    try:
        return wire.pack(value)
    except UsageError:
        return b""


@checked
@given(st.binary(max_size=80) | JUNK.map(_frame))
def test_noise_in_place_of_a_frame_of_the_api_is_an_error_of_ours(payload: bytes) -> None:
    with suppress(BlobfsError):
        wire.result_of(wire.unpack(payload[wire.SIZE.size :]))


@checked
@given(st.sampled_from(["BlobfsError", "BytesAbsent", "annotations", "__name__", "Final", ""]) | JUNK, JUNK, JUNK)
def test_an_error_of_the_api_of_any_form_is_an_error_of_ours(name: Any, message: Any, details: Any) -> None:
    with suppress(BlobfsError):
        wire.result_of([False, name, message, details])
