"""Attachments between a program's documents and the desk.

Invariant: bytes that no document has are staged and in nobody's way; those of a document change in `put_doc` only.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from blobfs.api.desk import Desk, View
from blobfs.api.document import AttachmentState, Change
from blobfs.api.reading import BUFFER, AttachmentReader
from blobfs.api.staging import Filler, Source, Staged, Staging
from blobfs.errors import DocumentNotFound, UsageError
from blobfs.values.documents import Kind
from blobfs.values.extents import EXTENT

if TYPE_CHECKING:
    from blobfs.api.document import Document

AHEAD: Final = 2 * EXTENT
"""Bytes that a download asks for at once: the next extent is on its way while one is stored."""


class Attaching:
    """What the documents of one account do with their attachments."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.staging = Staging(desk)

    def view(self, document: Document) -> View:
        """The stored document. Raises DocumentNotFound."""
        view = self._desk.get(document.doc_id)
        if view is None:
            raise DocumentNotFound(f"document {document.doc_id} was deleted")
        return view

    # --- changing -----------------------------------------------------------------------------------------------

    def begin(self, document: Document) -> Filler:
        """Begin a new attachment for `document`. Raises UsageError: it can have none."""
        if self.view(document).kind != Kind.FILE:
            raise UsageError("only a file can have an attachment; this document is a directory, a link or the like")
        return self.staging.begin()

    def put(self, document: Document, source: Source) -> None:
        """See `Document.put_attachment`."""
        self.change(document, self.staging.take(self.begin(document), source))

    def delete(self, document: Document) -> None:
        """See `Document.delete_attachment`."""
        attached = self.view(document).content is not None
        self.change(document, Change.DETACH if attached else Change.NOTHING)

    def change(self, document: Document, change: Staged | Change) -> None:
        """What `put_doc` is to do; what it was to do before is given up."""
        if isinstance(document.change, Staged):
            self.staging.drop(document.change)
        document.change = change

    # --- reading --------------------------------------------------------------------------------------------------

    def open(self, document: Document) -> io.BufferedReader | None:
        """See `Document.get_attachment`."""
        change, view = document.change, self.view(document)
        if isinstance(change, Staged):
            return self._reader(view.inode, change.content, change.size, lambda: self.staging.holds(change))
        if view.content is None or change is Change.DETACH:
            return None
        return self.reader(view.inode, view.content, view.size)

    def reader(self, inode: int, content: int, size: int) -> io.BufferedReader:
        """The bytes that a node has, as a file."""
        return self._reader(inode, content, size, lambda: False)

    def _reader(self, inode: int, content: int, size: int, is_staged: Callable[[], bool]) -> io.BufferedReader:
        def read(offset: int, length: int) -> bytes:
            return self._desk.read(None if is_staged() else inode, content, size, offset, length)

        self._desk.enter(inode)
        reader = AttachmentReader(size, read, partial(self._desk.fetch, content), partial(self._desk.leave, inode))
        return io.BufferedReader(reader, BUFFER)

    # --- states ---------------------------------------------------------------------------------------------------

    def state(self, document: Document) -> AttachmentState:
        """See `Document.get_attachment_state`."""
        if isinstance(document.change, Staged):
            return AttachmentState.LOCAL
        if document.change is Change.DETACH:
            return AttachmentState.NONE
        return AttachmentState(self._desk.state(document.doc_id))

    def upload(self, document: Document, timeout_s: float | None) -> AttachmentState:
        """See `Document.upload_attachment`."""
        if document.change is not Change.NOTHING:
            raise UsageError("the attachment was changed in memory only; put_doc the document, then upload")
        if self.view(document).content is not None:
            self._desk.settle(document.doc_id, timeout_s)
        return self.state(document)

    def download(self, document: Document) -> AttachmentState:
        """See `Document.download_attachment`."""
        view = self.view(document)
        if document.change is Change.NOTHING and view.content is not None:
            self.bring(view.inode, view.content, view.size)
        return self.state(document)

    def bring(self, inode: int, content: int, size: int) -> None:
        """On return all bytes that a node has are here. Raises StaleHandle, and as `Document.download_attachment`."""
        # One version from the first byte to the last: a newer one waits while this one is open.
        with self.reader(inode, content, size):
            for offset in range(0, size, AHEAD):
                self._desk.fetch(content, offset, min(AHEAD, size - offset))
                self._desk.check(inode, content, size)
