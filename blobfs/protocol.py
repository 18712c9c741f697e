"""What client and server agree on: routes, headers, error codes, limits, the grammar of ids, stream framing.

Standard library only; the one client module that the server may import. docs/PROTOCOL.md tells the same to
people. Nothing here knows of keys, plaintext or storage.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
import re
import struct
import urllib.parse
from typing import Final, NamedTuple, NotRequired, TypedDict

VERSION: Final = 1
"""Of the protocol. `GET /` answers with it; a client refuses a server whose version it does not know."""

# --- the grammar of names -------------------------------------------------------------------------

ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""Users, namespaces, document ids and blob ids. Always `fullmatch`: `$` would let a newline through."""

DEFAULT_NAMESPACE: Final = "default"
INCOMING_NAMESPACE: Final = "MX"


def is_id(text: str) -> bool:
    """Whether `text` may stand for a user, a namespace, a document or a blob."""
    return ID.fullmatch(text) is not None


# --- routes -----------------------------------------------------------------------------------------

ROOT: Final = "/"
HEALTH: Final = "/healthz"
METRICS: Final = "/metrics"
DESCRIPTION: Final = "/openapi.json"
ADMIN: Final = "/admin"
BLOBS: Final = "/blobs/{user}"
BLOB: Final = "/blobs/{user}/{blob_id}"
MISSING: Final = "/blobs/{user}/missing"
"""POST only, so that it cannot shadow a blob of that name: `missing` is reserved on POST."""
STREAM: Final = "/stream/{user}"
DOCUMENTS: Final = "/documents/{user}"
REVISIONS: Final = "/documents/{user}/{doc_id}/revisions"
EVENTS: Final = "/events/{user}"
SECRETS: Final = "/secrets/{user}"
USAGE: Final = "/usage/{user}"
TOKENS: Final = "/tokens/{user}"
TOKEN: Final = "/tokens/{user}/{token_id}"  # noqa: S105 - a route
INCOMING: Final = "/incoming/{user}/{item_id}"

# --- headers ----------------------------------------------------------------------------------------

DIGEST: Final = "Content-Digest"
"""RFC 9530, `sha-256=:BASE64:` of the whole blob as it is stored. Checked on PUT, sent on GET and HEAD."""
REQUEST_ID: Final = "X-Request-Id"


def digest_header(sha256: bytes) -> str:
    """The value of `Content-Digest` for a SHA-256 of 32 bytes."""
    return f"sha-256=:{base64.b64encode(sha256).decode('ascii')}:"


def parse_digest_header(value: str) -> bytes | None:
    """The SHA-256 in a `Content-Digest` header; None when there is no well-formed one."""
    for member in value.split(","):
        algorithm, _, encoded = member.strip().partition("=")
        if algorithm == "sha-256" and len(encoded) >= 2 and encoded[0] == encoded[-1] == ":":
            try:
                digest = base64.b64decode(encoded[1:-1], validate=True)
            except (binascii.Error, ValueError):
                return None
            return digest if len(digest) == 32 else None
    return None


def authorization_header(user: str, token: str) -> str:
    """The value of `Authorization` that proves `token` for `user`."""
    return "Token " + base64.b64encode(f"{user}:{token}".encode()).decode("ascii")


def parse_authorization_header(value: str) -> tuple[str, str] | None:
    """(user, token) of an `Authorization` header; None for any other scheme or form."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "token":
        return None
    try:
        user, colon, token = base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError):
        return None
    return (user, token) if colon and is_id(user) and token else None


# --- states, flags, error codes -----------------------------------------------------------------------


class Flag(enum.StrEnum):
    """Labels that the server keeps on a blob."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    PROCESSED = "PROCESSED"
    FAILED = "FAILED"


class ChangeStatus(enum.StrEnum):
    """The answer to one change of `POST /documents/{user}`."""

    OK = "ok"
    CONFLICT = "conflict"
    """The server's revision is not the change's base. The answer carries the server's."""
    MISSING_BLOBS = "missing"
    """Blobs that it refers to are not here. The answer lists them."""
    OVER_QUOTA = "quota"
    INVALID = "invalid"


class UploadStatus(enum.StrEnum):
    """The answer to one item of an upload through `POST /stream/{user}`."""

    CREATED = "created"
    EXISTS = "exists"
    """It is here already, so nothing was stored; as good as created to whoever derives ids from content."""
    OVER_QUOTA = "quota"
    INVALID = "invalid"
    """Its id breaks the grammar."""


class ErrorCode(enum.StrEnum):
    """`error.code` in the JSON body of every status of 400 and above."""

    BAD_REQUEST = "bad-request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    INVALID_FLAGS = "invalid-flags"
    EXISTS = "exists"
    REFERRED = "referred"
    PRECONDITION_FAILED = "precondition-failed"
    TOO_LARGE = "too-large"
    BAD_DIGEST = "bad-digest"
    BAD_RANGE = "bad-range"
    LENGTH_REQUIRED = "length-required"
    TOO_MANY_REQUESTS = "too-many-requests"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    OVER_QUOTA = "over-quota"
    DISK_FULL = "disk-full"


