"""Sealing and opening of blobs and documents. docs/FORMAT.md has the recipe and test vectors.

Every opening either returns exactly what a device of this account sealed under this id, or raises; no byte of an
unauthenticated frame leaves this room. Sealed is with the newest epoch's keys, opened with whichever fit.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from blobfs.errors import CorruptBlob, CorruptDocument, InvalidDocument
from blobfs.protocol import MAX_DOCUMENT, is_id
from blobfs.values import framing
from blobfs.values.documents import DocId, Document, decode, encode
from blobfs.values.extents import FRAME, BlobId, padme
from blobfs.values.keys import Keys, derive
from blobfs.values.revisions import MAX_DEVICES, Revision

DOCUMENT_MAGIC: Final = b"BLFD\x01"
_NONCE: Final = 12
_FRAME_NONCE: Final = struct.Struct(">3xQB")

# --- blobs ------------------------------------------------------------------------------------------------


def blob_id(keys: Keys, plaintext: bytes | memoryview) -> BlobId:
    """HMAC-SHA256(blob-id key, preamble ‖ plaintext), in hex: the preamble holds the format and its parameters."""
    mac = hmac.new(keys.blob_id, framing.preamble(len(plaintext)), "sha256")
    mac.update(plaintext)
    return BlobId(mac.hexdigest())


class Plain:
    """Bytes that cannot change any more, and the id that they have under an account's keys.

    The id is made here and nowhere else, so what `seal` yields is the blob of exactly these bytes; that saves a second
    hash of everything that is sent.
    """

    __slots__ = ("_keys", "blob_id", "data")

    def __init__(self, keys: Keys, data: bytes | memoryview) -> None:
        self._keys: Final = keys
        self.data: Final = bytes(data)
        self.blob_id: Final = blob_id(keys, self.data)

    def seal(self) -> Iterator[bytes]:
        """The blob, piece by piece: the preamble, then each frame."""
        head = framing.preamble(len(self.data))
        cipher, view = _blob_cipher(self._keys, self.blob_id), memoryview(self.data)
        last = framing.frame_count(len(self.data)) - 1
        yield head
        for index in range(last + 1):
            piece = view[index * FRAME : (index + 1) * FRAME]
            yield cipher.encrypt(_FRAME_NONCE.pack(index, index == last), piece, head)

    def seal_into(self, target: memoryview) -> None:
        """As `seal`, into `target`, which has room for exactly the blob."""
        head = framing.preamble(len(self.data))
        cipher, view = _blob_cipher(self._keys, self.blob_id), memoryview(self.data)
        last = framing.frame_count(len(self.data)) - 1
        target[: framing.PREAMBLE] = head
        for index in range(last + 1):
            piece, at = view[index * FRAME : (index + 1) * FRAME], framing.PREAMBLE + index * framing.SEALED_FRAME
            room = target[at : at + len(piece) + framing.TAG]
            cipher.encrypt_into(_FRAME_NONCE.pack(index, index == last), piece, head, room)


def open_frames(
    keys: Keys, name: BlobId, length: int, frames: framing.Frames, sealed: bytes | memoryview
) -> Iterator[bytes]:
    """The plaintext of consecutive frames of blob `name`, which has `length` bytes of plaintext, padding included.

    Only of blobs of the newest epoch: older ones have to be opened whole.

    Raises:
        CorruptBlob: a frame is not what was sealed at this place of this blob; what was yielded before stands.
    """
    if len(sealed) != frames.size:
        raise CorruptBlob(f"blob {name} came with {len(sealed)} bytes in place of {frames.size}")
    head, cipher, view = framing.preamble(length), _blob_cipher(keys, name), memoryview(sealed)
    last = framing.frame_count(length) - 1
    for index in range(frames.first, frames.first + frames.count):
        at = (index - frames.first) * framing.SEALED_FRAME
        try:
            yield cipher.decrypt(_FRAME_NONCE.pack(index, index == last), view[at : at + framing.SEALED_FRAME], head)
        except InvalidTag:
            raise CorruptBlob(f"frame {index} of blob {name} failed authentication") from None


def open_into(
    keys: Keys, name: BlobId, length: int, frames: framing.Frames, sealed: memoryview, target: memoryview
) -> None:
    """As `open_frames`, into `target`, which has room for exactly that plaintext; what was there before is gone.

    Megabytes of fresh memory cost several times what deciphering them does; a target can be used again.
    """
    if len(sealed) != frames.size:
        raise CorruptBlob(f"blob {name} came with {len(sealed)} bytes in place of {frames.size}")
    head, cipher = framing.preamble(length), _blob_cipher(keys, name)
    last = framing.frame_count(length) - 1
    for index in range(frames.first, frames.first + frames.count):
        number = index - frames.first
        piece = sealed[number * framing.SEALED_FRAME : (number + 1) * framing.SEALED_FRAME]
        room = target[number * FRAME : (number + 1) * FRAME]
        try:
            cipher.decrypt_into(_FRAME_NONCE.pack(index, index == last), piece, head, room)
        except InvalidTag:
            room[:] = bytes(len(room))
            raise CorruptBlob(f"frame {index} of blob {name} failed authentication") from None


def open_blob(keys: Keys, name: BlobId, length: int, sealed: bytes | memoryview) -> bytes:
    """The whole plaintext, of `length` bytes (padding included), of a blob as it is stored.

    Raises:
        CorruptBlob: it is not that blob, whole and unchanged.
    """
    framing.parse_preamble(bytes(sealed[: framing.PREAMBLE]), length)
    frames = framing.Frames(
        0, framing.frame_count(length), framing.PREAMBLE, framing.sealed_size(length) - framing.PREAMBLE
    )
    try:
        return b"".join(open_frames(keys, name, length, frames, memoryview(sealed)[framing.PREAMBLE :]))
    except CorruptBlob as error:
        for older in keys.older:
            try:
                plaintext = b"".join(open_frames(older, name, length, frames, memoryview(sealed)[framing.PREAMBLE :]))
            except CorruptBlob:
                continue
            # Whoever has an old secret could seal any bytes under the name of a newer blob, or of one of its own
            # time; but nobody can make other bytes that get this name under the old key.
            if hmac.compare_digest(name, blob_id(older, plaintext)):
                return plaintext
        raise error


def _blob_cipher(keys: Keys, name: BlobId) -> AESGCM:
    return AESGCM(derive(keys.blob, "blob", bytes.fromhex(name)))


# --- documents --------------------------------------------------------------------------------------------


def seal_document(
    keys: Keys, document: Document, revision: Revision, *, deleted: bool = False, padded: bool = False
) -> bytes:
    """The sealed form: magic and version (5 bytes), nonce (12), AES-256-GCM of the JSON, which tells the epoch.

    Args:
        padded: lengthen the JSON with spaces, to the next Padmé size or to what the largest document allows.
    Raises:
        InvalidDocument: it breaks a limit, or is too large to be sent.
    """
    if not revision.has_text:
        raise InvalidDocument(
            f"the document was edited on more than {MAX_DEVICES} devices, or a device of the account spoiled its count "
            "of edits, so that no edit of it can be sent any more; copy it, and edit the copy"
        )
    document = replace(document, epoch=keys.epoch)
    plaintext = encode(document)
    room = MAX_DOCUMENT - len(DOCUMENT_MAGIC) - _NONCE - framing.TAG
    if len(plaintext) > room and document.heads:
        # What only watches over the server must not keep a document from being sent.
        plaintext = encode(replace(document, heads={}, sealer=None))
    if len(plaintext) > room:
        raise InvalidDocument(f"a document of {len(plaintext)} bytes is over the limit of {room}; make it smaller")
    if padded:
        plaintext = plaintext.ljust(min(room, padme(len(plaintext))))
    return _seal_document(keys, document.doc_id, plaintext, revision, deleted, secrets.token_bytes(_NONCE))


def _seal_document(
    keys: Keys, doc_id: DocId, plaintext: bytes, revision: Revision, deleted: bool, nonce: bytes
) -> bytes:
    cipher = AESGCM(derive(keys.document, "document", doc_id.encode("ascii")))
    data = _document_data(keys, doc_id, revision, deleted)
    return DOCUMENT_MAGIC + nonce + cipher.encrypt(nonce, plaintext, data)


def open_document(keys: Keys, doc_id: DocId, revision: Revision, deleted: bool, sealed: bytes) -> Document:
    """The document that a device of this account sealed under this id, revision and deletion mark.

    Raises:
        CorruptDocument: it was not, or its plaintext breaks the format.
    """
    epoch, plaintext = authenticate(keys, doc_id, revision, deleted, sealed)
    document = decode(doc_id, plaintext)
    if document.epoch != epoch.epoch:
        raise CorruptDocument(f"document {doc_id} was sealed with the keys of another epoch than it tells")
    return document


def authenticate(keys: Keys, doc_id: DocId, revision: Revision, deleted: bool, sealed: bytes) -> tuple[Keys, bytes]:
    """The keys with which a device of this account sealed this, and what it sealed, in whatever form it is.

    Raises:
        CorruptDocument: none did, under this id, revision and deletion mark.
    """
    if not is_id(doc_id):
        # The server chose these characters: they go into no message.
        raise CorruptDocument("a document came with an id that no device gives")
    if not len(DOCUMENT_MAGIC) + _NONCE + framing.TAG <= len(sealed) <= MAX_DOCUMENT:
        raise CorruptDocument(f"document {doc_id} came with {len(sealed)} bytes")
    if not sealed.startswith(DOCUMENT_MAGIC):
        raise CorruptDocument(f"document {doc_id} is of an unknown format")
    data = _document_data(keys, doc_id, revision, deleted)
    for epoch in keys.epochs:
        plaintext = _try_document(epoch, doc_id, sealed, data)
        if plaintext is not None:
            return epoch, plaintext
    raise CorruptDocument(f"document {doc_id} failed authentication")


def _try_document(keys: Keys, doc_id: DocId, sealed: bytes, data: bytes) -> bytes | None:
    """The plaintext, or None: it was not sealed with the keys of this epoch."""
    nonce = sealed[len(DOCUMENT_MAGIC) : len(DOCUMENT_MAGIC) + _NONCE]
    cipher = AESGCM(derive(keys.document, "document", doc_id.encode("ascii")))
    try:
        return cipher.decrypt(nonce, sealed[len(DOCUMENT_MAGIC) + _NONCE :], data)
    except InvalidTag:
        return None


def _document_data(keys: Keys, doc_id: DocId, revision: Revision, deleted: bool) -> bytes:
    """Associated data: format ‖ account ‖ doc_id ‖ revision ‖ deleted, each ended by NUL, which none can hold."""
    parts = (keys.account, doc_id, str(revision), "deleted" if deleted else "live")
    return DOCUMENT_MAGIC + b"".join(part.encode("ascii") + b"\0" for part in parts)
