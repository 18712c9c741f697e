"""The spool: sealed pieces of rows in files of their own, until blobs.db is told of them.

A page of SQLCipher costs ten times what sealing its bytes once does, so long and scattered writes leave their bytes
here, and in blobs.db only where they lie. Knows no rows and no SQL. docs/FORMAT.md, "Spool", has the bytes:

    magic (5) ‖ salt (32), then pieces; of each, AES-256-GCM of 16 KiB at a time, on their own

The key of a file is HKDF(store's key, salt); a frame's associated data are the header and its offset, and its nonce is
kept by whoever keeps the place: so a piece that was moved, or an older file in this one's place, does not open.
Invariant: what was appended is never changed; a frame is read and authenticated alone.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import struct
import threading
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from blobfs.errors import StoreDamaged
from blobfs.store.database import refusal
from blobfs.store.journal import sync_directory
from blobfs.store.log import begin_writing
from blobfs.values.keys import derive

MAGIC: Final = b"BLFP\x01"
_SALT: Final = 32
_HEADER: Final = len(MAGIC) + _SALT
_OFFSET: Final = struct.Struct(">Q")
_NONCE: Final = 11
"""Bytes that are drawn for a piece; the twelfth of a frame's nonce is its index, of which there are at most 8."""
TAG: Final = 16
FRAME: Final = 16 << 10
"""Bytes that are sealed together: as small as a page of blobs.db, for whoever reads a little of a long piece."""
_NAME: Final = re.compile("spool-[0-9]{10}")
SEGMENT: Final = 16 << 20
"""Bytes of a file at which the next one begins: room comes back a file at a time."""
_AT_ONCE: Final = 1 << 20
"""Bytes that are sealed before they are written."""

_LONG: Final = 1 << 20
"""Bytes that the system is asked to begin writing to the disk, so that a flush finds less to do."""
_INDEX: Final = [bytes((index,)) for index in range(256)]

Bytes = bytes | bytearray | memoryview


class Place(NamedTuple):
    """Where a piece lies, and what opens it."""

    segment: int
    at: int
    length: int
    """Bytes of plaintext."""
    nonce: bytes


