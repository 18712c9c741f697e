"""Documents as devices exchange them, and the JSON that is sealed. docs/FORMAT.md, "Document".

Nothing local is in here: no inode number, no access time, no dirty mark. The limits are checked in both directions by
the same code, so whatever one device can encode every device can decode: a document that only its writer can read
would stop the others for ever.
"""

from __future__ import annotations

import base64
import enum
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NewType

from blobfs.errors import CorruptDocument, InvalidDocument
from blobfs.protocol import MAX_DOCUMENT, is_id
from blobfs.values.extents import INLINE, MAX_SIZE, Attachment, BlobId, depth_for, extent_count
from blobfs.values.revisions import MAX_DEVICES, DeviceId, is_device

DocId = NewType("DocId", str)
"""`[A-Za-z0-9_-]{1,128}`; 32 hex digits drawn at random unless a program chose it."""

Json = dict[str, Any]

ROOT: Final = DocId("root")
"""The document id of every account's top directory. The root itself is never sent."""

MAX_NAME: Final = 255
MAX_TARGET: Final = 4095
MAX_XATTR: Final = 64 << 10
"""Bytes of one attribute's value."""
MAX_XATTRS: Final = 256 << 10
"""Bytes of all names and values."""
MAX_CONTENT: Final = 512 << 10
"""Bytes of a document's JSON, as `dump` writes it; the rest is for names, attributes and ids."""
MAX_LINKS: Final = 1000
MAX_TIME_NS: Final = (1 << 63) - 1
MAX_RDEV: Final = (1 << 32) - 1
"""What Linux puts into a device number."""
MAX_DEPTH: Final = 64
"""Objects and arrays inside each other in `content`, itself included: what any JSON parser takes, on any stack."""
MIN_INTEGER: Final = -(1 << 63)
MAX_INTEGER: Final = (1 << 64) - 1
MAX_OWNER: Final = 0xFFFFFFFE
"""The largest uid or gid; the next one means "leave it" to chown."""
FORMAT: Final = 1
MAX_EPOCHS: Final = 64
"""Epochs of one account's keys; each is tried by whoever reads something old."""

_FIELDS: Final = frozenset(("format", "kind", "names", "mode", "uid", "gid", "mtime_ns", "birth_ns", "content"))
_OPTIONAL: Final = frozenset(("rdev", "target", "xattrs", "attachment", "heads", "sealer", "epoch"))
MAX_COUNT: Final = 10**18 - 1
_BLOB_ID: Final = re.compile(r"[0-9a-f]{64}")
_HOLE: Final = "0" * 64
"""What a hole looks like in an index blob, and so no id."""


