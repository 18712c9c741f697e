"""In which order changed documents go to the server, and which of them only together.

Pure. Invariant: the others never see a name taken before it was left, nor a directory gone before what was in it, when
one device did the one after the other: they would take it for a conflict.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from blobfs.sync.parcel import Outgoing
from blobfs.values.documents import DocId, Kind, Name


@dataclass(slots=True)
class Order:
    """Everything that may go, once: first the directories, then the knots, files, and deletions."""

    directories: list[Outgoing] = field(default_factory=list)
    """Parents first."""
    knots: list[list[Outgoing]] = field(default_factory=list)
    """Documents that pass names on among each other: each knot with one request, or from its beginning on."""
    files: list[Outgoing] = field(default_factory=list)
    gone: list[Outgoing] = field(default_factory=list)
    """Deletions: of files, then of directories, children first."""
    held: int = 0
    """How many have to wait for another document that is not ready."""


def left(outgoing: Outgoing) -> frozenset[Name]:
    """The names under which the server knows a document, and that it has no longer."""
    base = outgoing.base
    return frozenset() if base is None or base.deleted else frozenset(base.document.names) - _names(outgoing)


def taken(outgoing: Outgoing) -> frozenset[Name]:
    """The names that a document has and the server does not know of."""
    base = outgoing.base
    return _names(outgoing) - (frozenset() if base is None or base.deleted else frozenset(base.document.names))


def is_as_found(found: Outgoing, now: Outgoing) -> bool:
    """Whether a document is where it was when its place in the order was decided; its bytes may differ."""
    return found.deleted == now.deleted and _names(found) == _names(now)


def _names(outgoing: Outgoing) -> frozenset[Name]:
    return frozenset() if outgoing.deleted else frozenset(outgoing.local.document.names)


def in_order(ready: Sequence[Outgoing], waiting: Mapping[DocId, Collection[Name]], *, more: bool) -> Order:
    """Sort what is ready.

    Args:
        waiting: documents that are not ready, with the names that they leave.
        more: there may be others that nobody looked at, so no directory is known to be empty.
    """
    by_id = {outgoing.doc_id: outgoing for outgoing in ready}
    depths = _depths(by_id)
    ways = _Ways(by_id, waiting)
    knots = ways.knots()
    held = {doc_id for knot in knots if not _may_go(knot, by_id, more=more) for doc_id in knot}
    tied = {doc_id for knot in knots for doc_id in knot}
    order = Order(knots=[ways.sort(knot, depths) for knot in knots if held.isdisjoint(knot)])
    free = [outgoing for outgoing in ready if outgoing.doc_id not in tied]
    directories = [outgoing for outgoing in free if outgoing.local.node.kind is Kind.DIRECTORY]
    directories.sort(key=lambda outgoing: depths[outgoing.doc_id])
    order.directories = [outgoing for outgoing in directories if not outgoing.deleted]
    for outgoing in free:
        if outgoing.local.node.kind is not Kind.DIRECTORY:
            (order.gone if outgoing.deleted else order.files).append(outgoing)
    for outgoing in reversed(directories):
        if outgoing.deleted and (more or not ways.is_left(outgoing.doc_id, without=held)):
            held.add(outgoing.doc_id)
        elif outgoing.deleted:
            order.gone.append(outgoing)
    order.held = len(held & by_id.keys())
    return order


def _may_go(knot: Iterable[DocId], by_id: Mapping[DocId, Outgoing], *, more: bool) -> bool:
    found = [by_id.get(doc_id) for doc_id in knot]
    return all(entry and not (more and _is_gone_directory(entry)) for entry in found)


def _is_gone_directory(outgoing: Outgoing | None) -> bool:
    return outgoing is not None and outgoing.deleted and outgoing.local.node.kind is Kind.DIRECTORY


def _moves_tree(outgoing: Outgoing) -> bool:
    """Whether it is a directory that the server has in another one."""
    if outgoing.deleted or outgoing.local.node.kind is not Kind.DIRECTORY:
        return False
    before = {name.parent for name in left(outgoing)}
    return bool(before) and before != {name.parent for name in taken(outgoing)}


class _Ways:
    """Who has to go before whom."""

    def __init__(self, ready: Mapping[DocId, Outgoing], waiting: Mapping[DocId, Collection[Name]]) -> None:
        self.ready, self._waiting = ready, waiting
        leaving = dict(waiting) | {doc_id: left(outgoing) for doc_id, outgoing in ready.items()}
        self._holders = {name: doc_id for doc_id, names in leaving.items() for name in names}
        self._leavers: dict[DocId, set[DocId]] = {}
        for name, doc_id in self._holders.items():
            self._leavers.setdefault(name.parent, set()).add(doc_id)

    def holders(self, doc_id: DocId) -> set[DocId]:
        """Those that leave a name which a document takes."""
        names = taken(self.ready[doc_id]) if doc_id in self.ready else frozenset[Name]()
        return {self._holders[name] for name in names if name in self._holders} - {doc_id}

    def leavers(self, doc_id: DocId) -> Collection[DocId]:
        """Those that leave a directory which goes."""
        return self._leavers.get(doc_id, ()) if _is_gone_directory(self.ready.get(doc_id)) else ()

    def knots(self) -> list[set[DocId]]:
        """Who takes a name with who leaves it, and with all that leaves a directory which leaves its name by going.

        All directories that move elsewhere are one, too: of two that changed places, either one alone makes a ring.
        """
        knot_of: dict[DocId, set[DocId]] = {}

        def tie(one: DocId, other: DocId) -> None:
            knot, less = knot_of.get(one, {one}), knot_of.get(other, {other})
            if knot is not less:
                knot, less = (knot, less) if len(knot) >= len(less) else (less, knot)
                knot |= less
                knot_of.update(dict.fromkeys(less, knot))
            knot_of[one] = knot_of[other] = knot

        for doc_id in self.ready:
            for holder in self.holders(doc_id):
                tie(doc_id, holder)
        for one, other in itertools.pairwise(
            doc_id for doc_id, outgoing in self.ready.items() if _moves_tree(outgoing)
        ):
            tie(one, other)
        tied = list(knot_of)
        for doc_id in tied:
            for leaver in self.leavers(doc_id):
                tied += [] if leaver in knot_of else [leaver]
                tie(doc_id, leaver)
        # In the order of what is ready, each once.
        return list({id(knot): knot for doc_id in self.ready if (knot := knot_of.get(doc_id))}.values())

    def is_left(self, doc_id: DocId, *, without: Collection[DocId]) -> bool:
        """Whether all that leaves a directory leaves it now."""
        return not any(other in without or other in self._waiting for other in self.leavers(doc_id))

    def sort(self, knot: Collection[DocId], depths: Mapping[DocId, int]) -> list[Outgoing]:
        """Each after those that it has to wait for; where they wait in a ring, it begins anywhere."""
        done, seen = list[Outgoing](), set[DocId]()

        def visit(doc_id: DocId) -> tuple[DocId, Iterator[DocId]]:
            seen.add(doc_id)
            return doc_id, iter(sorted({*self.holders(doc_id), *self.leavers(doc_id)}))

        for start in sorted(knot, key=lambda doc_id: (depths[doc_id], doc_id)):
            path = [] if start in seen else [visit(start)]
            while path:
                doc_id, before = path[-1]
                following = next((other for other in before if other not in seen), None)
                if following is None:
                    done.append(self.ready[doc_id])
                    path.pop()
                else:
                    path.append(visit(following))
        return done


def _depths(ready: Mapping[DocId, Outgoing]) -> dict[DocId, int]:
    """How many of its parents are among those that are ready."""

    def depth(outgoing: Outgoing) -> int:
        steps, seen = 0, {outgoing.doc_id}
        while True:
            document = outgoing.base.document if outgoing.deleted and outgoing.base else outgoing.local.document
            parent = ready.get(document.names[0].parent) if document.names else None
            if parent is None or parent.doc_id in seen:
                return steps
            seen.add(parent.doc_id)
            outgoing, steps = parent, steps + 1

    return {doc_id: depth(outgoing) for doc_id, outgoing in ready.items()}
