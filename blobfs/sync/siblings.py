"""Which small files somebody will probably read next: those after the last ones in a directory that is read through.

Asks no server, fetches nothing. Invariant: a file that is read alone draws no other one after it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from blobfs.errors import NotFound
from blobfs.store.attachments import Absent, Place
from blobfs.store.store import Store
from blobfs.values.nodes import Content, Inode

SMALL: Final = 256 << 10
"""Bytes up to which a file is fetched whole, and together with others."""
_FIRST: Final = 64
_MOST: Final = 256
"""Files of one request, of the first of a walk and of any."""
_FIRST_BYTES: Final = 512 << 10
"""Of the first: on a line of 100 Mbit/s about what a round trip costs."""
_MOST_BYTES: Final = 4 << 20
_NEAR: Final = 8
"""Names that a reader may leave out and still be one that reads through a directory."""
_WALKS: Final = 200
"""Directories whose readers are remembered."""


@dataclass(slots=True)
class Walk:
    """How the small files of a directory have been read of late."""

    last: Place
    """The last one that was read or fetched."""
    window: int = 0
    """Files to fetch with the next one that is missed."""
    by_name: bool = False


class Siblings:
    """Remembers walks and chooses what goes along."""

    def __init__(self, store: Store) -> None:
        self._attachments, self._tree = store.attachments, store.tree
        self._walks: OrderedDict[Inode, Walk] = OrderedDict()

    def observe(self, content: Content) -> Walk | None:
        """Somebody misses this small file; the walk that it is part of, None when it is read alone."""
        place = self._attachments.place(content)
        if place is None:
            return None
        walk = self._walks.get(place.parent)
        if walk is None:
            walk = self._walks[place.parent] = self._begin(place)
            if len(self._walks) > _WALKS:
                self._walks.popitem(last=False)
        elif place != walk.last:
            self._step(walk, place)
        self._walks.move_to_end(place.parent)
        return walk if walk.window else None

    def _step(self, walk: Walk, place: Place) -> None:
        reach = walk.window + _NEAR
        orders = (walk.by_name, not walk.by_name)
        order = next(
            (order for order in orders if 0 < self._attachments.steps(walk.last, place, reach, by_name=order) <= reach),
            None,
        )
        walk.window = 0 if order is None else min(_MOST, max(_FIRST, 4 * walk.window))
        walk.by_name = walk.by_name if order is None else order
        walk.last = place

    def _begin(self, place: Place) -> Walk:
        """Who has read through the directory beside, or above, this one is about to do the same here."""
        walk = Walk(place)
        if self._walks:
            latest, former = next(reversed(self._walks.items()))
            if {latest, self._above(latest)} & {place.parent, self._above(place.parent)}:
                walk.window, walk.by_name = former.window, former.by_name
        return walk

    def _above(self, directory: Inode) -> Inode:
        try:
            return self._tree.parent(directory)
        except NotFound:
            return directory

    def choose(self, walk: Walk) -> list[Absent]:
        """What to fetch along with the last one that was missed. Reads the store; for a worker thread."""
        found = self._attachments.absent_after(walk.last, walk.window, SMALL, by_name=walk.by_name)
        size, most = 0, _FIRST_BYTES if walk.window <= _FIRST else _MOST_BYTES
        for number, absent in enumerate(found):
            size += absent.length
            if size > most:
                return found[:number]
        return found

    def follow(self, walk: Walk, chosen: list[Absent]) -> None:
        """These are on their way: the next one that is missed comes after them."""
        if chosen:
            walk.last = chosen[-1].place
