"""Nodes: files as this device sees them, with what is local to it (inode numbers, access times, bytes stored)."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, NewType

from blobfs.values.documents import DocId, Kind

Inode = NewType("Inode", int)
"""Numbers a document on this device only; never used twice within one run."""

Content = NewType("Content", int)
"""Numbers the bytes of one attachment in blobs.db. A file gets a new one when its bytes are replaced as a whole."""

ROOT_INODE: Final = Inode(1)
_new: Final = tuple.__new__
"""Makes a named tuple in a third of the time that its constructor takes."""


class Node(NamedTuple):
    """One document as a file, at the time it was read."""

    inode: Inode
    doc_id: DocId
    kind: Kind
    mode: int
    """Permission bits only."""
    uid: int
    gid: int
    rdev: int
    size: int
    stored: int
    """Bytes of it that are in blobs.db."""
    nlink: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    birth_ns: int
    target: bytes
    content: Content | None
    """None: nothing is attached; reads as an empty file."""
    deleted: bool
    """It has no name any more and lives through open handles only."""

    def but(self, **changes: Any) -> Node:
        """The node with these fields changed. As `_replace`, in a third of the time: every operation needs one."""
        fields = list(self)
        for field, value in changes.items():
            fields[_PLACES[field]] = value
        return _new(Node, fields)

    def touched(self, now_ns: int, links: int) -> Node:
        """The directory after an entry of it has changed, with so many subdirectories more."""
        return _new(Node, (*self[:9], self.nlink + links, self.atime_ns, now_ns, now_ns, *self[13:]))


_PLACES: Final = {field: place for place, field in enumerate(Node._fields)}


class Entry(NamedTuple):
    """One name in a directory."""

    cookie: int
    """Where to go on reading: grows with each entry, and stays while the name does."""
    name: bytes
    node: Node
