"""Conflicts: a file and the copy that a conflict made of it, and which of them stays.

Invariants: what goes is on the server first, so that it can be brought back; a file that a program has open is not
taken from under it; the one that stays has the name that both began with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

from blobfs.answers.paths import find, find_parent, path_of, text_of
from blobfs.errors import InvalidArgument, NotFound, UsageError
from blobfs.store.documents import Applied
from blobfs.store.store import Store
from blobfs.sync.copies import is_conflict_name, is_copy_of, settled_name
from blobfs.values.documents import Json, Kind, name_to_text
from blobfs.values.nodes import Inode, Node

_ALL: Final = 1 << 31


class Resolving:
    """Answers to `pair` and `resolve`."""

    def __init__(self, store: Store, is_open: Callable[[Inode], bool], notify: Callable[[Applied], None]) -> None:
        """
        Args:
            notify: told, on the loop, of what was changed, so that the kernel forgets what it knew.
        """
        self._store, self._is_open, self._notify = store, is_open, notify

    def pair(self, question: Json) -> Json:
        """The path of the file that a conflict copy, `path`, is one of; null when there is none any more."""
        with self._store.transaction():
            parent, name = self._copy(question)
            original = self._original(parent, name)
            above = path_of(self._store, parent)
        return {"original": None if original is None else f"{above}/{name_to_text(original)}".lstrip("/")}

    async def resolve(self, question: Json) -> Json:
        """`keep` of the copy at `path`: `original`, and the copy goes; `copy`, and it takes the file's place; `both`,
        and the copy stays under a name that is no conflict's.

        Raises:
            NotFound. InvalidArgument: it is no copy. UsageError: what goes is open, or not on the server yet.
        """
        ways = {"original": self._keep_original, "copy": self._keep_copy, "both": self._keep_both}
        way = ways.get(text_of(question, "keep"))
        if way is None:
            raise UsageError("one can keep the original, the copy or both")

        def run() -> tuple[list[Applied], str]:
            with self._store.transaction():
                parent, name = self._copy(question)
                return way(parent, name)

        applied, path = await trio.to_thread.run_sync(run)
        for change in applied:
            self._notify(change)
        return {"path": path}

    def _copy(self, question: Json) -> tuple[Inode, bytes]:
        path = text_of(question, "path")
        parent, name = find_parent(self._store, path)
        find(self._store, path)
        if not is_conflict_name(name):
            raise InvalidArgument("that file is no conflict copy; `blobfs conflicts` lists them")
        return parent, name

    def _original(self, parent: Inode, copy: bytes) -> bytes | None:
        names = (entry.name for entry in self._store.tree.entries(parent, 0, _ALL) if entry.node.kind is Kind.FILE)
        # The shortest: a copy of a copy is one of the same file, too.
        return min((name for name in names if name != copy and is_copy_of(copy, name)), key=len, default=None)

    # --- the three ways; each within a transaction ------------------------------------------------------------------

    def _keep_original(self, parent: Inode, copy: bytes) -> tuple[list[Applied], str]:
        original = self._original(parent, copy)
        if original is None:
            raise NotFound("the file that it is a copy of is not there any more; keep the copy, or both")
        node = self._expendable(parent, copy)
        before = tuple(self._store.tree.names(node.inode))
        self._store.tree.unlink(parent, copy, time.time_ns())
        after = tuple(self._store.tree.names(node.inode))
        return [Applied(node.inode, node, before, after, False)], self._path(parent, original)

    def _keep_copy(self, parent: Inode, copy: bytes) -> tuple[list[Applied], str]:
        original = self._original(parent, copy)
        if original is None:
            return self._keep_both(parent, copy)
        return self._move(parent, copy, original, self._expendable(parent, original))

    def _keep_both(self, parent: Inode, copy: bytes) -> tuple[list[Applied], str]:
        taken = {entry.name for entry in self._store.tree.entries(parent, 0, _ALL)}
        return self._move(parent, copy, settled_name(copy, taken.__contains__), None)

    def _move(self, parent: Inode, copy: bytes, name: bytes, former: Node | None) -> tuple[list[Applied], str]:
        tree = self._store.tree
        node = tree.lookup(parent, copy)
        moved = [node] if former is None else [node, former]
        before = [tuple(tree.names(each.inode)) for each in moved]
        tree.rename(parent, copy, parent, name, time.time_ns())
        applied = [
            Applied(each.inode, each, names, tuple(tree.names(each.inode)), False)
            for each, names in zip(moved, before, strict=True)
        ]
        return applied, self._path(parent, name)

    def _expendable(self, parent: Inode, name: bytes) -> Node:
        node = self._store.tree.lookup(parent, name)
        if node.kind is not Kind.FILE:
            raise InvalidArgument("only a file can be given up for another; move what is in the folder yourself")
        if self._is_open(node.inode):
            raise UsageError("a program has the file open that would go; close it there, then try again")
        local = self._store.documents.local(node.doc_id)
        if local is None or local.edit > local.synced:
            raise UsageError("the file that would go is not on the server yet; wait until it is, then try again")
        return node

    def _path(self, parent: Inode, name: bytes) -> str:
        return f"{path_of(self._store, parent)}/{name_to_text(name)}".lstrip("/")
