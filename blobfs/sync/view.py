"""The store as the planner looks at it, and the planner's actions done to the store.

Knows no server. Invariant: a plan is done whole in one transaction, or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from blobfs.store.bases import Base
from blobfs.store.documents import Applied
from blobfs.store.store import Store
from blobfs.sync.merge import Side, State
from blobfs.sync.situation import Adopt, Edit, Known, Place, Plan, Remote, Split
from blobfs.values.documents import ROOT, DocId, Document, Name
from blobfs.values.nodes import Inode, Node


class News(NamedTuple):
    """What of documents that arrive is new here. A device that joins asks for a page of them at once."""

    strangers: Collection[DocId]
    """Never heard of."""
    free: Collection[Name]
    """Names that nobody has."""

    @classmethod
    def among(cls, store: Store, arrivals: Sequence[Remote]) -> News:
        """As it is now."""
        strangers = store.documents.strangers([remote.doc_id for remote in arrivals])
        return cls(
            strangers, store.documents.free([name for remote in arrivals for name in remote.state.document.names])
        )


class StoreView:
    """A `View` of a store; what it says holds for as long as nobody else edits."""

    def __init__(self, store: Store, news: News) -> None:
        self._documents, self._news = store.documents, news

    def known(self, doc_id: DocId) -> Known | None:
        """See `View`."""
        if doc_id in self._news.strangers:
            return None
        local = self._documents.local(doc_id)
        base = remote_of(self._documents.base(doc_id) if local is None else local.base)
        if local is None:
            return None if base is None else Known(base.state, False, False, base)
        document = local.document
        if local.node.deleted and base is not None:
            document = replace(document, names=base.state.document.names)
        changed = local.edit > local.synced
        return Known(State(document, local.node.deleted), changed, changed and local.content_changed, base)

    def place(self, doc_id: DocId) -> Place | None:
        """See `View`."""
        found = self._documents.place(doc_id)
        if found is not None:
            return Place(*found, deleted=False)
        known = self.known(doc_id)
        if known is None:
            return None
        return Place(known.state.document.kind, known.state.document.names, known.state.deleted)

    def at(self, parent: DocId, name: bytes) -> DocId | None:
        """See `View`."""
        return None if Name(parent, name) in self._news.free else self._documents.at(parent, name)

    def children(self, doc_id: DocId) -> Sequence[DocId]:
        """See `View`."""
        return self._documents.children(doc_id)


def remote_of(base: Base | None) -> Remote | None:
    """A base as the planner's value."""
    if base is None:
        return None
    return Remote(base.document.doc_id, base.revision, State(base.document, base.deleted))


