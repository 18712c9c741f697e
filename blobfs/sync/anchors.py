"""Anchors: the newest documents that the server is known to have, by which it is noticed when it lost some.

They are what the last page ended with, and what was sent or met by a push since. Asks the server, and applies nothing.
Invariant: only what is authentic, and was here, is an anchor. Pages that begin at the cursor before the last one have
them, or what follows from them, for as long as the server forgets nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from blobfs.errors import CorruptDocument
from blobfs.remote.client import Change, RemoteClient, Sealed
from blobfs.store.store import Store
from blobfs.sync.milestones import Milestones, is_no_older
from blobfs.values import crypto
from blobfs.values.documents import DocId
from blobfs.values.revisions import Revision

_SETTING: Final = "feed"
"""[the cursor before the last one, [document, revision]...]."""


class Finding(NamedTuple):
    """What the server has of what was seen here."""

    is_lost: bool
    """It lacks some."""
    has_moved: bool
    """It has some under other numbers, since somebody sent again what it had lost: these are to be read anew."""
    lasting: str | None
    """The cursor up to which all is as it was read."""


class Anchors:
    """Those of a store."""

    def __init__(self, store: Store, client: RemoteClient) -> None:
        self._store, self._client = store, client
        self.milestones = Milestones(store.settings)
        before, *anchors = store.settings.get(_SETTING) or [None]
        self._before: str | None = before
        self._revisions = {DocId(doc_id): Revision.parse(revision) for doc_id, revision in anchors}
        self._ahead: set[DocId] = set()
        """Those of them that the feed has not brought yet."""

    async def probe(self) -> Finding:
        """Ask for all of them. Raises RemoteError."""
        wanted, owed = dict(self._revisions), dict[DocId, Revision]()
        lasting, moved = await self.milestones.find_lasting(self._client)
        for doc_id in moved:
            # Whoever changed it has moved it: it comes later then, and is no older.
            if (base := self._store.documents.base(doc_id)) is not None:
                owed[doc_id] = base.revision
        await self._look_for(wanted, {}, self._before)
        if moved:
            await self._look_for(wanted, owed, lasting)
        return Finding(bool(wanted or owed), bool(moved), lasting)

    async def _look_for(self, wanted: dict[DocId, Revision], owed: dict[DocId, Revision], cursor: str | None) -> None:
        """Take those from `wanted` and `owed` that the server has after `cursor`, or of which it has what follows."""
        while wanted or owed:
            page = await self._client.feed(cursor)
            for sealed in page.documents:
                anchor, former = wanted.get(sealed.doc_id), owed.get(sealed.doc_id)
                if anchor is not None and self._follows(sealed, anchor):
                    del wanted[sealed.doc_id]
                if former is not None and is_no_older(sealed, former):
                    del owed[sealed.doc_id]
            if not page.more:
                return
            cursor = page.cursor

    def _follows(self, sealed: Sealed, anchor: Revision) -> bool:
        try:
            revision = Revision.parse(sealed.revision)
            crypto.open_document(self._store.keys, sealed.doc_id, revision, sealed.deleted, sealed.payload)
        except (ValueError, CorruptDocument):
            return False
        return revision.contains(anchor)

    # --- what is noted, each within the transaction that records it --------------------------------------------

    def note_page(self, before: str | None, documents: Sequence[Sealed]) -> None:
        """A page was read from `before` on."""
        self._ahead -= {sealed.doc_id for sealed in documents}
        revisions = {doc_id: self._revisions[doc_id] for doc_id in self._ahead}
        if (last := self._newest_of(list(reversed(documents)))) is not None:
            revisions.update([last])
        self._before, self._revisions = before, revisions
        self._save()

    def note_sent(self, change: Change) -> None:
        """The server has confirmed this change."""
        for doc_id in self._ahead:
            self._revisions.pop(doc_id, None)
        self._ahead = {change.doc_id}
        self._revisions[change.doc_id] = Revision.parse(change.revision)
        self._save()

    def note_met(self, arrived: Sequence[Sealed]) -> None:
        """A push met these, before the feed brought them."""
        if (last := self._newest_of(sorted(arrived, key=lambda sealed: sealed.seq, reverse=True))) is not None:
            self._ahead.add(last[0])
            self._revisions.update([last])
            self._save()

    def _newest_of(self, documents: Sequence[Sealed]) -> tuple[DocId, Revision] | None:
        """The first of them, the newest being first, that was taken: not what was refused."""
        for sealed in documents:
            base = self._store.documents.base(sealed.doc_id)
            if base is not None and str(base.revision) == sealed.revision:
                return sealed.doc_id, base.revision
        return None

    def _save(self) -> None:
        marks = [[doc_id, str(revision)] for doc_id, revision in self._revisions.items()]
        self._store.settings.set(_SETTING, [self._before, *marks])
