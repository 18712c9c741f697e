"""What the API asks of the owner of a store about blobs; the part of the desk beside documents.

Takes and gives plain values only. Invariant: what a blob's status says is observed each time, and kept nowhere.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple

from blobfs.api.loop import Loop
from blobfs.store.blobs import Blob
from blobfs.store.documents import Applied
from blobfs.store.store import Store
from blobfs.values.documents import DocId


class BlobStatus(enum.StrEnum):
    """How a blob stands between this device and the server, from what this device knows."""

    SYNCED = "SYNCED"
    """All of it is here and on the server."""
    PENDING_UPLOAD = "PENDING_UPLOAD"
    PENDING_DOWNLOAD = "PENDING_DOWNLOAD"
    """The server has it; its bytes, or some, come when they are read or fetched."""
    FAILED_UPLOAD = "FAILED_UPLOAD"
    """The server turned it down, or turns everything down, such as over quota; it is tried again from time to time."""
    FAILED_DOWNLOAD = "FAILED_DOWNLOAD"
    """The server lacks it, or has other bytes. Only `fetch` of this blob, or reading it, tries again."""
    PENDING_DELETE = "PENDING_DELETE"
    """Deleted here; the server does not know yet."""
    LOCAL_ONLY = "LOCAL_ONLY"


class Row(NamedTuple):
    """A blob as a program is told of it."""

    blob_id: str
    doc_id: str
    inode: int
    content: int
    size: int
    date_ns: int
    flags: Sequence[str]
    status: str
    reason: str
    priority: int


class Shelf:
    """The blobs of a store, for programs. From any thread but the engine's."""

    def __init__(self, store: Store, loop: Loop, *, written: Callable[[Applied], None]) -> None:
        """
        Args:
            written: called after each change of a document that came through here.
        """
        self._store, self._loop, self._written = store, loop, written

    # --- looking --------------------------------------------------------------------------------------------------

    def find(self, namespace: str, blob_id: str) -> Row | None:
        """A blob; None: there is none."""
        with self._store.transaction():
            blob = self._store.blobs.find(namespace, blob_id)
            return None if blob is None else self._row(blob)

    def page(
        self, namespace: str, flag: str | None, order: str | None, after: Sequence[object] | None, limit: int
    ) -> list[Row]:
        """See `Blobs.page` of the store."""
        last = None if after is None else (int(str(after[0])), str(after[1]))
        with self._store.transaction():
            found = self._store.blobs.page(namespace, flag=flag, order=order, after=last, limit=limit)
            return [self._row(blob) for blob in found]

    def count(self, namespace: str, flag: str | None) -> int:
        """See `Blobs.count` of the store."""
        return self._store.blobs.count(namespace, flag)

    def deleted(self, namespace: str) -> list[str]:
        """See `Blobs.deleted` of the store."""
        return self._store.blobs.deleted(namespace)

    def namespaces(self) -> list[str]:
        """See `Blobs.namespaces` of the store."""
        return self._store.blobs.namespaces()

    def _row(self, blob: Blob) -> Row:
        status, reason = self._status(blob)
        priority = self._store.blobs.priority(blob.doc_id)
        return Row(*blob[:6], blob.flags, status.value, reason, priority)

    def _status(self, blob: Blob) -> tuple[BlobStatus, str]:
        """What is the matter with a blob, and the reason where there is one to tell."""
        if blob.is_local:
            return BlobStatus.LOCAL_ONLY, ""
        if blob.is_unsent:
            engine = self._loop.engine
            reason = engine.failure(DocId(blob.doc_id)) or engine.refusal()
            return (BlobStatus.PENDING_UPLOAD, "") if reason is None else (BlobStatus.FAILED_UPLOAD, reason)
        if blob.is_whole:
            return BlobStatus.SYNCED, ""
        reason = self._store.blobs.failure(blob.doc_id)
        return (BlobStatus.PENDING_DOWNLOAD, "") if reason is None else (BlobStatus.FAILED_DOWNLOAD, reason)

    # --- changing -------------------------------------------------------------------------------------------------

    def put(self, namespace: str, blob_id: str, attached: tuple[int, int, int], local: bool, priority: int) -> Row:
        """A new blob of a staged content. Raises BlobExists."""
        with self._store.transaction():
            node = self._store.blobs.put(namespace, blob_id, attached, local=local)
            self._store.blobs.prioritise(node.doc_id, priority)
            row = self._row(self._store.blobs.get(namespace, blob_id))
            applied = Applied(node.inode, None, (), tuple(self._store.tree.names(node.inode)), False)
        self._written(applied)
        return row

    def delete(self, namespace: str, blob_id: str) -> None:
        """Delete a blob. Raises BlobNotFound."""
        node, names = self._store.blobs.delete(namespace, blob_id)
        self._written(Applied(node.inode, node, names, (), False))

    def set_flags(self, namespace: str, blob_id: str, flags: Sequence[str]) -> None:
        """Replace the flags of a blob. Raises BlobNotFound."""
        self._tell(self._store.blobs.set_flags(namespace, blob_id, flags))

    def set_local(self, namespace: str, blob_id: str, local: bool) -> None:
        """Whether a blob stays on this device. Raises BlobNotFound, BlobExists."""
        blobs = self._store.blobs
        self._tell((blobs.withhold if local else blobs.share)(namespace, blob_id))

    def _tell(self, blob: Blob) -> None:
        with self._store.transaction():
            local = self._store.documents.local(DocId(blob.doc_id))
            names = () if local is None else tuple(self._store.tree.names(local.node.inode))
        if local is not None:
            self._written(Applied(local.node.inode, local.node, names, names, False))

    def prioritise(self, namespace: str, blob_id: str, priority: int) -> None:
        """Set the priority of a blob. Raises BlobNotFound."""
        with self._store.transaction():
            self._store.blobs.prioritise(self._store.blobs.get(namespace, blob_id).doc_id, priority)

    def arrived(self, doc_id: str) -> None:
        """All bytes of a blob have come."""
        self._store.blobs.clear_failure(doc_id)
