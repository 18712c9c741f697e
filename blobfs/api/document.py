"""A document in a program's hands: its JSON, and what it says about its attachment.

Holds what was read and what was changed since, and asks its account for everything else. Invariant: nothing that is
done to it reaches the store before `put_doc`, except that the bytes of a new attachment lie there already.
"""

from __future__ import annotations

import enum
import io
import json
from typing import TYPE_CHECKING

from blobfs.api.desk import View, canonical
from blobfs.api.staging import Source, Staged
from blobfs.errors import InvalidDocument
from blobfs.values import documents
from blobfs.values.documents import MAX_CONTENT, DocId, Json

if TYPE_CHECKING:
    from blobfs.api.account import Account


class AttachmentState(enum.IntFlag):
    """Where the bytes of an attachment are, as far as this device knows."""

    NONE = 0
    """Nothing is attached."""
    LOCAL = 1
    """All of it is in the local store."""
    REMOTE = 2
    """All of it is on the server."""
    SYNCED = 3
    """Both."""


class Change(enum.Enum):
    """What put_doc is to do about the attachment, beside attaching something new."""

    NOTHING = enum.auto()
    DETACH = enum.auto()


def text_of(doc_id: str, content: Json) -> str:
    """JSON as text, the same for equal values.

    Raises:
        InvalidDocument: it is no JSON object, breaks a limit of the format, or `doc_id` is no id.
    """
    documents.check(documents.Document(DocId(doc_id), content=content))
    text = canonical(content)
    if len(text) > MAX_CONTENT:
        raise InvalidDocument(f"a document has {MAX_CONTENT} bytes of JSON at most; put more into an attachment")
    return text


class Document:
    """One document, as it was when it was read. Change `content`, then `put_doc` it. For one thread at a time."""

    def __init__(self, account: Account, view: View) -> None:
        """Accounts make them; see `Account.create_doc` and `get_doc`."""
        self.account = account
        self.doc_id = view.doc_id
        self.content: Json = json.loads(view.text)
        self.change: Staged | Change = Change.NOTHING
        self.view: View = view

    def refresh(self, view: View) -> None:
        """This is what the store has now, and there is nothing left to be put."""
        self.view, self.change = view, Change.NOTHING

    @property
    def revision(self) -> str:
        """Names the state that was read, on this device: the server's revision, and how many edits it lacks."""
        return self.view.revision

    def __repr__(self) -> str:
        return f"Document({self.doc_id!r}, revision={self.revision!r})"

    def is_dirty(self) -> bool:
        """Whether it differs from what is stored, in its JSON or because its attachment was put or deleted since.

        Raises:
            InvalidDocument: its content cannot be stored at all.
        """
        return self.account.is_dirty(self)

    def get_paths(self) -> list[str]:
        """Where the stored document is in the mount: one path, several for hard links. Raises DocumentNotFound."""
        return self.account.desk.paths(self.doc_id)

    def put_attachment(self, source: Source) -> None:
        """Attach bytes, in place of any that were; `put_doc` makes it last. On return they are in the local store.

        Args:
            source: a path, bytes, a binary file (read from its beginning), or an iterable of bytes. Read piece by
                piece: an attachment may be larger than memory.
        Raises:
            UsageError: nothing that gives bytes, or the document is a directory or the like. NoSpace. OSError.
        """
        self.account.attaching.put(self, source)

    def get_attachment(self) -> io.BufferedReader | None:
        """The attachment as a file, seekable; None when nothing is attached. Close it after use.

        Bytes that are not on this device are fetched as they are read; reading raises `RemoteUnavailable` when they do
        not come, and `StaleHandle` when the attachment was replaced since.
        """
        return self.account.attaching.open(self)

    def delete_attachment(self) -> None:
        """Attach nothing any more; `put_doc` makes it last."""
        self.account.attaching.delete(self)

    def get_attachment_state(self) -> AttachmentState:
        """Where the bytes are, from what this device knows: asks no server."""
        return self.account.attaching.state(self)

    def upload_attachment(self, timeout_s: float | None = None) -> AttachmentState:
        """See that the server has the document and its attachment; the state then, NONE when nothing is attached.

        It would be sent soon anyway; this waits until the server has confirmed it.

        Args:
            timeout_s: without one, as long as the server answers at all.
        Raises:
            UsageError: the attachment was not put into the document yet.
            RemoteUnavailable, AccessDenied, QuotaExceeded and other errors of the server.
        """
        return self.account.attaching.upload(self, timeout_s)

    def download_attachment(self) -> AttachmentState:
        """See that all bytes are in the local store; the state then, NONE when nothing is attached.

        Raises:
            RemoteUnavailable, CorruptBlob, DataMissing: they cannot be had.
            StaleHandle: the attachment was replaced meanwhile.
        """
        return self.account.attaching.download(self)
