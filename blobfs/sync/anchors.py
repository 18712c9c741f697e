"""Anchors: documents that the server has confirmed, and that are not behind the cursor yet: it owes them all the same.

They were sent, or met by a push, or came beside a version that waits. Knows ids only, since the store's base of a
document is what the server owes. Invariant: whatever is here has a base.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from blobfs.remote.client import Sealed
from blobfs.store.store import Store
from blobfs.values.documents import DocId

_SETTING: Final = "ahead"
_FORMER: Final = "feed"
"""The setting of older versions: [a cursor, [document, revision]...]."""
_KEPT: Final = 3
"""A backup lacks the newest; more than one, since of several that were sent at last one may have been sent again."""


class Anchors:
    """Those of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.ids = tuple(DocId(doc_id) for doc_id in store.settings.get(_SETTING) or ())
        """The newest last. Replaced, not changed: workers note what the loop reads."""
        if former := store.settings.get(_FORMER):
            with store.transaction():
                self._set(DocId(doc_id) for doc_id, _ in former[1:])
                store.settings.set(_FORMER, None)

    def note(self, doc_id: DocId) -> None:
        """The server has this. Within the transaction that records it."""
        self._set([*(other for other in self.ids if other != doc_id), doc_id])

    def note_newest(self, came: Iterable[Sealed]) -> None:
        """As `note`, of the newest of these that was taken: what was refused the server owes to nobody."""
        for sealed in sorted(came, key=lambda one: one.seq, reverse=True):
            base = self._store.documents.base(sealed.doc_id)
            if base is not None and str(base.revision) == sealed.revision:
                self.note(sealed.doc_id)
                return

    def leave(self, came: Iterable[Sealed]) -> None:
        """These are behind the cursor, of which the milestones tell. Within the transaction that records it."""
        behind = {sealed.doc_id for sealed in came}
        if not behind.isdisjoint(self.ids):
            self._set(doc_id for doc_id in self.ids if doc_id not in behind)

    def _set(self, ids: Iterable[DocId]) -> None:
        self.ids = tuple(ids)[-_KEPT:]
        self._store.settings.set(_SETTING, self.ids or None)
