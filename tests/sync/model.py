"""Devices and a server as plain values: what plan and merge lead to, without databases, bytes or sockets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from blobfs.sync.merge import Side, State
from blobfs.sync.plan import plan
from blobfs.sync.situation import Adopt, Edit, Known, Place, Remote, Same, Split
from blobfs.values.documents import ROOT, DocId, Document, Kind, Name
from blobfs.values.extents import Attachment, BlobId
from blobfs.values.revisions import DeviceId, Revision


def token(number: int) -> Attachment:
    """Bytes that no other edit writes."""
    return Attachment(1, (BlobId(f"{number:064x}"),))


@dataclass
class ModelServer:
    """One newest revision a document, in the order of acceptance."""

    documents: dict[DocId, tuple[int, Remote]] = field(default_factory=dict)
    sequence: int = 0

    def push(self, base: Revision | None, remote: Remote) -> bool:
        current = self.documents.get(remote.doc_id)
        if (current[1].revision if current else None) != base:
            return False
        self.sequence += 1
        self.documents[remote.doc_id] = (self.sequence, remote)
        return True

    def feed(self, since: int, limit: int) -> list[tuple[int, Remote]]:
        newer = sorted((entry for entry in self.documents.values() if entry[0] > since), key=lambda entry: entry[0])
        return newer[:limit]


class ModelDevice:
    """A device: documents, their bases, and the tree that the names make."""

    def __init__(self, number: int, server: ModelServer) -> None:
        self.device = DeviceId(f"{number:016x}")
        self.server, self.cursor = server, 0
        self.local: dict[DocId, State] = {}
        self.base: dict[DocId, Remote] = {}
        self._ids = (DocId(f"{number}-{count}") for count in itertools.count())

    # -- the planner's view --

    def known(self, doc_id: DocId) -> Known | None:
        state, base = self.local.get(doc_id), self.base.get(doc_id)
        if state is None and base is None:
            return None
        if state is None:
            assert base is not None
            return Known(base.state, False, False, base)
        changed = base is None or not self._same(state, base.state)
        attachment = base.state.document.attachment if base and not base.state.deleted else None
        return Known(state, changed, changed and state.document.attachment != attachment, base)

    def place(self, doc_id: DocId) -> Place | None:
        known = self.known(doc_id)
        return (
            None if known is None else Place(known.state.document.kind, known.state.document.names, known.state.deleted)
        )

    @staticmethod
    def _same(one: State, other: State) -> bool:
        return (one.deleted and other.deleted) or one == other

    def at(self, parent: DocId, name: bytes) -> DocId | None:
        for doc_id, state in self.local.items():
            if not state.deleted and Name(parent, name) in state.document.names:
                return doc_id
        return None

    def children(self, doc_id: DocId) -> Sequence[DocId]:
        return [
            child
            for child, state in self.local.items()
            if not state.deleted and any(name.parent == doc_id for name in state.document.names)
        ]

    # -- what a user does; each answers whether it could be done --

    def live(self, kind: Kind | None = None) -> list[DocId]:
        """The documents that a user sees: those below a parent that is not here yet are hidden."""
        return sorted(
            doc_id
            for doc_id, state in self.local.items()
            if not state.deleted and kind in (None, state.document.kind) and self.is_visible(doc_id)
        )

    def is_visible(self, doc_id: DocId) -> bool:
        while doc_id != ROOT:
            state = self.local.get(doc_id)
            if state is None or state.deleted:
                return False
            doc_id = state.document.names[0].parent
        return True

    def create(self, kind: Kind, place: Name, attachment: Attachment | None) -> bool:
        if self.at(place.parent, place.name) is not None:
            return False
        doc_id = next(self._ids)
        self.local[doc_id] = State(Document(doc_id, kind, (place,), attachment=attachment))
        return True

    def write(self, doc_id: DocId, attachment: Attachment) -> bool:
        self._edit(doc_id, attachment=attachment)
        return True

    def chmod(self, doc_id: DocId, mode: int) -> bool:
        self._edit(doc_id, mode=mode)
        return True

    def move(self, doc_id: DocId, place: Name) -> bool:
        if self.at(place.parent, place.name) is not None or self._is_within(place.parent, doc_id):
            return False
        self._edit(doc_id, names=(place,))
        return True

    def move_over(self, doc_id: DocId, other: DocId) -> bool:
        """As rename(2) over another file."""
        place = self.local[other].document.names[0]
        return other != doc_id and self.delete(other) and self.move(doc_id, place)

    def link(self, doc_id: DocId, place: Name) -> bool:
        if self.at(place.parent, place.name) is not None:
            return False
        self._edit(doc_id, names=tuple(sorted({*self.local[doc_id].document.names, place})))
        return True

    def delete(self, doc_id: DocId) -> bool:
        if self.children(doc_id):
            return False
        self.local[doc_id] = replace(self.local[doc_id], deleted=True)
        return True

    def _edit(self, doc_id: DocId, **fields: object) -> None:
        self.local[doc_id] = State(replace(self.local[doc_id].document, **fields))  # type: ignore[arg-type]

    def _is_within(self, place: DocId, doc_id: DocId) -> bool:
        while place != ROOT:
            if place == doc_id:
                return True
            place = self.local[place].document.names[0].parent
        return False

    # -- sync --

    def pull(self, limit: int) -> bool:
        page = self.server.feed(self.cursor, limit)
        if not page:
            return False
        self.cursor = page[-1][0]
        self.arrive([remote for _, remote in page])
        return True

    def arrive(self, page: list[Remote]) -> None:
        decided = plan(
            self,
            page,
            device=self.device,
            label="label",
            new_id=lambda: next(self._ids),
            same_content=self._find_equal(page),
        )
        assert decided.refused == ()
        for action in decided.actions:
            match action:
                case Split():
                    self.local[action.new_id] = self.local.pop(action.doc_id)
                    self.base.pop(action.doc_id, None)
                case Edit():
                    self.local[action.doc_id] = State(
                        replace(action.state.document, doc_id=action.doc_id), action.state.deleted
                    )
                    if action.state.deleted and action.doc_id not in self.base:
                        del self.local[action.doc_id]
                case Adopt():
                    assert action.content is Side.REMOTE or action.doc_id in self.local
                    self.base[action.doc_id] = action.remote
                    self.local[action.doc_id] = action.state
        self.check()

    def _find_equal(self, page: list[Remote]) -> set[Same]:
        """As the feed does: of whatever has the id or a name of what arrives."""
        return {
            (here, remote.doc_id)
            for remote in page
            if not remote.state.deleted and remote.state.document.attachment is not None
            for here in (remote.doc_id, *(self.at(name.parent, name.name) for name in remote.state.document.names))
            if here in self.local and self.local[here].document.attachment == remote.state.document.attachment
        }

    def push(self, choose: Callable[[list[DocId]], list[DocId]], *, lose_answer: bool = False) -> bool:
        """Send what changed; on the first conflict the server's document arrives. Whether anything was sent."""
        changed = [doc_id for doc_id in self.local if (known := self.known(doc_id)) is not None and known.changed]
        changed.sort(key=lambda doc_id: (self.local[doc_id].deleted, len(self._path(doc_id)), doc_id))
        sent = False
        for doc_id in choose(changed):
            base = self.base.get(doc_id)
            state = self.local.get(doc_id)
            if state is None or not self.known(doc_id).changed:  # type: ignore[union-attr]
                continue
            if state.deleted and base is None:
                del self.local[doc_id]
                continue
            sent = True
            if state.deleted:
                assert base is not None
                state = State(replace(base.state.document, attachment=None), deleted=True)
            revision = (base.revision if base else Revision()).advanced(self.device)
            remote = Remote(doc_id, revision, state)
            if not self.server.push(base.revision if base else None, remote):
                self.arrive([self.server.documents[doc_id][1]])
            elif not lose_answer:
                self.base[doc_id] = remote
                self.local[doc_id] = state
        return sent

    def _path(self, doc_id: DocId) -> list[DocId]:
        path: list[DocId] = []
        while doc_id in self.local and doc_id not in path:
            path.append(doc_id)
            names = self.local[doc_id].document.names
            doc_id = names[0].parent if names else ROOT
        return path

    def check(self) -> None:
        """Names are taken once, parents are live directories or not here yet, nothing is its own ancestor."""
        taken: set[Name] = set()
        for doc_id, state in self.local.items():
            assert state.document.doc_id == doc_id
            if state.deleted:
                continue
            assert state.document.names, "a live document has a name"
            for name in state.document.names:
                assert name not in taken, f"{name} is taken twice"
                taken.add(name)
                parent = self.local.get(name.parent)
                assert parent is None or (not parent.deleted and parent.document.kind is Kind.DIRECTORY)
            path = self._path(doc_id)
            assert self.local[path[-1]].document.names[0].parent not in path, "a cycle"

    def tree(self) -> dict[DocId, Document]:
        """All that lives."""
        return {doc_id: state.document for doc_id, state in self.local.items() if not state.deleted}


def converge(devices: Sequence[ModelDevice], *, rounds: int = 60) -> None:
    """Let all devices push and pull until nothing moves."""
    for _ in range(rounds):
        moved = False
        for device in devices:
            while device.pull(3):
                moved = True
            moved = device.push(lambda changed: changed) or moved
        if not moved:
            return
    raise AssertionError("the devices do not come to rest")
