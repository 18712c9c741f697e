"""Everything below a directory at once: for whoever asks about folders, not about single files.

Reads only, and holds nothing. Invariant: one answer is of one moment.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from blobfs.store.hidden import NAME
from blobfs.store.ledger import Ledger
from blobfs.values.documents import DocId, Kind
from blobfs.values.extents import ALL_ROWS, EXTENT, INLINE, ROW, ROWS_PER_EXTENT, BlobId
from blobfs.values.nodes import ROOT_INODE, Content, Inode

# UNION of whole rows, and paths only grow: a ring of directories, which has no name, is never entered from the root.
_BELOW: Final = (
    "WITH RECURSIVE below(inode, path) AS (SELECT ?, x'' UNION "  # noqa: S608 - constants only
    "SELECT names.inode, CAST(below.path || '/' || names.name AS BLOB) FROM below "
    f"JOIN names ON names.parent = below.inode AND NOT (below.inode = {ROOT_INODE} AND names.name = x'{NAME.hex()}')) "
    "SELECT path, inode, doc_id, kind, size, stored, mtime_ns, content, edit > synced, changed_ns "
    "FROM below JOIN documents USING (inode) WHERE kind != '' ORDER BY path"
)
_STRAYS: Final = (
    "SELECT child.doc_id, MIN(names.name) FROM documents AS parent JOIN names ON names.parent = parent.inode "
    "JOIN documents AS child ON child.inode = names.inode WHERE parent.kind = '' AND child.kind != '' "
    "AND NOT EXISTS (SELECT 1 FROM names AS other JOIN documents AS above ON above.inode = other.parent "
    "WHERE other.inode = child.inode AND above.kind != '') GROUP BY child.doc_id"
)
_ABSENT: Final = "SELECT content, length, present FROM extents WHERE blob_id IS NOT NULL AND present != ?"


class Found(NamedTuple):
    """One name below a directory; a file with several names is found under each."""

    path: bytes
    """From the directory on, beginning with `/`; empty for the directory itself."""
    inode: Inode
    doc_id: DocId
    kind: Kind
    size: int
    stored: int
    mtime_ns: int
    content: Content | None
    waits: bool
    """Edited since the server last confirmed it."""
    changed_ns: int
    """When the first edit that was not sent happened."""

    @property
    def name(self) -> bytes:
        """The last part of the path."""
        return self.path.rpartition(b"/")[2]


class Sent(NamedTuple):
    """An extent that the server once confirmed, as it is here."""

    blob_id: BlobId
    content: Content
    extent: int
    length: int
    """Bytes sealed in the blob, padding included."""
    whole: bool
    """Whether all of it is on this device."""


class Survey:
    """Looks at many documents together."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def below(self, inode: Inode) -> list[Found]:
        """A node and everything in it, in the order of paths; from the root, nothing hidden. For a worker thread."""
        rows = self._ledger.all(self._ledger.documents, _BELOW, inode)
        return [
            Found(
                *(bytes(path), Inode(node), DocId(doc_id), Kind(kind), size, stored, mtime_ns),
                *(content, bool(waits), changed_ns),
            )
            for path, node, doc_id, kind, size, stored, mtime_ns, content, waits, changed_ns in rows
        ]

    def absent(self) -> dict[Content, int]:
        """Bytes of each content that are not on this device, padding included; contents that are whole left out."""
        found: dict[Content, int] = {}
        for content, length, present in self._ledger.all(self._ledger.blobs, _ABSENT, ALL_ROWS):
            missing = absent_bytes(length, present)
            if missing:
                found[Content(content)] = found.get(Content(content), 0) + missing
        for content, size in self._ledger.all(self._ledger.blobs, "SELECT content, attachment FROM unresolved"):
            found[Content(content)] = int(size.strip("[").partition(",")[0])
        return found

    def strays(self) -> list[tuple[DocId, bytes]]:
        """(document, name) of what is in folders that never came, and nowhere else: no path leads there."""
        rows = self._ledger.all(self._ledger.documents, _STRAYS)
        return [(DocId(doc_id), bytes(name)) for doc_id, name in rows]

    def deleted(self) -> list[DocId]:
        """Documents that the server knows as deleted and this device does not have."""
        sql = (
            "SELECT doc_id FROM bases WHERE deleted AND doc_id NOT IN (SELECT doc_id FROM documents WHERE NOT deleted)"
        )
        return [DocId(row[0]) for row in self._ledger.all(self._ledger.documents, sql)]

    def sent(self) -> list[Sent]:
        """Every extent that this device takes the server to have. For a worker thread."""
        sql = (
            "SELECT blob_id, content, extent, length, present FROM extents WHERE blob_id IS NOT NULL AND NOT dirty "
            "AND content NOT IN (SELECT content FROM discarded)"
        )
        return [
            Sent(BlobId(blob_id.hex()), Content(content), extent, length, not absent_bytes(length, present))
            for blob_id, content, extent, length, present in self._ledger.all(self._ledger.blobs, sql)
        ]

    def long_contents(self) -> list[Content]:
        """Contents whose list of blobs is too long to be in the document."""
        sql = "SELECT content FROM documents WHERE content IS NOT NULL AND size > ?"
        return [Content(row[0]) for row in self._ledger.all(self._ledger.documents, sql, INLINE * EXTENT)]


def absent_bytes(length: int, present: int) -> int:
    """Bytes of an extent of `length` bytes that are not here, by the bitmap of its rows."""
    rows = min(ROWS_PER_EXTENT, -(-length // ROW))
    return sum(min(ROW, length - row * ROW) for row in range(rows) if not present >> row & 1)
