"""An open account: its documents, the indexes over them, and what is known of the server.

Plain calls, for any thread. The store is asked directly; what needs the server is handed to the thread that syncs.
Invariant: a call that changes documents is one transaction, and survives SIGKILL once it returns.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from blobfs.api.attaching import Attaching
from blobfs.api.changes import Changes, Listeners
from blobfs.api.conflicts import copies_begin, is_copy_of
from blobfs.api.connection import Connection
from blobfs.api.document import Change, Document, Stored, canonical
from blobfs.api.staging import Staged
from blobfs.errors import NotFound, RevisionConflict, UsageError
from blobfs.store.documents import Applied, Local
from blobfs.store.queries import Scalar
from blobfs.store.store import Store
from blobfs.store.tree import new_doc_id
from blobfs.sync.engine import SyncEngine
from blobfs.sync.status import SyncStatus
from blobfs.values import crypto
from blobfs.values.documents import ROOT, DocId, Json, Kind
from blobfs.values.revisions import Revision

_PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class PastRevision:
    """A revision of a document that the server still has."""

    revision: str
    deleted: bool
    content: Json
    size: int | None
    """Bytes of the attachment; None: nothing was attached."""
    mtime_ns: int
    """When its bytes or its JSON last changed."""


class Account:
    """One account on this device, open. Close it after use, or open it in a `with`."""

    def __init__(self, store: Store) -> None:
        """Use `open_account` or `create_account`. Takes the store over."""
        self.recovery_words: str | None = None
        """Open the store when the passphrase is lost; known only to whoever has just made the account."""
        self._store = store
        self._connection = Connection(store)
        self._attaching = Attaching(store, self._connection)
        self._listeners = Listeners()
        self._connection.wire = self._wire
        self._connection.start()

    def _wire(self, engine: SyncEngine) -> None:
        engine.is_busy = self._attaching.is_open
        engine.on_applied = self._applied

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop syncing and give the store up; everything that was put is on the disk then. May be called again."""
        if self._listeners.close():
            try:
                self._connection.stop()
                self._attaching.staging.close()
            finally:
                self._store.close()

    @property
    def store(self) -> Store:
        """The store; for the API itself. Raises UsageError: the account was closed."""
        self._check_open()
        return self._store

    @property
    def attaching(self) -> Attaching:
        """What documents do with their attachments; for the API itself. Raises UsageError: the account was closed."""
        self._check_open()
        return self._attaching

    def _check_open(self) -> None:
        if self._listeners.closed:
            raise UsageError("the account was closed; open it again")

    # --- documents ------------------------------------------------------------------------------------------------

    def create_doc(self, content: Json, doc_id: str | None = None) -> Document:
        """Store a new document; in the mount it is an empty file of that name in the top directory.

        Args:
            doc_id: `[A-Za-z0-9_-]{1,128}`; 32 random hex digits when none is given.
        Raises:
            DocumentExists: there is one of this id, or a file of that name. InvalidDocument. NoSpace.
        """
        chosen = new_doc_id() if doc_id is None else DocId(doc_id)
        text = canonical(chosen, content)
        with self.store.transaction():
            self.store.documents.create(chosen, json.loads(text), time.time_ns(), uid=os.geteuid(), gid=os.getegid())
            document = Document(self, self._local(chosen))
        self._listeners.tell(chosen)
        return document

    def get_doc(self, doc_id: str) -> Document | None:
        """The document of this id; None when there is none, or it was deleted."""
        with self.store.transaction():
            local = self.store.documents.local(DocId(doc_id))
            return None if local is None or local.node.deleted or doc_id == ROOT else Document(self, local)

    def get_all_docs(self) -> Iterator[Document]:
        """Every document by ascending id, files and directories of the mount included; each as it is when it comes."""
        after: DocId | None = None
        while page := self.store.queries.ids(after, _PAGE):
            for after in page:
                if (document := self.get_doc(after)) is not None:
                    yield document

    def put_doc(self, document: Document) -> None:
        """Store what was changed in a document, and in its attachment, in one transaction.

        Raises:
            RevisionConflict: somebody changed it since it was read; nothing was stored, and nothing lost: get it again
                and bring both together.
            DocumentNotFound: it was deleted. InvalidDocument, NoSpace.
        """
        self._put([document])

    def _put(self, documents: Sequence[Document], delete: Sequence[Document] = ()) -> None:
        """Store some and delete others, all or none."""
        with self.store.transaction():
            after = [self._write(document) for document in documents]
            for document in delete:
                self._delete(document)
        for document, local in zip(documents, after, strict=True):
            if isinstance(document.change, Staged):
                self.attaching.staging.release(document.change)
            document.refresh(local)
        for document in delete:
            document.stored = None
            self.attaching.change(document, Change.NOTHING)
        for document in (*documents, *delete):
            self._listeners.tell(document.doc_id)

    def _write(self, document: Document) -> Local:
        local, now_ns = self._unchanged(document), time.time_ns()
        text = canonical(document.doc_id, document.content)
        if document.stored is None or text != document.stored.text:
            self.store.documents.edit(local.node.doc_id, now_ns, content=json.loads(text))
        change = document.change
        if isinstance(change, Staged):
            self.store.attachments.attach(local.node.inode, change.content, change.size, change.stored, now_ns)
        elif change is Change.DETACH:
            self.store.attachments.attach(local.node.inode, None, 0, 0, now_ns)
        return self._local(local.node.doc_id)

    def _unchanged(self, document: Document) -> Local:
        """The stored document. Raises RevisionConflict when it is not the one that was read."""
        local = self.attaching.local(document)
        if Stored.of(local) != document.stored:
            raise RevisionConflict(f"document {document.doc_id} was changed since it was read; get it again")
        return local

    def delete_doc(self, document: Document) -> None:
        """Delete a document and its attachment, on all devices.

        Raises:
            RevisionConflict: somebody changed it since it was read. DocumentNotFound: it was deleted already.
            NotEmpty: it is a directory with documents in it.
        """
        self._put([], [document])

    def _delete(self, document: Document) -> None:
        node = self._unchanged(document).node
        if node.kind is Kind.DIRECTORY:
            for parent, name in self.store.tree.names(node.inode):
                self.store.tree.rmdir(parent, name, time.time_ns())
        else:
            self.store.documents.edit(node.doc_id, time.time_ns(), names=())
        self.store.tree.purge(node.inode)

    def is_dirty(self, document: Document) -> bool:
        """See `Document.is_dirty`."""
        text = canonical(document.doc_id, document.content)
        if document.change is not Change.NOTHING:
            return True
        local = self.store.documents.local(DocId(document.doc_id))
        return local is None or local.node.deleted or text != Stored.of(local).text

    def _local(self, doc_id: DocId) -> Local:
        local = self.store.documents.local(doc_id)
        assert local is not None
        return local

    # --- indexes --------------------------------------------------------------------------------------------------

    def create_index(self, name: str, *paths: str) -> None:
        """Make an index over members of documents, such as `create_index("by-sender", "from.address", "date")`.

        It covers what is there and what will be. Making the same one again does nothing.

        Args:
            paths: names of members, joined by dots for members of members. What is there must be text, numbers or
                booleans; a document without the first of them is not in the index.
        Raises:
            IndexExists: another one has the name. UsageError: a path that cannot be.
        """
        self.store.queries.create(name, paths)

    def delete_index(self, name: str) -> None:
        """Take an index away. Raises IndexNotFound."""
        self.store.queries.delete(name)

    def list_indexes(self) -> dict[str, tuple[str, ...]]:
        """The paths of each index by its name."""
        return self.store.queries.indexes()

    def get_from_index(self, name: str, *values: Scalar) -> list[Document]:
        """Documents whose members have these values, in the order of the index.

        Args:
            values: one for each path. Text that ends in `*` stands for all that begins so, `*` alone for any value;
                behind such a one only `*` may follow. A star at the end that is meant is written `\\\\*`.
        Raises:
            IndexNotFound. UsageError: another number of values, or stars in the wrong places.
        """
        with self.store.transaction():
            return self._documents(self.store.queries.find(name, values))

    def get_index_keys(self, name: str) -> list[tuple[Any, ...]]:
        """The different values in an index, ascending: one tuple each, with a value for each path; None: missing."""
        return self.store.queries.keys(name)

    def _documents(self, doc_ids: Iterable[DocId]) -> list[Document]:
        return [document for doc_id in doc_ids if (document := self.get_doc(doc_id)) is not None]

    # --- conflicts and revisions ----------------------------------------------------------------------------------

    def get_doc_conflicts(self, doc_id: str) -> list[Document]:
        """What other devices' edits, or this one's, were kept as beside a document, oldest id first.

        Edits of different members are merged. When two devices give one member two values, or replace one attachment
        twice, the later becomes a document of its own, named after the first: `NAME (conflict DEVICE DATE)`.
        """
        with self.store.transaction():
            local = self.store.documents.local(DocId(doc_id))
            if local is None or local.node.deleted:
                return []
            found = {
                doc_id
                for parent, name in self.store.tree.names(local.node.inode)
                for other, doc_id in self.store.queries.named(parent, copies_begin(name))
                if is_copy_of(other, name)
            }
            return self._documents(sorted(found))

    def resolve_doc(self, document: Document, conflicts: Sequence[Document]) -> None:
        """Store what you made of a document and its conflicts, and delete these, in one transaction.

        Raises:
            RevisionConflict: one of them was changed since it was read; nothing was done.
            UsageError: `document` is among the conflicts. DocumentNotFound, InvalidDocument, NoSpace.
        """
        if any(conflict.doc_id == document.doc_id for conflict in conflicts):
            raise UsageError("a document cannot be resolved by deleting itself; leave it out of its conflicts")
        self._put([document], conflicts)

    def get_revisions(self, doc_id: str) -> list[PastRevision]:
        """The revisions of a document that the server still has, newest first; it keeps them for some time.

        Raises:
            RemoteUnavailable: the server does not answer. CorruptDocument: it has something else than was sent.
        """
        sealed = self._connection.submit(self._connection.client.revisions, DocId(doc_id)).result()
        return [_open(self.store, entry) for entry in sealed]

    # --- the server -----------------------------------------------------------------------------------------------

    def sync(self, timeout_s: float | None = None) -> None:
        """On return the server has everything that was put, and what it had is here.

        Args:
            timeout_s: without one, as long as the server answers at all.
        Raises:
            RemoteUnavailable, AccessDenied, QuotaExceeded and other errors of the server; nothing is lost by any.
        """
        self.attaching.settle(timeout_s)

    def status(self) -> SyncStatus:
        """How it stands with the server: state, reason, what waits, what is on its way. Asks nobody."""
        return self._connection.engine.status()

    def changes(self) -> Changes:
        """The ids of documents that change from now on, on this device or on another, as an iterator.

        Close it, or use it in a `with`; it also ends when the account is closed.
        """
        return self._listeners.listen()

    def _applied(self, applied: Applied) -> None:
        """Another device changed something. On the engine's thread."""
        node = applied.before
        with contextlib.suppress(NotFound):
            node = self._store.tree.get(applied.inode)
        if node is None:
            return
        if node.deleted:
            self._store.tree.purge(applied.inode)
        self._listeners.tell(node.doc_id)


def _open(store: Store, entry: Any) -> PastRevision:
    revision = Revision.parse(entry.revision)
    document = crypto.open_document(store.keys, entry.doc_id, revision, entry.deleted, entry.payload)
    size = None if document.attachment is None else document.attachment.size
    return PastRevision(entry.revision, entry.deleted, document.content, size, document.mtime_ns)
