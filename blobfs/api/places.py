"""Where documents are in the mount: paths, and the directories that a new one needs.

Works within a transaction of its caller. A path is text, parts joined by `/`, from the top directory of the mount.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from blobfs.errors import DocumentExists, Exists, InvalidDocument, NotADirectory, NotFound
from blobfs.store.hidden import NAME
from blobfs.store.store import Store
from blobfs.values.documents import DocId, Json, Kind, Name, is_name
from blobfs.values.nodes import ROOT_INODE, Inode, Node


def split(path: str) -> list[bytes]:
    """The names in a path. Raises InvalidDocument: it has one that no file can have, or none at all."""
    names = [os.fsencode(part) for part in path.strip("/").split("/")]
    if not all(is_name(name) for name in names):
        raise InvalidDocument("a path is names joined by `/`, each of 1 to 255 bytes and neither `.` nor `..`")
    if names[0] == NAME:
        raise InvalidDocument(f"`{NAME.decode()}` is where blobfs keeps what is not shown; choose another path")
    return names


def find(store: Store, names: Sequence[bytes]) -> Node | None:
    """The node that has this place."""
    node = store.tree.get(ROOT_INODE)
    try:
        for name in names:
            node = store.tree.lookup(node.inode, name)
    except (NotFound, NotADirectory):
        return None
    return node


def paths(store: Store, inode: Inode) -> list[str]:
    """Every place of a node; one that is in no directory yet has none."""
    found = []
    for parent, name in store.tree.names(inode):
        parts = [name]
        while parent != ROOT_INODE and (above := store.tree.names(parent)):
            parent, name = above[0]
            parts.append(name)
        if parent == ROOT_INODE:
            found.append(os.fsdecode(b"/".join(reversed(parts))))
    return sorted(found)


def create(store: Store, doc_id: DocId, content: Json, names: Sequence[bytes]) -> list[Node]:
    """Store a new document at a place, or, without one, in the top directory under its id; every node that is new.

    Raises:
        DocumentExists: the id or the place is taken. NotADirectory: something on the way is a file.
    """
    now_ns, uid, gid = time.time_ns(), os.geteuid(), os.getegid()
    made: list[Node] = []
    node = store.documents.create(doc_id, content, now_ns, uid=uid, gid=gid)
    if names:
        parent = store.tree.get(ROOT_INODE)
        for name in names[:-1]:
            try:
                parent = store.tree.lookup(parent.inode, name)
            except NotFound:
                parent = store.tree.create(
                    parent.inode, name, Kind.DIRECTORY, mode=0o700, now_ns=now_ns, uid=uid, gid=gid
                )
                made.append(parent)
            if parent.kind is not Kind.DIRECTORY:
                raise NotADirectory(
                    f"{os.fsdecode(name)} is no directory, so nothing can be in it; choose another path"
                )
        try:
            store.documents.edit(doc_id, now_ns, names=(Name(parent.doc_id, names[-1]),))
        except Exists:
            raise DocumentExists("there is a file at this path already; choose another, or get the document") from None
    return [*made, node]
