"""What the planner is told and what it answers: documents that arrive, what is known of them here, and actions.

Values, and the protocol by which the local tree is looked at. Knows no rules: those are in `plan.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from blobfs.errors import IntegrityError
from blobfs.sync.merge import Side, State
from blobfs.values.documents import DocId, Kind, Name
from blobfs.values.revisions import Revision


@dataclass(frozen=True, slots=True)
class Remote:
    """One revision of a document as the server has it, opened and authenticated."""

    doc_id: DocId
    revision: Revision
    state: State


@dataclass(frozen=True, slots=True)
class Known:
    """What this device knows of a document."""

    state: State
    changed: bool
    """Edited here since the base; a new document is."""
    content_changed: bool
    """Its bytes were."""
    base: Remote | None


class Place(NamedTuple):
    """Where a document is: all that is asked of the parents of others, which are many."""

    kind: Kind
    names: tuple[Name, ...]
    deleted: bool


class View(Protocol):
    """The local tree, as the planner looks at it."""

    def known(self, doc_id: DocId) -> Known | None:
        """None when this device has never heard of it, or only as somebody's parent."""

    def place(self, doc_id: DocId) -> Place | None:
        """That of what `known` answers, without the rest of it."""

    def at(self, parent: DocId, name: bytes) -> DocId | None:
        """The live document of this name."""

    def children(self, doc_id: DocId) -> Sequence[DocId]:
        """The live documents in a directory, also in one that nobody has seen yet."""


# --- actions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Adopt:
    """Make `state` the local one and `remote` the base; the document waits for the server when they differ."""

    state: State
    remote: Remote
    content: Side

    @property
    def doc_id(self) -> DocId:
        return self.remote.doc_id


@dataclass(frozen=True, slots=True)
class Edit:
    """A local edit: another place in the tree, a deletion or the end of one."""

    doc_id: DocId
    state: State


@dataclass(frozen=True, slots=True)
class Split:
    """The file that is `doc_id` here goes on as the new document `new_id`; `doc_id` itself is then unknown here."""

    doc_id: DocId
    new_id: DocId


Action = Adopt | Edit | Split
Same = tuple[DocId, DocId]
"""(a document here, a document that arrives): the local bytes of the first are the arriving ones of the second."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in an order in which each can be done: a directory before what is in it, unless it goes."""

    actions: tuple[Action, ...]
    refused: tuple[tuple[Remote, IntegrityError], ...] = ()
