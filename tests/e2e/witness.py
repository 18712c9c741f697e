"""Who wrote what, who saw it, and who gave it up: an account of every write that knows nothing of how blobfs works.

A file's content is a row of cells of 16 bytes: a mark that is written once, by one device, or zeros. Invariant: a mark
is in `kept` from the moment at which its write was acknowledged until a device whose own view had it removes it there.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

CELL: Final = 16
"""Bytes of a mark."""
_MARK: Final = re.compile(rb"[a-z]\d{14}\n")

_NUMBERS: Final = itertools.count(1)
"""One for all rounds: what an earlier one wrote may still be in the trash."""

Mark = bytes


class View(NamedTuple):
    """What a device shows of one file: where it knows it by, its marks, and a word for its bytes."""

    doc_id: str
    marks: frozenset[Mark]
    digest: str
    names: int
    """Hard links."""


class Witness:
    """The account of one round."""

    def __init__(self) -> None:
        self.issued: set[Mark] = set()
        self.kept: set[Mark] = set()
        """Acknowledged, and given up by nobody who saw them."""
        self.given: set[Mark] = set()
        self.unsure: set[str] = set()
        """Documents that somebody changed without having looked: what they had may be in an earlier version."""
        self.places: dict[Mark, str] = {}
        """The document that a mark was last seen in."""
        self.story: list[str] = []

    def tell(self, text: str) -> None:
        """One more line of the story."""
        self.story.append(text)

    def issue(self, device: str) -> Mark:
        """A mark that was never written."""
        mark = b"%s%014d\n" % (device[:1].encode(), next(_NUMBERS))
        self.issued.add(mark)
        return mark

    def acknowledge(self, marks: Iterable[Mark], doc_id: str) -> None:
        """They were written, and the filesystem says that they are safe."""
        for mark in set(marks) - self.given:
            self.kept.add(mark)
            self.places[mark] = doc_id

    def give_up(self, marks: Iterable[Mark]) -> None:
        """Somebody who saw them removed them."""
        gone = set(marks)
        self.given |= gone
        self.kept -= gone

    def change_unseen(self, device: str, doc_id: str) -> None:
        """Somebody replaced what a document had without having read it: at most one's own went unsent."""
        self.unsure.add(doc_id)
        letter = device[:1].encode()
        self.give_up([mark for mark in self.kept if mark[:1] == letter and self.places[mark] == doc_id])

    def marks_of(self, data: bytes) -> list[Mark]:
        """The marks in a file's bytes, each of which must have been written at some time."""
        found = list(_MARK.finditer(data))
        rest = _MARK.sub(b"", data)
        assert not rest.strip(b"\0"), f"bytes that nobody wrote: {rest.strip(bytes(1))[:80]!r}"
        assert len(data) % CELL == 0, f"a file of {len(data)} bytes"
        assert all(match.start() % CELL == 0 for match in found), "a mark is out of its place"
        marks = [match[0] for match in found]
        assert self.issued.issuperset(marks), f"marks that nobody wrote: {set(marks) - self.issued}"
        return marks


def marks_in(data: bytes) -> list[Mark]:
    """The marks in bytes, whoever wrote them."""
    return _MARK.findall(data)


def digest(*parts: bytes) -> str:
    """A word for bytes."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:8]
