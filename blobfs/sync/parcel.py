"""What a document looks like to the server: its changed bytes hashed and sealed, its ids, its references.

Reads the store, asks no server. Everything in here blocks and belongs into a worker thread. Invariant: an `Outgoing`
tells one moment of a document, that of its `edit`; whether that moment is still the present is for the caller to ask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from blobfs.errors import BytesAbsent
from blobfs.store.bases import Base
from blobfs.store.documents import Changed, Local
from blobfs.store.store import Store
from blobfs.values import crypto
from blobfs.values.crypto import Plain
from blobfs.values.documents import DocId, Document, Kind
from blobfs.values.extents import Attachment, BlobId, build, extent_length, pad
from blobfs.values.keys import Keys
from blobfs.values.nodes import Content

SMALL: Final = 256 << 10
"""Dirty bytes of a file up to which it shares requests with others."""


@dataclass(slots=True)
class Outgoing:
    """A document on its way up."""

    changed: Changed
    local: Local
    base: Base | None
    sealed: dict[int, tuple[BlobId, int]] = field(default_factory=dict)
    """By dirty extent: its new id, and the bytes sealed in it, padding included."""
    document: Document | None = None
    """As it will be sent; None before its attachment is known."""
    indices: list[Plain] = field(default_factory=list)
    clean: dict[int, BlobId] | None = None
    """The ids of its other extents, when it was frozen; None: as they are in the store."""

    @property
    def doc_id(self) -> DocId:
        return self.changed.doc_id

    @property
    def deleted(self) -> bool:
        return self.local.node.deleted

    @property
    def content(self) -> Content | None:
        return self.local.node.content

    @property
    def carries_content(self) -> bool:
        """Whether its bytes differ from the base's, so that its attachment has to be made anew."""
        return self.local.content_changed and not self.deleted and self.local.node.kind is Kind.FILE

    @property
    def is_blank(self) -> bool:
        """Whether it is a new or an emptied file, which whoever has it open is about to fill."""
        is_new = self.base is None and not self.deleted and self.local.node.kind is Kind.FILE
        return self.local.node.size == 0 and (is_new or self.carries_content)


def look(store: Store, changed: Changed) -> Outgoing | None:
    """A changed document as it is now; None when there is nothing to send any more."""
    with store.transaction():
        local = store.documents.local(changed.doc_id)
        base = None if local is None else local.base
    if local is None or local.edit <= local.synced or (local.node.deleted and (base is None or base.deleted)):
        return None
    return Outgoing(changed._replace(edit=local.edit), local, base)


def freeze(store: Store, changed: Changed) -> tuple[Outgoing, list[tuple[int, int]]] | None:
    """A file with new bytes as it is now, to be read from the store for as long as it takes; its dirty extents.

    None, and nothing frozen, when there are no bytes to send any more. Else the caller owes `Attachments.thaw`.

    Raises:
        BytesAbsent: a dirty extent lacks rows; they have to be fetched first. Nothing was frozen.
    """
    with store.transaction():
        fresh = look(store, changed)
        if fresh is None or fresh.content is None or not fresh.carries_content:
            return None
        extents = store.attachments.extents(fresh.content)
        fresh.clean = {
            index: extent.blob_id for index, extent in extents.items() if extent.blob_id and not extent.dirty
        }
        wanted = dirty_extents(store, fresh)
        store.attachments.freeze(fresh.content)
    return fresh, wanted


def dirty_extents(store: Store, outgoing: Outgoing) -> list[tuple[int, int]]:
    """(extent, bytes of plaintext) of all that has to be sealed."""
    if outgoing.content is None or not outgoing.carries_content:
        return []
    size = outgoing.local.node.size
    extents = store.attachments.extents(outgoing.content)
    return [(index, extent_length(size, index)) for index, extent in extents.items() if extent.dirty]


def dirty_sizes(store: Store, outgoings: Sequence[Outgoing]) -> list[int]:
    """Of each, how many bytes have to be sealed."""
    return [sum(length for _, length in dirty_extents(store, outgoing)) for outgoing in outgoings]


