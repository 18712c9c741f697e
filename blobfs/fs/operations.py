"""The border to the kernel: pyfuse3's handlers and types. The only module that imports pyfuse3.

No decision of the filesystem is made here. Invariant: nothing but FUSEError leaves a handler (any other exception
would end the mount).
"""

# pyfuse3 numbers inodes with plain integers; ours are a type of their own.
# mypy: disable-error-code="override"

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, Final, NoReturn, ParamSpec, TypeAlias, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields, StatvfsData

from blobfs import errors
from blobfs.errors import UsageError
from blobfs.fs import cookies
from blobfs.fs.errnos import errno_of
from blobfs.fs.filesystem import FileSystem
from blobfs.fs.handshake import Handshake
from blobfs.fs.mountpoint import MountOptions, is_mounted, prepare, unmount, widen_read_ahead
from blobfs.fs.polling import PollingTrio
from blobfs.fs.privileges import SPECIAL, Power
from blobfs.fs.stale import Invalidator
from blobfs.fs.use import Use
from blobfs.fs.views import FIRST
from blobfs.values.documents import Kind
from blobfs.values.nodes import Inode, Node

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 300
"""How long the kernel believes names and attributes. Only the daemon changes the tree, and says when it does."""
BLOCK: Final = 4096
PREFERRED_IO: Final = 64 << 10
"""Bytes buffered by programs that leave it to the system (stdio, Python): with 4 KiB, four times the requests."""
MODES: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}
KINDS: Final = {mode: kind for kind, mode in MODES.items()}
USER: Final = b"user."
CAPABILITY: Final = b"security.capability"
ABSENT: Final = (b"security.", b"trusted.")
"""Namespaces of which no file has an attribute. Of others, not even that is said, as on any disk."""
BYPASS: Final = 1 << 63
"""In a handle: writes through it pass the page cache by. So does whoever opens a file for writing alone that nobody
else has open: otherwise the kernel asks for security.capability before each write, and cuts one that begins within a
page in two. No inode is that large."""
MIN_BATCH: Final = 16
"""Directory entries asked of the store at once; more once it is known how many the kernel takes."""
MAX_BATCH: Final = 256
"""Of entries that the kernel may not take: it grows to this while it takes all."""

MAX_TASKS: Final = 500
"""Requests answered at once. Only those that wait for the server last; the kernel must not run out of the others."""
STOP_S: Final = 5.0

NO_USE: Final = frozenset(("forget", "release", "releasedir", "statfs"))
"""Handlers of what the kernel does by itself, at once or after a program is gone, and of `df`."""

P = ParamSpec("P")
R = TypeVar("R")
Answer: TypeAlias = Coroutine[Any, Any, R]


