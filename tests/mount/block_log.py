"""A disk that remembers every write and every flush: one file in a mount of its own, for a loop device to stand on.

Run as `python -m tests.mount.block_log IMAGE LOG DIRECTORY`; prints `ready`. DIRECTORY/image is IMAGE, and LOG gets a
record of each request before it is answered. The loop device passes its flushes on as `fsync`.

    u8 kind (0 write, 1 flush) | u64 offset | u32 length | the bytes
"""

# mypy: disable-error-code="override"

from __future__ import annotations

import os
import random
import signal
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyfuse3
import trio
from pyfuse3 import ROOT_INODE, EntryAttributes, FileInfo, RequestContext

IMAGE = 2
NAME = b"image"
RECORD = struct.Struct("<BQI")
WRITE, FLUSH = 0, 1
SECTOR = 4096


class Disk(pyfuse3.Operations):
    """The one file."""

    def __init__(self, image: Path, log: Path) -> None:
        super().__init__()
        self._image = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    async def getattr(self, inode: int, ctx: RequestContext | None = None) -> EntryAttributes:
        """Of the directory, or of the file."""
        answer = EntryAttributes()
        answer.st_ino, answer.st_nlink = inode, 1
        answer.st_mode = stat.S_IFDIR | 0o700 if inode == ROOT_INODE else stat.S_IFREG | 0o600
        answer.st_size = 0 if inode == ROOT_INODE else os.fstat(self._image).st_size
        return answer

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """The file."""
        if name != NAME:
            raise pyfuse3.FUSEError(2)
        return await self.getattr(IMAGE)

    async def setattr(self, inode: int, attr: object, fields: object, fh: int | None, ctx: object) -> EntryAttributes:
        """Times are not kept."""
        return await self.getattr(inode)

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Nothing of it stays in the page cache."""
        return FileInfo(fh=inode, direct_io=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Bytes."""
        return os.pread(self._image, size, off)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Bytes, which a loss of power may take before the next flush."""
        os.write(self._log, RECORD.pack(WRITE, off, len(buf)) + buf)
        return os.pwrite(self._image, buf, off)

    async def fsync(self, fh: int, datasync: bool) -> None:
        """All that was written is safe."""
        os.write(self._log, RECORD.pack(FLUSH, 0, 0))


class Record(NamedTuple):
    """One request, and where in the log it ends."""

    end: int
    offset: int
    data: bytes | None
    """None: a flush."""


def read_log(path: Path) -> Iterator[Record]:
    """All records."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        kind, offset, length = RECORD.unpack_from(data, at)
        at += RECORD.size + length
        yield Record(at, offset, data[at - length : at] if kind == WRITE else None)


def lose_power(image: bytes, records: list[Record], end: int, draw: random.Random) -> bytes:
    """The disk when the power goes at `end` of the log: of what was not flushed, each sector is there or is not."""
    before = [record for record in records if record.end <= end]
    flushed = max((number for number, record in enumerate(before) if record.data is None), default=0)
    disk, luck = bytearray(image), draw.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    for number, (_, offset, data) in enumerate(before):
        for start in range(0, len(data or b""), SECTOR):
            if number < flushed or draw.random() < luck:
                piece = (data or b"")[start : start + SECTOR]
                disk[offset + start : offset + start + len(piece)] = piece
    return bytes(disk)


async def _serve() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            print("ready", flush=True)
            async for _ in signals:
                nursery.cancel_scope.cancel()


def main() -> None:
    """Mount until SIGTERM."""
    image, log, directory = (Path(name) for name in sys.argv[1:])
    pyfuse3.init(Disk(image, log), str(directory), {"fsname=block-log", "nosuid", "nodev"})
    try:
        trio.run(_serve)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