def read_plain(
    store: Store,
    outgoing: Outgoing,
    wanted: Sequence[tuple[int, int]],
    *,
    padded: bool,
    known: Mapping[int, BlobId] = MappingProxyType({}),
) -> list[Plain]:
    """Read and hash these extents, and note their ids.

    Args:
        known: the ids of those that were sent before; they may be of an older epoch.
    Raises:
        BytesAbsent: a dirty extent lacks rows; they have to be fetched first.
    """
    if not wanted:
        return []
    assert outgoing.content is not None
    frozen = outgoing.clean is not None
    read = store.attachments.read_frozen if frozen else store.attachments.read_extent
    found = []
    for index, length in wanted:
        data = read(outgoing.content, index, length)
        data = pad(data) if padded else data
        plain = Plain(store.keys, data)
        for keys in store.keys.older if index in known else ():
            if plain.blob_id != known[index]:
                plain = Plain(keys, data)
        outgoing.sealed[index] = (plain.blob_id, len(data))
        found.append(plain)
    return found


def name_attachment(store: Store, outgoing: Outgoing, *, padded: bool, anew: bool = False) -> None:
    """Make the document to be sent, once every dirty extent has an id; its index blobs are in `indices` then.

    Args:
        anew: also the index blobs of bytes that are as they were.
    """
    outgoing.indices.clear()
    if outgoing.deleted:
        outgoing.document = _tombstone(outgoing)
        return
    known = outgoing.content is not None and store.attachments.unresolved(outgoing.content) is None
    if not outgoing.carries_content and not (anew and known):
        outgoing.document = outgoing.local.document
        return
    attachment = outgoing.local.document.attachment if outgoing.content is None else None
    if outgoing.content is not None:
        ids = outgoing.clean
        if ids is None:
            extents = store.attachments.extents(outgoing.content)
            ids = {index: extent.blob_id for index, extent in extents.items() if extent.blob_id is not None}
        ids |= {index: blob_id for index, (blob_id, _) in outgoing.sealed.items()}
        attachment = _build(store.keys, outgoing, ids, padded)
    outgoing.document = replace(outgoing.local.document, attachment=attachment)


def _build(keys: Keys, outgoing: Outgoing, ids: dict[int, BlobId], padded: bool) -> Attachment:
    def keep(plaintext: bytes) -> BlobId:
        plain = Plain(keys, plaintext)
        outgoing.indices.append(plain)
        return plain.blob_id

    return build(outgoing.local.node.size, ids, keep, padded=padded)


def _tombstone(outgoing: Outgoing) -> Document:
    """What a deletion says: where the document was, so that it can come back, and when it went."""
    assert outgoing.base is not None
    gone_ns = outgoing.local.node.ctime_ns
    return replace(outgoing.base.document, attachment=None, content={}, xattrs={}, mtime_ns=gone_ns)


def has_bytes_of(store: Store, local: Local, attachment: Attachment) -> bool:
    """Whether a file with dirty extents has exactly the bytes of a remote version, by their ids."""
    if local.node.content is None or attachment.depth:
        return False
    extents = store.attachments.extents(local.node.content)
    for index, blob_id in enumerate(attachment.ids):
        extent = extents.get(index)
        if extent is None or not extent.dirty:
            if (None if extent is None else extent.blob_id) != blob_id:
                return False
            continue
        try:
            data = store.attachments.read_extent(local.node.content, index, extent_length(attachment.size, index))
        except BytesAbsent:
            return False
        data = pad(data) if attachment.padded else data
        # Of whichever epoch: what was written twice may have been sent before the keys changed.
        if not any(crypto.blob_id(keys, data) == blob_id for keys in store.keys.epochs):
            return False
    return True


def is_padded(outgoing: Outgoing, setting: bool) -> bool:
    """Whether the blobs of a file are padded: as those that it has, else as the account's setting says."""
    attachment = None if outgoing.base is None else outgoing.base.document.attachment
    return setting if attachment is None or not attachment.ids else attachment.padded


def small_groups(files: Sequence[Outgoing], sizes: Sequence[int], most: int, most_bytes: int) -> Iterator[list[int]]:
    """Cut a list of small files into groups that share requests: indices of each."""
    group: list[int] = []
    total = 0
    for index, size in enumerate(sizes):
        if group and (len(group) >= most or total + size > most_bytes):
            yield group
            group, total = [], 0
        group.append(index)
        total += size
    if group:
        yield group
