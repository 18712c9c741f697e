"""The geometry of attachments: extents, rows and the list of blob ids, inline or as a tree.

    attachment   0                    4 MiB                   8 MiB        size
                 ├── extent 0 ─────────┼── extent 1 ───────────┼── extent 2 ─┤
    rows         ├128K┼128K┼ ... ┤ 32 rows an extent; what blobs.db keeps
    frames       ├64K┼64K┼ ... ┤   64 frames an extent; what is sealed on its own

An extent with no blob and no row is a hole and reads as zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NewType

BlobId = NewType("BlobId", str)
"""64 lower-case hex digits: the keyed hash of what was sealed."""

EXTENT: Final = 4 << 20
ROW: Final = 128 << 10
FRAME: Final = 64 << 10
ROWS_PER_EXTENT: Final = EXTENT // ROW
ALL_ROWS: Final = (1 << ROWS_PER_EXTENT) - 1
"""The bitmap of an extent with every row present."""

MAX_SIZE: Final = 1 << 44
"""16 TiB, the largest file that ext4 holds with blocks of 4 KiB."""

INLINE: Final = 1024
"""The longest list of ids that a document carries itself; also the children of one index blob."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A document's bytes as devices exchange them. Equal attachments have equal bytes: ids are keyed hashes."""

    size: int
    """Bytes of plaintext."""
    ids: tuple[BlobId | None, ...] = ()
    """Depth 0: one for each extent, None for a hole. Depth d: one for each 1024**d extents, naming index blobs."""
    depth: int = 0
    padded: bool = False
    """Whether the plaintext of every blob, index blobs too, was lengthened with zeros to a Padmé size."""

    @property
    def extent_count(self) -> int:
        """How many extents the size needs."""
        return extent_count(self.size)

    def blob_length(self, index: int) -> int:
        """Bytes sealed in the blob of extent `index`: its plaintext and its padding."""
        return self._padded(extent_length(self.size, index))

    def index_length(self, level: int, place: int) -> int:
        """Bytes sealed in index blob `place` of `level`: its ids and its padding."""
        return self._padded(32 * index_children(self.size, level, place))

    def _padded(self, length: int) -> int:
        return padme(length) if self.padded else length


EMPTY: Final = Attachment(0)


def extent_count(size: int) -> int:
    """How many extents hold `size` bytes."""
    return -(-size // EXTENT)


def extent_length(size: int, index: int) -> int:
    """Bytes of plaintext in extent `index` of an attachment of `size` bytes."""
    return max(0, min(EXTENT, size - index * EXTENT))


def padme(length: int) -> int:
    """The Padmé size of `length` bytes: at most 12 % more, and never over the next power of two.

    Only as many leading bits stay as the exponent has bits, so a size tells O(log log length) bits. 4 MiB stays 4 MiB.
    """
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (length + mask) & ~mask


def pad(plaintext: bytes) -> bytes:
    """`plaintext` lengthened with zeros to its Padmé size."""
    return plaintext.ljust(padme(len(plaintext)), b"\0")


def spans(offset: int, length: int, unit: int) -> Iterator[tuple[int, int, int]]:
    """Cut a range at multiples of `unit`: (index of the unit, start within it, length within it), ascending."""
    end = offset + length
    while offset < end:
        index, start = divmod(offset, unit)
        piece = min(unit - start, end - offset)
        yield index, start, piece
        offset += piece


# --- the tree of ids -------------------------------------------------------------------------------------

_HOLE: Final = bytes(32)


def depth_for(size: int) -> int:
    """How many levels of index blobs the id list of an attachment of `size` bytes needs."""
    count, depth = extent_count(size), 0
    while count > INLINE:
        count, depth = -(-count // INLINE), depth + 1
    return depth


def index_plaintext(ids: Sequence[BlobId | None]) -> bytes:
    """What an index blob holds: 32 bytes a child, zeros for a hole, at most 1,024 of them."""
    return b"".join(_HOLE if blob_id is None else bytes.fromhex(blob_id) for blob_id in ids)


def index_children(size: int, level: int, place: int) -> int:
    """How many ids index blob `place` of `level` names. Level 1 names extents, level 2 index blobs of level 1."""
    below: int = -(-extent_count(size) // INLINE ** (level - 1))
    return max(0, min(INLINE, below - place * INLINE))


def parse_index(plaintext: bytes, count: int) -> list[BlobId | None]:
    """The `count` children (`index_children`) that an index blob names.

    Raises:
        ValueError: it is shorter, or longer by anything but zeros.
    """
    if len(plaintext) < 32 * count or any(plaintext[32 * count :]):
        raise ValueError("not an index of so many blobs")
    pieces = (plaintext[at : at + 32] for at in range(0, 32 * count, 32))
    return [None if piece == _HOLE else BlobId(piece.hex()) for piece in pieces]


def build(
    size: int, extents: Mapping[int, BlobId], put_index: Callable[[bytes], BlobId], *, padded: bool = False
) -> Attachment:
    """The attachment of `size` bytes whose extents have these ids; indices that are left out are holes.

    A list too long to be inline is cut into groups of 1,024; each group's plaintext, padded when `padded` says so, goes
    to `put_index`, which answers with the id of the blob that holds it. Groups of holes only are holes themselves: a
    sparse file costs what it holds.

    Raises:
        ValueError: an extent at or after the end.
    """
    count, depth, current = extent_count(size), 0, dict(extents)
    if any(not 0 <= index < count for index in current):
        raise ValueError("an extent outside the attachment")
    while count > INLINE:
        groups: dict[int, list[BlobId | None]] = {}
        for index in sorted(current):
            place, child = divmod(index, INLINE)
            group = groups.setdefault(place, [None] * min(INLINE, count - place * INLINE))
            group[child] = current[index]
        plaintexts = {place: index_plaintext(group) for place, group in groups.items()}
        current = {place: put_index(pad(plain) if padded else plain) for place, plain in plaintexts.items()}
        count, depth = -(-count // INLINE), depth + 1
    return Attachment(size, tuple(current.get(index) for index in range(count)), depth, padded)
