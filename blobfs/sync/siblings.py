"""Which small files somebody will probably read next: those after the last ones in a directory that is read through,
and the same in the directories that are read in turns with it, or one after the other a file each.

Asks no server, fetches nothing. Invariant: a file that is read alone draws no other one after it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from blobfs import protocol
from blobfs.errors import NotFound
from blobfs.store.attachments import Absent, Place
from blobfs.store.store import Store
from blobfs.values.nodes import Content, Inode

SMALL: Final = 256 << 10
"""Bytes up to which a file is fetched whole, and together with others."""
_FIRST: Final = 64
_MOST: Final = protocol.MAX_STREAM_ITEMS - 1
"""Files of one request beside the one that was missed, of the first of a walk and of any: a round trip each."""
_FIRST_BYTES: Final = 512 << 10
"""Of the first: on a line of 100 Mbit/s about what a round trip costs."""
_MOST_BYTES: Final = 4 << 20
_FEW: Final = 4
"""A directory and the next one may be chance: only who goes on to a third has the first files of more of them."""
_MOST_BESIDE: Final = 256
"""Directories whose first file one request brings."""
_NEAR: Final = 8
_FAR: Final = 256
"""Names that a reader may leave out and still be one that reads through a directory; of those that he has read before
as many as were fetched, or these."""
_WALKS: Final = 1000
"""Directories whose readers are remembered, and directories of such directories."""


@dataclass(slots=True)
class Walk:
    """How the small files of a directory have been read of late; or the directories in it."""

    last: Place
    """The last one that was read or fetched."""
    window: int = 0
    """Files to fetch with the next one that is missed."""
    by_name: bool = True
    """Which it mostly is; the order of readdir otherwise. Both may agree for a while."""
    after: Inode | None = None
    """The directory in which something was missed next."""
    is_single: bool = True
    """One file of it was read so far."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Where to look for what goes along with a file that was missed."""

    turns: Sequence[Walk]
    """Its directory, and those that are read in turns with it, in that order."""
    beside: Walk | None = None
    """Over the directories beside its own, of which the first file each is read."""


