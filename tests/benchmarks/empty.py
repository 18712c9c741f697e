"""An empty pyfuse3 filesystem: dictionaries in memory, nothing stored, nothing encrypted, no promise kept.

It does the least that a Python filesystem can do with each request, so its figures are the ceiling of the binding.
`python -m tests.benchmarks.empty [--polling] DIR` mounts it in the foreground.
"""

# pyfuse3 numbers inodes with plain integers.
# mypy: disable-error-code="override"

from __future__ import annotations

import argparse
import errno
import stat
import sys
import time
from collections.abc import Sequence
from typing import Final

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, InodeT, RequestContext, SetattrFields, StatvfsData

TIMEOUT_S: Final = 300.0
BLOCK: Final = 4096


class Memory(pyfuse3.Operations):
    """Inodes are attributes, directories are dictionaries, files are bytearrays."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self._attributes: dict[int, EntryAttributes] = {}
        self._children: dict[int, dict[bytes, int]] = {}
        self._parents: dict[int, int] = {pyfuse3.ROOT_INODE: pyfuse3.ROOT_INODE}
        self._bytes: dict[int, bytearray] = {}
        self._targets: dict[int, bytes] = {}
        self._lookups: dict[int, int] = {}
        self._listings: dict[int, list[tuple[bytes, int]]] = {}
        self._last: int = pyfuse3.ROOT_INODE - 1
        self._last_handle = 0
        self._new(stat.S_IFDIR | 0o755, 0, 0)

    def _new(self, mode: int, uid: int, gid: int) -> EntryAttributes:
        self._last += 1
        entry = EntryAttributes()
        entry.st_ino = InodeT(self._last)
        entry.st_mode = pyfuse3.ModeT(mode)
        entry.st_nlink = 1
        entry.st_uid, entry.st_gid = uid, gid
        entry.st_size = 0
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = time.time_ns()
        entry.entry_timeout = entry.attr_timeout = TIMEOUT_S
        self._attributes[self._last] = entry
        if stat.S_ISDIR(mode):
            self._children[self._last] = {}
        elif stat.S_ISREG(mode):
            self._bytes[self._last] = bytearray()
        return entry

    def _add(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        entry = self._new(mode, ctx.uid, ctx.gid)
        self._children[parent][name] = entry.st_ino
        self._look(entry.st_ino)
        return entry

    def _look(self, inode: int) -> None:
        self._lookups[inode] = self._lookups.get(inode, 0) + 1

    def _drop(self, inode: int) -> None:
        """A name is gone."""
        self._attributes[inode].st_nlink -= 1
        self._forget_if_unused(inode)

    def _forget_if_unused(self, inode: int) -> None:
        if self._attributes[inode].st_nlink > 0 or self._lookups.get(inode, 0) > 0:
            return
        for table in (self._attributes, self._children, self._parents, self._bytes, self._targets, self._lookups):
            table.pop(inode, None)

    # --- names --------------------------------------------------------------------------------------------

    async def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """By name; that there is nothing is remembered too."""
        inode = self._children[parent_inode].get(name)
        if inode is None:
            nothing = EntryAttributes()
            nothing.st_ino = InodeT(0)
            nothing.entry_timeout = TIMEOUT_S
            return nothing
        self._look(inode)
        return self._attributes[inode]

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """References given back."""
        for inode, count in inode_list:
            self._lookups[inode] -= count
            self._forget_if_unused(inode)

    async def mkdir(self, parent_inode: InodeT, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        """A directory."""
        entry = self._add(parent_inode, name, stat.S_IFDIR | stat.S_IMODE(mode), ctx)
        self._parents[entry.st_ino] = parent_inode
        return entry

    async def symlink(self, parent_inode: InodeT, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        """A symbolic link."""
        entry = self._add(parent_inode, name, stat.S_IFLNK | 0o777, ctx)
        self._targets[entry.st_ino] = target
        entry.st_size = len(target)
        return entry

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> bytes:
        """Where a symbolic link points."""
        return self._targets[inode]

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """A hard link."""
        self._children[new_parent_inode][new_name] = inode
        self._attributes[inode].st_nlink += 1
        self._look(inode)
        return self._attributes[inode]

    async def unlink(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        """Remove a name."""
        self._drop(self._children[parent_inode].pop(name))

    async def rmdir(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        """Remove an empty directory."""
        if self._children[self._children[parent_inode][name]]:
            raise FUSEError(errno.ENOTEMPTY)
        self._drop(self._children[parent_inode].pop(name))

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: bytes,
        parent_inode_new: InodeT,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        """Move, over whatever is there."""
        inode = self._children[parent_inode_old].pop(name_old)
        replaced = self._children[parent_inode_new].get(name_new)
        self._children[parent_inode_new][name_new] = inode
        if inode in self._children:
            self._parents[inode] = parent_inode_new
        if replaced is not None:
            self._drop(replaced)

    # --- directories --------------------------------------------------------------------------------------

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> int:
        """A listing as it is now."""
        self._last_handle += 1
        dots = [(b".", int(inode)), (b"..", self._parents[inode])]
        self._listings[self._last_handle] = [*dots, *self._children[inode].items()]
        return self._last_handle

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """From a position on, as many as the kernel takes."""
        listing = self._listings[fh]
        for position in range(start_id, len(listing)):
            name, inode = listing[position]
            if not pyfuse3.readdir_reply(token, name, self._attributes[inode], position + 1):
                return
            if position > 1:
                self._look(inode)

    async def releasedir(self, fh: int) -> None:
        """The listing goes."""
        del self._listings[fh]

    # --- attributes ---------------------------------------------------------------------------------------

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """As they are."""
        return self._attributes[inode]

    async def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """Change what is asked for."""
        entry = self._attributes[inode]
        if fields.update_size:
            content = self._bytes[inode]
            del content[attr.st_size :]
            content.extend(bytes(attr.st_size - len(content)))
            entry.st_size = attr.st_size
        if fields.update_mode:
            entry.st_mode = attr.st_mode
        if fields.update_uid:
            entry.st_uid = attr.st_uid
        if fields.update_gid:
            entry.st_gid = attr.st_gid
        if fields.update_atime:
            entry.st_atime_ns = attr.st_atime_ns
        if fields.update_mtime:
            entry.st_mtime_ns = attr.st_mtime_ns
        return entry

    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        """None; the kernel asks for security.capability before writes."""
        raise FUSEError(pyfuse3.ENOATTR)

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Room enough."""
        answer = StatvfsData()
        answer.f_bsize = answer.f_frsize = BLOCK
        answer.f_blocks = answer.f_bfree = answer.f_bavail = 1 << 24
        answer.f_files = answer.f_ffree = answer.f_favail = 1 << 24
        answer.f_namemax = 255
        return answer

    # --- files --------------------------------------------------------------------------------------------

    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        """A handle is the inode."""
        return FileInfo(fh=pyfuse3.FileHandleT(inode))

    async def create(
        self, parent_inode: InodeT, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """Create and open."""
        entry = self._add(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode), ctx)
        return FileInfo(fh=pyfuse3.FileHandleT(entry.st_ino)), entry

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """What is there."""
        return bytes(memoryview(self._bytes[fh])[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Into memory."""
        content = self._bytes[fh]
        if off > len(content):
            content.extend(bytes(off - len(content)))
        content[off : off + len(buf)] = buf
        entry = self._attributes[fh]
        entry.st_size = len(content)
        entry.st_mtime_ns = time.time_ns()
        return len(buf)

    async def flush(self, fh: int) -> None:
        """Nothing waits."""

    async def release(self, fh: int) -> None:
        """Nothing is held."""

    async def fsync(self, fh: int, datasync: bool) -> None:
        """There is no disk."""

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """There is no disk."""


def main() -> int:
    """Mount on DIR until it is unmounted."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--polling", action="store_true", help="wait for requests as blobfs does")
    parser.add_argument("directory")
    options = parser.parse_args()
    if options.polling:
        from blobfs.fs.polling import PollingTrio

        vars(pyfuse3)["trio"] = PollingTrio()
    pyfuse3.init(Memory(), options.directory, {"fsname=empty", "default_permissions"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
