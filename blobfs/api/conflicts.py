"""Which document is a conflict copy of which: by its name, as `sync.merge.conflict_name` gives it. Pure."""

from __future__ import annotations

import re
from typing import Final

_COPY: Final = re.compile(
    rb"(?P<stem>.*) \(conflict [^/]+ (?:\d{4}-\d\d-\d\d \d{6}|undated)(?: \d+)?\)(?P<extension>\.[^.]*)?", re.S
)


def is_copy_of(copy: bytes, name: bytes) -> bool:
    """Whether `copy` is the name that a conflict gives to a second version of the file `name`."""
    match = _COPY.fullmatch(copy)
    if match is None:
        return False
    stem, extension = match["stem"], match["extension"] or b""
    # A long stem was cut to make room.
    return name == stem + extension or (len(copy) > 200 and name.startswith(stem) and name.endswith(extension))


def copies_begin(name: bytes) -> bytes:
    """How the names of all copies of `name` begin: its stem, or as much as no cut takes from it."""
    stem, _, extension = name.rpartition(b".")
    if not stem.strip(b".") or len(extension) > 20:
        stem = name
    return stem[:150]
