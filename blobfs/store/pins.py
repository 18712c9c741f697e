"""Which documents are pinned: their bytes stay on this device, and come here unasked.

A pin is on a document, so it moves with a rename and survives an editor's save; a pinned directory pins all that is in
it, also what comes later. Invariant: a pin is never sent, and says nothing of what is here already.
"""

from __future__ import annotations

from typing import Final

from blobfs.store.ledger import Ledger
from blobfs.values.documents import DocId
from blobfs.values.nodes import Content, Inode

_ABOVE: Final = (
    "WITH RECURSIVE above(inode) AS (SELECT ? UNION SELECT names.parent FROM above JOIN names USING (inode)) "
    "SELECT 1 FROM above JOIN documents USING (inode) JOIN pins USING (doc_id) LIMIT 1"
)
_PINNED_FILES: Final = (
    "WITH RECURSIVE below(inode) AS (SELECT inode FROM documents JOIN pins USING (doc_id) "
    "UNION SELECT names.inode FROM below JOIN names ON names.parent = below.inode) "
    "SELECT content, size FROM below JOIN documents USING (inode) "
    "WHERE content IS NOT NULL AND size > 0 AND NOT deleted ORDER BY size"
)


class Pins:
    """The pins of a store."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._db = ledger.documents

    def add(self, doc_id: DocId) -> None:
        """Pin a document. Once more does nothing."""
        with self._ledger.transaction():
            self._db.run("INSERT OR IGNORE INTO pins VALUES (?)", (doc_id,))

    def remove(self, doc_id: DocId) -> bool:
        """Take a pin away; whether there was one."""
        with self._ledger.transaction():
            return bool(self._db.run("DELETE FROM pins WHERE doc_id = ?", (doc_id,)))

    def all(self) -> list[DocId]:
        """The pinned documents themselves, ascending."""
        return [DocId(row[0]) for row in self._ledger.all(self._db, "SELECT doc_id FROM pins ORDER BY doc_id")]

    def covers(self, inode: Inode) -> bool:
        """Whether a node is pinned, itself or through a directory above one of its names."""
        return self._ledger.one(self._db, _ABOVE, inode) is not None

    def covers_content(self, content: Content) -> bool:
        """Whether the file with these bytes is pinned."""
        row = self._ledger.one(self._db, "SELECT inode FROM documents WHERE content = ?", content)
        return row is not None and self.covers(Inode(row[0]))

    def files(self) -> list[tuple[Content, int]]:
        """(bytes, size) of every pinned file that is not empty, small ones first."""
        return [(Content(content), size) for content, size in self._ledger.all(self._db, _PINNED_FILES)]
