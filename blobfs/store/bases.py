"""Bases: what both sides last agreed on, document by document, and how many edits of each device that contains.

Invariant: the heads are the sums of all bases' counters, in the same transaction.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from blobfs.store.ledger import Ledger
from blobfs.values.documents import MAX_COUNT, DocId, Document, decode, encode
from blobfs.values.revisions import DeviceId, Revision


@dataclass(frozen=True, slots=True)
class Base:
    """What both sides last agreed on."""

    revision: Revision
    deleted: bool
    document: Document


class Bases:
    """Those of a store."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._db = ledger.documents

    def find(self, doc_id: DocId) -> Base | None:
        """The base of a document; None when the server is not known to have it."""
        row = self._ledger.one(self._db, "SELECT revision, deleted, body FROM bases WHERE doc_id = ?", doc_id)
        if row is None:
            return None
        return Base(Revision.parse(row[0]), bool(row[1]), decode(doc_id, row[2]))

    def ids(self, after: DocId, limit: int) -> list[DocId]:
        """Documents with a base, ascending from the one after `after`; deleted ones too."""
        sql = "SELECT doc_id FROM bases WHERE doc_id > ? ORDER BY doc_id LIMIT ?"
        return [DocId(row[0]) for row in self._ledger.all(self._db, sql, after, limit)]

    def heads(self) -> dict[DeviceId, int]:
        """How many edits of each device are in all bases together; at most `MAX_COUNT`."""
        rows = self._ledger.all(self._db, "SELECT device, count FROM heads WHERE count > 0 ORDER BY device")
        # A device can count to the end for another one in several documents: SQLite makes floats of such sums.
        return {DeviceId(device): int(min(count, MAX_COUNT)) for device, count in rows}

    def set(self, document: Document, revision: Revision, deleted: bool) -> None:
        """This is the base of a document from now on. Within a transaction."""
        row = self._ledger.one(self._db, "SELECT revision FROM bases WHERE doc_id = ?", document.doc_id)
        self._count(Revision() if row is None else Revision.parse(row[0]), revision)
        self._put(document, revision, deleted)

    def add(self, document: Document, revision: Revision) -> None:
        """As `set`, of a live document that has no base yet."""
        self._count(Revision(), revision)
        self._put(document, revision, deleted=False)

    def _put(self, document: Document, revision: Revision, deleted: bool) -> None:
        body = encode(dataclasses.replace(document, heads={}, sealer=None))
        values = (document.doc_id, str(revision), int(deleted), body)
        self._db.run("INSERT OR REPLACE INTO bases VALUES (?, ?, ?, ?)", values, len(body))

    def _count(self, former: Revision, revision: Revision) -> None:
        """Keep the heads true when the base of a document goes from one revision to another."""
        before = dict(former.entries)
        sql = "INSERT INTO heads VALUES (?, ?) ON CONFLICT (device) DO UPDATE SET count = count + excluded.count"
        for device, counter in revision.entries:
            if (more := counter - before.pop(device, 0)) != 0:
                self._db.run(sql, (device, more))
        for device, counter in before.items():
            self._db.run(sql, (device, -counter))
