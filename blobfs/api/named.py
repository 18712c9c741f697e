"""The further attachments of a document: each a hidden document of its own, in a directory named by the first one's id.

    .blobfs/attachments/DOC_ID/NAME     in the mount too; see `fs/views.py`

So two devices that attach different things to one document are in no conflict, and each attachment is fetched, kept and
evicted alone. Works within a transaction of its caller. Invariant: what lies there has a document, or goes with `tidy`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from blobfs.errors import InvalidDocument
from blobfs.protocol import is_id
from blobfs.store.documents import Applied
from blobfs.store.store import Store
from blobfs.values.documents import Kind, is_name
from blobfs.values.nodes import Inode, Node

PLACE: Final = b"attachments"
_PAGE: Final = 1000


def check(name: str) -> bytes:
    """An attachment's name as a file's. Raises InvalidDocument: no file can have it."""
    found = os.fsencode(name)
    if not is_name(found):
        raise InvalidDocument("an attachment's name has 1 to 255 bytes without `/`, and is neither `.` nor `..`")
    return found


def listed(store: Store, doc_id: str) -> Iterator[tuple[str, Node]]:
    """The further attachments of a document, by their names in ascending order."""
    directory = store.hidden.find(PLACE, doc_id.encode())
    if directory is None:
        return
    entries, after = [], 0
    while page := store.tree.entries(directory.inode, after, _PAGE):
        entries += page
        after = page[-1].cookie
    for entry in sorted(entries, key=lambda entry: entry.name):
        if entry.node.kind is Kind.FILE:
            yield os.fsdecode(entry.name), entry.node


def find(store: Store, doc_id: str, name: str) -> Node | None:
    """One of them."""
    return store.hidden.find(PLACE, doc_id.encode(), check(name))


def attach(store: Store, doc_id: str, name: str, attached: Sequence[Any]) -> list[Applied]:
    """Put staged bytes, (content, size, bytes stored), under a name, new or in place of others; what that changed."""
    content, size, stored = attached
    if content is None:
        return detach(store, doc_id, name)
    now_ns, before = time.time_ns(), find(store, doc_id, name)
    node = before or _make(store, doc_id, check(name), now_ns)
    store.attachments.attach(node.inode, content, size, stored, now_ns)
    names = tuple(store.tree.names(node.inode))
    return [Applied(node.inode, before, names if before else (), names, True)]


def _make(store: Store, doc_id: str, name: bytes, now_ns: int) -> Node:
    directory = store.hidden.directory(PLACE, doc_id.encode())
    uid, gid = os.geteuid(), os.getegid()
    return store.tree.create(directory.inode, name, Kind.FILE, mode=0o600, uid=uid, gid=gid, now_ns=now_ns)


def detach(store: Store, doc_id: str, name: str) -> list[Applied]:
    """Delete one of them, if it is there; what that changed."""
    node = find(store, doc_id, name)
    return [] if node is None else [_delete(store, node)]


def drop(store: Store, doc_id: str) -> list[Applied]:
    """Delete all of them, for a document that goes; what that changed."""
    applied = [_delete(store, node) for _, node in listed(store, doc_id)]
    parent, directory = store.hidden.find(PLACE), store.hidden.find(PLACE, doc_id.encode())
    if parent is not None and directory is not None and not store.tree.entries(directory.inode, 0, 1):
        names = tuple(store.tree.names(directory.inode))
        store.tree.rmdir(parent.inode, doc_id.encode(), time.time_ns())
        applied.append(Applied(directory.inode, directory, names, (), False))
    return applied


def _delete(store: Store, node: Node) -> Applied:
    names = tuple(store.tree.names(node.inode))
    store.documents.edit(node.doc_id, time.time_ns(), names=())
    return Applied(node.inode, node, names, (), False)


def told_as(store: Store, node: Node, names: Sequence[tuple[Inode, bytes]]) -> str | None:
    """The id under which programs hear of a change of `node`, which has or had `names`; None: they do not."""
    for parent, _ in names:
        if store.hidden.contains(parent):
            above = store.tree.names(parent)
            is_ours = (place := store.hidden.find(PLACE)) is not None and above and above[0][0] == place.inode
            # Another device may have given it a name that is no document's.
            doc_id = os.fsdecode(above[0][1]) if is_ours else ""
            return doc_id if is_id(doc_id) else None
    return None if store.hidden.contains(node.inode) else node.doc_id


def tidy(store: Store) -> list[Applied]:
    """Delete those of documents that were deleted as files, on this device or another; what that changed."""
    directory = store.hidden.find(PLACE)
    if directory is None:
        return []
    with store.transaction():
        gone = store.queries.named_by_deleted(directory.inode)
        return [applied for doc_id in gone for applied in drop(store, doc_id)]
