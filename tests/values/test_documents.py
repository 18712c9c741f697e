"""The JSON of documents: what one device writes every device reads, and hostile JSON meets one error only."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.errors import CorruptDocument, InvalidDocument
from blobfs.protocol import MAX_DOCUMENT
from blobfs.values import documents
from blobfs.values.documents import ROOT, DocId, Document, Kind, Name, decode, dump, encode, load
from blobfs.values.extents import EXTENT, MAX_SIZE, Attachment, BlobId
from tests.values.strategies import json_values, valid_documents

checked = settings(deadline=None, max_examples=80)
DOC = DocId("some-document")
FILE = Document(
    DOC,
    names=(Name(ROOT, b"a"), Name(ROOT, b"b")),
    xattrs={b"user.x": b"\x00"},
    attachment=Attachment(EXTENT + 1, (BlobId("ab" * 32), None)),
    content={"a": [1, {"b": None}]},
)
LINK = Document(DOC, Kind.SYMLINK, (Name(ROOT, b"l"),), target=b"to")


@checked
@given(valid_documents())
def test_every_document_comes_back_from_its_json(document: Document) -> None:
    plaintext = encode(document)
    assert decode(document.doc_id, plaintext) == document
    assert encode(decode(document.doc_id, plaintext)) == plaintext
    assert decode(document.doc_id, plaintext + b"  ") == document
    assert plaintext.isascii()


@checked
@given(st.binary(max_size=60))
def test_any_bytes_of_a_name_come_back_from_its_one_text(name: bytes) -> None:
    text = documents.name_to_text(name)
    assert documents.name_from_text(text) == name
    assert documents.name_to_text(documents.name_from_text(text)) == text


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=80))
def test_noise_meets_the_documented_error_only(plaintext: bytes) -> None:
    with pytest.raises(CorruptDocument):
        decode(DOC, plaintext)
    with pytest.raises(ValueError):  # noqa: PT011 - whichever message: the type is the promise
        load(b'{"a":' + plaintext + b",}")


hostile_values = json_values | st.sampled_from([-1, 1 << 80, 0.5, True, "", "0" * 64, [[]], {"a": 1}, "ab", ["ab"]])


def paths(value: Any) -> list[tuple[str | int, ...]]:
    """The place of each value inside a JSON value, itself first."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *rest) for key, inner in items for rest in paths(inner))]


