"""Listing: the names of one directory, to be read in their order again and again without a query.

Knows no database and no node. Invariant: it has all names of the directory whose cookie is not above `end`, and no
others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from blobfs.values.nodes import Inode

ALL: Final = 1 << 63
"""The end of a listing that is whole: no cookie is as large."""
MOST: Final = 4096
"""Names of a directory that are remembered so: they are put into their order after each change."""


class Listing:
    """What is remembered of a directory between two readings of it."""

    __slots__ = ("_names", "_order", "end")

    def __init__(self, end: int = 0) -> None:
        """Nothing is known; or, up to `end`, that there is nothing."""
        self._names: dict[int, tuple[bytes, Inode]] = {}
        self._order: list[int] | None = None
        self.end = end

    @property
    def is_whole(self) -> bool:
        """Whether the directory has no other names."""
        return self.end == ALL

    @property
    def is_empty(self) -> bool:
        """Whether there is no name here."""
        return not self._names

    def after(self, cookie: int, limit: int) -> list[tuple[int, bytes, Inode]] | None:
        """(cookie, name, node) of up to `limit` names above `cookie`, ascending; None: there may be others."""
        names, order = self._names, self._order
        if order is None:
            order = self._order = sorted(names)
        at = bisect_right(order, cookie) if cookie else 0
        found = order[at : at + limit]
        if len(found) < limit and self.end != ALL:
            return None
        return [(cookie, *names[cookie]) for cookie in found]

    def learn(self, after: int, names: Iterable[tuple[int, bytes, Inode]], end: int) -> None:
        """These are all names above `after` up to `end`."""
        if after <= self.end:
            self._names.update({cookie: (name, inode) for cookie, name, inode in names})
            self._order, self.end = None, max(self.end, end)
            if len(self._names) > MOST:
                self._forget()

    def put(self, cookie: int, name: bytes, inode: Inode) -> None:
        """A name is new here, or leads to another node."""
        if cookie <= self.end:
            self._names[cookie] = name, inode
            self._order = None
            if len(self._names) > MOST:
                self._forget()

    def drop(self, cookie: int) -> None:
        """A name is gone from here."""
        if self._names.pop(cookie, None) is not None:
            self._order = None

    def _forget(self) -> None:
        self._names, self.end = {}, 0