def sealed_length(length: int) -> int:
    """Bytes that a piece of so many takes in a file."""
    return length + -(-length // FRAME) * TAG


class Unreadable(StoreDamaged):
    """A piece is not there, or does not authenticate."""


class Segment:
    """One file of pieces."""

    def __init__(self, path: Path, descriptor: int, header: bytes, key: bytes, size: int) -> None:
        self.path = path
        self.number = int(path.name[len("spool-") :])
        self.size = size
        self.flushed = 0
        """Bytes that are certainly on the disk."""
        self._hurried = size
        self._fd = descriptor
        self._header = header
        is_known = len(header) == _HEADER and header.startswith(MAGIC)
        self._cipher = AESGCM(derive(key, "spool", header[len(MAGIC) :])) if is_known else None
        self._guard = threading.Lock()
        self._readers, self._is_closed = 0, False

    def append(self, pieces: Sequence[Bytes], nonces: Iterator[bytes], room: memoryview) -> list[Place]:
        """Add pieces, sealed in `room`, which they must fit into. Raises OSError: nothing was added."""
        assert self._cipher is not None
        seal, header = self._cipher.encrypt_into, self._header
        places, used = [], 0
        for piece in pieces:
            nonce, view = next(nonces), memoryview(piece)
            places.append(Place(self.number, self.size + used, len(view), nonce))
            for index, low in enumerate(range(0, len(view), FRAME)):
                frame, at = view[low : low + FRAME], _OFFSET.pack(self.size + used)
                end = used + len(frame) + TAG
                seal(nonce + _INDEX[index], frame, header + at, room[used:end])
                used = end
        try:
            if os.pwrite(self._fd, room[:used], self.size) < used:
                raise OSError(errno.ENOSPC, "cut short")
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        self.size += used
        return places

    def hurry(self) -> None:
        """Have the system begin to write what is new, if that is much. It may take a while when the disk is busy."""
        size = self.size
        if size - self._hurried >= _LONG:
            begin_writing(self._fd, self._hurried, size - self._hurried)
            self._hurried = size

    def read(self, place: Place, start: int, length: int) -> bytes:
        """Bytes within a piece. By any thread. Raises Unreadable."""
        with self._guard:
            if self._is_closed:
                raise Unreadable(f"{self.path.name} is not there any more")
            self._readers += 1
        try:
            if self._cipher is not None:
                return self._open(self._cipher, place, start, length)
        except (InvalidTag, OSError):
            pass
        finally:
            self._release()
        raise Unreadable(f"{self.path.name} is damaged")

    def _release(self) -> None:
        with self._guard:
            self._readers -= 1
            if self._is_closed and not self._readers:
                os.close(self._fd)

    def let_go(self) -> None:
        """Have the system cache nothing of it that is on the disk. By any thread."""
        with self._guard:
            if self._is_closed:
                return
            self._readers += 1
        try:
            with suppress(OSError):
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            self._release()

    def _open(self, cipher: AESGCM, place: Place, start: int, length: int) -> bytes:
        first, last = start // FRAME, -(-(start + length) // FRAME)
        at, end = place.at + first * (FRAME + TAG), place.at + min(last * (FRAME + TAG), sealed_length(place.length))
        sealed = os.pread(self._fd, end - at, at)
        if last - first == 1:  # the usual case of a small read
            data = cipher.decrypt(place.nonce + _INDEX[first], sealed, self._header + _OFFSET.pack(at))
        else:
            view = memoryview(sealed)
            frames = [
                cipher.decrypt(
                    place.nonce + _INDEX[first + index],
                    view[low : low + FRAME + TAG],
                    self._header + _OFFSET.pack(at + low),
                )
                for index, low in enumerate(range(0, end - at, FRAME + TAG))
            ]
            data = b"".join(frames)
        skipped = start - first * FRAME
        return data if len(data) == length else data[skipped : skipped + length]

    def flush(self) -> None:
        """On return what was appended before survives power loss, once its name does. Raises OSError."""
        size = self.size
        os.fdatasync(self._fd)
        self.flushed = size

    def close(self) -> None:
        """Release the descriptor, as soon as nobody reads; the file stays."""
        with self._guard:
            if not self._is_closed:
                self._is_closed = True
                if not self._readers:
                    os.close(self._fd)


class Spool:
    """All segments of a store. Who appends or retires holds the ledger's lock; reading and flushing need none."""

    def __init__(self, directory: Path, key: bytes) -> None:
        """Open what is there.

        Raises:
            StoreDamaged: a file of such a name is no plain one.
        """
        self.path = directory
        """Where the segments are."""
        self._key = key
        self._segments: dict[int, Segment] = {}
        self._current: Segment | None = None
        self._newest = 0
        self._made, self._linked = 0, 0
        """How many segments were made, and how many of their names are on the disk."""
        self.size = 0
        """Bytes of all segments."""
        self._let_go_at = 0
        """Which segment was the current one when something was let go of."""
        self._room = bytearray()
        """Where pieces are sealed, a MiB and a little at the most: memory that is new costs more than the sealing."""
        try:
            for path in segments(directory):
                segment = _open(path, key)
                self._segments[segment.number] = segment
                self._newest, self._made = segment.number, self._made + 1
                self.size += segment.size
        except BaseException:
            self.close()
            raise

    @property
    def numbers(self) -> set[int]:
        """Those of all segments."""
        return set(self._segments)

    def append(self, pieces: Sequence[Bytes], after: int) -> list[Place]:
        """Seal pieces and put them behind all others: they survive SIGKILL on return, and power loss after `flush`.

        `after` is a number that a new segment's must be beyond: later pieces have larger (segment, offset).

        Raises:
            NoSpace: none of them can be found.
        """
        places: list[Place] = []
        drawn = secrets.token_bytes(_NONCE * len(pieces))
        nonces = (drawn[at : at + _NONCE] for at in range(0, len(drawn), _NONCE))
        groups = _groups(pieces)
        need = max(sum(sealed_length(len(piece)) for piece in group) for group in groups)
        if len(self._room) < need:
            self._room = bytearray(need)
        room = memoryview(self._room)
        try:
            for group in groups:
                segment = self._with_room(after)
                before = segment.size
                places += segment.append(group, nonces, room)
                self.size += segment.size - before
        except OSError as error:
            raise refusal(self.path / "spool", error) from error
        return places

    def _with_room(self, after: int) -> Segment:
        if self._current is None or self._current.size >= SEGMENT:
            # Never a number again: it may be of a file that is being removed.
            self._newest = max(self._newest, after) + 1
            self._current = _make(self.path / f"spool-{self._newest:010}", self._key)
            self._segments[self._newest] = self._current
            self.size += self._current.size
            self._made += 1
        return self._current

    def read(self, place: Place, start: int, length: int) -> bytes:
        """`length` bytes, at least one, from `start` of a piece. By any thread.

        Raises:
            Unreadable: it is not there, or does not authenticate.
        """
        segment = self._segments.get(place.segment)
        if segment is None:
            raise Unreadable(f"spool-{place.segment:010} is not there")
        return segment.read(place, start, length)

    def hurry(self) -> None:
        """Have the system begin to write what was appended last. Needs no lock, and is better called without one."""
        segment = self._current
        if segment is not None:
            segment.hurry()

    def let_go(self) -> None:
        """Have the system cache no more than the last three segments of what was appended.

        For bytes that whoever wants them has already: memory that is new costs more than to write them into it. Needs
        no lock, and is better called without one.
        """
        current = self._current
        if current is None or current.number == self._let_go_at:
            return
        self._let_go_at = current.number
        if (former := self._segments.get(current.number - 1)) is not None:
            former.hurry()  # its end
        if (earlier := self._segments.get(current.number - 2)) is not None:
            earlier.let_go()  # it had the time of a whole segment to reach the disk

    @property
    def unflushed(self) -> int:
        """Bytes that may not be on the disk yet."""
        return sum(segment.size - segment.flushed for segment in list(self._segments.values()))

    def flush(self) -> None:
        """On return every piece that was appended before survives power loss. Raises OSError."""
        made = self._made
        for segment in list(self._segments.values()):
            if segment.flushed < segment.size:
                segment.flush()
        if self._linked < made:
            sync_directory(self.path)
            self._linked = max(self._linked, made)

    def retire(self, live: Container[int]) -> list[Segment]:
        """Give up the segments that are not `live`; they are the caller's to close and to unlink."""
        retired = [segment for number, segment in self._segments.items() if number not in live]
        for segment in retired:
            del self._segments[segment.number]
            self.size -= segment.size
            if segment is self._current:
                self._current = None
        return retired

    def close(self) -> None:
        """Release the descriptors; the files stay."""
        for segment in self._segments.values():
            segment.close()


def _groups(pieces: Sequence[Bytes]) -> list[list[Bytes]]:
    """Pieces that are written together."""
    groups: list[list[Bytes]] = [[]]
    held = 0
    for piece in pieces:
        if held >= _AT_ONCE:
            groups.append([])
            held = 0
        groups[-1].append(piece)
        held += len(piece)
    return groups


def segments(directory: Path) -> list[Path]:
    """The segments of a store, oldest first."""
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _make(path: Path, key: bytes) -> Segment:
    header = MAGIC + secrets.token_bytes(_SALT)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.pwrite(descriptor, header, 0) < len(header):
            raise OSError(errno.ENOSPC, "cut short")
    except BaseException:
        os.close(descriptor)
        path.unlink()
        raise
    return Segment(path, descriptor, header, key, len(header))


def _open(path: Path, key: bytes) -> Segment:
    try:
        # O_NONBLOCK: a pipe of that name must not make the start wait.
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise refusal(path, error) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise StoreDamaged(f"{path.name} is no plain file")
        header = os.pread(descriptor, _HEADER, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return Segment(path, descriptor, header, key, found.st_size)
