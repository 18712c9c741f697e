"""Versions that arrived and have to wait: for an open file, or for what is still to be read before they make sense.

Keeps them, and asks the store; applies nothing. Invariant: what waits gives up its place to a newer version of the same
document, and nothing takes a name that a waiting version has yet to leave.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable

from blobfs.store.store import Store
from blobfs.sync.situation import Remote
from blobfs.sync.view import News
from blobfs.values.documents import ROOT, DocId, Kind, Name
from blobfs.values.nodes import Inode


class Waiting:
    """Those of a store."""

    def __init__(self, store: Store, is_busy: Callable[[Inode], bool]) -> None:
        """`is_busy`: whether a file is open."""
        self._store, self._documents, self._is_busy = store, store.documents, is_busy
        self.remotes: OrderedDict[DocId, Remote] = OrderedDict()
        self.is_partial = False
        """Whether the server has more than was read: whoever is in the way of what arrived may be about to leave."""

    def sift(self, arrivals: Iterable[Remote], news: News) -> list[Remote]:
        """Those that can be applied; the others wait from now on."""
        ready = list(arrivals)
        for remote in ready:
            self.remotes.pop(remote.doc_id, None)
        while True:
            # Again, since what waits stands in the way of others.
            coming = {remote.doc_id for remote in ready}
            held = {remote.doc_id: remote for remote in ready if self._has_to_wait(remote, news, coming)}
            if not held:
                return ready
            self.remotes |= held
            ready = [remote for remote in ready if remote.doc_id not in held]

    def keep(self, remotes: Iterable[Remote]) -> None:
        """These could not be applied now."""
        for remote in remotes:
            self.remotes.setdefault(remote.doc_id, remote)

    def over(self) -> list[Remote]:
        """Those that need not wait any more; they are the caller's now."""
        held = list(self.remotes.values())
        return self.sift(held, News.among(self._store, held))

    def _has_to_wait(self, remote: Remote, news: News, coming: Collection[DocId]) -> bool:
        document, is_known = remote.state.document, remote.doc_id not in news.strangers
        if remote.state.deleted:
            return self.is_partial and is_known and self._is_inhabited(remote, coming)
        if is_known and self._is_open(remote):
            return True
        if any(self._is_in_the_way(name, remote.doc_id, coming) for name in document.names if name not in news.free):
            return True
        return self.is_partial and is_known and document.kind is Kind.DIRECTORY and self._makes_ring(remote)

    def _is_open(self, remote: Remote) -> bool:
        """Whether somebody reads the bytes that it replaces."""
        inode = self._documents.inode(remote.doc_id)
        if inode is None or not self._is_busy(inode):
            return False
        base = self._documents.base(remote.doc_id)
        return base is not None and base.document.attachment != remote.state.document.attachment

    def _is_in_the_way(self, name: Name, doc_id: DocId, coming: Collection[DocId]) -> bool:
        """Whether another document has the name, and is going to leave it or may be."""
        if not self.remotes and not self.is_partial:
            return False
        occupant = self._documents.at(name.parent, name.name)
        if occupant is None or occupant == doc_id:
            return False
        held = self.remotes.get(occupant)
        if held is not None and name not in held.state.document.names:
            return True
        return self.is_partial and occupant not in coming and self._documents.base(occupant) is not None

    def _is_inhabited(self, remote: Remote, coming: Collection[DocId]) -> bool:
        """Whether a directory goes in which something is, of which nothing came yet."""
        if remote.state.document.kind is not Kind.DIRECTORY:
            return False
        return any(child not in coming for child in self._documents.children(remote.doc_id))

    def _makes_ring(self, remote: Remote) -> bool:
        """Whether a directory goes into one that is in it here."""
        names, seen = remote.state.document.names, set[DocId]()
        while names and (parent := names[0].parent) not in (ROOT, *seen):
            if parent == remote.doc_id:
                return True
            seen.add(parent)
            place = self._documents.place(parent)
            names = () if place is None else place[1]
        return False
