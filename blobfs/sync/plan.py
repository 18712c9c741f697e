"""What has to happen here when documents arrive: a pure function of what is local, what is remote and the base.

Nothing persists a to-do list; whatever is not done yet is seen again as a difference. Knows nothing of SQL, bytes or
requests. Invariants: in the tree that the actions lead to no name is taken twice, every parent is a live directory (or
one that nobody has seen yet), nothing is its own ancestor; and devices that know the same documents choose alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

from blobfs.errors import IntegrityError, Rollback
from blobfs.sync.copies import conflict_name
from blobfs.sync.merge import Merged, Side, State, merge
from blobfs.sync.situation import Action, Adopt, Edit, Known, Place, Plan, Remote, Same, Split, View
from blobfs.values.documents import ROOT, DocId, Document, Kind, Name
from blobfs.values.revisions import DeviceId, Revision


def plan(
    view: View,
    arrivals: Sequence[Remote],
    *,
    device: DeviceId,
    label: str,
    new_id: Callable[[], DocId],
    same_content: Collection[Same] = (),
    own: Collection[DocId] | None = None,
) -> Plan:
    """What `arrivals`, of one document each, do to the tree.

    Args:
        label: this device's name, for the names of conflict copies.
        new_id: draws a fresh document id.
        same_content: of which documents the local bytes are known to equal those that arrive, for themselves or for
            another document of their name.
        own: documents that arrive as this device sealed them; None when revisions alone may tell.
    """
    planner = _Planner(view, device, label, new_id, same_content, own)
    refused: list[tuple[Remote, IntegrityError]] = []
    for arrival in arrivals:
        try:
            planner.take(arrival)
        except IntegrityError as error:
            refused.append((arrival, error))
    planner.place_all()
    return Plan(tuple(planner.actions()), tuple(refused))


_FORGOTTEN: Final = "refused: the server sent a revision of document {} older than one that this device has seen"
_TWO_FACED: Final = "refused: the server sent two different documents {} under one revision"
_CHANGELING: Final = "refused: document {} changes its kind, which no device does"


class _Planner:
    """The tree as it will be: what `view` has, overlaid with what was decided so far."""

    def __init__(
        self,
        view: View,
        device: DeviceId,
        label: str,
        new_id: Callable[[], DocId],
        same: Collection[Same],
        own: Collection[DocId] | None,
    ) -> None:
        self._view, self._device, self._label, self._new_id = view, device, label, new_id
        self._same, self._own = same, own
        self._cache: dict[DocId, Known | None] = {}
        self._places: dict[DocId, Place | None] = {}
        self._states: dict[DocId, State] = {}
        self._claims: dict[Name, DocId | None] = {}
        self._moved_in: dict[DocId, set[DocId]] = {}
        self._arrived: dict[DocId, tuple[Remote, Side]] = {}
        self._splits: list[Split] = []
        self._copies: set[DocId] = set()
        self._waiting: dict[DocId, State] = {}
        self._reviving: set[DocId] = set()
        self._poured: dict[DocId, DocId] = {}
        self._texts_kept: set[DocId] = set()

    # -- taking in: every document by itself ---------------------------------------------------------------

    def take(self, arrival: Remote) -> None:
        """Merge one arrival with what is here; its place in the tree is found later."""
        doc_id, known = arrival.doc_id, self._known(arrival.doc_id)
        if known is None:
            # What this store sent itself and has no more was deleted since, before the server was known to have it.
            is_gone = arrival.state.deleted or doc_id in (self._own or ())
            self._await(arrival, replace(arrival.state, deleted=is_gone), Side.REMOTE)
            return
        base = known.base
        if base is not None:
            if base.revision == arrival.revision:
                if base.state != arrival.state:
                    raise IntegrityError(_TWO_FACED.format(doc_id))
                return
            if not arrival.revision.contains(base.revision):
                raise Rollback(_FORGOTTEN.format(doc_id))
            if base.state.document.kind is not arrival.state.document.kind:
                raise IntegrityError(_CHANGELING.format(doc_id))
        if not known.changed:
            self._await(arrival, arrival.state, Side.REMOTE)
            return
        is_own = arrival.revision == (base.revision if base else Revision()).advanced(self._device)
        if is_own and (self._own is None or doc_id in self._own):
            # This device's own, whose answer was lost: what is here now was made of it.
            self._await(arrival, known.state, Side.LOCAL)
            return
        merged = merge(
            base.state if base else None,
            known.state,
            arrival.state,
            content_changed=known.content_changed,
            same_content=(doc_id, doc_id) in self._same,
        )
        if merged.split:
            self._split(doc_id, known, self._new_id())
        self._await(arrival, self._with_last_names(merged, arrival), merged.content)

    def _with_last_names(self, merged: Merged, arrival: Remote) -> State:
        state = merged.state
        if state.deleted and not state.document.names:
            return State(replace(state.document, names=arrival.state.document.names), deleted=True)
        return state

    def _await(self, arrival: Remote, state: State, content: Side) -> None:
        self._arrived[arrival.doc_id] = (arrival, content)
        self._waiting[arrival.doc_id] = state
        self._release(arrival.doc_id)

    def _split(self, doc_id: DocId, known: Known, copy: DocId) -> None:
        """The local side becomes a new document; it asks for the name it has, and will get a conflict name."""
        document = known.state.document
        names = document.names[:1] or (Name(ROOT, doc_id.encode()),)
        self._copies.add(copy)
        if document.kind is Kind.DIRECTORY:
            # It stays one place, with all that is in it. What a program wrote about it goes on beside it.
            self._waiting[copy] = State(replace(_text_of(document, copy), names=names))
            return
        self._release(doc_id)
        self._states[doc_id] = State(document, deleted=True)
        self._splits.append(Split(doc_id, copy))
        self._waiting[copy] = State(replace(document, doc_id=copy, names=names))

    # -- placing: names, parents, cycles -------------------------------------------------------------------

    def place_all(self) -> None:
        """Give every document that was taken in its place."""
        # Copies last: whatever wants the name in earnest has it by then.
        for doc_id in sorted(self._waiting, key=lambda doc_id: doc_id in self._copies):
            self._settle_waiting(doc_id)
        for doc_id in list(self._arrived):
            if self._state(doc_id, deleted=True) is not None and self._children(doc_id):
                # Something in it outlived the directory, so it was edited here or by a third device.
                self._revive(doc_id)

    def _place(self, doc_id: DocId, state: State) -> None:
        """Let a live document take its names, whatever else has to give way."""
        self._poured.pop(doc_id, None)
        document = self._standing(state.document)
        # Breaking a ring moves others, which can end this one's parent; so look again.
        while document.kind is Kind.DIRECTORY and (ring := self._ring(doc_id, document.names[0].parent)):
            document = self._standing(self._break(ring, doc_id, document))
        self._set(doc_id, State(replace(document, names=())))
        for name in document.names:
            self._claim(doc_id, name)

    def _standing(self, document: Document) -> Document:
        """The document with parents that are live directories: revived where needed, the root where impossible."""
        return replace(document, names=tuple(sorted({self._standing_name(name) for name in document.names})))

    def _standing_name(self, name: Name) -> Name:
        self._settle_waiting(name.parent)
        place = self._place_of(name.parent)
        if place is not None and place.deleted and name.parent not in self._poured:
            # It may lose its name on coming back, and be poured into another directory at once.
            self._revive(name.parent)
        if name.parent in self._poured:
            return self._standing_name(replace(name, parent=self._poured[name.parent]))
        place = self._place_of(name.parent)
        stands = place is None or (not place.deleted and place.kind is Kind.DIRECTORY)
        return name if stands or name.parent == ROOT else replace(name, parent=ROOT)

    def _settle_waiting(self, doc_id: DocId) -> None:
        """Place what was taken in and is not placed yet."""
        state = self._waiting.pop(doc_id, None)
        if state is None:
            return
        if state.deleted:
            self._set(doc_id, state)
        else:
            self._place(doc_id, state)

    def _revive(self, doc_id: DocId) -> None:
        """A deleted directory comes back where it was last, since something in it lives."""
        if doc_id in self._reviving:
            return
        self._reviving.add(doc_id)
        state = self._state(doc_id)
        if state is not None:
            self._place(doc_id, State(self._last_living(doc_id, state)))
        self._reviving.discard(doc_id)

    def _last_living(self, doc_id: DocId, state: State) -> Document:
        """What a deleted document was; the root takes it when nobody remembers its place."""
        known = self._known(doc_id)
        arrived = self._arrived.get(doc_id)
        candidates = [state.document]
        candidates += [arrived[0].state.document] if arrived else []
        candidates += [known.base.state.document] if known and known.base else []
        nowhere = replace(state.document, names=(Name(ROOT, doc_id.encode()),))
        document = next((document for document in candidates if document.names), nowhere)
        # A tombstone tells no more than the place. What else it was is known where it lives, or went a moment ago.
        last = [state for state in (known.state, known.base and known.base.state) if state] if known else []
        former = next((state.document for state in last if not state.deleted), document)
        return replace(document, content=document.content or former.content, xattrs=document.xattrs or former.xattrs)

    def _break(self, ring: list[DocId], doc_id: DocId, document: Document) -> Document:
        """Take one directory out of the ring that `document` would close; the document, changed if it is that one."""
        # A move that the server has not seen gives way to those that it has; then the order of ids decides.
        loser = min(ring, key=lambda member: (self._is_sent(member, self._names(member, doc_id, document)), member))
        if loser == doc_id:
            return replace(document, names=(self._retreat(doc_id, document.names[0], ring),))
        state = self._state(loser)
        assert state is not None
        self._place(loser, State(replace(state.document, names=(self._retreat(loser, state.document.names[0], ring),))))
        return document

    def _ring(self, doc_id: DocId, parent: DocId) -> list[DocId]:
        ring = {doc_id: None}  # in order, and quick to look into: a chain of folders can be long
        while parent != doc_id:
            place = self._place_of(parent)
            if parent == ROOT or place is None or place.deleted or not place.names or parent in ring:
                return []
            ring[parent] = None
            parent = place.names[0].parent
        return list(ring)

    def _names(self, member: DocId, doc_id: DocId, document: Document) -> tuple[Name, ...]:
        if member == doc_id:
            return document.names
        state = self._state(member)
        return state.document.names if state is not None else ()

    def _retreat(self, loser: DocId, name: Name, ring: list[DocId]) -> Name:
        """Where a directory goes that gives up its move: back to its base's place if that is outside the ring."""
        server = self._server(loser)
        if server is not None and not server.deleted and server.document.names != (name,):
            old = server.document.names[0]
            parent = self._state(old.parent)
            sound = old.parent == ROOT or (parent is not None and not parent.deleted)
            if sound and old.parent not in ring and not self._ring(loser, old.parent):
                return old
        return Name(ROOT, name.name)

    # -- names that two want -------------------------------------------------------------------------------

    def _claim(self, doc_id: DocId, name: Name) -> None:
        occupant = self._at(name)
        if occupant is None or occupant == doc_id:
            self._hold(doc_id, name)
            return
        loser, winner = self._loser(doc_id, occupant, name)
        if loser == occupant:
            self._drop(occupant, name)
            self._hold(doc_id, name)
        self._give_way(loser, winner, name)

    def _loser(self, one: DocId, other: DocId, name: Name) -> tuple[DocId, DocId]:
        """(loser, winner): who has the name on the server wins; then the smaller id."""
        ranks = sorted((not self._is_sent(doc_id, (name,)), doc_id) for doc_id in (one, other))
        return ranks[1][1], ranks[0][1]

    def _give_way(self, loser: DocId, winner: DocId, name: Name) -> None:
        """The loser of a name: two directories become one, of two equal files one goes, all else is renamed."""
        lost, won = self._state(loser), self._state(winner)
        assert lost is not None
        assert won is not None
        if lost.document.kind is won.document.kind is Kind.DIRECTORY:
            self._pour(loser, winner, name)
        elif not lost.document.names and self._is_twin(loser, winner):
            self._set(loser, State(replace(lost.document, names=(name,)), deleted=True))
        else:
            device = self._label if not self._is_sent(loser, (name,)) else self._author(loser)
            free = conflict_name(
                name.name,
                device,
                lost.document.mtime_ns,
                lambda text: self._at(Name(name.parent, text)) is not None,
            )
            self._hold(loser, Name(name.parent, free))

    def _pour(self, loser: DocId, winner: DocId, name: Name) -> None:
        """What is in one directory goes into the other, and the first one goes."""
        state = self._state(loser)
        assert state is not None
        self._poured[loser] = winner
        for child in sorted(self._children(loser)):
            inside = self._state(child)
            assert inside is not None
            names = {replace(old, parent=winner) if old.parent == loser else old for old in inside.document.names}
            self._release(child)
            self._place(child, State(replace(inside.document, names=tuple(sorted(names)))))
        self._set(loser, State(replace(state.document, names=(name,)), deleted=True))
        self._keep_text(state.document, winner, name)

    def _keep_text(self, lost: Document, winner: DocId, name: Name) -> None:
        """What a program wrote about a directory that goes, and that only this device has, goes on beside the other."""
        others = [state.document.content for state in (self._server(lost.doc_id), self._state(winner)) if state]
        if not lost.content or lost.content in others or lost.doc_id in self._texts_kept:
            return
        copy = self._new_id()
        self._copies.add(copy)
        self._texts_kept.add(lost.doc_id)
        self._states[copy] = State(_text_of(lost, copy))
        self._give_way(copy, winner, name)

    def _is_twin(self, loser: DocId, winner: DocId) -> bool:
        """Whether two files are the same in all that a user could miss, and every byte of it is on the server."""
        won, lost = self._server(winner), self._state(loser)
        if won is None or won.deleted or self._is_edited(winner) or lost is None or lost.deleted:
            return False
        if (loser, winner) in self._same and self._arrived.get(loser, (None, Side.LOCAL))[1] is Side.LOCAL:
            lost = State(replace(lost.document, attachment=won.document.attachment))
        elif self._is_edited(loser):
            return False
        return _essence(lost.document) == _essence(won.document)

    def _is_edited(self, doc_id: DocId) -> bool:
        known = self._known(doc_id)
        return doc_id in self._copies or (known is not None and known.content_changed)

    def _author(self, doc_id: DocId) -> str:
        """A word for the device that wrote the revision last, the same for all who have it."""
        known, arrived = self._known(doc_id), self._arrived.get(doc_id)
        remote = arrived[0] if arrived else known.base if known else None
        if remote is None:
            return self._label
        return max(remote.revision.entries, key=lambda entry: (entry[1], entry[0]))[0][:6]

    # -- the overlay ---------------------------------------------------------------------------------------

    def _known(self, doc_id: DocId) -> Known | None:
        if doc_id not in self._cache:
            self._cache[doc_id] = self._view.known(doc_id)
        return self._cache[doc_id]

    def _state(self, doc_id: DocId, *, deleted: bool = False) -> State | None:
        """The document as it will be; with `deleted`, None for live ones."""
        state = self._states.get(doc_id)
        if state is None and doc_id not in self._waiting:
            known = self._known(doc_id)
            state = known.state if known is not None else None
        return None if deleted and state is not None and not state.deleted else state

    def _place_of(self, doc_id: DocId) -> Place | None:
        """As `_state`, of what a parent is asked for."""
        if doc_id in self._states or doc_id in self._waiting or doc_id in self._cache:
            state = self._state(doc_id)
            return None if state is None else Place(state.document.kind, state.document.names, state.deleted)
        if doc_id not in self._places:
            self._places[doc_id] = self._view.place(doc_id)
        return self._places[doc_id]

    def _server(self, doc_id: DocId) -> State | None:
        """The newest that the server is known to have."""
        arrived, known = self._arrived.get(doc_id), self._known(doc_id)
        if arrived is not None:
            return arrived[0].state
        return known.base.state if known is not None and known.base is not None else None

    def _is_sent(self, doc_id: DocId, names: tuple[Name, ...]) -> bool:
        server = self._server(doc_id)
        return server is not None and not server.deleted and set(names) <= set(server.document.names)

    def _at(self, name: Name) -> DocId | None:
        if name in self._claims:
            return self._claims[name]
        return self._view.at(name.parent, name.name)

    def _children(self, doc_id: DocId) -> set[DocId]:
        """Who lives in a directory, by what was decided so far."""
        found = set()
        for child in {*self._view.children(doc_id), *self._moved_in.get(doc_id, ())}:
            state = self._state(child)
            if state and not state.deleted and any(name.parent == doc_id for name in state.document.names):
                found.add(child)
        return found

    def _release(self, doc_id: DocId) -> None:
        """Free every name that the document has."""
        known = self._known(doc_id)
        current = self._states.get(doc_id) or (known.state if known is not None else None)
        if current is not None and not current.deleted:
            for name in current.document.names:
                if self._at(name) == doc_id:
                    self._claims[name] = None

    def _set(self, doc_id: DocId, state: State) -> None:
        self._release(doc_id)
        self._states[doc_id] = state

    def _hold(self, doc_id: DocId, name: Name) -> None:
        state = self._states.get(doc_id) or self._state(doc_id)
        assert state is not None
        names = tuple(sorted({*state.document.names, name}))
        self._states[doc_id] = State(replace(state.document, names=names))
        self._claims[name] = doc_id
        self._moved_in.setdefault(name.parent, set()).add(doc_id)

    def _drop(self, doc_id: DocId, name: Name) -> None:
        state = self._state(doc_id)
        assert state is not None
        names = tuple(other for other in state.document.names if other != name)
        self._states[doc_id] = State(replace(state.document, names=names))

    # -- actions -------------------------------------------------------------------------------------------

    def actions(self) -> Iterator[Action]:
        """What leads from the view to the overlay."""
        yield from self._splits
        for doc_id in sorted(self._states, key=self._order):
            state, arrived = self._states[doc_id], self._arrived.get(doc_id)
            if arrived is not None:
                yield Adopt(state, arrived[0], arrived[1])
            elif doc_id in self._copies or not self._is_as_known(doc_id, state):
                yield Edit(doc_id, state)

    def _is_as_known(self, doc_id: DocId, state: State) -> bool:
        known = self._known(doc_id)
        if known is None:
            return state.deleted
        return (known.state.deleted, known.state.document.names) == (state.deleted, state.document.names) or (
            known.state.deleted and state.deleted
        )

    def _order(self, doc_id: DocId) -> tuple[bool, int, DocId]:
        state = self._states[doc_id]
        depth = self._depth(state.document.names)
        return (state.deleted, -depth if state.deleted else depth, doc_id)

    def _depth(self, names: tuple[Name, ...]) -> int:
        depth, seen = 0, {ROOT}
        while names and (parent := names[0].parent) not in seen:
            seen.add(parent)
            place, depth = self._place_of(parent), depth + 1
            if place is None:
                break
            names = place.names
        return depth


def _text_of(folder: Document, doc_id: DocId) -> Document:
    """What programs wrote about a directory, as a document of its own."""
    return Document(doc_id, uid=folder.uid, gid=folder.gid, content=folder.content, mtime_ns=folder.mtime_ns)


def _essence(document: Document) -> Document:
    return replace(document, doc_id=ROOT, names=(), mtime_ns=0, birth_ns=0)