class Executor:
    """Does one plan. Called within a transaction, in which nobody else sees the tree."""

    def __init__(self, store: Store, news: News) -> None:
        self._store, self._documents = store, store.documents
        self._strangers = set(news.strangers)
        """Those that nothing happened to yet."""
        self._fresh: dict[DocId, Applied] = {}
        """What became of those that were not here before, for as long as nothing else happens to them."""
        self._now_ns = time.time_ns()
        self._former: dict[DocId, tuple[Inode, Node | None, tuple[tuple[Inode, bytes], ...]]] = {}
        self._content: set[DocId] = set()

    def run(self, plan: Plan) -> list[Applied]:
        """Do every action; what the kernel must forget."""
        touched: dict[DocId, None] = {}
        for action in plan.actions:
            self._remember(action.doc_id)
            touched[action.doc_id] = None
            match action:
                case Split():
                    self._split(action)
                case Adopt():
                    self._adopt(action)
                case Edit():
                    self._edit(action.doc_id, action.state)
        return [applied for doc_id in touched if (applied := self._applied(doc_id)) is not None]

    def _remember(self, doc_id: DocId) -> None:
        """Keep how a document was before the first thing that happened to it. Called before each."""
        self._fresh.pop(doc_id, None)
        if doc_id in self._strangers:
            self._strangers.discard(doc_id)
            return
        inode = self._documents.inode(doc_id)
        if inode is not None and doc_id not in self._former:
            tree = self._store.tree
            self._former[doc_id] = (inode, tree.get(inode), tuple(tree.names(inode)))

    def _applied(self, doc_id: DocId) -> Applied | None:
        if doc_id in self._fresh:
            return self._fresh[doc_id]
        inode = self._documents.inode(doc_id)
        former = self._former.get(doc_id)
        if inode is None and former is None:
            return None
        names = () if inode is None else tuple(self._store.tree.names(inode))
        if former is None or (inode is not None and former[0] != inode):
            assert inode is not None
            # After a split another file has the name: what the kernel knows by it has to go all the same.
            return Applied(inode, None, () if former is None else former[2], names, doc_id in self._content)
        return Applied(former[0], former[1], former[2], names, doc_id in self._content)

    def _split(self, action: Split) -> None:
        self._documents.reidentify(action.doc_id, action.new_id, self._now_ns)
        # The name is for the document that stays; the copy's own comes with its edit.
        self._set_aside(action.new_id)

    def _adopt(self, action: Adopt) -> None:
        state, remote = action.state, action.remote
        document, deleted = remote.state.document, remote.state.deleted
        if not state.deleted:
            self._clear(action.doc_id, state.document)
        if state == remote.state and action.content is Side.REMOTE:
            done = self._documents.apply(document, remote.revision, deleted, self._now_ns)
            if done.inode and action.doc_id not in self._former:
                self._fresh[action.doc_id] = done
        elif state.deleted and deleted:
            done = self._documents.apply(document, remote.revision, True, self._now_ns)
        elif state.deleted and self._is_deleted(action.doc_id):
            # Deleted here already: only the base moves on, and the deletion stays to be sent.
            self._documents.record_synced(action.doc_id, 0, remote.revision, document, False)
            return
        elif state.deleted:
            aside = replace(document, names=(_aside(action.doc_id),))
            done = self._documents.apply(document, remote.revision, False, self._now_ns, local=aside)
            self._documents.edit(action.doc_id, self._now_ns, names=())
        else:
            keep = action.content is Side.LOCAL
            done = self._documents.apply(
                document, remote.revision, deleted, self._now_ns, local=state.document, keep_content=keep
            )
        if done.content_changed:
            self._content.add(action.doc_id)

    def _is_deleted(self, doc_id: DocId) -> bool:
        inode = self._documents.inode(doc_id)
        return inode is not None and self._store.tree.get(inode).deleted

    def _edit(self, doc_id: DocId, state: State) -> None:
        if not state.deleted:
            self._clear(doc_id, state.document)
        if self._documents.inode(doc_id) is not None:
            names = () if state.deleted else state.document.names
            # What comes back has lost its attributes when nobody held it any more.
            lost = {"xattrs": state.document.xattrs} if names and self._is_deleted(doc_id) else {}
            self._documents.edit(doc_id, self._now_ns, names=names, **lost)
        elif not state.deleted and (base := self._documents.base(doc_id)) is not None:
            # Forgotten but for its tombstone: a directory that somebody still needs.
            self._documents.apply(base.document, base.revision, base.deleted, self._now_ns, local=state.document)
        elif not state.deleted:
            # What was written about a directory, as a document of its own.
            made = state.document
            self._documents.create(doc_id, made.content, self._now_ns, uid=made.uid, gid=made.gid)
            self._documents.edit(doc_id, self._now_ns, names=made.names, mtime_ns=made.mtime_ns)

    def _clear(self, doc_id: DocId, document: Document) -> None:
        """Move whoever has a name that `document` gets out of the way; its own action comes later in the plan."""
        for name in document.names:
            occupant = self._documents.at(name.parent, name.name)
            if occupant is not None and occupant != doc_id:
                self._remember(occupant)
                self._set_aside(occupant)

    def _set_aside(self, doc_id: DocId) -> None:
        self._documents.edit(doc_id, self._now_ns, names=(_aside(doc_id),))


def _aside(doc_id: DocId) -> Name:
    """A name within the transaction only."""
    return Name(ROOT, b".blobfs-aside-" + doc_id.encode()[:200])