class Siblings:
    """Remembers walks and chooses what goes along."""

    def __init__(self, store: Store) -> None:
        self._attachments, self._tree = store.attachments, store.tree
        self._walks: OrderedDict[Inode, Walk] = OrderedDict()
        self._beside: OrderedDict[Inode, Walk] = OrderedDict()
        """By the directory whose directories they are."""
        self._missed: Inode | None = None
        """The directory of the last file that was missed."""
        self._tail: Inode | None = None
        """The same, or of the last one that was fetched after it from beside."""
        self._is_spread = False
        """Whether files of other directories were fetched with the last one that was missed."""

    def observe(self, content: Content) -> Reach | None:
        """Somebody misses this small file; where he will probably go on, None when it is read alone."""
        place = self._attachments.place(content)
        if place is None:
            return None
        here, beside = place.parent, None
        walk = self._walks.get(here)
        if walk is None:
            walk = self._begin(place)
            beside = None if walk.window else self._enter(walk, content)
            _remember(self._walks, here, walk)
        elif place != walk.last:
            self._step(walk, place, _FIRST)
            walk.is_single = False
        self._walks.move_to_end(here)
        if not (walk.window or walk.is_single):
            return None
        lap = self._come_to(here)
        if beside is not None:
            return Reach([walk], beside)
        return Reach([self._walks[directory] for directory in lap]) if walk.window else None

    def _step(self, walk: Walk, place: Place, first: int) -> None:
        reach = min(walk.window, _FAR) + _NEAR
        # In the order in which it is the shorter step.
        steps = [
            (self._attachments.steps(walk.last, place, reach, by_name=by_name), by_name != walk.by_name, by_name)
            for by_name in (False, True)
        ]
        found = min((step for step in steps if 0 < step[0] <= reach), default=None)
        walk.window = 0 if found is None else min(_MOST, max(first, 4 * walk.window))
        walk.by_name = walk.by_name if found is None else found[2]
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

    # --- in several directories -------------------------------------------------------------------------------

    def _enter(self, walk: Walk, content: Content) -> Walk | None:
        """The walk over the directories beside the one of a new `walk`, if the first file of each is read."""
        here = self._attachments.place_of(walk.last.parent)
        if here is None:
            return None
        orders = [order for order in (True, False) if self._first(walk.last.parent, by_name=order) == content]
        beside = self._beside.get(here.parent)
        former = self._walk_of(self._tail)
        if not orders or beside is None or former is None or not former.is_single:
            _remember(self._beside, here.parent, Walk(here))
            return None
        # Between the last one and this one nobody read elsewhere.
        if self._attachments.place_of(former.last.parent) != beside.last:
            beside.last, beside.window = here, 0
            return None
        self._step(beside, here, _FEW)
        walk.by_name = beside.by_name if beside.by_name in orders else orders[0]
        return beside if beside.window > _FEW else None

    def _first(self, directory: Inode, *, by_name: bool) -> Content | None:
        found = self._attachments.absent_after(_start(directory), 1, SMALL, by_name=by_name)
        return found[0].content if found else None

    def _come_to(self, here: Inode) -> list[Inode]:
        """Note that a reader is here now; the directories that he reads in turns, from this one on."""
        lap = self._lap(here)
        if self._is_spread and self._missed == here:
            # What was fetched for the others left a gap that he should have met first.
            for directory in lap:
                self._walks[directory].after = None
            lap = [here]
        elif self._tail != here and (tail := self._walk_of(self._tail)) and len(self._lap(tail.last.parent)) == 1:
            tail.after = here
            lap = self._lap(here)
        self._missed = self._tail = here
        self._is_spread = False
        return lap

    def _lap(self, start: Inode) -> list[Inode]:
        """The way from one directory to the next that leads back to the first, or that one alone."""
        way, here = {start: None}, self._next(start)
        while here is not None and here not in way:
            way[here] = None
            here = self._next(here)
        return list(way) if here == start else [start]

    def _walk_of(self, directory: Inode | None) -> Walk | None:
        return None if directory is None else self._walks.get(directory)

    def _next(self, directory: Inode) -> Inode | None:
        after = self._walks[directory].after
        return after if after in self._walks else None

    # --- choosing ---------------------------------------------------------------------------------------------

    def choose(self, reach: Reach) -> list[Absent]:
        """What to fetch along with the last one that was missed. Reads the store; for a worker thread."""
        walk = reach.turns[0]
        if reach.beside is not None:
            return _within(self._firsts(reach.beside, by_name=walk.by_name), _MOST_BESIDE, _FIRST_BYTES)
        coming = self._in_turns(reach.turns, walk.window)
        found = _within(coming, walk.window, _FIRST_BYTES if walk.window <= _FIRST else _MOST_BYTES)
        left = coming[len(found) :]
        if (
            found
            and found[-1].place.parent != walk.last.parent
            and (not left or left[0].place.parent == walk.last.parent)
        ):
            # Who goes on in turns misses this one before any here; who reads on here only does not.
            found.pop()
        return found

    def _in_turns(self, walks: Sequence[Walk], most: int) -> list[Absent]:
        """A file of each directory in turn; at least one more than `most`, if there are so many."""
        each = most // len(walks) + 1
        found = [self._attachments.absent_after(walk.last, each, SMALL, by_name=walk.by_name) for walk in walks]
        return [absent for lap in zip_longest(*found) for absent in lap if absent is not None]

    def _firsts(self, beside: Walk, *, by_name: bool) -> Iterator[Absent]:
        directories = self._attachments.directories_after(
            beside.last, min(beside.window, _MOST_BESIDE), by_name=beside.by_name
        )
        for directory in directories:
            yield from self._attachments.absent_after(_start(directory), 1, SMALL, by_name=by_name)

    def follow(self, reach: Reach, chosen: Sequence[Absent]) -> None:
        """These are on their way: the next one that is missed comes after them."""
        window, here = reach.turns[0].window, reach.turns[0].last.parent
        self._is_spread = reach.beside is None and any(absent.place.parent != here for absent in chosen)
        for absent in chosen:
            directory = absent.place.parent
            walk = self._walks.get(directory)
            if reach.beside is None and walk is not None:
                walk.last, walk.window = absent.place, max(walk.window, window)
            elif reach.beside is not None and walk is None:
                _remember(self._walks, directory, Walk(absent.place, by_name=reach.turns[0].by_name))
                if (tail := self._walk_of(self._tail)) is not None:
                    tail.after = directory
                self._tail = directory
        if reach.beside is not None and chosen:
            reach.beside.last = self._attachments.place_of(chosen[-1].place.parent) or reach.beside.last


def _start(directory: Inode) -> Place:
    """Before all that is in it."""
    return Place(directory, 0, b"")


def _remember(walks: OrderedDict[Inode, Walk], directory: Inode, walk: Walk) -> None:
    walks[directory] = walk
    walks.move_to_end(directory)
    if len(walks) > _WALKS:
        walks.popitem(last=False)


def _within(found: Iterable[Absent], most: int, most_bytes: int) -> list[Absent]:
    """The first of them, at most so many, and so many bytes together."""
    chosen, size = list[Absent](), 0
    for absent in found:
        size += absent.length
        if size > most_bytes or len(chosen) == most:
            break
        chosen.append(absent)
    return chosen
