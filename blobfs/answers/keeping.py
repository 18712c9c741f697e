"""Pinning and evicting: which bytes stay on this device, and which go now.

Invariant: nothing goes that is dirty, pinned, or that the server has not confirmed; a pin never waits for the network.
"""

from __future__ import annotations

from typing import Any

from blobfs.answers.paths import find, page, path_of_document, select, text_of
from blobfs.errors import UsageError
from blobfs.store.store import Store
from blobfs.store.survey import Found
from blobfs.sync.engine import SyncEngine
from blobfs.values.documents import Json, Kind


class Keeping:
    """Answers to `pin`, `unpin` and `evict`."""

    def __init__(self, store: Store, engine: SyncEngine) -> None:
        self._store, self._engine = store, engine

    def pin(self, question: Json) -> Json:
        """Pin a file, a folder, or those of its files that match now. For a worker thread."""
        path, pattern = text_of(question, "path"), _pattern(question)
        if pattern is None:
            doc_ids = [find(self._store, path).doc_id]
        else:
            doc_ids = [entry.doc_id for entry in select(self._store, path, pattern)]
        with self._store.transaction():
            for doc_id in doc_ids:
                self._store.pins.add(doc_id)
        files, absent = self._below(path, pattern), self._store.survey.absent()
        missing = sum(absent.get(entry.content, 0) for entry in files if entry.content is not None)
        return {"pinned": len(doc_ids), "files": len(files), "missing": missing}

    def unpin(self, question: Json) -> Json:
        """Take the pins of a file, or of a folder and all in it, away; those above it stay. For a worker thread."""
        path, pattern = text_of(question, "path"), _pattern(question)
        if pattern is None:
            doc_ids = [entry.doc_id for entry in self._store.survey.below(find(self._store, path).inode)]
        else:
            doc_ids = [entry.doc_id for entry in select(self._store, path, pattern)]
        with self._store.transaction():
            # Those that are pinned, not all that could be: a folder may have a hundred thousand files.
            pinned = set(self._store.pins.all())
            removed = sum(self._store.pins.remove(doc_id) for doc_id in set(doc_ids) & pinned)
        return {"unpinned": removed, "still": self._store.pins.covers(find(self._store, path).inode)}

    def pins(self, question: Json) -> Json:
        """The pinned files and folders themselves, a page of them. For a worker thread."""
        entries: list[Json] = []
        for doc_id in self._store.pins.all():
            inode, path = self._store.documents.inode(doc_id), path_of_document(self._store, doc_id)
            if inode is not None and path is not None:
                folder = self._store.tree.get(inode).kind is Kind.DIRECTORY
                entries.append({"path": path, "kind": "directory" if folder else "file"})
        return page(sorted(entries, key=lambda entry: str(entry["path"])), question)

    def evict(self, question: Json) -> Json:
        """Drop what the server has of a file or folder. For a worker thread."""
        files = self._below(text_of(question, "path"), _pattern(question))
        freed = evicted = pinned = dirty = 0
        for entry in files:
            if entry.content is None:
                continue
            if self._store.pins.covers(entry.inode):
                pinned += 1
                continue
            with self._store.transaction():
                extents = self._store.attachments.extents(entry.content)
                dirty += any(extent.dirty for extent in extents.values())
                # The store itself leaves alone what is dirty or has no blob that the server confirmed.
                gone = self._store.attachments.evict(entry.content, extents)
            freed, evicted = freed + gone, evicted + (gone > 0)
        return {"files": len(files), "evicted": evicted, "freed": freed, "pinned": pinned, "dirty": dirty}

    def _below(self, path: str, pattern: str | None) -> list[Found]:
        return list({entry.inode: entry for entry in select(self._store, path, pattern)}.values())


def _pattern(question: Json) -> str | None:
    pattern: Any = question.get("match")
    if pattern is not None and (not isinstance(pattern, str) or not pattern):
        raise UsageError("the pattern is none; give one such as '*.jpg'")
    return pattern