@settings(deadline=None, max_examples=400)
@given(st.sampled_from([FILE, LINK]), st.data())
def test_a_document_with_one_value_changed_is_refused_or_a_valid_other_one(
    document: Document, data: st.DataObject
) -> None:
    body = json.loads(encode(document))
    *above, last = data.draw(st.sampled_from(paths(body)[1:]))
    place = body
    for step in above:
        place = place[step]
    if data.draw(st.booleans()):
        place[last] = data.draw(hostile_values)
    else:
        del place[last]
    try:
        changed = decode(DOC, dump(body))
    except CorruptDocument:
        return
    assert load(encode(changed)) == body or {**body, **load(encode(changed))} == body


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", True),
        ("format", 0),
        ("kind", []),
        ("kind", "door"),
        ("names", {"ab": 1}),
        ("names", ["ab"]),
        ("names", [["root", "b"], ["root", "a"]]),
        ("names", [["root", "a"], ["root", "a"]]),
        ("names", [["root", ".."]]),
        ("names", [["root", "a/b"]]),
        ("names", [["root", "a\0"]]),
        ("names", [["root", "n" * 256]]),
        ("names", [["root\n", "a"]]),
        ("names", [["some-document", "a"]]),
        ("names", [["root", "\ud800"]]),
        ("names", [["root", "\udcc3\udca9"]]),
        ("mode", 0o10000),
        ("mode", 420.0),
        ("uid", (1 << 32) - 1),
        ("mtime_ns", 1 << 63),
        ("xattrs", []),
        ("xattrs", {"security.capability": ""}),
        ("xattrs", {"user.x": "QR=="}),
        ("xattrs", {"user.x": "Q Q="}),
        ("xattrs", {"user.a": 65_537 * "AAAA"}),
        ("target", "of a file"),
        ("attachment", []),
        ("attachment", {"size": MAX_SIZE + 1, "depth": 2, "padded": False, "ids": []}),
        ("attachment", {"size": 1 << 4_000, "depth": 2, "padded": False, "ids": []}),
        ("attachment", {"size": 1, "depth": 1, "padded": False, "ids": ["ab" * 32]}),
        ("attachment", {"size": 1, "depth": 0, "padded": False, "ids": []}),
        ("attachment", {"size": 1, "depth": 0, "padded": False, "ids": ["AB" * 32]}),
        ("attachment", {"size": 1, "depth": 0, "padded": False, "ids": ["00" * 32]}),
        ("attachment", {"size": 1, "depth": 0, "padded": 0, "ids": ["ab" * 32]}),
        ("attachment", {"size": 1, "depth": 0, "padded": False, "ids": {"ab" * 32: 1}}),
        ("content", []),
        ("content", {"a": "\ud800"}),
        ("content", {"a": 1 << 64}),
        ("surplus", 1),
    ],
)
def test_json_that_breaks_the_format_is_refused(field: str, value: Any) -> None:
    body = json.loads(encode(FILE)) | {field: value}
    with pytest.raises(CorruptDocument, match="breaks the format"):
        decode(DOC, dump(body))


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e400}',
        b"[]",
        b"",
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":"\xff"}',
        b'{"a":' + b"9" * 21 + b"}",
        b'{"a":' + b"9" * 100_000 + b"}",
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":"' + b"x" * MAX_DOCUMENT + b'"}',
    ],
    ids=lambda text: repr(text[:16]),
)
def test_json_that_a_reader_could_misread_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever message: the type is the promise
        load(text)
    with pytest.raises(CorruptDocument):
        decode(DOC, text)


def test_a_format_of_the_future_is_named_as_such() -> None:
    with pytest.raises(CorruptDocument, match="newer blobfs"):
        decode(DOC, dump({"format": documents.FORMAT + 1}))


def nested(depth: int) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for _ in range(depth - 1):
        content = {"a": content}
    return content


def test_content_may_nest_to_the_limit_and_no_deeper() -> None:
    deep = replace(FILE, content=nested(documents.MAX_DEPTH))
    assert decode(DOC, encode(deep)) == deep
    with pytest.raises(InvalidDocument, match="content"):
        encode(replace(FILE, content=nested(documents.MAX_DEPTH + 1)))


@pytest.mark.parametrize(
    "content",
    [
        {"a": float("nan")},
        {"a": float("inf")},
        {1: "a", "1": "b"},
        {"a": (1,)},
        {"a": b"bytes"},
        {"\ud83d\ude00": 1, "\U0001f600": 2},
        {"a": 1 << 64},
        nested(100_000),
    ],
    ids=lambda content: repr(list(content))[:20],
)
def test_content_that_no_other_device_could_read_is_never_written(content: Any) -> None:
    with pytest.raises(InvalidDocument, match="content"):
        encode(replace(FILE, content=content))


@pytest.mark.parametrize(
    "change",
    [
        {"doc_id": ROOT},
        {"doc_id": DocId("a/b")},
        {"names": (Name(ROOT, b"b"), Name(ROOT, b"a"))},
        {"names": (Name(DOC, b"in itself"),)},
        {"kind": Kind.DIRECTORY, "attachment": None},
        {"kind": Kind.SYMLINK, "attachment": None},
        {"kind": Kind.FIFO},
        {"mode": -1},
        {"xattrs": {b"user." + bytes([number + 1]): bytes(65_536) for number in range(4)}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_document_that_breaks_a_limit_is_never_written(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocument):
        encode(replace(FILE, **change))
