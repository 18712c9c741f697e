"""Documents as devices exchange them, and the JSON that is sealed. docs/FORMAT.md, "Document".

Nothing local is in here: no inode number, no access time, no dirty mark. What was decoded has been checked against
every limit; it came from a device of this account, but perhaps from a newer or a broken one.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NewType

from blobfs.errors import CorruptDocument
from blobfs.protocol import MAX_DOCUMENT, is_id
from blobfs.values.extents import INLINE, MAX_SIZE, Attachment, BlobId, depth_for, extent_count

DocId = NewType("DocId", str)
"""`[A-Za-z0-9_-]{1,128}`; 32 hex digits drawn at random unless a program chose it."""

Json = dict[str, Any]

ROOT: Final = DocId("root")
"""The document id of every account's top directory. The root itself is never sent."""

MAX_NAME: Final = 255
MAX_TARGET: Final = 4095
MAX_XATTR: Final = 64 << 10
MAX_XATTRS: Final = 256 << 10
MAX_LINKS: Final = 1000
MAX_TIME_NS: Final = (1 << 63) - 1
FORMAT: Final = 1


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
    """The JSON that programs keep in the document."""


def is_name(name: bytes) -> bool:
    """Whether `name` may stand in a directory."""
    return 0 < len(name) <= MAX_NAME and name not in (b".", b"..") and b"/" not in name and b"\0" not in name


def name_to_text(name: bytes) -> str:
    """A name as text; bytes that are not UTF-8 become lone surrogates (PEP 383), so nothing is lost."""
    return name.decode("utf-8", "surrogateescape")


def name_from_text(text: str) -> bytes:
    """The inverse of `name_to_text`. Raises UnicodeEncodeError for surrogates that it never makes."""
    return text.encode("utf-8", "surrogateescape")


# --- plaintext JSON ---------------------------------------------------------------------------------------


def encode(document: Document) -> bytes:
    """The JSON to be sealed: ASCII, keys sorted, no white space, so that equal documents have equal bytes."""
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
            "ids": list(document.attachment.ids),
        }
    return dump(body)


def dump(body: Json) -> bytes:
    """Canonical JSON: ASCII, keys sorted, no white space, no NaN."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode(doc_id: DocId, plaintext: bytes) -> Document:
    """The document of a JSON plaintext.

    Raises:
        CorruptDocument: no JSON object, a wrong type, a broken limit, a format of a newer blobfs.
    """
    try:
        return _decode(doc_id, load(plaintext))
    except (KeyError, TypeError, ValueError, RecursionError, binascii.Error) as error:
        raise CorruptDocument(f"document {doc_id} breaks the format: {type(error).__name__}") from error


def load(plaintext: bytes) -> Json:
    """A JSON object, with duplicate keys and NaN refused.

    Raises:
        ValueError: anything else, or more than `MAX_DOCUMENT` bytes.
        RecursionError: nested too deep.
    """
    if len(plaintext) > MAX_DOCUMENT:
        raise ValueError("too large")
    body = json.loads(plaintext, object_pairs_hook=_object, parse_constant=_refuse)
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


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError("integer out of range")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value


def _decode(doc_id: DocId, body: Json) -> Document:
    _integer(body["format"], FORMAT, FORMAT)
    kind = Kind(body["kind"])
    names = tuple(_decode_name(entry) for entry in body["names"])
    if len(names) > MAX_LINKS or list(names) != sorted(set(names)):
        raise ValueError("names out of order")
    if kind is Kind.DIRECTORY and len(names) > 1:
        raise ValueError("a directory with two names")
    target = name_from_text(_text(body.get("target", "")))
    if (kind is Kind.SYMLINK) != bool(target) or len(target) > MAX_TARGET or b"\0" in target:
        raise ValueError("target")
    xattrs = {
        name_from_text(_text(name)): base64.b64decode(_text(value), validate=True)
        for name, value in body.get("xattrs", {}).items()
    }
    if any(not 0 < len(name) <= MAX_NAME or b"\0" in name or len(value) > MAX_XATTR for name, value in xattrs.items()):
        raise ValueError("xattrs")
    attachment = _decode_attachment(body["attachment"]) if "attachment" in body else None
    if attachment is not None and kind is not Kind.FILE:
        raise ValueError("an attachment of no file")
    content = body["content"]
    if not isinstance(content, dict):
        raise TypeError("content")
    return Document(
        doc_id=doc_id,
        kind=kind,
        names=names,
        mode=_integer(body["mode"], 0, 0o7777),
        uid=_integer(body["uid"], 0, 0xFFFFFFFE),
        gid=_integer(body["gid"], 0, 0xFFFFFFFE),
        rdev=_integer(body.get("rdev", 0), 0, (1 << 64) - 1),
        mtime_ns=_integer(body["mtime_ns"], -MAX_TIME_NS, MAX_TIME_NS),
        birth_ns=_integer(body["birth_ns"], -MAX_TIME_NS, MAX_TIME_NS),
        target=target,
        xattrs=xattrs,
        attachment=attachment,
        content=content,
    )


def _decode_name(entry: Any) -> Name:
    parent, text = entry
    name = name_from_text(_text(text))
    if not is_id(_text(parent)) or not is_name(name):
        raise ValueError("name")
    return Name(DocId(parent), name)


def _decode_attachment(body: Any) -> Attachment:
    size = _integer(body["size"], 0, MAX_SIZE)
    depth = _integer(body["depth"], 0, 3)
    ids = tuple(_decode_blob_id(entry) for entry in body["ids"])
    if depth != depth_for(size) or len(ids) != -(-extent_count(size) // INLINE**depth):
        raise ValueError("ids do not fit the size")
    return Attachment(size, ids, depth)


def _decode_blob_id(entry: Any) -> BlobId | None:
    if entry is None:
        return None
    if len(bytes.fromhex(_text(entry))) != 32 or entry != entry.lower() or len(entry) != 64:
        raise ValueError("blob id")
    return BlobId(entry)
