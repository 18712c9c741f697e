"""Many files at once: what is in one folder, and what has a name like this.

Reads the store; changes nothing. Invariant: nobody waits for the store longer than one file takes, however many there
are.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from blobfs.answers.files import Files
from blobfs.answers.paths import find, page, path_of_document, text_of
from blobfs.errors import NotADirectory, NotFound
from blobfs.store.store import Store
from blobfs.sync.copies import is_conflict_name
from blobfs.sync.engine import SyncEngine
from blobfs.sync.status import SyncStatus
from blobfs.values.documents import DocId, Json, Kind, name_to_text
from blobfs.values.nodes import ROOT_INODE, Entry

_PAGE: Final = 200
_ALL: Final = 1 << 31


class Listing:
    """Answers to `list`, `absent`, `search` and `aside`. All for a worker thread."""

    def __init__(self, store: Store, engine: SyncEngine, files: Files) -> None:
        self._store, self._engine, self._files = store, engine, files

    def list(self, question: Json) -> Json:
        """What is in a folder, a page of it, folders first; of files all that `file` tells of one."""
        node = find(self._store, text_of(question, "path"))
        if node.kind is not Kind.DIRECTORY:
            raise NotADirectory("only a folder can be listed")
        hidden = self._store.hidden.find()
        found = self._store.tree.entries(node.inode, 0, _ALL)
        entries = sorted((entry for entry in found if hidden is None or entry.node.inode != hidden.inode), key=_order)
        answer = page([{"number": number} for number in range(len(entries))], question, _PAGE)
        status, pinned = self._engine.status(), set(self._store.pins.all())
        shown = [self._entry(entries[entry["number"]], status, pinned) for entry in answer["entries"]]
        return {"entries": [entry for entry in shown if entry], "next": answer["next"], "total": len(entries)}

    def _entry(self, entry: Entry, status: SyncStatus, pinned: set[DocId]) -> Json:
        """One of them; empty when it has gone meanwhile."""
        with self._store.transaction():
            try:
                node = self._store.tree.get(entry.node.inode)
            except NotFound:
                return {}
            if node.deleted:
                return {}
            common = {
                "name": name_to_text(entry.name),
                "kind": node.kind.value,
                "doc_id": node.doc_id,
                "mtime": node.mtime_ns / 1e9,
                "conflict": is_conflict_name(entry.name),
                "pinned": self._store.pins.covers(node.inode),
                "pinned_itself": node.doc_id in pinned,
            }
            return common if node.kind is Kind.DIRECTORY else common | self._files.file(node, status)

    def absent(self, question: Json) -> Json:
        """The files in a folder of which not all bytes are stored here, a page of them; those with holes are, too."""
        node = find(self._store, text_of(question, "path"))
        found = self._store.tree.entries(node.inode, 0, _ALL) if node.kind is Kind.DIRECTORY else []
        names = [
            {"name": name_to_text(entry.name)}
            for entry in found
            if entry.node.kind is Kind.FILE and entry.node.stored < entry.node.size
        ]
        return page(names, question)

    def search(self, question: Json) -> Json:
        """Files and folders of the mount whose name has a text in it, in whatever case; a page of them."""
        wanted = _folded(text_of(question, "text"))
        found = [
            {
                "path": name_to_text(entry.path.lstrip(b"/")),
                "kind": entry.kind.value,
                "size": entry.size,
                "mtime": entry.mtime_ns / 1e9,
                "dirty": entry.waits,
            }
            for entry in self._store.survey.below(ROOT_INODE)
            if wanted and wanted in _folded(name_to_text(entry.name))
        ]
        return page(found, question, _PAGE) | {"total": len(found)}

    def aside(self, question: Json) -> Json:
        """What sync goes on without, with its path where it has one here."""
        entries = [
            {
                "path": path_of_document(self._store, entry.doc_id),
                "doc_id": entry.doc_id,
                "reason": entry.reason,
                "since": entry.since_s,
            }
            for entry in self._engine.status().parked
        ]
        return page(entries, question, _PAGE)


def _order(entry: Entry) -> tuple[bool, str, bytes]:
    return entry.node.kind is not Kind.DIRECTORY, _folded(name_to_text(entry.name)), entry.name


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()
