"""What an answer means that is no success: the one table from status and code to exception, and its sentences.

Knows no connection. Invariants: only `RemoteError` kinds come out; of the server's own text a sentence shows no more
than `printable` lets through.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from blobfs.errors import (
    AccessDenied,
    BlobExists,
    BlobNotFound,
    BlobReferred,
    BlobTooLarge,
    InvalidFlags,
    PreconditionFailed,
    ProtocolError,
    QuotaExceeded,
    RemoteError,
    RemoteUnavailable,
    WrongServer,
)
from blobfs.protocol import ErrorCode

MAX_REFUSAL: Final = 64 << 10
"""Bytes that are read of the body of an answer that is no success."""


class AnswerTooLong(ProtocolError):
    """More bytes than the caller allowed; they were not read."""


class RangeRefused(ProtocolError):
    """The server has fewer bytes than the request's range."""


class StrangeNotFound(BlobNotFound):
    """A 404 without a code of ours: a proxy may have said so, and the server may well have it."""


ERRORS: Final[dict[str, type[RemoteError]]] = {
    ErrorCode.BAD_REQUEST: ProtocolError,
    ErrorCode.UNAUTHORIZED: AccessDenied,
    ErrorCode.FORBIDDEN: AccessDenied,
    ErrorCode.NOT_FOUND: BlobNotFound,
    ErrorCode.METHOD_NOT_ALLOWED: ProtocolError,
    ErrorCode.INVALID_FLAGS: InvalidFlags,
    ErrorCode.EXISTS: BlobExists,
    ErrorCode.REFERRED: BlobReferred,
    ErrorCode.PRECONDITION_FAILED: PreconditionFailed,
    ErrorCode.TOO_LARGE: BlobTooLarge,
    # What arrived there is not what was sent from here: the way spoilt it, so another try helps.
    ErrorCode.BAD_DIGEST: RemoteUnavailable,
    ErrorCode.BAD_RANGE: RangeRefused,
    ErrorCode.LENGTH_REQUIRED: ProtocolError,
    ErrorCode.TOO_MANY_REQUESTS: RemoteUnavailable,
    ErrorCode.INTERNAL: RemoteUnavailable,
    ErrorCode.UNAVAILABLE: RemoteUnavailable,
    ErrorCode.OVER_QUOTA: QuotaExceeded,
    ErrorCode.DISK_FULL: QuotaExceeded,
}
STATUSES: Final[dict[int, type[RemoteError]]] = {
    401: AccessDenied,
    403: AccessDenied,
    404: StrangeNotFound,
    409: BlobExists,
    412: PreconditionFailed,
    413: BlobTooLarge,
    416: RangeRefused,
    429: RemoteUnavailable,
    507: QuotaExceeded,
}
"""For answers without a known code: of a proxy, or of a server that is none of ours. From 500 on: unavailable."""

ADVICE: Final[dict[type[RemoteError], str]] = {
    AccessDenied: "the server refuses this device's token: the device was revoked, or its access expired; what is here "
    "stays readable, and a new invite connects it again",
    WrongServer: "the server does not have the key that this device's invite names: it was set up anew, or somebody "
    "else answers in its place; nothing was sent; ask its operator, and connect with a new invite or --pin if it is so",
    QuotaExceeded: "the account on the server is full; delete something there or ask for more room",
    ProtocolError: "the server's answer is not one of a blobfs server; check the address and the versions",
    RangeRefused: "the server has fewer bytes of this than a device sent",
    RemoteUnavailable: "the server cannot answer now; blobfs tries again by itself",
}
"""Sentences of ours. The server's own text is shown only escaped and cut, after them."""

DISK_FULL: Final = "the disk of the server is full, whatever the account may hold; make room there, or ask its operator"


def too_long() -> AnswerTooLong:
    """For a body that goes beyond what was allowed."""
    return AnswerTooLong(ADVICE[ProtocolError] + " (an answer longer than asked for)")


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> RemoteError:
    """What a status of 300 and above means, with this beginning of its body."""
    code, message = _parse_error(body)
    usual = RemoteUnavailable if status >= 500 else ProtocolError
    kind = ERRORS.get(code) or STATUSES.get(status, usual)
    sentence = ADVICE.get(kind, f"the server answered with an error ({status})")
    if code == ErrorCode.DISK_FULL:
        sentence = DISK_FULL
    if message:
        sentence += f" [{message}]"
    if issubclass(kind, RemoteUnavailable):
        return RemoteUnavailable(sentence, _retry_after(headers.get("retry-after")))
    return kind(sentence)


def _parse_error(body: bytes) -> tuple[str, str]:
    try:
        error = json.loads(body)["error"]
        return str(error["code"])[:64], printable(str(error["message"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", ""


def printable(text: str, most: int = 200) -> str:
    """Text of the server's as it may be shown: one line, no control or format characters, cut."""
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text[:most])


def _retry_after(value: str | None) -> float | None:
    """Seconds; the form with a date is not ours and counts as none."""
    return float(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 8 else None
