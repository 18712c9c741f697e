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

    @property
    def extent_count(self) -> int:
        """How many extents the size needs."""
        return extent_count(self.size)


EMPTY: Final = Attachment(0)


def extent_count(size: int) -> int:
    """How many extents hold `size` bytes."""
    return -(-size // EXTENT)


def extent_length(size: int, index: int) -> int:
    """Bytes of plaintext in extent `index` of an attachment of `size` bytes."""
    return max(0, min(EXTENT, size - index * EXTENT))


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


def parse_index(plaintext: bytes) -> list[BlobId | None]:
    """The children that an index blob names.

    Raises:
        ValueError: not a whole number of ids, or more than 1,024.
    """
    if len(plaintext) % 32 or len(plaintext) > 32 * INLINE:
        raise ValueError("not an index of blobs")
    pieces = (plaintext[at : at + 32] for at in range(0, len(plaintext), 32))
    return [None if piece == _HOLE else BlobId(piece.hex()) for piece in pieces]


def build(size: int, extents: Mapping[int, BlobId], put_index: Callable[[bytes], BlobId]) -> Attachment:
    """The attachment of `size` bytes whose extents have these ids; indices that are left out are holes.

    A list too long to be inline is cut into groups of 1,024; each group's plaintext goes to `put_index`, which answers
    with the id of the blob that holds it. Groups of holes only are holes themselves: a sparse file costs what it holds.
    """
    count, depth, current = extent_count(size), 0, dict(extents)
    while count > INLINE:
        groups: dict[int, list[BlobId | None]] = {}
        for index in sorted(current):
            place, child = divmod(index, INLINE)
            group = groups.setdefault(place, [None] * min(INLINE, count - place * INLINE))
            group[child] = current[index]
        current = {place: put_index(index_plaintext(group)) for place, group in groups.items()}
        count, depth = -(-count // INLINE), depth + 1
    return Attachment(size, tuple(current.get(index) for index in range(count)), depth)
