"""The journal: a sealed, append-only file of what the databases have been told and not yet committed.

A commit of SQLCipher costs more than a hundred times the statements in it, so they are committed in batches. What
makes a single transaction survive SIGKILL is one `write` of one record here; after a crash the records that the
databases lack are run again. docs/FORMAT.md, "Journal", has the bytes:

    magic (5) ‖ salt (32), then records:
    length (4, big-endian) ‖ nonce (12) ‖ AES-256-GCM of msgpack [sequence, previous, notes]

The key of a file is HKDF(journal key, salt); a record's associated data are the header and its offset, so none can be
moved. A record that is cut or does not authenticate ends the file: it was being written when the power went.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from blobfs.errors import NoSpace
from blobfs.store.database import Note
from blobfs.values.keys import derive

MAGIC: Final = b"BLFJ\x01"
_SALT: Final = 32
_HEADER: Final = len(MAGIC) + _SALT
_LENGTH: Final = struct.Struct(">I")
_OFFSET: Final = struct.Struct(">Q")
_NONCE: Final = 12
_PREFIX: Final = _LENGTH.size + _NONCE
_MAX_RECORD: Final = 64 << 20


class Journal:
    """One file of records, open for appending."""

    def __init__(self, directory: Path, key: bytes, number: int) -> None:
        self.path = directory / f"journal-{number:010}"
        self.number = number
        self.records = 0
        self.size = 0
        salt = secrets.token_bytes(_SALT)
        self._header = MAGIC + salt
        self._cipher = AESGCM(derive(key, "journal", salt))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o600)
        self._write(self._header)

    def append(self, sequence: int, previous: int, notes: Sequence[Note]) -> None:
        """Add a record: it survives SIGKILL on return, and power loss after `flush`.

        `previous` is the sequence of the record that this one builds on.

        Raises:
            NoSpace: nothing was added.
        """
        plaintext = msgpack.packb([sequence, previous, notes])
        # Random, not counted: a record that a full disk cut short is followed by another at the same place.
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._cipher.encrypt(nonce, plaintext, self._header + _OFFSET.pack(self.size))
        self._write(_LENGTH.pack(len(sealed)) + nonce + sealed)
        self.records += 1

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            raise NoSpace("the disk that holds the store is full or failing") from error
        if written != len(data):
            os.ftruncate(self._fd, self.size)
            raise NoSpace("the disk that holds the store is full")
        self.size += written

    def flush(self) -> None:
        """On return every record survives power loss."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Release the descriptor; the file stays."""
        os.close(self._fd)


def journals(directory: Path) -> list[Path]:
    """The journal files of a store, oldest first."""
    return sorted(directory.glob("journal-*"))


def read(path: Path, key: bytes) -> Iterator[tuple[int, int, list[Any]]]:
    """The whole records of a journal file, (sequence, previous, notes) each, in the order of writing."""
    data = path.read_bytes()
    header = data[:_HEADER]
    if len(header) < _HEADER or not header.startswith(MAGIC):
        return
    cipher = AESGCM(derive(key, "journal", header[len(MAGIC) :]))
    at = _HEADER
    while at + _PREFIX <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        nonce = data[at + _LENGTH.size : at + _PREFIX]
        sealed = data[at + _PREFIX : at + _PREFIX + length]
        if length > _MAX_RECORD or len(sealed) < length:
            return
        try:
            plaintext = cipher.decrypt(nonce, sealed, header + _OFFSET.pack(at))
        except InvalidTag:
            return
        sequence, previous, notes = msgpack.unpackb(plaintext)
        yield sequence, previous, notes
        at += _PREFIX + length
