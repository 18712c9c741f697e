"""Paths within a mount, as the command line sends them, to nodes and back.

A path is text, relative to the mount's top, empty for the top itself; bytes that are not UTF-8 travel as lone
surrogates (PEP 383). Knows nothing of what is asked about the node.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from typing import Any

from blobfs.errors import NotADirectory, NotFound, UsageError
from blobfs.store.hidden import NAME
from blobfs.store.store import Store
from blobfs.store.survey import Found
from blobfs.values.documents import DocId, Json, Kind, name_from_text, name_to_text
from blobfs.values.nodes import ROOT_INODE, Inode, Node

_ROOM = 2 << 20
"""Bytes of the entries of a page, which is far below what an answer may have."""
_DEPTH = 4096
"""Directories above each other that a path is given for; deeper ones are rings that sync is about to break."""


def text_of(question: Json, member: str) -> str:
    """A text of a question. Raises UsageError: there is none."""
    value = question.get(member)
    if not isinstance(value, str):
        raise UsageError("the question is not one that this blobfs knows; use the version that mounted")
    return value


def number_of(question: Json, member: str) -> int:
    """A number of a question that is not below zero. Raises UsageError: there is none."""
    value = question.get(member)
    if not isinstance(value, int) or value < 0:
        raise UsageError("the question is not one that this blobfs knows; use the version that mounted")
    return value


def parts_of(path: str) -> list[bytes]:
    """The names of a path. Raises UsageError: it cannot be one."""
    try:
        parts = [name_from_text(part) for part in path.split("/") if part not in ("", ".")]
    except UnicodeEncodeError:
        raise UsageError("the path cannot be a file's; check its spelling") from None
    if b".." in parts:
        raise UsageError("the path leads out of the mount; name the file by its own path")
    return parts


def find(store: Store, path: str) -> Node:
    """The node of a path. Raises NotFound with a sentence."""
    node = store.tree.get(ROOT_INODE)
    for part in parts_of(path):
        node = _child(store, node, part)
    return node


def find_parent(store: Store, path: str) -> tuple[Inode, bytes]:
    """(directory, name) of a path whose last name need not exist. Raises NotFound, NotADirectory, UsageError."""
    *above, name = parts_of(path) or [b""]
    if not name:
        raise UsageError("name a file in the mount, not the mount itself")
    if (*above, name)[0] == NAME:
        raise UsageError("that place is for blobfs itself; choose another one")
    directory = store.tree.get(ROOT_INODE)
    for part in above:
        directory = _child(store, directory, part)
    if directory.kind is not Kind.DIRECTORY:
        raise NotADirectory("there is a file where a directory is needed; choose another place")
    return directory.inode, name


def _child(store: Store, node: Node, name: bytes) -> Node:
    try:
        return store.tree.lookup(node.inode, name)
    except NotFound:
        raise NotFound("there is no such file in the mount; check its spelling") from None


def path_of(store: Store, inode: Inode) -> str:
    """A path of a node: of its first name. Raises NotFound: it has none."""
    parts: list[bytes] = []
    while inode != ROOT_INODE:
        names = store.tree.names(inode)
        if not names or len(parts) > _DEPTH:
            raise NotFound("the file has no name in the mount any more")
        inode, name = names[0]
        parts.append(name)
    return name_to_text(b"/".join(reversed(parts)))


def path_of_document(store: Store, doc_id: DocId) -> str | None:
    """A path of a document; None: it has none here."""
    inode = store.documents.inode(doc_id)
    try:
        return None if inode is None else path_of(store, inode)
    except NotFound:
        return None


def select(store: Store, path: str, pattern: str | None) -> list[Found]:
    """A file, or the files of a folder whose name or path in it matches `pattern`; files of all when that is None."""
    found = [entry for entry in store.survey.below(find(store, path).inode) if entry.kind is Kind.FILE]
    if pattern is None:
        return found
    return [entry for entry in found if matches(name_to_text(entry.path.lstrip(b"/")) or path, pattern)]


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern fits: on the whole path when it has a slash, else on the last name, as in .gitignore."""
    subject = path if "/" in pattern else path.rpartition("/")[2]
    return fnmatch.fnmatchcase(subject, pattern)


def page(entries: Sequence[Json], question: Json, size: int = 400) -> Json:
    """A part of a long list, from `from` on, and where the next one begins; as many entries as one answer takes."""
    first: Any = question.get("from", 0)
    first = first if isinstance(first, int) and first >= 0 else 0
    last, room = first, _ROOM
    for entry in entries[first : first + size]:
        # Names that are no text take six times their bytes, and folders in each other make long paths of them.
        room -= len(json.dumps(entry))
        if room < 0 and last > first:
            break
        last += 1
    return {"entries": list(entries[first:last]), "next": last if last < len(entries) else None}
