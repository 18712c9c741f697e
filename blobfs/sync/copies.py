"""The names of conflict copies: `stem (conflict DEVICE DATE).ext`. What gives them and what knows them again. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Final

from blobfs.values.documents import MAX_NAME

_COPY: Final = re.compile(
    rb"(?P<stem>.*) \(conflict (?P<origin>[^/]+ (?:\d{4}-\d\d-\d\d \d{6}|undated)(?: \d+)?)\)(?P<extension>\.[^.]*)?",
    re.S,
)


def conflict_name(name: bytes, device: str, mtime_ns: int, is_taken: Callable[[bytes], bool]) -> bytes:
    """`stem (conflict DEVICE DATE).ext`, numbered from 2 where that is taken, cut to what a name may have.

    The same for everybody who knows the document: the date is that of the bytes, in UTC.
    """
    stem, extension = _split(name)
    date = _date(mtime_ns)
    number = 1
    while True:
        counted = f" {number}" if number > 1 else ""
        tail = f" (conflict {_printable(device)} {date}{counted})".encode() + extension
        found = _cut(stem, MAX_NAME - len(tail)) + tail
        if not is_taken(found):
            return found
        number += 1


def is_conflict_name(name: bytes) -> bool:
    """Whether a name is of the kind that `conflict_name` gives."""
    return _COPY.fullmatch(name) is not None


def is_copy_of(copy: bytes, name: bytes) -> bool:
    """Whether `copy` is the name that a conflict gives to a second version of the file `name`."""
    match = _COPY.fullmatch(copy)
    if match is None:
        return False
    stem, extension = match["stem"], match["extension"] or b""
    # A long stem was cut to make room.
    return name == stem + extension or (len(copy) > 200 and name.startswith(stem) and name.endswith(extension))


def settled_name(copy: bytes, is_taken: Callable[[bytes], bool]) -> bytes:
    """A name for a copy that is to stay: `stem (DEVICE DATE).ext`, numbered from 2 where that is taken."""
    match = _COPY.fullmatch(copy)
    if match is None:
        return copy
    number = 1
    while True:
        counted = b" %d" % number if number > 1 else b""
        found = match["stem"] + b" (" + match["origin"] + counted + b")" + (match["extension"] or b"")
        if not is_taken(found):
            return found
        number += 1


def copies_begin(name: bytes) -> bytes:
    """How the names of all copies of `name` begin: its stem, or as much as no cut takes from it."""
    return _split(name)[0][:150]


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Stem and extension with its dot; what only looks like an extension stays in the stem."""
    stem, dot, extension = name.rpartition(b".")
    return (name, b"") if not stem.strip(b".") or len(extension) > 20 else (stem, dot + extension)


def _date(mtime_ns: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(mtime_ns // 10**9, datetime.UTC).strftime("%Y-%m-%d %H%M%S")
    except (ValueError, OverflowError, OSError):
        return "undated"


def _printable(device: str) -> str:
    return "".join(letter if letter.isprintable() and letter != "/" else "-" for letter in device)[:32] or "device"


def _cut(stem: bytes, length: int) -> bytes:
    """At most `length` bytes, never ending within a UTF-8 sequence."""
    if len(stem) <= length:
        return stem
    while length > 0 and stem[length] & 0xC0 == 0x80:
        length -= 1
    return stem[:length]