class Kind(enum.StrEnum):
    """What a document is in the tree."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    CHARACTER = "character"
    BLOCK = "block"


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """One place of a document in the tree."""

    parent: DocId
    name: bytes
    """1 to 255 bytes of any value but `/` and NUL; never `.` or `..`."""


@dataclass(frozen=True, slots=True)
class Document:
    """One revision of a document. Equal documents are the same state; the revision itself travels beside it."""

    doc_id: DocId
    kind: Kind = Kind.FILE
    names: tuple[Name, ...] = ()
    """Ascending. A directory has one at most; a file has one for each hard link."""
    mode: int = 0o600
    """Permission bits, 0 to 0o7777."""
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    mtime_ns: int = 0
    birth_ns: int = 0
    target: bytes = b""
    """Of a symlink."""
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    """`user.*` attributes by full name."""
    attachment: Attachment | None = None
    """None: nothing is attached. An empty file has an attachment of size 0."""
    content: Json = field(default_factory=dict)
    """The JSON that programs keep in the document: objects, arrays, text without surrogates, finite numbers."""
    heads: Mapping[DeviceId, int] = field(default_factory=dict, compare=False)
    """How many edits of each device its sealer had seen, in all documents, without this one. No part of the state."""
    sealer: DeviceId | None = field(default=None, compare=False)
    """The device whose edit this revision is. No part of the state."""
    epoch: int = field(default=0, compare=False)
    """The epoch of the keys that it was sealed with; `crypto` sees to it. No part of the state."""


def is_name(name: bytes) -> bool:
    """Whether `name` may stand in a directory."""
    return 0 < len(name) <= MAX_NAME and name not in (b".", b"..") and b"/" not in name and b"\0" not in name


def name_to_text(name: bytes) -> str:
    """A name as text; bytes that are not UTF-8 become lone surrogates (PEP 383), so nothing is lost."""
    return name.decode("utf-8", "surrogateescape")


def name_from_text(text: str) -> bytes:
    """The inverse of `name_to_text`. Raises UnicodeEncodeError for surrogates that it never makes."""
    return text.encode("utf-8", "surrogateescape")


# --- limits -----------------------------------------------------------------------------------------------


def check(document: Document) -> None:
    """Whether every device can hold the document; its size once sealed is `crypto.seal_document`'s to check.

    Raises:
        InvalidDocument: it breaks a limit; the message names the field.
    """
    for field_name, is_good in (
        ("doc_id", is_id(document.doc_id) and document.doc_id != ROOT),
        ("names", _are_names(document)),
        ("mode", 0 <= document.mode <= 0o7777),
        ("uid", 0 <= document.uid <= MAX_OWNER),
        ("gid", 0 <= document.gid <= MAX_OWNER),
        ("rdev", 0 <= document.rdev <= MAX_RDEV),
        ("mtime_ns", abs(document.mtime_ns) <= MAX_TIME_NS),
        ("birth_ns", abs(document.birth_ns) <= MAX_TIME_NS),
        ("target", _is_target(document)),
        ("xattrs", _are_xattrs(document.xattrs)),
        ("attachment", document.attachment is None or _is_attachment(document)),
        ("content", is_content(document.content)),
        ("heads", _are_heads(document.heads)),
        ("sealer", document.sealer is None or is_device(document.sealer)),
        ("epoch", 0 <= document.epoch < MAX_EPOCHS),
    ):
        if not is_good:
            raise InvalidDocument(f"the document breaks a limit of the format in {field_name}; see docs/FORMAT.md")


def _are_names(document: Document) -> bool:
    names = document.names
    return (
        len(names) <= (1 if document.kind is Kind.DIRECTORY else MAX_LINKS)
        and list(names) == sorted(set(names))
        and all(is_id(name.parent) and name.parent != document.doc_id and is_name(name.name) for name in names)
    )


def _is_target(document: Document) -> bool:
    target = document.target
    return (document.kind is Kind.SYMLINK) == bool(target) and len(target) <= MAX_TARGET and b"\0" not in target


def _are_xattrs(xattrs: Mapping[bytes, bytes]) -> bool:
    return sum(len(name) + len(value) for name, value in xattrs.items()) <= MAX_XATTRS and all(
        name.startswith(b"user.") and len(name) <= MAX_NAME and b"\0" not in name and len(value) <= MAX_XATTR
        for name, value in xattrs.items()
    )


def _is_attachment(document: Document) -> bool:
    attachment = document.attachment
    return (
        attachment is not None
        and document.kind is Kind.FILE
        and 0 <= attachment.size <= MAX_SIZE
        and attachment.depth == depth_for(attachment.size)
        and len(attachment.ids) == -(-extent_count(attachment.size) // INLINE**attachment.depth)
        and all(entry is None or (_BLOB_ID.fullmatch(entry) and entry != _HOLE) for entry in attachment.ids)
    )


def _are_heads(heads: Mapping[DeviceId, int]) -> bool:
    return len(heads) <= MAX_DEVICES and all(
        is_device(device) and 0 < count <= MAX_COUNT for device, count in heads.items()
    )


def is_content(content: Any) -> bool:
    """Whether this is I-JSON (RFC 7493) with integers of 64 bits, which every parser reads back as it was."""
    values: list[tuple[Any, int]] = [(content, 1)]
    while values:
        value, depth = values.pop()
        if not isinstance(value, dict | list):
            if not _is_scalar(value):
                return False
            continue
        if depth > MAX_DEPTH or (isinstance(value, dict) and not all(is_text(key) for key in value)):
            return False
        values.extend((inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value))
    return isinstance(content, dict)


def _is_scalar(value: Any) -> bool:
    if isinstance(value, int):
        return MIN_INTEGER <= value <= MAX_INTEGER
    return value is None or is_text(value) or (isinstance(value, float) and math.isfinite(value))


def is_text(value: Any) -> bool:
    """Whether this is text that UTF-8 can hold."""
    # Two surrogates of a pair would come back as one character, and two keys could become one.
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value))


# --- plaintext JSON ---------------------------------------------------------------------------------------


def encode(document: Document) -> bytes:
    """The JSON to be sealed: ASCII, keys sorted, no white space, so that equal documents (and heads) have equal bytes.

    Raises:
        InvalidDocument: it breaks a limit, so no device would take it.
    """
    check(document)
    body: Json = {
        "format": FORMAT,
        "kind": document.kind.value,
        "names": [[name.parent, name_to_text(name.name)] for name in document.names],
        "mode": document.mode,
        "uid": document.uid,
        "gid": document.gid,
        "mtime_ns": document.mtime_ns,
        "birth_ns": document.birth_ns,
        "content": document.content,
    }
    if document.rdev:
        body["rdev"] = document.rdev
    if document.target:
        body["target"] = name_to_text(document.target)
    if document.xattrs:
        body["xattrs"] = {
            name_to_text(name): base64.b64encode(value).decode("ascii") for name, value in document.xattrs.items()
        }
    if document.attachment is not None:
        body["attachment"] = {
            "size": document.attachment.size,
            "depth": document.attachment.depth,
            "padded": document.attachment.padded,
            "ids": list(document.attachment.ids),
        }
    if document.heads:
        body["heads"] = dict(document.heads)
    if document.sealer is not None:
        body["sealer"] = document.sealer
    if document.epoch:
        body["epoch"] = document.epoch
    return dump(body)


def dump(body: Json) -> bytes:
    """Canonical JSON: ASCII, keys sorted, no white space, no NaN."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode(doc_id: DocId, plaintext: bytes) -> Document:
    """The document of a JSON plaintext; white space around it is padding.

    Raises:
        CorruptDocument: no JSON object, a wrong type, a broken limit, a format of a newer blobfs.
    """
    try:
        body = load(plaintext)
        if _integer(body["format"]) > FORMAT:
            raise CorruptDocument(f"document {doc_id} was written by a newer blobfs; install that on this device too")
        document = _decode(doc_id, body)
        check(document)
    except (KeyError, TypeError, ValueError, InvalidDocument) as error:
        raise CorruptDocument(f"document {doc_id} breaks the format: {type(error).__name__}") from error
    return document


