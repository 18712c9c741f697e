"""Record: a row of `documents` as it is remembered, and how it is read from the database and written to it.

Knows the columns, not what they are changed by, nor where they are kept.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from blobfs.store.database import Value
from blobfs.values.documents import Kind
from blobfs.values.nodes import ROOT_INODE, Node

COLUMNS: Final = (
    "documents.inode, doc_id, kind, mode, uid, gid, rdev, size, stored, nlink, "
    "atime_ns, mtime_ns, ctime_ns, birth_ns, target, content, deleted"
)
ROW: Final = f"{COLUMNS}, edit, synced, changed_ns, touched_ns"

_KINDS: Final = {kind.value: kind for kind in Kind}
_new: Final = tuple.__new__


class Record(NamedTuple):
    """A row of `documents`."""

    node: Node
    edit: int
    synced: int
    changed_ns: int
    touched_ns: int
    is_new: bool
    """It was made in this run and nothing else refers to it: no base, no extended attribute."""

    def with_node(self, node: Node) -> Record:
        """The document has become `node`, by what is no edit."""
        return _new(Record, (node, *self[1:]))

    def edited(self, node: Node, now_ns: int) -> Record:
        """The document has become `node`, by an edit that the server has to learn of. The root's are not counted."""
        changed_ns = self.changed_ns if self.edit > self.synced else now_ns
        edit = self.edit + (node.inode != ROOT_INODE)
        return _new(Record, (node, edit, self.synced, changed_ns, now_ns, self.is_new))


def node_of(row: Any) -> Node:
    """The node of a row of `COLUMNS`."""
    # Not by the constructor, which takes three times as long: a listing needs one for each name.
    return _new(Node, (*row[:2], _KINDS[row[2]], *row[3:16], bool(row[16])))


def record_of(row: Any) -> Record:
    """The record of a row of `ROW`, which was not made in this run."""
    return _new(Record, (node_of(row), *row[17:], False))


def row_of(record: Record) -> tuple[Value, ...]:
    """The whole row, but for the JSON, which is empty."""
    node, edit, synced, changed_ns, touched_ns, _ = record
    return (*node[:2], node.kind.value, *node[3:16], int(node.deleted), edit, synced, changed_ns, touched_ns)


def changes_of(record: Record) -> tuple[Value, ...]:
    """What an edit can change of the row, and the row's inode."""
    node, edit, _, changed_ns, touched_ns, _ = record
    return (
        *node[3:6],
        *node[7:13],
        *(node.content, int(node.deleted), edit, changed_ns, touched_ns, node.inode),
    )
