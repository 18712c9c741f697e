"""The journal: a sealed, append-only file of what the databases have been told and not yet committed.

A commit of SQLCipher costs more than a hundred times the statements in it, so they are committed in batches. What
makes a single transaction survive SIGKILL is one `write` of one record here; after a crash the records that the
databases lack are run again. docs/FORMAT.md, "Journal", has the bytes:

    magic (5) ‖ salt (32), then records:
    length (4, big-endian) ‖ nonce (12) ‖ AES-256-GCM of msgpack [sequence, previous, notes]

The key of a file is HKDF(journal key, salt); a record's associated data are the header and its offset, so none can be
moved. A record that is cut or does not authenticate ends the file: it was being written when the power went, or it is
the zeros that are written ahead of the records once somebody flushes.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from blobfs.errors import StoreDamaged
from blobfs.store.database import Note, refusal
from blobfs.values.keys import derive

MAGIC: Final = b"BLFJ\x01"
_SALT: Final = 32
_HEADER: Final = len(MAGIC) + _SALT
_LENGTH: Final = struct.Struct(">I")
_OFFSET: Final = struct.Struct(">Q")
_NONCE: Final = 12
_DRAWN: Final = 64
_PREFIX: Final = _LENGTH.size + _NONCE
_NAME: Final = re.compile("journal-[0-9]{10}")
_AHEAD: Final = bytes(256 << 10)
"""What is written behind a record that does not fit into the zeros there, once somebody flushes."""


class Journal:
    """One file of records, open for appending."""

    def __init__(self, directory: Path, key: bytes, number: int) -> None:
        """Make the journal file of this number.

        Raises:
            NoSpace: there is no file then.
        """
        self.path = directory / f"journal-{number:010}"
        self.number = number
        self.records = 0
        self.size = 0
        self._linked = False
        self._is_flushed = False
        self._flushed = 0
        self._changes, self._changes_flushed = 0, 0
        """Of the file, not its size: what is cut off and written anew may end where the old ended."""
        self._end = 0
        """Of the file: what lies between `size` and this is zeros, which end a reading as a cut record does."""
        salt = secrets.token_bytes(_SALT)
        self._header = MAGIC + salt
        self._cipher = AESGCM(derive(key, "journal", salt))
        self._nonces = _draw_nonces()
        self._pack = msgpack.Packer().pack  # one for all: each has a buffer of a quarter of a MiB
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise refusal(self.path, error) from error
        try:
            self._write(self._header)
        except BaseException:
            os.close(self._fd)
            self.path.unlink()
            raise

    def append(self, sequence: int, previous: int, notes: Sequence[Note]) -> None:
        """Add a record: it survives SIGKILL on return, and power loss after `flush`.

        `previous` is the sequence of the record that this one builds on; its own: it is void unless blobs.db is
        complete up to it.

        Raises:
            NoSpace: nothing was added.
        """
        plaintext = self._pack((sequence, previous, notes))
        # Random, not counted: a record that a full disk cut short is followed by another at the same place.
        nonce = next(self._nonces)
        sealed = self._cipher.encrypt(nonce, plaintext, self._header + _OFFSET.pack(self.size))
        self._write(_LENGTH.pack(len(sealed)) + nonce + sealed)
        self.records += 1

    def _write(self, data: bytes) -> None:
        at, end = self.size, self.size + len(data)
        try:
            if self._is_flushed and end > self._end:
                # Within zeros a flush has no new size and no new block to record: it takes a third of the time.
                written = os.pwritev(self._fd, (data, _AHEAD), at)
            else:
                written = os.pwrite(self._fd, data, at)
            if written < len(data):
                self._truncate()
                raise OSError(errno.ENOSPC, "cut short")
        except OSError as error:
            raise refusal(self.path, error) from error
        self._end = max(self._end, at + written)
        self.size = end
        self._changes += 1  # last: a flush in another thread must not count what the system has not got yet

    def cut(self, size: int) -> None:
        """Take back the last record, which began at `size`."""
        self.size = size
        self._truncate()
        self.records -= 1

    def _truncate(self) -> None:
        os.ftruncate(self._fd, self.size)
        self._end = self.size
        self._changes += 1

    @property
    def unflushed(self) -> int:
        """Bytes of records that have not been flushed."""
        return self.size - self._flushed

    def flush(self) -> bool:
        """On return every record survives power loss; whether the disk had to be waited for."""
        self._is_flushed = True
        size, changes = self.size, self._changes
        if self._linked and changes == self._changes_flushed:
            return False  # the system would wait for the disk all the same
        os.fdatasync(self._fd)
        self._flushed, self._changes_flushed = size, changes
        if not self._linked:
            sync_directory(self.path.parent)
            self._linked = True
        return True

    def close(self) -> None:
        """Release the descriptor; the file stays."""
        os.close(self._fd)


def _draw_nonces() -> Iterator[bytes]:
    """Random nonces, each once: to ask the system for many of them takes as long as for one."""
    while True:
        drawn = os.urandom(_DRAWN * _NONCE)
        for at in range(0, len(drawn), _NONCE):
            yield drawn[at : at + _NONCE]


def sync_directory(directory: Path) -> None:
    """On return the names in a directory survive power loss."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def journals(directory: Path) -> list[Path]:
    """The journal files of a store, oldest first."""
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def number_of(path: Path) -> int:
    """The number of a journal file."""
    return int(path.name[len("journal-") :])


def read(path: Path, key: bytes) -> Iterator[tuple[int, int, list[Any]]]:
    """The whole records of a journal file, (sequence, previous, notes) each, in the order of writing.

    Raises:
        StoreDamaged: it is no plain file.
    """
    data = _read_file(path)
    header = data[:_HEADER]
    if len(header) < _HEADER or not header.startswith(MAGIC):
        return
    cipher = AESGCM(derive(key, "journal", header[len(MAGIC) :]))
    at = _HEADER
    while at + _PREFIX <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        nonce = data[at + _LENGTH.size : at + _PREFIX]
        sealed = data[at + _PREFIX : at + _PREFIX + length]
        if len(sealed) < length:
            return
        try:
            plaintext = cipher.decrypt(nonce, sealed, header + _OFFSET.pack(at))
        except InvalidTag:
            return
        sequence, previous, notes = msgpack.unpackb(plaintext)
        yield sequence, previous, notes
        at += _PREFIX + length


def _read_file(path: Path) -> bytes:
    try:
        # O_NONBLOCK: a pipe of that name must not make the start wait.
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise refusal(path, error) from error
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StoreDamaged(f"{path.name} is no plain file")
        # Read or not, it is what the databases are brought up to: it must not be lost while they are.
        os.fdatasync(descriptor)
        return file.read()