def load(text: bytes) -> Json:
    """A JSON object in UTF-8, with duplicate keys and numbers that are none, infinite or huge refused.

    Raises:
        ValueError: anything else, nested too deep, or more than `MAX_DOCUMENT` bytes.
    """
    if len(text) > MAX_DOCUMENT:
        raise ValueError("too large")
    try:
        body = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_short,
        )
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(body, dict):
        raise ValueError("not an object")
    return body


def _object(pairs: list[tuple[str, Any]]) -> Json:
    body = dict(pairs)
    if len(body) != len(pairs):
        raise ValueError("duplicate keys")
    return body


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError("infinite number")
    return value


def _short(digits: str) -> int:
    # Reading a number takes time by the square of its digits; 64 bits have at most 20 characters.
    if len(digits) > 20:
        raise ValueError("huge number")
    return int(digits)


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("integer expected")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("array expected")
    return value


def _members(value: Any) -> Json:
    if not isinstance(value, dict):
        raise TypeError("object expected")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value


def _bytes(value: Any) -> bytes:
    """The bytes of a text as `name_to_text` makes it; other texts of the same bytes are refused."""
    data = name_from_text(_text(value))
    if name_to_text(data) != value:
        raise ValueError("not the canonical text")
    return data


def _base64(value: Any) -> bytes:
    data = base64.b64decode(_text(value), validate=True)
    if base64.b64encode(data).decode("ascii") != value:
        raise ValueError("not the canonical base64")
    return data


def _decode(doc_id: DocId, body: Json) -> Document:
    if _integer(body["format"]) != FORMAT or not _FIELDS <= body.keys() <= _FIELDS | _OPTIONAL:
        raise ValueError("unknown members")
    return Document(
        doc_id=doc_id,
        kind=Kind(_text(body["kind"])),
        names=tuple(_decode_name(entry) for entry in _list(body["names"])),
        mode=_integer(body["mode"]),
        uid=_integer(body["uid"]),
        gid=_integer(body["gid"]),
        rdev=_integer(body.get("rdev", 0)),
        mtime_ns=_integer(body["mtime_ns"]),
        birth_ns=_integer(body["birth_ns"]),
        target=_bytes(body.get("target", "")),
        xattrs={_bytes(name): _base64(value) for name, value in _members(body.get("xattrs", {})).items()},
        attachment=_decode_attachment(_members(body["attachment"])) if "attachment" in body else None,
        content=_members(body["content"]),
        heads={DeviceId(device): _integer(count) for device, count in _members(body.get("heads", {})).items()},
        sealer=DeviceId(_text(body["sealer"])) if "sealer" in body else None,
        epoch=_integer(body.get("epoch", 0)),
    )


def _decode_name(entry: Any) -> Name:
    parent, text = _list(entry)
    return Name(DocId(_text(parent)), _bytes(text))


def _decode_attachment(body: Json) -> Attachment:
    if body.keys() != {"size", "depth", "padded", "ids"} or not isinstance(body["padded"], bool):
        raise ValueError("attachment")
    ids = tuple(None if entry is None else BlobId(_text(entry)) for entry in _list(body["ids"]))
    # Checked before `check`, which does arithmetic with it.
    if not 0 <= _integer(body["size"]) <= MAX_SIZE:
        raise ValueError("size")
    return Attachment(body["size"], ids, _integer(body["depth"]), body["padded"])