# --- JSON bodies ----------------------------------------------------------------------------------------


class DocumentJson(TypedDict):
    """One sealed document, in the feed and among the revisions."""

    doc_id: str
    seq: int
    """The account's change sequence number that this revision got; grows by each accepted change."""
    revision: str
    deleted: bool
    payload: str
    """The sealed document, base64."""


class FeedJson(TypedDict):
    """`GET /documents/{user}?since=CURSOR&limit=N&wait=SECONDS`: ascending by `seq`, each document's newest only."""

    documents: list[DocumentJson]
    cursor: str
    """Opaque; give it as `since` the next time. An absent `since` starts at the beginning."""
    more: bool
    left: NotRequired[int]
    """With `count=true`, unless the server is of an older version: how many documents come after this page."""


class ChangeJson(TypedDict):
    """One change of `POST /documents/{user}`, whose body is `{"changes": [...]}`."""

    doc_id: str
    base: str | None
    """The revision that the server must have now; None when it must not know the document."""
    revision: str
    deleted: bool
    payload: str
    added: list[str]
    """Blob ids (default namespace) that this revision refers to and its base did not."""
    removed: list[str]
    """Blob ids that its base referred to and this revision does not."""


class ResultJson(TypedDict):
    """The answer to one change; the answer's body is `{"results": [...]}`, in the order of the changes."""

    doc_id: str
    status: str
    seq: int | None
    """Set when status is `ok`."""
    missing: list[str]
    """Blob ids, when status is `missing`."""
    current: DocumentJson | None
    """The server's document, when status is `conflict` and it has one."""


class UsageJson(TypedDict):
    """`GET /usage/{user}`: what the account holds, and what it may hold."""

    used: int
    """Bytes of blobs, of documents with their kept revisions, and of the wrapped secret."""
    quota: int | None
    """Bytes; None when there is no limit. May be less than `used`."""
    objects: int
    """Blobs, of all namespaces."""


class TokenJson(TypedDict):
    """A token of the account, without its text; `GET /tokens/{user}` answers `{"tokens": [...]}`, oldest first."""

    id: int
    label: str
    """The device id of the device that it belongs to, or `INVITE_LABEL`; what the server's keeper wrote, for others."""
    scopes: list[str]
    created_s: int
    """Seconds since the epoch, as the other times."""
    expires_s: int | None
    seen_s: int | None
    """When it was last used; None: never."""
    is_own: bool
    """It is the one that asks."""


class NewTokenJson(TypedDict):
    """The body of `POST /tokens/{user}`."""

    label: str
    """An id, as in the grammar of names."""
    lifetime_s: int | None
    """Seconds until it expires; None: never."""
    scope: str
    """`write`, for a device, or `incoming`, for somebody who may only leave things; absent: `write`."""


class MadeTokenJson(TypedDict):
    """The answer to it."""

    id: int
    token: str
    """Its text, this once."""


# --- limits -------------------------------------------------------------------------------------------

MAX_BLOB: Final = 16 << 20
"""Bytes of one stored blob. An extent of 4 MiB sealed is far below it."""
MAX_DOCUMENT: Final = 1 << 20
"""Bytes of one sealed document."""
MAX_CHANGES: Final = 1000
"""Changes in one `POST /documents/{user}`, and documents in one page of the feed."""
MAX_DOCUMENTS_BODY: Final = 8 << 20
"""Bytes of a JSON body of `POST /documents/{user}`, and about the most that a page of the feed holds."""
MAX_STREAM_ITEMS: Final = 1000
"""Blobs in one request to `/stream`."""
MAX_IDS: Final = 10_000
"""Ids in one `POST /blobs/{user}/missing`."""
MAX_LIST: Final = 10_000
"""Ids in one page of a list."""
MAX_WAIT_S: Final = 55
"""Seconds that a long poll of the feed is held open, below the idle timeout of common proxies."""
MAX_SECRETS: Final = 64 << 10
"""Bytes of the wrapped secret."""

INVITE_LABEL: Final = "invite"
"""Of a token that waits in an invite. The device that joins with it makes one of its own and deletes this one."""
MAX_TOKENS: Final = 1000
"""Tokens of one account."""
MAX_LIFETIME_S: Final = 10 * 366 * 86400
"""Seconds that a token with an end may live."""

# --- stream framing ---------------------------------------------------------------------------------------
#
# Both directions of /stream carry items back to back, without separators:
#
#   u8 status | u8 length of the id | u64 length of the body | id, ASCII | body        (big-endian)
#
# A stream that ends anywhere but at the border of an item is cut, and its last item does not count.


class ItemStatus(enum.IntEnum):
    """The first byte of an item in a stream."""

    OK = 0
    """A blob and its bytes. The only one that an upload may use."""
    NOT_FOUND = 1
    """Download only: no such blob; the body is empty."""


ITEM_HEADER: Final = struct.Struct(">BBQ")


