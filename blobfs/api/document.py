"""A document in a program's hands: its JSON, and what it says about its attachment.

Holds what was read and what was changed since, and asks its account for everything else. Invariant: nothing that is
done to it reaches the store before `put_doc`, except that the bytes of a new attachment lie there already.
"""

from __future__ import annotations

import enum
import io
import json
from typing import TYPE_CHECKING, Final, Literal

from blobfs.api.desk import View, canonical
from blobfs.api.staging import Source, Staged
from blobfs.errors import InvalidDocument
from blobfs.protocol import is_id
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


class Detach(enum.Enum):
    """What put_doc is to do about an attachment, beside attaching something new."""

    DETACH = enum.auto()


Change = Staged | Literal[Detach.DETACH]
MAIN: Final = ""
"""The name of the attachment that is the document's file in the mount."""


def text_of(doc_id: str, content: Json) -> str:
    """JSON as text, the same for equal values.

    Raises:
        InvalidDocument: it is no JSON object, breaks a limit of the format, or `doc_id` is no id.
    """
    if not is_id(doc_id):
        raise InvalidDocument(
            "an id of a document is 1 to 128 letters, digits, `_` and `-`; choose another, or give none"
        )
    if not documents.is_content(content):
        raise InvalidDocument(
            "the content of a document is a dict with text as keys, and in it text, finite numbers, integers of 64 "
            f"bits, booleans, None, lists and dicts, at most {documents.MAX_DEPTH} in each other; mend the rest"
        )
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
        self.changes: dict[str, Change] = {}
        """What put_doc is to do about attachments, by their names."""
        self.view: View = view

    def refresh(self, view: View) -> None:
        """This is what the store has now, and there is nothing left to be put."""
        self.view, self.changes = view, {}

    @property
    def revision(self) -> str:
        """Names the state that was read, on this device: the server's revision, and how many edits it lacks."""
        return self.view.revision

    def __repr__(self) -> str:
        return f"Document({self.doc_id!r}, revision={self.revision!r})"

    def is_dirty(self) -> bool:
        """Whether it differs from what is stored, in its JSON or because an attachment was put or deleted since.

        Raises:
            InvalidDocument: its content cannot be stored at all.
        """
        return self.account.is_dirty(self)

    def get_paths(self) -> list[str]:
        """Where the stored document is in the mount: one path, several for hard links. Raises DocumentNotFound."""
        return self.account.desk.paths(self.doc_id)

    # A document has one attachment that is its file in the mount, and any number of further ones, which have names.

    def list_attachments(self) -> dict[str, int]:
        """Bytes of each further attachment by its name, ascending, as `put_doc` would leave them."""
        return self.account.attaching.sizes(self)

    def put_attachment(self, source: Source, name: str = MAIN) -> None:
        """Attach bytes, in place of any that were; `put_doc` makes it last. On return they are in the local store.

        Args:
            source: a path, bytes, a binary file (read from its beginning), or an iterable of bytes. Read piece by
                piece: an attachment may be larger than memory.
            name: of a further attachment, 1 to 255 bytes as a file's; without one, the document's own.
        Raises:
            UsageError: nothing that gives bytes, or the document is a directory or the like.
            InvalidDocument: a name that cannot be. NoSpace. OSError.
        """
        self.account.attaching.put(self, source, name)

    def get_attachment(self, name: str = MAIN) -> io.BufferedReader | None:
        """An attachment as a file, seekable; None when nothing is attached. Close it after use.

        Bytes that are not on this device are fetched as they are read; reading raises `RemoteUnavailable` when they do
        not come, and `StaleHandle` when the attachment was replaced since.
        """
        return self.account.attaching.open(self, name)

    def delete_attachment(self, name: str = MAIN) -> None:
        """Take an attachment away; `put_doc` makes it last."""
        self.account.attaching.delete(self, name)

    def get_attachment_state(self, name: str = MAIN) -> AttachmentState:
        """Where the bytes are, from what this device knows: asks no server."""
        return self.account.attaching.state(self, name)

    def upload_attachment(self, name: str = MAIN, *, timeout_s: float | None = None) -> AttachmentState:
        """See that the server has the document and its attachments; the state of one then, NONE when there is none.

        It would be sent soon anyway; this waits until the server has confirmed it.

        Args:
            timeout_s: without one, as long as the server answers at all.
        Raises:
            UsageError: the attachment was not put into the document yet.
            RemoteUnavailable, AccessDenied, QuotaExceeded and other errors of the server.
        """
        return self.account.attaching.upload(self, name, timeout_s)

    def download_attachment(self, name: str = MAIN) -> AttachmentState:
        """See that all bytes are in the local store; the state then, NONE when nothing is attached.

        Raises:
            RemoteUnavailable, CorruptBlob, DataMissing: they cannot be had.
            StaleHandle: the attachment was replaced meanwhile.
        """
        return self.account.attaching.download(self, name)
