"""How questions to a desk and its answers travel on a local socket.

    0      4
    ├ size ┤ msgpack ...   question: [method, arguments]; answer: [true, result] or [false, kind, message, details]

Knows no desk. Invariant: an error arrives as the class and the sentence that it left as.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgpack

import blobfs.errors
from blobfs.errors import BlobfsError, BytesAbsent, StoreDamaged, UsageError

SOCKET: Final = "desk"
"""Its name in the directory of the store."""
SIZE: Final = struct.Struct("!I")
MAX_QUESTION: Final = 4 << 20
"""Bytes: a piece of an attachment, or several documents."""
MAX_ANSWER: Final = 256 << 20
"""Bytes: the ids of some millions of documents."""
BLOBS: Final = "blobs."
"""Before the names of methods of a desk's shelf."""
INCOMING: Final = "incoming."
"""Before the names of methods of its mailroom."""
_OTHER_LANGUAGE: Final = "the process that has the store open speaks another language; use its version"
LISTEN: Final = "listen"
"""The method after which only the desk speaks: one frame for each document that changes."""


def pack(body: Any) -> bytes:
    """A frame. Raises UsageError: it cannot travel."""
    try:
        payload: bytes = msgpack.packb(body)
    except (TypeError, ValueError, OverflowError):
        raise UsageError("a value of the wrong type; text, numbers and booleans can be asked for") from None
    return SIZE.pack(len(payload)) + payload


def unpack(payload: bytes) -> Any:
    """The body of a frame. Raises StoreDamaged: it is none."""
    try:
        return msgpack.unpackb(payload)
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException):
        raise StoreDamaged(_OTHER_LANGUAGE) from None


def pack_error(error: BlobfsError) -> bytes:
    """The answer that tells an error."""
    details = [error.content, error.offset, error.length] if isinstance(error, BytesAbsent) else []
    # Names that are no UTF-8 may be in the sentence.
    sentence = str(error).encode("utf-8", "backslashreplace").decode()
    return pack([False, type(error).__name__, sentence, details])


def result_of(answer: Any) -> Any:
    """The result in an answer. Raises the error in it; StoreDamaged: it is no answer."""
    try:
        if answer[0]:
            return answer[1]
        _, name, message, details = answer
        kind = getattr(blobfs.errors, name, BlobfsError)
        is_ours = isinstance(kind, type) and issubclass(kind, BlobfsError)
        error = BytesAbsent(*details) if kind is BytesAbsent else (kind if is_ours else BlobfsError)(str(message))
    except (TypeError, ValueError, LookupError):
        raise StoreDamaged(_OTHER_LANGUAGE) from None
    raise error
