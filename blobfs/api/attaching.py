"""Attachments between a program's documents and the desk.

Invariant: bytes that no document has are staged and in nobody's way; those of a document change in `put_doc` only.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from blobfs.api import named
from blobfs.api.desk import Desk, Named, View
from blobfs.api.document import MAIN, AttachmentState, Change, Detach
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

    def _bytes(self, document: Document, name: str) -> Named | None:
        """Where the stored bytes of an attachment are; None: nothing is attached. Raises DocumentNotFound."""
        view = self.view(document)
        if name != MAIN:
            return view.find(name)
        return None if view.content is None else Named(MAIN, view.inode, view.content, view.size, view.mtime_ns)

    # --- changing -----------------------------------------------------------------------------------------------

    def begin(self, document: Document, name: str) -> Filler:
        """Begin a new attachment for `document`. Raises UsageError: it can have none. InvalidDocument: the name."""
        if name != MAIN:
            named.check(name)
        if self.view(document).kind != Kind.FILE:
            raise UsageError("only a file can have an attachment; this document is a directory, a link or the like")
        return self.staging.begin()

    def put(self, document: Document, source: Source, name: str) -> None:
        """See `Document.put_attachment`."""
        self.change(document, name, self.staging.take(self.begin(document, name), source))

    def delete(self, document: Document, name: str) -> None:
        """See `Document.delete_attachment`."""
        self.change(document, name, None if self._bytes(document, name) is None else Detach.DETACH)

    def change(self, document: Document, name: str, change: Change | None) -> None:
        """What `put_doc` is to do about an attachment; what it was to do before is given up."""
        before = document.changes.pop(name, None)
        if isinstance(before, Staged):
            self.staging.drop(before)
        if change is not None:
            document.changes[name] = change

    def forget(self, document: Document) -> None:
        """The document is gone: nothing is to be done."""
        for name in list(document.changes):
            self.change(document, name, None)

    # --- reading --------------------------------------------------------------------------------------------------

    def sizes(self, document: Document) -> dict[str, int]:
        """See `Document.list_attachments`."""
        found = {entry.name: entry.size for entry in self.view(document).named}
        for name, change in document.changes.items():
            if isinstance(change, Staged):
                found[name] = change.size
            else:
                found.pop(name, None)
        found.pop(MAIN, None)
        return dict(sorted(found.items()))

    def open(self, document: Document, name: str) -> io.BufferedReader | None:
        """See `Document.get_attachment`."""
        change, stored = document.changes.get(name), self._bytes(document, name)
        if isinstance(change, Staged):
            # A further attachment that is new has no inode yet: nobody else could replace its bytes.
            inode = self.view(document).inode if stored is None else stored.inode
            return self._reader(inode, change.content, change.size, lambda: self.staging.holds(change))
        if stored is None or change is Detach.DETACH:
            return None
        return self.reader(stored.inode, stored.content, stored.size)

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

    def state(self, document: Document, name: str) -> AttachmentState:
        """See `Document.get_attachment_state`."""
        change = document.changes.get(name)
        if isinstance(change, Staged):
            return AttachmentState.LOCAL
        if change is Detach.DETACH:
            return AttachmentState.NONE
        return AttachmentState(self._desk.state(document.doc_id, name))

    def upload(self, document: Document, name: str, timeout_s: float | None) -> AttachmentState:
        """See `Document.upload_attachment`."""
        if document.changes:
            raise UsageError("an attachment was changed in memory only; put_doc the document, then upload")
        if self._bytes(document, name) is not None:
            self._desk.settle(document.doc_id, timeout_s)
        return self.state(document, name)

    def download(self, document: Document, name: str) -> AttachmentState:
        """See `Document.download_attachment`."""
        stored = self._bytes(document, name)
        if name not in document.changes and stored is not None:
            self.bring(stored.inode, stored.content, stored.size)
        return self.state(document, name)

    def bring(self, inode: int, content: int, size: int) -> None:
        """On return all bytes that a node has are here. Raises StaleHandle, and as `Document.download_attachment`."""
        # One version from the first byte to the last: a newer one waits while this one is open.
        with self.reader(inode, content, size):
            for offset in range(0, size, AHEAD):
                self._desk.fetch(content, offset, min(AHEAD, size - offset))
                self._desk.check(inode, content, size)
