"""Where documents are in the mount: paths, what is in a folder, and the directories that a new document needs.

Works within a transaction of its caller. A path is text, parts joined by `/`, from the top directory of the mount.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from blobfs.errors import DocumentExists, Exists, InvalidDocument, NotADirectory, NotFound
from blobfs.store.documents import Applied
from blobfs.store.hidden import NAME
from blobfs.store.store import Store
from blobfs.values.documents import DocId, Json, Kind, Name, is_name
from blobfs.values.nodes import ROOT_INODE, Entry, Inode, Node

_PAGE = 1000


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
    now_ns = time.time_ns()
    node = store.documents.create(doc_id, content, now_ns, uid=os.geteuid(), gid=os.getegid())
    if not names:
        return [node]
    parent, made = folder(store, names[:-1])
    try:
        store.documents.edit(doc_id, now_ns, names=(Name(parent.doc_id, names[-1]),))
    except Exists:
        raise DocumentExists("there is a file at this path already; choose another, or get the document") from None
    return [*made, node]


def folder(store: Store, names: Sequence[bytes]) -> tuple[Node, list[Node]]:
    """The directory at a place, made with all that leads to it; and what was made. Raises NotADirectory."""
    now_ns, uid, gid = time.time_ns(), os.geteuid(), os.getegid()
    node, made = store.tree.get(ROOT_INODE), list[Node]()
    for name in names:
        try:
            node = store.tree.lookup(node.inode, name)
        except NotFound:
            node = store.tree.create(node.inode, name, Kind.DIRECTORY, mode=0o700, now_ns=now_ns, uid=uid, gid=gid)
            made.append(node)
        if node.kind is not Kind.DIRECTORY:
            raise NotADirectory(f"{os.fsdecode(name)} is no directory, so nothing can be in it; choose another path")
    return node, made


def entries(store: Store, names: Sequence[bytes]) -> list[Entry]:
    """What is in a directory, by name. Raises NotFound, NotADirectory."""
    node, found, after = find(store, names), list[Entry](), 0
    if node is None:
        raise NotFound("there is no such folder; check the path")
    if node.kind is not Kind.DIRECTORY:
        raise NotADirectory("this is no folder")
    while page := store.tree.entries(node.inode, after, _PAGE):
        found += page
        after = page[-1].cookie
    return sorted((entry for entry in found if names or entry.name != NAME), key=lambda entry: entry.name)


def move(store: Store, old: Sequence[bytes], new: Sequence[bytes]) -> list[Applied]:
    """Give what is at one place another, which must be free; what that changed.

    Raises:
        NotFound: nothing is there, or not the folder that it is to be in. Exists. InvalidArgument: into itself.
    """
    node, parent, aim = find(store, old), find(store, old[:-1]), find(store, new[:-1])
    if node is None or parent is None or aim is None:
        raise NotFound("there is nothing to move, or no folder where it is to be; check both paths")
    before = tuple(store.tree.names(node.inode))
    store.tree.rename(parent.inode, old[-1], aim.inode, new[-1], time.time_ns(), no_replace=True)
    return [Applied(node.inode, node, before, tuple(store.tree.names(node.inode)), False)]
