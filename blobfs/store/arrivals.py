"""What senders left, as documents: each item has one document, whose id is made of the item's.

    .blobfs/incoming/ITEM      an item that failed (with the reason), or one that a program has taken
    Incoming/NAME              an item that was made a file

So two devices that take the same item end with one document, and an item that the server shows again is known by its
document, or by the tombstone of it that every device keeps. Invariant: an item becomes a document in one transaction.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from blobfs.errors import NotFound
from blobfs.protocol import is_id
from blobfs.store.attachments import Attachments
from blobfs.store.documents import DocumentStore
from blobfs.store.hidden import Hidden
from blobfs.store.ledger import Ledger
from blobfs.store.tree import Tree
from blobfs.values.documents import DocId, Json, Kind, Name, name_to_text
from blobfs.values.keys import AccountId
from blobfs.values.nodes import ROOT_INODE, Content, Node

DIRECTORY: Final = b"Incoming"
HIDDEN: Final = b"incoming"
MAX_COUNT: Final = 1 << 31
"""Of tries to take one item."""
MAX_FAILURES: Final = 1000
"""Failures that are kept: anybody who has an address can make more."""


class Arrival(NamedTuple):
    """What is known of an item."""

    is_taken: bool
    """It is a document, or was one."""
    is_sent: bool
    """The server has what became of it, so the item itself may go."""
    failure: Json | None
    """`reason`, `count` and `version` (of the consumer) when taking it failed."""


class Arrivals:
    """The items of a store."""

    def __init__(
        self,
        ledger: Ledger,
        tree: Tree,
        attachments: Attachments,
        documents: DocumentStore,
        hidden: Hidden,
        account: AccountId,
    ) -> None:
        self._ledger, self._tree, self._attachments = ledger, tree, attachments
        self._documents, self._hidden, self._account = documents, hidden, account

    def doc_id(self, item_id: str) -> DocId:
        """The document of an item: the same on every device."""
        text = f"blobfs incoming\0{self._account}\0{item_id}".encode()
        return DocId(hashlib.sha256(text).hexdigest()[:32])

    def look(self, item_id: str) -> Arrival:
        """What is known of an item."""
        doc_id = self.doc_id(item_id)
        with self._ledger.lock:
            local, base = self._documents.local(doc_id), self._documents.base(doc_id)
        if local is None:
            return Arrival(base is not None, base is not None, None)
        failure = local.document.content.get("failure")
        if isinstance(failure, dict) and not local.node.deleted:
            return Arrival(False, False, failure)
        return Arrival(True, base is not None and local.edit <= local.synced, None)

    def deliver(self, item_id: str, name: bytes, content: Content, size: int, stored: int) -> list[Node]:
        """Make a file in `Incoming` of an item whose bytes are staged; every node that is new or moved.

        A name that is taken gets a number. Raises NoSpace; then nothing was changed.
        """
        with self._ledger.transaction():
            made: list[Node] = []
            parent = self._incoming(made)
            node = self._node(item_id, parent, self._free(parent, name))
            self._attachments.attach(node.inode, content, size, stored, time.time_ns())
            return [*made, self._tree.get(node.inode)]

    def receive(self, item_id: str) -> None:
        """A program has taken an item: remember it."""
        with self._ledger.transaction():
            self._node(item_id, self._hidden.directory(HIDDEN), item_id.encode("ascii"))

    def fail(self, item_id: str, reason: str, version: int) -> bool:
        """Remember why an item could not be taken, and by which version of the consumer; False: there are too many."""
        with self._ledger.transaction():
            parent, former = self._hidden.directory(HIDDEN), self.look(item_id).failure
            if former is None and len(self._documents.children(parent.doc_id)) >= MAX_FAILURES:
                return False
            node = self._node(item_id, parent, item_id.encode("ascii"))
            count = 0 if former is None else former.get("count")
            # Another device wrote it, so it may be anything.
            count = count if type(count) is int and 0 <= count < MAX_COUNT else 0
            failure = {"reason": reason, "count": count + 1, "version": version}
            self._documents.edit(node.doc_id, time.time_ns(), content={"failure": failure})
            return True

    def failures(self) -> dict[str, Json]:
        """What is remembered of items that failed, by item."""
        parent = self._hidden.find(HIDDEN)
        if parent is None:
            return {}
        sql = "SELECT name FROM names WHERE parent = ? ORDER BY name"
        items = filter(
            is_id, (name_to_text(row[0]) for row in self._ledger.all(self._ledger.documents, sql, parent.inode))
        )
        return {item_id: failure for item_id in items if (failure := self.look(item_id).failure) is not None}

    def _node(self, item_id: str, parent: Node, name: bytes) -> Node:
        """The document of an item, at this place, without a failure."""
        doc_id, now_ns = self.doc_id(item_id), time.time_ns()
        local = self._documents.local(doc_id)
        if local is not None and not local.node.deleted:
            self._documents.edit(doc_id, now_ns, names=(Name(parent.doc_id, name),), content={})
            return self._tree.get(local.node.inode)
        uid, gid = os.geteuid(), os.getegid()
        return self._tree.create(
            parent.inode, name, Kind.FILE, mode=0o600, uid=uid, gid=gid, now_ns=now_ns, doc_id=doc_id
        )

    def _incoming(self, made: list[Node]) -> Node:
        """The directory for items; another one when a file has its name."""
        root, uid, gid = self._tree.get(ROOT_INODE), os.geteuid(), os.getegid()
        for name in _numbered(DIRECTORY):
            try:
                found = self._tree.lookup(root.inode, name)
            except NotFound:
                found = self._tree.create(
                    root.inode, name, Kind.DIRECTORY, mode=0o700, uid=uid, gid=gid, now_ns=time.time_ns()
                )
                made.append(found)
            if found.kind is Kind.DIRECTORY:
                return found
        raise AssertionError("numbers have no end")

    def _free(self, parent: Node, name: bytes) -> bytes:
        return next(one for one in _numbered(name) if self._documents.at(parent.doc_id, one) is None)


def _numbered(name: bytes) -> Iterator[bytes]:
    """`name`, then with a number before its ending."""
    yield name
    stem, dot, ending = name.rpartition(b".")
    if not stem:
        stem, dot, ending = name, b"", b""
    number = 2
    while True:
        yield b"%s (%d)%s%s" % (stem, number, dot, ending)
        number += 1