def prompt(handler: Callable[Concatenate[Operations, P], R]) -> Callable[Concatenate[Operations, P], Answer[R]]:
    """A handler that never waits: the wrapper is the only coroutine, which costs a request least."""
    is_use = handler.__name__ not in NO_USE

    @functools.wraps(handler)
    async def answer(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if is_use:
            self.use.is_new = True
        try:
            return handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            raise FUSEError(errno_of(error)) from None

    return answer


def patient(
    handler: Callable[Concatenate[Operations, P], Answer[R]],
) -> Callable[Concatenate[Operations, P], Answer[R]]:
    """A handler that may wait: for bytes from the server, or for the disk."""
    is_use = handler.__name__ not in NO_USE

    @functools.wraps(handler)
    async def answer(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if is_use:
            self.use.is_new = True
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            raise FUSEError(errno_of(error)) from None

    return answer


class Operations(pyfuse3.Operations):
    """What the kernel asks. A file's handle is its inode, perhaps with BYPASS; all else belongs to the open inode."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, fs: FileSystem, use: Use, handshake: Handshake) -> None:
        super().__init__()
        self.use = use
        self._handshake = handshake
        self._fs = fs
        self._owner = None if fs.owner.is_root else (fs.owner.uid, fs.owner.gid)
        self._batch = MIN_BATCH

    # --- translation --------------------------------------------------------------------------------------

    def _attributes(self, node: Node) -> EntryAttributes:
        inode, _, kind, mode, uid, gid, rdev, size, stored, nlink, atime_ns, mtime_ns, ctime_ns, _, target, _, _ = node
        answer = EntryAttributes()
        answer.st_ino = inode
        answer.entry_timeout = answer.attr_timeout = TIMEOUT_S if inode < FIRST else 0
        answer.st_mode = MODES[kind] | mode
        answer.st_nlink = nlink
        if self._owner is None or uid == self._owner[0]:
            answer.st_uid, answer.st_gid = uid, gid
        else:
            answer.st_uid, answer.st_gid = self._owner
        answer.st_rdev = rdev
        answer.st_size = size if kind is not Kind.SYMLINK else len(target)
        answer.st_blksize = PREFERRED_IO
        answer.st_blocks = (stored + 511) >> 9
        answer.st_atime_ns = atime_ns
        answer.st_mtime_ns = mtime_ns
        answer.st_ctime_ns = ctime_ns
        return answer

    # --- names --------------------------------------------------------------------------------------------

    @prompt
    def lookup(self, parent_inode: Inode, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """A name's file; that there is none is remembered by the kernel as well."""
        try:
            return self._attributes(self._fs.lookup(parent_inode, name))
        except errors.NotFound:
            nothing = EntryAttributes()
            nothing.st_ino = 0
            nothing.entry_timeout = TIMEOUT_S if parent_inode < FIRST else 0
            return nothing

    @prompt
    def forget(self, inode_list: Sequence[tuple[Inode, int]]) -> None:
        """References given back."""
        for inode, count in inode_list:
            self._fs.forget(inode, count)

    @prompt
    def mknod(self, parent_inode: Inode, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        """A special file, or a plain one that is not opened."""
        kind = KINDS[stat.S_IFMT(mode) or stat.S_IFREG]
        return self._attributes(self._fs.make(parent_inode, name, kind, mode, ctx.uid, ctx.gid, rdev=rdev))

    @prompt
    def mkdir(self, parent_inode: Inode, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        """A directory."""
        return self._attributes(self._fs.make(parent_inode, name, Kind.DIRECTORY, mode, ctx.uid, ctx.gid))

    @prompt
    def symlink(self, parent_inode: Inode, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        """A symbolic link."""
        node = self._fs.make(parent_inode, name, Kind.SYMLINK, 0o777, ctx.uid, ctx.gid, target=target)
        return self._attributes(node)

    @prompt
    def readlink(self, inode: Inode, ctx: RequestContext) -> bytes:
        """Where a symbolic link points."""
        return self._fs.readlink(inode)

    @prompt
    def link(self, inode: Inode, new_parent_inode: Inode, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        """A hard link."""
        return self._attributes(self._fs.link(inode, new_parent_inode, new_name))

    @prompt
    def unlink(self, parent_inode: Inode, name: bytes, ctx: RequestContext) -> None:
        """Remove a name."""
        self._fs.unlink(parent_inode, name)

    @prompt
    def rmdir(self, parent_inode: Inode, name: bytes, ctx: RequestContext) -> None:
        """Remove a directory."""
        self._fs.rmdir(parent_inode, name)

    @prompt
    def rename(
        self,
        parent_inode_old: Inode,
        name_old: bytes,
        parent_inode_new: Inode,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        """Rename, exchange, or rename without replacing; no other flag."""
        if flags & ~(pyfuse3.RENAME_EXCHANGE | pyfuse3.RENAME_NOREPLACE):
            raise errors.InvalidArgument("a flag of rename that is not known")
        self._fs.rename(
            parent_inode_old,
            name_old,
            parent_inode_new,
            name_new,
            exchange=bool(flags & pyfuse3.RENAME_EXCHANGE),
            no_replace=bool(flags & pyfuse3.RENAME_NOREPLACE),
        )

    # --- directories --------------------------------------------------------------------------------------

    @prompt
    def opendir(self, inode: Inode, ctx: RequestContext) -> int:
        """A directory's handle is its inode: where a reader is, its cookies say."""
        return inode

    @prompt
    def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Entries from a cookie on, as many as the kernel takes."""
        fs, inode, reply, attributes = self._fs, Inode(fh), pyfuse3.readdir_reply, self._attributes
        place, last = cookies.read(start_id)
        if start_id == 0:
            last = fs.newest(inode)
        base = cookies.base(last)
        if place < 1 and not reply(token, b".", self._bare(inode), base + 1):
            return
        if place < 2 and not reply(token, b"..", self._bare(fs.parent(inode)), base + 2):
            return
        base += cookies.BEFORE
        after, sent, limit = max(0, place - cookies.BEFORE), 0, self._batch
        while True:
            batch = fs.entries(inode, after, limit)
            for cookie, name, node in batch:
                if cookie > last:
                    return
                if not reply(token, name, attributes(fs.seen(node)), base + cookie):
                    self._batch = max(MIN_BATCH, sent + 1)  # one query is enough the next time, and little is in vain
                    return
                fs.entry_sent(node.inode)
                sent, after = sent + 1, cookie
            if len(batch) < limit:
                self._batch = max(self._batch, sent + 1)  # it took all these, so the next directory's as well
                return
            limit = max(limit, min(2 * limit, MAX_BATCH))

    def _bare(self, inode: Inode) -> EntryAttributes:
        answer = EntryAttributes()
        answer.st_ino = inode
        answer.st_mode = stat.S_IFDIR
        return answer

    @prompt
    def releasedir(self, fh: int) -> None:
        """Nothing is held for it."""

    @patient
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Names survive power loss."""
        await self._fs.fsync()

    # --- attributes ---------------------------------------------------------------------------------------

    @prompt
    def getattr(self, inode: Inode, ctx: RequestContext) -> EntryAttributes:
        """Attributes, with what is still buffered."""
        return self._attributes(self._fs.getattr(inode))

    @prompt
    def access(self, inode: Inode, mode: int, ctx: RequestContext) -> bool:
        """Asked for root alone, who may do anything but execute what nobody may."""
        node = self._fs.getattr(inode)
        return not mode & os.X_OK or node.kind is Kind.DIRECTORY or bool(node.mode & 0o111)

    @patient
    async def setattr(
        self, inode: Inode, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """Change attributes. The kernel has decided who may."""
        power = self._power(inode, ctx)
        changes = {
            "size": attr.st_size if fields.update_size else None,
            "mode": stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            "uid": attr.st_uid if fields.update_uid else None,
            "gid": attr.st_gid if fields.update_gid else None,
            "atime_ns": attr.st_atime_ns if fields.update_atime else None,
            "mtime_ns": attr.st_mtime_ns if fields.update_mtime else None,
        }
        if all(value is None for value in changes.values()):
            return self._attributes(await self._fs.chown_to_same(inode, ctx.uid, power))
        return self._attributes(await self._fs.setattr(inode, **changes, power=power))

    @prompt
    def getxattr(self, inode: Inode, name: bytes, ctx: RequestContext) -> bytes:
        """An extended attribute. The kernel asks for security.capability before each write: that goes no further."""
        if name == CAPABILITY:
            raise FUSEError(errno.ENODATA)
        if not name.startswith(USER) or name == USER:
            self._refuse(name)
        return self._fs.get_xattr(inode, name)

    @prompt
    def setxattr(self, inode: Inode, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """Set one of `user.`; others would be stored and not obeyed, so they are refused."""
        if not name.startswith(USER):
            raise errors.NotSupported("only attributes of the namespace user are kept")
        if name == USER:
            raise errors.InvalidArgument("an attribute needs a name")
        self._fs.set_xattr(inode, name, value)

    @prompt
    def listxattr(self, inode: Inode, ctx: RequestContext) -> Sequence[bytes]:
        """Names of extended attributes."""
        return self._fs.list_xattrs(inode)

    @prompt
    def removexattr(self, inode: Inode, name: bytes, ctx: RequestContext) -> None:
        """Remove an extended attribute."""
        if not name.startswith(USER) or name == USER:
            self._refuse(name)
        self._fs.remove_xattr(inode, name)

    def _refuse(self, name: bytes) -> NoReturn:
        if name == USER:
            raise errors.InvalidArgument("an attribute needs a name")
        if name.startswith(ABSENT):
            raise errors.NoAttribute("only attributes of the namespace user are kept")
        raise errors.NotSupported("there is no such namespace, and there are no POSIX ACLs")

    @prompt
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        """What `df` shows."""
        space, count = self._fs.space()
        answer = StatvfsData()
        answer.f_bsize = answer.f_frsize = BLOCK
        answer.f_blocks = space.total // BLOCK
        answer.f_bfree = answer.f_bavail = space.free // BLOCK
        answer.f_ffree = answer.f_favail = space.free // BLOCK
        answer.f_files = count + answer.f_ffree
        answer.f_namemax = 255
        return answer

    # --- open files ---------------------------------------------------------------------------------------

    @patient
    async def open(self, inode: Inode, flags: int, ctx: RequestContext) -> FileInfo:
        """Open. The page cache stays: whatever changes bytes behind the kernel's back tells it so."""
        if inode < FIRST and not flags & os.O_TRUNC:
            self._fs.admit(inode, ctx.pid)
        writes, truncate = flags & os.O_ACCMODE != os.O_RDONLY, bool(flags & os.O_TRUNC)
        power = self._power(inode, ctx) if writes or truncate else Power.ROOT
        await self._fs.open(inode, writes=writes, truncate=truncate, power=power)
        return self._opened(inode, flags)

    @patient
    async def create(
        self, parent_inode: Inode, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """Create and open."""
        try:
            node = self._fs.create(parent_inode, name, mode, ctx.uid, ctx.gid)
        except errors.Exists:
            if flags & os.O_EXCL:
                raise
            power = Power.ROOT if ctx.uid == 0 else Power.MEMBER
            node = await self._fs.open_name(parent_inode, name, truncate=bool(flags & os.O_TRUNC), power=power)
        return self._opened(node.inode, flags), self._attributes(node)

    def _power(self, inode: Inode, ctx: RequestContext) -> Power:
        if ctx.uid == 0:
            return Power.ROOT
        node = self._fs.getattr(inode)
        if not node.mode & SPECIAL or node.gid == ctx.gid:
            return Power.MEMBER  # the difference shows with setgid alone, and to look is dear
        return Power.MEMBER if node.gid in pyfuse3.get_sup_groups(ctx.pid) else Power.STRANGER

    def _opened(self, inode: Inode, flags: int) -> FileInfo:
        if inode >= FIRST:
            return FileInfo(fh=inode, direct_io=True)
        writes_only = flags & os.O_ACCMODE == os.O_WRONLY
        if writes_only and self._handshake.drops_pages and self._fs.handles(inode) == 1:
            return FileInfo(fh=inode | BYPASS, direct_io=True)
        return FileInfo(fh=inode)

    @patient
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Exactly what is there: a short answer would be taken for the end of the file."""
        return await self._fs.read(Inode(fh & ~BYPASS), off, size)

    @patient
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write all of it. Whoever reads the file through the page cache sees it, however it came."""
        inode = Inode(fh & ~BYPASS)
        written = await self._fs.write(inode, off, buf)
        if fh & BYPASS and self._fs.handles(inode) > 1:
            # The kernel dropped the pages before it sent this; a reader may have brought old ones back since. Through
            # any other handle this would wait for a page that is locked until this request is answered.
            await trio.to_thread.run_sync(_forget_inode, inode, True)
        return written

    @patient
    async def flush(self, fh: int) -> None:
        """`close` of one descriptor, perhaps of several for one handle; the last chance to report an error."""
        await self._fs.flush(Inode(fh & ~BYPASS))

    @patient
    async def release(self, fh: int) -> None:
        """The handle is gone. The kernel discards errors, so whatever can fail has failed in `flush`."""
        await self._fs.release(Inode(fh & ~BYPASS))

    @patient
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Survives power loss."""
        await self._fs.fsync(Inode(fh & ~BYPASS))


# --- the mount ----------------------------------------------------------------------------------------------


async def serve(
    fs: FileSystem, mountpoint: Path, options: MountOptions, *, ready: Callable[[], None], use: Use | None = None
) -> None:
    """Mount `fs` and answer the kernel until somebody unmounts it, or until cancelled.

    `ready` is called once the mount can be used, and `use` is marked with each request. On return, however it ended,
    nothing is mounted any more and every byte written is in the store, but for files that `flush_all` has logged.

    Raises:
        UsageError: the mountpoint, or /dev/fuse, cannot be used.
    """
    prepare(mountpoint)
    handshake = Handshake()
    vars(pyfuse3)["trio"] = PollingTrio(handshake)
    try:
        pyfuse3.init(Operations(fs, use or Use(), handshake), str(mountpoint), options.arguments())
    except RuntimeError as error:
        raise UsageError(f"the kernel refuses to mount on {mountpoint}: {error}") from None
    invalidator = Invalidator(_forget_inode, pyfuse3.invalidate_entry)
    fs.on_stale, fs.wait_told = invalidator.put, invalidator.wait
    try:
        async with fs.at_work(), trio.open_nursery() as nursery:
            nursery.start_soon(_announce, mountpoint, ready)
            await pyfuse3.main(max_tasks=MAX_TASKS)
            nursery.cancel_scope.cancel()
    finally:
        handshake.close()
        fs.on_stale = fs.wait_told = None
        with trio.CancelScope(shield=True):
            # No more requests first: then there is an end to what has to be stored.
            await trio.to_thread.run_sync(_unmount, mountpoint, invalidator)
            await fs.flush_all()


def _forget_inode(inode: Inode, has_content: bool) -> None:
    with suppress(FileNotFoundError):  # the kernel does not remember it
        pyfuse3.invalidate_inode(inode, attr_only=not has_content)


async def _announce(mountpoint: Path, ready: Callable[[], None]) -> None:
    # Through the mount, so from a thread: this loop has to answer what it asks.
    await trio.to_thread.run_sync(widen_read_ahead, mountpoint)
    ready()


def _unmount(mountpoint: Path, invalidator: Invalidator) -> None:
    if is_mounted(mountpoint):
        try:
            unmount(mountpoint)
        except UsageError as error:
            log.error("%s", error)
    if invalidator.stop(STOP_S):
        pyfuse3.close(unmount=False)
    else:  # it is inside the session, which must not be freed under it; the process is about to end
        log.warning("the kernel still holds a lock that a notification waits for")
