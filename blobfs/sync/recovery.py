"""The way back from a server that was set back: what it lost is sent again, what it has instead is merged.

Works while the whole feed is read once more, and keeps no list on the disk but the mark that it has begun: what the
server lacks is seen again after a restart. Invariant: a revision that was seen here is never given up for an older
one, and where the server went on from an older one both contents stay.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from blobfs.store.bases import Base
from blobfs.store.store import Store
from blobfs.sync.situation import Remote
from blobfs.values.documents import DocId, Kind

_log: Final = logging.getLogger(__name__)

_MARK: Final = "recovering"
_CHUNK: Final = 200
"""Documents in one transaction."""


class Recovery:
    """What the server lost, as far as it is known by now. Every call but `begin` belongs into a worker thread."""

    def __init__(self, store: Store) -> None:
        self._store, self._documents = store, store.documents
        self.active = bool(store.settings.get(_MARK))
        """Whether revisions that the server has lost are sent again; else they are a `Rollback`."""
        self.reading = self.active
        """Whether the feed has not been read to its end."""
        self.lost: dict[DocId, Remote | None] = {}
        """Documents of which the server has an older or another revision, or none at all."""
        self._seen: set[DocId] = set()
        self._joined: list[DocId] = []

    def begin(self) -> None:
        """From here on the server is taken as it is. The feed has to be read from its beginning."""
        self.active = self.reading = True
        self.lost.clear()
        self._seen.clear()
        self._store.settings.set(_MARK, True)
        _log.warning("recovery: what the server lost is sent again from this device")

    def see(self, doc_ids: Iterable[DocId]) -> None:
        """The server has these, whatever their revisions."""
        if self.reading:
            self._seen.update(doc_ids)

    def sift(self, arrivals: Sequence[Remote]) -> list[Remote]:
        """Those to be applied; the others are older than what is here, which is to be sent again."""
        return [remote for arrival in arrivals if (remote := self._weigh(arrival)) is not None]

    def _weigh(self, arrival: Remote) -> Remote | None:
        doc_id, base = arrival.doc_id, self._documents.base(arrival.doc_id)
        if base is None or arrival.revision.contains(base.revision):
            self.settle([doc_id])
            return arrival
        self.lost[doc_id] = arrival
        if base.revision.contains(arrival.revision):
            self._send_again(doc_id, base)
            return None
        # The server went on from an older revision: both are merged, and what comes of it follows from both.
        self._keep_both(arrival, base)
        self._joined.append(doc_id)
        return replace(arrival, revision=arrival.revision.merged(base.revision))

    def finish_merges(self) -> None:
        """What was merged is sent, changed or not, so that the server has a revision that follows from both."""
        while self._joined:
            doc_id = self._joined.pop()
            base = self._documents.base(doc_id)
            if base is not None:
                self._send_again(doc_id, base)

    def finish_reading(self) -> None:
        """The feed was read to its end: what it did not bring is lost there."""
        if not self.reading:
            return
        after = DocId("")
        while page := self._documents.known_ids(after, _CHUNK):
            with self._store.transaction():
                for doc_id in page:
                    base = None if doc_id in self._seen else self._documents.base(doc_id)
                    if base is not None:
                        self.lost[doc_id] = None
                        self._send_again(doc_id, base)
            after = page[-1]
        _log.warning("recovery: %d documents are sent again", len(self.lost))
        self.reading = False
        self._seen.clear()
        self._end_if_done()

    def settle(self, doc_ids: Iterable[DocId]) -> None:
        """The server has the newest revision of these again."""
        if self.active:
            for doc_id in doc_ids:
                self.lost.pop(doc_id, None)
            self._end_if_done()

    def _end_if_done(self) -> None:
        if self.active and not self.reading and not self.lost:
            self.active = False
            self._store.settings.set(_MARK, None)
            _log.warning("recovery: the server has everything again")

    def _send_again(self, doc_id: DocId, base: Base) -> None:
        local = self._documents.local(doc_id)
        if local is not None:
            if local.edit == local.synced and not local.node.deleted:
                self._documents.edit(doc_id, time.time_ns())
        elif base.document.names:
            # A deletion that the server has forgotten: as if it had not been sent.
            self._documents.record_synced(doc_id, 0, base.revision, base.document, False)

    def _keep_both(self, arrival: Remote, base: Base) -> None:
        """The bytes here go on under an id of their own, so that the server's cannot take their place."""
        local = self._documents.local(arrival.doc_id)
        if local is None or local.node.deleted:
            return
        theirs = arrival.state.document.attachment
        differs = local.content_dirty or local.document.attachment != theirs
        if arrival.state.deleted or local.node.kind is not Kind.FILE or not differs:
            self._send_again(arrival.doc_id, base)
            return
        self._documents.reidentify(arrival.doc_id, DocId(secrets.token_hex(16)), time.time_ns())
