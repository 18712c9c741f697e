"""Bytes on their way into an attachment: written to the store piece by piece, attached when the document is put.

Knows contents and no documents. Invariant: whatever is staged and never attached is given back, at the latest when the
account is closed; after a crash the store's next start sweeps it.
"""

from __future__ import annotations

import io
import os
import weakref
from collections.abc import AsyncIterable, Iterable, Iterator
from typing import IO, Any, Final, Protocol, cast

from blobfs.api.desk import Desk
from blobfs.errors import UsageError

PIECE: Final = 1 << 20
"""Bytes of one transaction, and so of memory for an attachment of any size: some 200 MiB/s are written so."""


class Readable(Protocol):
    """A binary file, as far as it is needed here."""

    def read(self, size: int, /) -> bytes | None:
        """At most `size` bytes; none at the end."""


Source = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | Iterable[bytes]
"""Where an attachment comes from: a path, bytes, a binary file, or pieces one after the other."""
AsyncSource = Source | AsyncIterable[bytes]


class Staged:
    """Bytes in the store that no document has yet."""

    def __init__(self, content: int) -> None:
        self.content = content
        self.size = 0
        self.stored = 0
        """Bytes of it in rows of the store."""

    @property
    def attached(self) -> tuple[int, int, int]:
        """As a desk wants to be told of it."""
        return self.content, self.size, self.stored


class Staging:
    """What is staged in one open account."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._live: dict[int, weakref.finalize[[int], Staged]] = {}
        self._forgotten: list[int] = []

    def begin(self) -> Filler:
        """Begin with no bytes."""
        self._sweep()
        staged = Staged(self.desk.stage())
        # Called by the garbage collector at any time, also within a transaction: it may only take a note.
        self._live[staged.content] = weakref.finalize(staged, self._forgotten.append, staged.content)
        return Filler(self, staged)

    def take(self, filler: Filler, source: Source) -> Staged:
        """Read `source` to its end; on return all of it is in the store.

        Raises:
            UsageError: it is none of what can be read, or gave something else than bytes. NoSpace. OSError: of a file.
        """
        try:
            for piece in pieces(source):
                filler.add(piece)
            return filler.end()
        except BaseException:
            self.drop(filler.staged)
            raise

    def release(self, staged: Staged) -> None:
        """A document has it now."""
        self._live.pop(staged.content).detach()

    def drop(self, staged: Staged) -> None:
        """No document will have it. Does nothing for what was released or dropped before."""
        finalizer = self._live.pop(staged.content, None)
        if finalizer is not None and finalizer.detach() is not None:
            self.desk.abandon(staged.content)

    def holds(self, staged: Staged) -> bool:
        """Whether it is still to be attached."""
        return staged.content in self._live

    def close(self) -> None:
        """Give back everything that is staged."""
        self._forgotten.extend(content for content, finalizer in self._live.items() if finalizer.detach() is not None)
        self._sweep()

    def _sweep(self) -> None:
        while self._forgotten:
            content = self._forgotten.pop()
            self._live.pop(content, None)
            self.desk.abandon(content)


class Filler:
    """Puts pieces of any size into the store, `PIECE` bytes at a time."""

    def __init__(self, staging: Staging, staged: Staged) -> None:
        self.staged = staged
        self._desk = staging.desk
        self._waiting = bytearray()

    def add(self, piece: bytes | bytearray | memoryview) -> None:
        """Add bytes at the end. Raises UsageError: those are no bytes. NoSpace."""
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise UsageError("an attachment is made of bytes; open a file in binary mode, and encode text")
        view = memoryview(piece).cast("B")
        for at in range(0, len(view), PIECE):
            self._waiting += view[at : at + PIECE]
            while len(self._waiting) >= PIECE:
                self._write(PIECE)

    def end(self) -> Staged:
        """There is no more; on return everything is in the store."""
        self._write(len(self._waiting))
        return self.staged

    def _write(self, length: int) -> None:
        staged = self.staged
        staged.stored += self._desk.fill(staged.content, staged.size, bytes(self._waiting[:length]))
        staged.size += length
        del self._waiting[:length]


def pieces(source: Source) -> Iterator[bytes | bytearray | memoryview]:
    """The bytes of a source. A file that can seek is read from its beginning."""
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            yield from _read(file)
    elif isinstance(source, bytes | bytearray | memoryview):
        yield source
    elif hasattr(source, "read"):
        yield from _read(cast("IO[bytes]", source))
    elif isinstance(source, Iterable):
        yield from source
    else:
        raise UsageError("an attachment comes from a path, bytes, a binary file, or pieces one after the other")


def _read(file: IO[Any]) -> Iterator[bytes]:
    seekable = getattr(file, "seekable", None)
    if seekable is not None and seekable():
        file.seek(0, io.SEEK_SET)
    while piece := file.read(PIECE):
        yield piece
