"""Elsewhere: files that another device deleted while they are open here, and how one that is then written comes back.

Knows the store; no buffers, nothing of the kernel. Invariant: an edit beats a deletion, whichever came first: bytes
that a program writes into such a file end up in a file that has a name, on every device.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from blobfs.errors import NotFound
from blobfs.store.documents import Applied
from blobfs.store.store import Store
from blobfs.sync.copies import conflict_name
from blobfs.values.documents import ROOT, DocId, Kind, Name
from blobfs.values.nodes import Inode, Node


class _Gone(NamedTuple):
    """A deleted file as it was."""

    before: Node
    folder: DocId
    name: bytes
    mark: int
    """The number of the edit after which there is something to be kept."""


class Elsewhere:
    """What was deleted by others and has a handle here; entries last as long as the handles."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._gone: dict[Inode, _Gone] = {}

    def __contains__(self, inode: Inode) -> bool:
        return inode in self._gone

    def note(self, applied: Applied) -> None:
        """Another device deleted this file, which is open here."""
        if applied.before is None or not applied.names_before:
            return
        doc_id, (parent, name) = applied.before.doc_id, applied.names_before[0]
        try:
            folder = self._store.tree.get(parent).doc_id
        except NotFound:
            # The store has forgotten the folder; what the deletion says of the file names it.
            folder = self._last_place(doc_id).parent
        self._note(applied.inode, applied.before, Name(folder, name))

    def look_for(self, inode: Inode) -> None:
        """As `note`, of a deletion that may be in the store while the news of it is on its way."""
        with suppress(NotFound):
            node = self._store.tree.get(inode)
            if node.deleted:
                self._note(inode, node, self._last_place(node.doc_id))

    def is_back(self, inode: Inode) -> bool:
        """Whether the store has a file with a name there."""
        with suppress(NotFound):
            return not self._store.tree.get(inode).deleted
        return False

    def _note(self, inode: Inode, before: Node, name: Name) -> None:
        documents, doc_id = self._store.documents, before.doc_id
        local, base = documents.local(doc_id), documents.base(doc_id)
        if local is not None:
            # A flush may have come between the deletion and the news of it: then it is an edit already.
            mark = local.synced if base is not None and base.deleted else local.edit
            self._gone[inode] = _Gone(before, name.parent, name.name, mark)

    def _last_place(self, doc_id: DocId) -> Name:
        base = self._store.documents.base(doc_id)
        return base.document.names[0] if base is not None and base.document.names else Name(ROOT, doc_id.encode())

    def forget(self, inode: Inode) -> None:
        """Its last handle is closed."""
        self._gone.pop(inode, None)

    def is_edited(self, inode: Inode) -> bool:
        """Whether the store got bytes of it since it was deleted."""
        gone = self._gone[inode]
        local = self._store.documents.local(gone.before.doc_id)
        return local is not None and local.edit > gone.mark

    def revive(self, inode: Inode) -> list[Applied]:
        """Give the file its name back, or one of a conflict copy where that is taken; what the kernel must forget.

        Folders that are gone come back with it. Raises NoSpace.
        """
        gone = self._gone[inode]
        documents, before, changed = self._store.documents, gone.before, list[Applied]()
        with self._store.transaction():
            parent = self._folder(gone.folder, changed)
            name = self._free(parent, gone.name, before.mtime_ns)
            attributes = {"mode": before.mode, "uid": before.uid, "gid": before.gid, "mtime_ns": before.mtime_ns}
            documents.edit(before.doc_id, time.time_ns(), names=(Name(parent, name),), **attributes)
            changed.append(self._change(inode, before))
        del self._gone[inode]
        return changed

    def _folder(self, doc_id: DocId, changed: list[Applied]) -> DocId:
        """A live directory: this one, with those above it brought back if they are gone, or the root."""
        documents, chain = self._store.documents, list[tuple[DocId, bytes]]()
        while doc_id != ROOT and doc_id not in {below for below, _ in chain}:
            local, base = documents.local(doc_id), documents.base(doc_id)
            if local is not None and not local.node.deleted:
                break
            if base is None or not base.document.names or base.document.kind is not Kind.DIRECTORY:
                doc_id = ROOT
                break
            chain.append((doc_id, base.document.names[0].name))
            doc_id = base.document.names[0].parent
        else:
            doc_id = ROOT
        for gone, name in reversed(chain):
            taken = documents.at(doc_id, name)
            other = None if taken is None else documents.local(taken)
            if taken is not None and other is not None and other.node.kind is Kind.DIRECTORY:
                doc_id = taken
                continue
            base, now_ns = documents.base(gone), time.time_ns()
            assert base is not None
            document = replace(base.document, names=(Name(doc_id, self._free(doc_id, name, 0)),))
            done = documents.apply(base.document, base.revision, base.deleted, now_ns, local=document)
            changed.append(replace(done, names_before=()))
            doc_id = gone
        return doc_id

    def _free(self, parent: DocId, name: bytes, mtime_ns: int) -> bytes:
        documents, settings = self._store.documents, self._store.settings
        if documents.at(parent, name) is None:
            return name
        label = str(settings.get("device_name") or self._store.device[:6])
        return conflict_name(name, label, mtime_ns, lambda other: documents.at(parent, other) is not None)

    def _change(self, inode: Inode, before: Node) -> Applied:
        return Applied(inode, before, (), tuple(self._store.tree.names(inode)), False)
