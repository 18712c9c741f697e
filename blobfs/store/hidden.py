"""The hidden directory: documents that travel like all others and that no listing shows, below `.blobfs` in the root.

What blobfs itself tells the account's other devices, and what programs keep without files, has its place here. To
sync it is a directory like any other, so two devices that make it at once end with one. Invariant: nothing outside
this room and `fs/views.py`, which answers for that name in the mount, knows where it is.
"""

from __future__ import annotations

import os
import time
from typing import Final

from blobfs.errors import NotADirectory, NotFound
from blobfs.store.ledger import Ledger
from blobfs.store.tree import Tree
from blobfs.values.documents import ROOT, DocId, Document, Kind, Name
from blobfs.values.nodes import ROOT_INODE, Inode, Node

NAME: Final = b".blobfs"
"""In the root. Nobody can make this name through the mount."""
LISTED: Final = b"attachments"
"""In it: what the mount shows all the same, below the views."""
LOCAL: Final = b"local"
"""In it: what is in this directory, two deep, never leaves this device."""
IS_SHOWN: Final = (
    "NOT EXISTS (WITH RECURSIVE above(inode, is_hidden) AS (SELECT documents.inode, 0 UNION "  # noqa: S608 - constants only
    f"SELECT names.parent, names.parent = {ROOT_INODE} AND names.name = x'{NAME.hex()}' "
    "FROM above JOIN names ON names.inode = above.inode) SELECT 1 FROM above WHERE is_hidden)"
)
"""SQL: whether the row of `documents` at hand is outside. It walks up, so it costs by depth and not by number."""

_WAYS: Final = (
    "WITH RECURSIVE above(inode, is_hidden) AS (SELECT ?, 0 UNION "  # noqa: S608 - constants only
    f"SELECT names.parent, names.parent = {ROOT_INODE} AND names.name = x'{NAME.hex()}' "
    "FROM above JOIN names ON names.inode = above.inode) "
    "SELECT inode, is_hidden FROM above"
)
"""SQL: what is above a node, and of the root, whether the way from there leads through the hidden directory."""


class Hidden:
    """The hidden directory of a store."""

    def __init__(self, ledger: Ledger, tree: Tree) -> None:
        self._ledger = ledger
        self._tree = tree

    def find(self, *names: bytes) -> Node | None:
        """The node at this place below the hidden directory; None: there is nothing."""
        try:
            node = self._tree.lookup(ROOT_INODE, NAME)
            for name in names:
                node = self._tree.lookup(node.inode, name)
        except (NotFound, NotADirectory):
            return None
        return node

    def directory(self, *names: bytes) -> Node:
        """The directory at this place, made with all that leads to it.

        Raises:
            NotADirectory: a file is in the way. NameTooLong.
        """
        with self._ledger.transaction():
            node = self._tree.get(ROOT_INODE)
            for name in (NAME, *names):
                node = self._step(node.inode, name)
                if node.kind is not Kind.DIRECTORY:
                    raise NotADirectory("a file is where blobfs keeps a directory of its own; delete it by its id")
            return node

    def _step(self, parent: Inode, name: bytes) -> Node:
        try:
            return self._tree.lookup(parent, name)
        except NotFound:
            uid, gid = os.geteuid(), os.getegid()
            return self._tree.create(parent, name, Kind.DIRECTORY, mode=0o700, uid=uid, gid=gid, now_ns=time.time_ns())

    def staying(self) -> set[DocId]:
        """The directories that stay on this device with all that is in them."""
        top = self.find(LOCAL)
        if top is None:
            return set()
        sql = "SELECT doc_id FROM names JOIN documents USING (inode) WHERE parent = ? AND kind = 'directory'"
        return {top.doc_id, *(DocId(row[0]) for row in self._ledger.all(self._ledger.documents, sql, top.inode))}

    def is_usurped_by(self, document: Document) -> bool:
        """Whether a document that came would take the place of this directory, or of one in it: no device does that."""
        if document.kind is Kind.DIRECTORY:
            return False
        top = self.find()
        return any(
            (name.parent == ROOT and name.name == NAME) or (top is not None and name.parent == top.doc_id)
            for name in document.names
        )

    def is_hiding(self, document: Document) -> bool:
        """Whether a document that came would take what people see here to where nobody looks: no device does that."""
        inode = self._inode(document.doc_id)
        if inode is None or not document.names or (ROOT_INODE, 0) not in self._above(inode):
            return False
        return all(self._is_hidden(name) for name in document.names)

    def _is_hidden(self, name: Name) -> bool:
        if name.parent == ROOT:
            return name.name == NAME
        parent, listed = self._inode(name.parent), self.find(LISTED)
        above = set[tuple[int, int]]() if parent is None else self._above(parent)
        is_listed = listed is not None and (listed.inode, 0) in above
        return (ROOT_INODE, 1) in above and (ROOT_INODE, 0) not in above and not is_listed

    def _inode(self, doc_id: DocId) -> Inode | None:
        row = self._ledger.one(
            self._ledger.documents, "SELECT inode FROM documents WHERE doc_id = ? AND NOT deleted", doc_id
        )
        return None if row is None else Inode(row[0])

    def _above(self, inode: Inode) -> set[tuple[int, int]]:
        return set(self._ledger.all(self._ledger.documents, _WAYS, inode))

    def contains(self, inode: Inode) -> bool:
        """Whether a live node is the hidden directory or has a name somewhere in it."""
        sql = f"SELECT 1 FROM documents WHERE inode = ? AND NOT {IS_SHOWN}"  # noqa: S608 - constants only
        return self._ledger.one(self._ledger.documents, sql, inode) is not None