def pack_item_header(blob_id: str, length: int, status: ItemStatus = ItemStatus.OK) -> bytes:
    """What stands before the body of an item in a stream."""
    encoded = blob_id.encode("ascii")
    return ITEM_HEADER.pack(status, len(encoded), length) + encoded


class BadStream(ValueError):
    """An item header that breaks the framing or its limits."""


def unpack_item_header(fixed: bytes) -> tuple[ItemStatus, int, int]:
    """(status, length of the id, length of the body) from the fixed 10 bytes of an item.

    Raises:
        BadStream: an unknown status, an empty id or one over 128 bytes, a body over `MAX_BLOB`.
    """
    status, id_length, length = ITEM_HEADER.unpack(fixed)
    if status not in (ItemStatus.OK, ItemStatus.NOT_FOUND):
        raise BadStream(f"unknown item status {status}")
    if not 1 <= id_length <= 128:
        raise BadStream(f"an id of {id_length} bytes")
    if length > MAX_BLOB:
        raise BadStream(f"an item of {length} bytes")
    return ItemStatus(status), id_length, length


# --- invites ------------------------------------------------------------------------------------------------

INVITE_PREFIX: Final = "blobfs1:"
PINNED_PREFIX: Final = "blobfs2:"
"""Of an invite with a pin. A client that knows no pins must refuse it, not connect without looking."""
MAX_INVITE: Final = 4096
"""Characters of an invite."""
MAX_SEEN: Final = 16
"""Devices in it: enough to notice an old state, few enough for a QR code."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_DEVICE: Final = re.compile(r"[0-9a-f]{16}")
_PIN: Final = re.compile(r"sha256//([A-Za-z0-9+/]{43}=)")


def is_pin(text: str) -> bool:
    """Whether `text` is `sha256//BASE64`, as curl writes it: SHA-256 of a server's public key (DER, SPKI)."""
    match = _PIN.fullmatch(text)
    return match is not None and base64.b64encode(base64.b64decode(match[1])).decode("ascii") == match[1]


class Invite(NamedTuple):
    """What a new device needs beside the passphrase."""

    url: str
    """Of the server, without a trailing slash."""
    user: str
    token: str
    seen: tuple[tuple[str, int], ...] = ()
    """(device, edits of it) that the inviting device has seen, ascending: a server cannot show the new one less."""
    pin: str | None = None
    """Of the server's key, which then counts in place of its certificate."""


def is_server_url(url: str) -> bool:
    """Whether `url` is `http(s)://HOST[:PORT][/PATH]`, printable ASCII, without credentials, query or fragment."""
    if len(url) > 1024 or not all("!" <= character <= "~" for character in url) or "\\" in url:
        return False
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or "?" in url or "#" in url or "@" in parts.netloc)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and port != 0


def pack_invite(invite: Invite) -> str:
    """The text that a person copies to a new device: the prefix, then base64url of canonical JSON.

    Raises:
        ValueError: a URL, user, token, pin or count that cannot stand in an invite.
    """
    if not (is_server_url(invite.url) and is_id(invite.user) and _TOKEN.fullmatch(invite.token)):
        raise ValueError("an invite needs the address of a server, a user and a token")
    if len(dict(invite.seen)) > MAX_SEEN or list(invite.seen) != sorted(dict(invite.seen).items()):
        raise ValueError("what an invite says was seen is not in order")
    if not all(_DEVICE.fullmatch(device) and 0 < count < 10**18 for device, count in invite.seen):
        raise ValueError("what an invite says was seen is no count of edits by device")
    body: dict[str, object] = {"v": 1, "url": invite.url, "user": invite.user, "token": invite.token}
    if invite.seen:
        body["seen"] = dict(invite.seen)
    if invite.pin is not None:
        if not is_pin(invite.pin) or not invite.url.startswith("https://"):
            raise ValueError("an invite has the pin of an https server's key")
        body |= {"v": 2, "pin": invite.pin}
    packed = json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")
    prefix = INVITE_PREFIX if invite.pin is None else PINNED_PREFIX
    return prefix + base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")


def parse_invite(text: str) -> Invite:
    """The invite in `text`; white space around it is forgiven, nothing else is.

    Raises:
        ValueError: anything that `pack_invite` would not have written.
    """
    text = text.strip()
    if len(text) > MAX_INVITE or not text.startswith((INVITE_PREFIX, PINNED_PREFIX)):
        raise ValueError("not an invite")
    encoded = text[len(INVITE_PREFIX) :]
    try:
        packed = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        body = json.loads(packed.decode("ascii"))
        fields = (body["url"], body["user"], body["token"])
        seen = tuple((device, int(count)) for device, count in body.get("seen", {}).items())
        pin = body.get("pin")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not an invite") from error
    if not all(isinstance(field, str) for field in fields) or not isinstance(pin, str | None):
        raise ValueError("not an invite")
    invite = Invite(*fields, seen, pin)
    # One text for each invite: this refuses unknown members, versions, duplicate keys and loose base64 at once.
    if pack_invite(invite) != text:
        raise ValueError("not an invite")
    return invite
