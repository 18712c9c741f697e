"""Two texts line by line, and an earlier version of a file as a browser may show it. Told by the bytes, never by names.

Knows no store: bytes come as answers of the control socket, or by what the site gives. Invariant: what is compared is
short enough to be compared within a second, whatever a device of the account put there.
"""

from __future__ import annotations

import base64
import difflib
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile
from typing import Final, NamedTuple

from blobfs.page.guard import Refused
from blobfs.page.markup import Html, tag
from blobfs.page.previews import HEADERS, TEXT, is_text, picture_type
from blobfs.page.wire import Response
from blobfs.values.documents import Json
from blobfs.values.extents import EXTENT

LONGEST: Final = 64 << 10
"""Bytes of a text that is compared."""
LINES: Final = 600
"""Of each side between the first line that differs and the last one."""
_CONTEXT: Final = 3
_TOO_LONG: Final = tag("p", "Only short texts are compared line by line.", class_="hint")
_KINDS: Final = {"+": "added", "-": "removed", "@": "place"}


class Old(NamedTuple):
    """The beginning of an earlier version."""

    data: bytes
    size: int
    """Bytes of all of it."""


async def read_old(ask: Callable[..., Awaitable[Json]], path: str, version: int) -> Old:
    """The first extent of a version. Raises NotFound, RemoteError kinds."""
    answer = await ask("read-version", path=path, version=version, index=0)
    size = int(answer["total"])
    data = b"\0" * min(size, EXTENT) if answer["hole"] else base64.b64decode(answer["data"])
    return Old(data[:size], size)


def show_old(old: Old) -> Response:
    """A picture of one extent at most, or the beginning of a text. Raises Refused: it is neither."""
    kind = picture_type(old.data)
    if kind is not None and old.size > len(old.data):
        raise Refused(413, "That version is too large to be shown here. Restore it, or save it with `blobfs versions`.")
    if kind is None and not is_text(old.data[:4096]):
        raise Refused(415, "There is no preview of this kind of file.")
    body = old.data if kind is not None else old.data[:TEXT]
    return Response(200, HEADERS | {"Content-Type": kind or "text/plain; charset=utf-8"}, body)


def as_text(data: bytes, size: int) -> list[str] | None:
    """The lines of a text; None: it is none, or too long to be compared."""
    if size > LONGEST or len(data) < size or b"\0" in data:
        return None
    try:
        return data[:size].decode("utf-8").splitlines()
    except UnicodeDecodeError:
        return None


def difference(old: list[str] | None, new: list[str] | None) -> Html:
    """What differs, as a page shows it."""
    if old is None or new is None:
        return _TOO_LONG
    # What is alike at both ends costs nothing; only what lies between is compared in all ways.
    head = _alike(old, new)
    tail = _alike(old[head:][::-1], new[head:][::-1])
    first = max(0, head - _CONTEXT)
    sides = [lines[first : len(lines) - max(0, tail - _CONTEXT)] for lines in (old, new)]
    if max(map(len, sides)) > LINES:
        return _TOO_LONG
    changes = list(difflib.unified_diff(sides[0], sides[1], lineterm="", n=_CONTEXT))[2:]
    if not changes:
        return tag("p", "Their lines are the same.", class_="hint")
    # Numbers of lines would be those of the part that was compared.
    drawn = [
        tag("span", ("\u2026" if line.startswith("@") else line) + "\n", class_=_KINDS.get(line[0])) for line in changes
    ]
    return tag("pre", drawn, class_="changes", tabindex=0, aria_label="Lines that differ")


def _alike(old: Sequence[str], new: Sequence[str]) -> int:
    """How many lines are the same at the beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
