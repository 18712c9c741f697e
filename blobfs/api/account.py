"""An open account: its documents, the indexes over them, and what is known of the server.

Plain calls, for any thread. Everything goes over the desk of whoever owns the store: this process, or a daemon that has
it mounted. Invariant: a call that changes documents is one transaction, and survives SIGKILL once it returns.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from blobfs.api.attaching import Attaching
from blobfs.api.blobs import Blobs
from blobfs.api.changes import Changes, Listeners
from blobfs.api.desk import Desk, Listed, Put
from blobfs.api.document import Document, text_of
from blobfs.api.events import Events
from blobfs.api.incoming import Incoming
from blobfs.api.staging import Source, Staged
from blobfs.errors import RemoteUnavailable, UsageError
from blobfs.store.queries import Scalar
from blobfs.store.tree import new_doc_id
from blobfs.values.documents import Json

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


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """A moment of an account."""

    state: str
    """`connected`, `offline`, `starting`, or what a person has to mend: `refused`, `over-quota`, `wrong-account` ..."""
    reason: str
    """One sentence: why, and what to do. Empty when all is well."""
    pending_documents: int
    pending_bytes: int
    """What waits for the server."""
    last_contact_s: float | None
    """When the server last answered, in seconds since the epoch."""
    transfers: Sequence[Json]
    """What is on its way: `what` (upload, download), `doc_id`, `total` and `done` in bytes."""
    parked: Sequence[Json]
    """Documents that sync goes on without: `doc_id`, `reason`, and `since` in seconds since the epoch."""


class Account:
    """One account on this device, open. Close it after use, or open it in a `with`."""

    def __init__(self, desk: Desk, listeners: Listeners, close: Callable[[], None]) -> None:
        """Use `open_account` or `create_account`."""
        self.recovery_words: str | None = None
        """Open the store when the passphrase is lost; known only to whoever has just made the account."""
        self._desk, self._listeners, self._close = desk, listeners, close
        self._attaching = Attaching(desk)
        self.incoming = Incoming(self)
        """What senders left."""
        self.blobs = Blobs(self)
        """Bytes that programs keep beside the files, by namespace and id."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop syncing and give the store up; everything that was put is on the disk then. May be called again."""
        if self._listeners.close():
            try:
                # An owner elsewhere that has ended gave back what was staged with it.
                with contextlib.suppress(RemoteUnavailable):
                    self._attaching.staging.close()
            finally:
                self._close()

    @property
    def desk(self) -> Desk:
        """For the API itself. Raises UsageError: the account was closed."""
        if self._listeners.closed:
            raise UsageError("the account was closed; open it again")
        return self._desk

    @property
    def attaching(self) -> Attaching:
        """For the API itself. Raises UsageError: the account was closed."""
        if self._listeners.closed:
            raise UsageError("the account was closed; open it again")
        return self._attaching

    # --- documents ------------------------------------------------------------------------------------------------

    def create_doc(
        self,
        content: Json,
        doc_id: str | None = None,
        *,
        path: str | None = None,
        attachment: Source | None = None,
    ) -> Document:
        """Store a new document, with its attachment in one transaction; in the mount it is a file.

        Args:
            doc_id: `[A-Za-z0-9_-]{1,128}`; 32 random hex digits when none is given.
            path: of the file in the mount, from its top directory; directories on the way are made. Without one it is
                in the top directory, and its name is the id.
            attachment: as for `Document.put_attachment`; nothing is attached without one.
        Raises:
            DocumentExists: the id or the path is taken. NotADirectory: something on the way is a file.
            InvalidDocument, NoSpace.
        """
        chosen = new_doc_id() if doc_id is None else doc_id
        text = text_of(chosen, content)
        staging = self.attaching.staging
        staged = None if attachment is None else staging.take(staging.begin(), attachment)
        return self.create_staged(chosen, text, path, staged)

    def create_staged(self, doc_id: str, text: str, path: str | None, staged: Staged | None) -> Document:
        """`create_doc` for what is checked and staged already; for the API itself."""
        staging = self.attaching.staging
        if staged is None:
            return Document(self, self.desk.create(doc_id, text, path, None))
        try:
            view = self.desk.create(doc_id, text, path, staged.attached)
        except BaseException:
            staging.drop(staged)
            raise
        staging.release(staged)
        return Document(self, view)

    def get_doc_at(self, path: str) -> Document | None:
        """The document of a file or directory in the mount; None when there is none. Raises InvalidDocument."""
        view = self.desk.at(path)
        return None if view is None else Document(self, view)

    def list_folder(self, path: str = "") -> list[Listed]:
        """What is in a folder of the mount, by name; without a path, in its top directory.

        Raises:
            NotFound, NotADirectory, InvalidDocument: there is no such folder.
        """
        return self.desk.entries(path)

    def make_folder(self, path: str) -> None:
        """See that there is a folder, and all that lead to it. Raises NotADirectory, InvalidDocument, NoSpace."""
        self.desk.make_folder(path)

    def move(self, path: str, new_path: str) -> None:
        """Give a file or folder of the mount another place, in a folder that is there.

        Raises:
            NotFound. Exists: the place is taken. InvalidArgument: a folder into itself. NotADirectory, InvalidDocument.
        """
        self.desk.move(path, new_path)

    def get_doc(self, doc_id: str) -> Document | None:
        """The document of this id; None when there is none, or it was deleted."""
        view = self.desk.get(doc_id)
        return None if view is None else Document(self, view)

    def get_all_docs(self) -> Iterator[Document]:
        """Every document by ascending id, files and directories of the mount included; each as it is when it comes."""
        after: str | None = None
        while page := self.desk.ids(after, _PAGE):
            for after in page:
                if (document := self.get_doc(after)) is not None:
                    yield document

    def put_doc(self, document: Document) -> None:
        """Store what was changed in a document, and in its attachments, in one transaction.

        Raises:
            RevisionConflict: somebody changed it since it was read; nothing was stored, and nothing lost: get it again
                and bring both together.
            DocumentNotFound: it was deleted. InvalidDocument, NoSpace.
        """
        self._put([document])

    def _put(self, documents: Sequence[Document], delete: Sequence[Document] = ()) -> None:
        """Store some and delete others, all or none."""
        puts = [_as_put(document) for document in documents]
        views = self.desk.put(puts, [(document.doc_id, document.view.seen) for document in delete])
        for document, view in zip(documents, views, strict=True):
            for change in document.changes.values():
                if isinstance(change, Staged):
                    self.attaching.staging.release(change)
            document.refresh(view)
        for document in delete:
            self.attaching.forget(document)

    def delete_doc(self, document: Document) -> None:
        """Delete a document and its attachments, on all devices.

        Raises:
            RevisionConflict: somebody changed it since it was read. DocumentNotFound: it was deleted already.
            NotEmpty: it is a directory with documents in it.
        """
        self._put([], [document])

    def is_dirty(self, document: Document) -> bool:
        """See `Document.is_dirty`."""
        text = text_of(document.doc_id, document.content)
        view = self.desk.get(document.doc_id)
        return bool(document.changes) or view is None or text != view.text

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
        self.desk.create_index(name, paths)

    def delete_index(self, name: str) -> None:
        """Take an index away. Raises IndexNotFound."""
        self.desk.delete_index(name)

    def list_indexes(self) -> dict[str, tuple[str, ...]]:
        """The paths of each index by its name."""
        return self.desk.indexes()

    def get_from_index(self, name: str, *values: Scalar) -> list[Document]:
        """Documents whose members have these values, in the order of the index.

        Args:
            values: one for each path. Text that ends in `*` stands for all that begins so, `*` alone for any value;
                behind such a one only `*` may follow. A star at the end that is meant is written `\\\\*`.
        Raises:
            IndexNotFound. UsageError: another number of values, or stars in the wrong places.
        """
        return self._documents(self.desk.find(name, values))

    def get_index_keys(self, name: str) -> list[tuple[Any, ...]]:
        """The different values in an index, ascending: one tuple each, with a value for each path; None: missing."""
        return self.desk.keys(name)

    def _documents(self, doc_ids: Iterable[str]) -> list[Document]:
        return [document for doc_id in doc_ids if (document := self.get_doc(doc_id)) is not None]

    # --- conflicts and revisions ----------------------------------------------------------------------------------

    def get_doc_conflicts(self, doc_id: str) -> list[Document]:
        """What other devices' edits, or this one's, were kept as beside a document, oldest id first.

        Edits of different members are merged. When two devices give one member two values, or replace one attachment
        twice, the later becomes a document of its own, named after the first: `NAME (conflict DEVICE DATE)`.
        """
        return self._documents(self.desk.conflicts(doc_id))

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
        return [
            PastRevision(past.revision, past.deleted, json.loads(past.text), past.size, past.mtime_ns)
            for past in self.desk.revisions(doc_id)
        ]

    # --- the server -----------------------------------------------------------------------------------------------

    def sync(self, timeout_s: float | None = None) -> None:
        """On return the server has everything that was put, and what it had is here.

        Args:
            timeout_s: without one, as long as the server answers at all.
        Raises:
            RemoteUnavailable, AccessDenied, QuotaExceeded and other errors of the server; nothing is lost by any.
        """
        self.desk.settle(None, timeout_s)

    def status(self) -> AccountStatus:
        """How it stands with the server. Asks nobody."""
        told = self.desk.status()
        return AccountStatus(
            state=told["state"],
            reason=told["reason"],
            pending_documents=told["pending"]["documents"],
            pending_bytes=told["pending"]["bytes"],
            last_contact_s=told["last_contact"],
            transfers=tuple(told["transfers"]),
            parked=tuple(told["parked"]),
        )

    def changes(self) -> Changes:
        """The ids of documents that change from now on, on this device or on another, as an iterator.

        Close it, or use it in a `with`; it also ends when the account is closed.
        """
        return self._listeners.listen()

    def events(self) -> Events:
        """What happens from now on, as an iterator: changes, conflicts, progress of transfers, states.

        Close it, or use it in a `with`; it also ends when the account is closed.
        """
        return Events(self, self._listeners.listen())


def _as_put(document: Document) -> Put:
    attached = {
        name: change.attached if isinstance(change, Staged) else (None, 0, 0)
        for name, change in document.changes.items()
    }
    return Put(document.doc_id, document.view.seen, text_of(document.doc_id, document.content), attached)
