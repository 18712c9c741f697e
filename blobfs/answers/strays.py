"""Strays: files and folders in folders that never came, which no path leads to.

A server that holds a folder back can cause them, a device of the account that moves things to where nothing is, and a
folder that was put aside. Invariant: what is brought back keeps its bytes and its id; it only gets another place.
"""

from __future__ import annotations

import time

from blobfs.answers.past import free_name
from blobfs.store.documents import Applied
from blobfs.store.store import Store
from blobfs.values.documents import ROOT, DocId, Name
from blobfs.values.nodes import Inode


class Strays:
    """The strays of a store. Every call belongs into a worker thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def count(self) -> int:
        """How many there are; a folder counts once, whatever is in it."""
        return len(self._store.survey.strays())

    def bring_back(self) -> list[Applied]:
        """Give each a name in the root, its own where that is free; what the kernel must forget."""
        with self._store.transaction():
            return [self._bring(doc_id, name) for doc_id, name in self._store.survey.strays()]

    def _bring(self, doc_id: DocId, name: bytes) -> Applied:
        documents, tree, free = self._store.documents, self._store.tree, free_name(self._store, ROOT, name)
        inode = documents.inode(doc_id) or Inode(0)
        before = tree.get(inode)
        documents.edit(doc_id, time.time_ns(), names=(Name(ROOT, free),))
        return Applied(inode, before, (), tuple(tree.names(inode)), False)
