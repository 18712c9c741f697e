"""The layout of a sealed blob: preamble, frames, and the arithmetic from plaintext ranges to stored ones.

    offset  0    4        5       6       7            8       16
            ├────┼────────┼───────┼───────┼────────────┼───────┼── frame 0 ──────────┬─ ... ─┬── last frame ────┐
            magic version  scheme  method  log2(frame)  length   65,536 + 16 bytes             1..65,536 + 16

Worked total: 4 MiB of plaintext are 64 frames, so 16 + 4,194,304 + 64 * 16 = 4,195,344 bytes. An empty blob is a
preamble and one frame of no bytes: 32 bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from blobfs.errors import CorruptBlob
from blobfs.values.extents import FRAME

MAGIC: Final = b"BLFS"
VERSION: Final = 1
SCHEME_ACCOUNT: Final = 1
"""Sealed with the account's own keys. The only one that an attachment may have (THREATS S13)."""
METHOD_AES_256_GCM: Final = 1
FRAME_BITS: Final = 16
TAG: Final = 16
PREAMBLE: Final = 16
SEALED_FRAME: Final = FRAME + TAG
_LAYOUT: Final = struct.Struct(">4sBBBBQ")


def preamble(length: int) -> bytes:
    """The first 16 bytes of a blob with `length` bytes of plaintext."""
    return _LAYOUT.pack(MAGIC, VERSION, SCHEME_ACCOUNT, METHOD_AES_256_GCM, FRAME_BITS, length)


def frame_count(length: int) -> int:
    """How many frames `length` bytes of plaintext have; at least one."""
    return max(1, -(-length // FRAME))


def sealed_size(length: int) -> int:
    """Bytes of the blob that seals `length` bytes of plaintext."""
    return PREAMBLE + length + TAG * frame_count(length)


def parse_preamble(stored: bytes, length: int) -> None:
    """Check that a blob begins as one of `length` bytes of plaintext must.

    The length comes from the document, never from the blob: nothing of what the server says is believed.

    Raises:
        CorruptBlob: it does not; the message names the field.
    """
    if len(stored) < PREAMBLE:
        raise CorruptBlob("blob cut within its preamble")
    magic, version, scheme, method, bits, stated = _LAYOUT.unpack(stored[:PREAMBLE])
    for field, found, wanted in (
        ("magic", magic, MAGIC),
        ("version", version, VERSION),
        ("scheme", scheme, SCHEME_ACCOUNT),
        ("method", method, METHOD_AES_256_GCM),
        ("frame size", bits, FRAME_BITS),
        ("length", stated, length),
    ):
        if found != wanted:
            raise CorruptBlob(f"blob with a wrong {field} in its preamble")


@dataclass(frozen=True, slots=True)
class Frames:
    """Consecutive frames of one blob, and where they lie in what the server stores."""

    first: int
    count: int
    start: int
    """Offset of the first frame in the stored blob."""
    size: int
    """Stored bytes of all of them, tags included."""


def frames_for(length: int, offset: int, wanted: int) -> Frames:
    """The frames that hold `wanted` > 0 bytes at `offset` of a blob with `length` bytes of plaintext."""
    first = offset // FRAME
    last = (offset + wanted - 1) // FRAME
    if not 0 <= offset < offset + wanted <= length:
        raise ValueError("a range outside the blob")
    start = PREAMBLE + first * SEALED_FRAME
    end = min(PREAMBLE + (last + 1) * SEALED_FRAME, sealed_size(length))
    return Frames(first, last - first + 1, start, end - start)
