"""Documents that this device has never heard of, as they come: their rows, and placeholders for their parents.

A device that joins takes in thousands of them, so there is a way with few statements for those with nothing to compare
and nothing to merge. Invariant: `add` leaves what `DocumentStore.apply` would.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from blobfs.errors import CorruptDocument, NotFound
from blobfs.store.attachments import Attachments
from blobfs.store.bases import Bases
from blobfs.store.ledger import Ledger
from blobfs.store.tree import Tree
from blobfs.values.documents import DocId, Document, Kind
from blobfs.values.nodes import Content, Inode
from blobfs.values.revisions import Revision


class _Start(NamedTuple):
    """What a new row has beside a document's own attributes."""

    edit: int = 0
    synced: int = 0
    deleted: int = 0
    nlink: int = 0
    content: Content | None = None
    size: int = 0


class Newcomers:
    """Those of a store. Everything in here is called within a transaction."""

    def __init__(self, ledger: Ledger, tree: Tree, attachments: Attachments, bases: Bases) -> None:
        self._ledger = ledger
        self._db = ledger.documents
        self._tree = tree
        self._attachments = attachments
        self._bases = bases

    def add(self, document: Document, revision: Revision, now_ns: int) -> tuple[Inode, tuple[tuple[Inode, bytes], ...]]:
        """A live document that has neither a row nor a base gets both; its inode and names.

        Raises Exists, NotFound, CorruptDocument: as `DocumentStore.apply`.
        """
        inode = self._tree.new_inode()
        is_directory, attachment = document.kind is Kind.DIRECTORY, document.attachment
        content = None if attachment is None else self._attachments.install(attachment, None)[0]
        nlink = 2 if is_directory else len(document.names)
        size = 0 if attachment is None else attachment.size
        self._insert(inode, document, _Start(1, 1, 0, nlink, content, size), now_ns)
        places = []
        for name in document.names:
            parent = self.directory(name.parent)
            self._tree.add_name(parent, name.name, inode)
            if is_directory:
                self._db.run("UPDATE documents SET nlink = nlink + 1 WHERE inode = ?", (parent,))
            places.append((parent, name.name))
        for key, value in document.xattrs.items():
            self._db.run("INSERT INTO xattrs VALUES (?, ?, ?)", (inode, key, value), len(value))
        self._bases.add(document, revision)
        return inode, tuple(places)

    def insert(self, document: Document, now_ns: int) -> Inode:
        """A row with a document's attributes, and without names and bytes."""
        inode = self._tree.new_inode()
        nlink = 2 if document.kind is Kind.DIRECTORY else 0
        self._insert(inode, document, _Start(1, 1, nlink=nlink), now_ns)
        return inode

    def insert_deleted(self, document: Document) -> None:
        """A row for the tombstone of a document that is gone by now, which is to be sent."""
        self._insert(self._tree.new_inode(), document, _Start(2, 1, deleted=1), 0)

    def _insert(self, inode: Inode, document: Document, start: _Start, now_ns: int, *, kind: str | None = None) -> None:
        attributes: tuple[Any, ...] = (document.mode, document.uid, document.gid, document.rdev)
        times = (document.mtime_ns, document.mtime_ns, now_ns, document.birth_ns)
        self._db.run(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(inode, document.doc_id, document.kind.value if kind is None else kind, *attributes, start.size),
                *(start.nlink, *times, document.target, start.content, start.deleted, json.dumps(document.content)),
                *(start.edit, start.synced, now_ns, now_ns),
            ),
        )

    def directory(self, doc_id: DocId) -> Inode:
        """The inode of a parent; one that is not known is made a placeholder. Raises CorruptDocument, NotFound."""
        row = self._ledger.one(self._db, "SELECT inode, kind, deleted FROM documents WHERE doc_id = ?", doc_id)
        if row is None:
            inode = self._tree.new_inode()
            self._insert(inode, Document(doc_id, Kind.DIRECTORY), _Start(nlink=2), 0, kind="")
            return inode
        if row[1] not in ("", Kind.DIRECTORY.value):
            raise CorruptDocument(f"document {doc_id} is no directory, and another is in it")
        if row[2]:
            raise NotFound(f"directory {doc_id} was deleted here")
        return Inode(row[0])
