"""FileSystem: what each file operation means, in our own types. Neither FUSE nor errno nor the network is known here.

Names and attributes are the store's, asked anew each time (a look-up costs less than a cache that could be wrong).
Bytes written wait in one buffer for each open inode, which every reader sees, until close, fsync, a full buffer or the
next `flush_all`. Invariant: a byte acknowledged by `write` is in a buffer or in the store, never in neither: a flush
that fails leaves its buffer as it was. Between two awaits a task is alone, and every method that touches a buffer
relies on that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, NamedTuple

import trio

from blobfs.errors import (
    BlobfsError,
    BytesAbsent,
    FileTooBig,
    IsADirectory,
    KeptOut,
    NotFound,
    StaleHandle,
)
from blobfs.fs.clock import coarse_ns
from blobfs.fs.elsewhere import Elsewhere
from blobfs.fs.handles import OpenFile
from blobfs.fs.keepout import KeepOut
from blobfs.fs.names import Names
from blobfs.fs.presence import Arrivals, Fetch, Presence
from blobfs.fs.privileges import SPECIAL, Power, after_chown, after_write
from blobfs.fs.space import Allowance, Space, disk_of, within
from blobfs.fs.stale import Stale, stale_after
from blobfs.fs.writeback import MAX_HELD, SPILL, WriteBack
from blobfs.store.documents import Applied
from blobfs.store.readers import COUNT as READERS
from blobfs.store.store import Store
from blobfs.values.documents import Kind
from blobfs.values.extents import MAX_SIZE, ROW
from blobfs.values.nodes import Content, Inode, Node

log = logging.getLogger(__name__)

Prefetch = Callable[[Content, int, int], None]

TOLD_S: Final = 10.0
"""After which a command is answered though the kernel was not told of all that it changed."""
FLUSH_S: Final = 5.0
"""How long bytes written stay in memory alone while their file stays open."""
BESIDE: Final = 2 * ROW
"""Bytes from which a read goes to a worker thread, so that a sequential reader's next ones are deciphered meanwhile;
below, the hop costs more."""
LAST_NS: Final = (1 << 63) - 1
"""The last moment that is kept, in the year 2262."""
PREFETCH: Final = 16 << 20
"""Bytes that a reader in sequence is kept ahead by: four extents."""


class Owner(NamedTuple):
    """Who runs the mount, and whether stored owners count."""

    uid: int
    gid: int
    is_root: bool
    """True: files show the owners they have. False: files of any other user show this one."""


class FileSystem(Names):
    """The tree of one store as a filesystem. Single-threaded: every method is called from the trio loop.

    Args:
        fetch: brings bytes of a content into the store; whatever it raises, the reader gets.
        prefetch: a hint that these bytes will be read soon; returns at once.
        arrivals: has bytes that were fetched before the store has them.
        fetch_deadline_s: how long a reader or writer waits for absent bytes.
    """

    def __init__(
        self,
        store: Store,
        *,
        fetch: Fetch,
        prefetch: Prefetch | None,
        owner: Owner,
        fetch_deadline_s: float,
        arrivals: Arrivals | None = None,
    ) -> None:
        self.owner = owner
        self.on_stale: Callable[[Stale], None] | None = None
        """Told what the kernel must forget after a change from another device; set while mounted."""
        self.wait_told: Callable[[float], bool] | None = None
        """Waits so many seconds for the kernel to have heard all of that, and answers whether it has; set likewise."""
        self.allowance: Callable[[], Allowance | None] = lambda: None
        """What the account may hold, as the server said last; None while it has not."""
        self.keep_out = KeepOut()
        super().__init__(store)
        self._attachments = store.attachments
        self._attachments.on_stored = self._note_stored
        self._presence = Presence(store.attachments, fetch, fetch_deadline_s, arrivals)
        self._writeback = WriteBack(store, self._presence)
        self._elsewhere = Elsewhere(store)
        self._prefetch = prefetch
        self._readers = trio.CapacityLimiter(READERS)

    # --- attributes ---------------------------------------------------------------------------------------

    def getattr(self, inode: Inode) -> Node:
        """A file as a reader sees it now, what is still buffered included."""
        return self.seen(self._tree.get(inode))

    async def setattr(
        self,
        inode: Inode,
        *,
        size: int | None = None,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        power: Power = Power.ROOT,
    ) -> Node:
        """Change what is given, all or nothing; the file as it is then. Of a time out of range, the nearest."""
        if size is not None and size > MAX_SIZE:
            raise FileTooBig("no file can be that large")
        if mode is None and (uid is not None or gid is not None):
            mode = self._changed(inode, after_chown, power)
        elif mode is None and size is not None:
            mode = self._changed(inode, after_write, power)
        mtime_ns = None if mtime_ns is None else max(-LAST_NS, min(mtime_ns, LAST_NS))
        atime_ns = None if atime_ns is None else max(-LAST_NS, min(atime_ns, LAST_NS))
        others = {"mode": mode, "uid": uid, "gid": gid, "atime_ns": atime_ns, "mtime_ns": mtime_ns}
        if size is None and ((open_file := self._files.get(inode)) is None or not open_file.is_dirty):
            self._outdate(inode)
            return self._tree.update(inode, time.time_ns(), **others)

        def change() -> Node:
            now_ns = time.time_ns() if size is None else coarse_ns()
            file = self._files.get(inode)
            stored: Node | None = None
            with self._store.transaction():
                if size is not None:
                    stored = self._resize(inode, file, size, now_ns)
                elif mtime_ns is not None and file is not None and file.is_dirty:
                    stored = self._writeback.write(
                        file
                    )  # left for later, it would set the time of the last write again
                node = stored
                if node is None or any(value is not None for value in others.values()):
                    node = self._tree.update(inode, now_ns, **others)
            if file is not None:
                if stored is not None:
                    self._writeback.settle(file, node)
                file.node = None
            return node

        async def wait() -> None:
            file = self._files.get(inode)
            if file is not None:
                await self._writeback.landed(file)

        def perform() -> Node:
            return change() if size is None else self._store.freeing(change)

        return self.seen(await self._presence.perform(perform, first=wait))

    async def chown_to_same(self, inode: Inode, by: int, power: Power) -> Node:
        """A chown that names nobody. The kernel asks the same before it writes through its cache, whoever writes: so
        from others than the owner it changes nothing, and the write itself will.
        """
        node = self._tree.get(inode)
        mode = None if by in (0, node.uid) else node.mode
        return await self.setattr(inode, uid=node.uid, mode=mode, power=power)

    def _changed(self, inode: Inode, rule: Callable[[int, Power], int], power: Power) -> int | None:
        node = self._tree.get(inode)
        mode = rule(node.mode, power)
        return None if mode == node.mode or node.kind is Kind.DIRECTORY else mode

    def _resize(self, inode: Inode, file: OpenFile | None, size: int, now_ns: int) -> Node:
        if file is None or not file.is_dirty:
            return self._attachments.resize(inode, size, now_ns)
        return self._writeback.write(file, size, now_ns)

    def get_xattr(self, inode: Inode, name: bytes) -> bytes:
        """The value of an extended attribute."""
        return self._tree.get_xattr(inode, name)

    def set_xattr(self, inode: Inode, name: bytes, value: bytes) -> None:
        """Set an extended attribute, new or not."""
        self._tree.set_xattr(inode, name, value, time.time_ns())

    def list_xattrs(self, inode: Inode) -> list[bytes]:
        """The names of all extended attributes."""
        return self._tree.list_xattrs(inode)

    def remove_xattr(self, inode: Inode, name: bytes) -> None:
        """Remove an extended attribute."""
        self._tree.remove_xattr(inode, name, time.time_ns())

    def space(self) -> tuple[Space, int]:
        """What `df` shows, and about how many files there are. Never waits for the server."""
        return within(disk_of(self._store.path, self._store.withheld()), self.allowance()), self._tree.count_roughly()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """While in it, full buffers are stored in the background, and others every few seconds."""
        async with trio.open_nursery() as nursery:
            self._writeback.background = nursery
            nursery.start_soon(self._flush_regularly)
            try:
                yield
            finally:
                self._writeback.background = None
                nursery.cancel_scope.cancel()

    async def _flush_regularly(self) -> None:
        while True:
            await trio.sleep(FLUSH_S)
            await self.flush_all()

    # --- open files ---------------------------------------------------------------------------------------

    def is_open(self, inode: Inode) -> bool:
        """Whether a handle is open, or bytes written are not in the store yet."""
        return inode in self._files

    def handles(self, inode: Inode) -> int:
        """How many are open."""
        file = self._files.get(inode)
        return 0 if file is None else file.handles

    def create(self, parent: Inode, name: bytes, mode: int, uid: int, gid: int) -> Node:
        """A new, open file."""
        node = self.make(parent, name, Kind.FILE, mode, uid, gid)
        file = self._files[node.inode] = OpenFile(node.inode, node)
        file.power = Power.ROOT if uid == 0 else Power.MEMBER
        return node

    async def open_name(self, parent: Inode, name: bytes, *, truncate: bool, power: Power) -> Node:
        """Open a file by its name: another device has put it there since the kernel asked and decided to create it."""
        node = self._tree.lookup(parent, name)
        if node.kind is not Kind.FILE:
            raise IsADirectory("something that is no file has this name")
        await self.open(node.inode, writes=True, truncate=truncate, power=power)
        self._references.look(node.inode)
        return self.getattr(node.inode)

    def admit(self, inode: Inode, pid: int) -> None:
        """Let a process open a file to read it.

        Raises:
            KeptOut: bytes of it are not here, and the program is one of those that must not have them fetched.
        """
        node = self._tree.get(inode)
        if node.content is None:
            return
        # Whole files first: all that they cost is this look.
        is_whole = node.stored >= node.size or self._attachments.is_whole(node.content, node.size)
        if not is_whole and self.keep_out.turns_away(pid):
            raise KeptOut("not on this device, and this program is on the list of those that must not have it fetched")
        self._attachments.uses.note(node.content)

    async def open(
        self, inode: Inode, *, writes: bool = False, truncate: bool = False, power: Power = Power.ROOT
    ) -> None:
        """One more handle. A file that was just deleted or replaced can still be opened by its inode."""
        if truncate:
            await self.setattr(inode, size=0, power=power)
        file = self._files.get(inode)
        if file is None:
            file = self._files[inode] = OpenFile(inode)
        else:
            file.handles += 1
        if writes:
            file.power = min(file.power, power)

    async def release(self, inode: Inode) -> None:
        """One handle less. Bytes that came after the last flush (a mapping's) go to the store now."""
        file = self._files.get(inode)
        if file is None:
            return
        file.handles -= 1
        if file.handles > 0:
            return
        if file.flight is not None:
            await self._writeback.landed(file)
        await self._keep(file)
        self._drop_if_unused(file)

    async def _keep(self, file: OpenFile) -> None:
        """On return the store has what was buffered of a file that has a name; one that we deleted needs nothing.

        One that another device deleted gets its name back, if anything was written into it since.
        """
        inode = file.inode
        self._heed_return(inode)
        if file.is_dirty and (inode in self._elsewhere or not self._references.is_deleted(inode)):
            await self._writeback.flush(file)
        if not self._is_gone(inode):
            self._elsewhere.look_for(inode)
        # Bytes first: sync must not meet the name without them.
        if inode in self._elsewhere and self._elsewhere.is_edited(inode):
            for applied in self._elsewhere.revive(inode):
                self._references.revive(applied.inode)
                self._outdate(applied.inode)
                self._tell(self.invalidated(applied))
            # Whoever closes it looks for it next, and the kernel may remember that there is no such name.
            await self.until_told()

    def _heed_return(self, inode: Inode) -> None:
        """An edit elsewhere may have brought back what was deleted, here or there: it has a name again."""
        if self._is_gone(inode) and self._elsewhere.is_back(inode):
            self._references.revive(inode)
            self._elsewhere.forget(inode)

    def _is_gone(self, inode: Inode) -> bool:
        return inode in self._elsewhere or self._references.is_deleted(inode)

    def _drop_if_unused(self, file: OpenFile) -> None:
        inode = file.inode
        is_deleted = self._references.is_deleted(inode)
        if file.handles > 0 or file.flight is not None or (file.is_dirty and not is_deleted):
            return
        if self._files.get(inode) is not file:
            return
        del self._files[inode]
        self._elsewhere.forget(inode)
        self._writeback.held -= file.buffer.held
        if is_deleted and inode not in self._references.lookups:
            self._doom(inode)

    # --- bytes --------------------------------------------------------------------------------------------

    async def read(self, inode: Inode, offset: int, length: int) -> bytes:
        """Exactly the bytes of a range, cut at the end of the file.

        Raises:
            RemoteUnavailable, IntegrityError: bytes that are not here could not be fetched.
        Checkpoint: only when bytes are fetched, or many.
        """
        file = self._files.get(inode)
        if file is not None and file.is_dirty:
            return await self._read_through(file, offset, length)
        node = self._tree.get(inode)
        if offset + length > node.size:
            length = node.size - offset
        if length <= 0 or node.content is None:
            return b""
        data = self._presence.peek(node.content, offset, length)
        if data is None:
            try:
                data = await self._read_stored(node.content, offset, length)
            except BytesAbsent:
                data = await self._presence.read(node.content, offset, length)
                if file is not None:
                    file.is_partial = True
        if file is not None and file.is_partial:  # worth it only where something had to be fetched already
            self._read_ahead(file, node.content, offset + length)
        return data

    async def _read_stored(self, content: Content, offset: int, length: int) -> bytes:
        if self._presence.is_coming(content, offset, length):
            # What the store would say, too, a thread and three queries later.
            raise BytesAbsent(content, offset, length)
        if length < BESIDE:
            return self._attachments.read(content, offset, length)
        read = partial(self._attachments.read_beside, content, offset, length)
        return await trio.to_thread.run_sync(read, limiter=self._readers)

    async def _read_through(self, file: OpenFile, offset: int, length: int) -> bytes:
        length = min(length, file.size - offset)
        if length <= 0:
            return b""
        if file.buffer.covers(offset, length):
            return file.buffer.get(offset, length)
        node = self._tree.get(file.inode)
        stored = min(length, node.size - offset)
        below = b""
        if stored > 0 and node.content is not None:
            try:
                below = self._attachments.read(node.content, offset, stored)
            except BytesAbsent:
                below = await self._presence.read(node.content, offset, stored)
        target = bytearray(length)
        target[: len(below)] = below
        file.overlay(offset, target)
        return bytes(target)

    async def write(self, inode: Inode, offset: int, data: bytes) -> int:
        """Buffer a write; on return every reader on this machine sees it.

        Raises:
            FileTooBig: past the largest file. NoSpace: the buffer was full and could not be stored; it is kept.
            RemoteUnavailable: the write covers a part of a row that is not here, and it could not be fetched.
        Checkpoint: only when bytes are fetched.
        """
        file = self._files.get(inode)
        if file is None:
            raise StaleHandle("the file is not open")
        end = offset + len(data)
        if end > MAX_SIZE:
            raise FileTooBig("no file can be that large")
        if file.buffer.held >= SPILL:
            await self._writeback.make_room(file)
        elif self._writeback.held >= MAX_HELD:
            await self._writeback.flush(file)
            await self.flush_all()
        node = file.node
        if node is None:
            node = file.load(self._tree.get(inode))
        if node.mode & SPECIAL and (mode := after_write(node.mode, file.power)) != node.mode:
            node = file.load(self._tree.update(inode, time.time_ns(), mode=mode))
        if node.stored < node.size and node.content is not None:
            await self._presence.bring_edges(node.content, node.size, offset, end)
        self._writeback.held += file.put(offset, data, coarse_ns())
        return len(data)

    async def flush(self, inode: Inode) -> None:
        """What `close` waits for: on return everything written is in the store, and survives SIGKILL."""
        file = self._files.get(inode)
        if file is not None and (file.is_dirty or inode in self._elsewhere):
            await self._keep(file)

    async def fsync(self, inode: Inode | None = None) -> None:
        """What `fsync` waits for: on return the file, or without one everything stored, survives power loss."""
        if inode is not None:
            await self.flush(inode)
        if self._store.syncs_quickly():
            self._store.sync()
        else:
            await trio.to_thread.run_sync(self._store.sync)

    async def flush_all(self) -> None:
        """Every buffer into the store, and the space of deleted files free. Files that fail are logged and kept."""
        for file in list(self._files.values()):
            if file.is_dirty or file.inode in self._elsewhere:
                try:
                    await self._keep(file)
                except BlobfsError as error:
                    log.warning("inode %d has bytes that could not be stored: %s", file.inode, error)
                except Exception:
                    log.exception("inode %d has bytes that could not be stored", file.inode)
            self._drop_if_unused(file)
        self._purge()

    def _read_ahead(self, file: OpenFile, content: Content, end: int) -> None:
        if self._prefetch is not None and file.next_offset:
            self._prefetch(content, end, PREFETCH)
        file.next_offset = end

    # --- changes from other devices -----------------------------------------------------------------------

    def notify(self, applied: Applied) -> None:
        """A remote change is in the store: whoever mounts this has the kernel forget what it knew."""
        self._outdate(applied.inode)
        if applied.before is not None and not applied.names_after:
            with suppress(NotFound):
                node = self._tree.get(applied.inode)
                self._deleted(node)
                # It has a name again if somebody wrote into it before this news came.
                if node.deleted and applied.inode in self._files and applied.before.kind is Kind.FILE:
                    self._elsewhere.note(applied)
        self._tell(self.invalidated(applied))

    async def until_told(self) -> None:
        """Return when the kernel has heard of every change so far, or when that takes long: it may wait for us."""
        if self.wait_told is not None and not self.wait_told(0):
            await trio.to_thread.run_sync(self.wait_until_told)

    def wait_until_told(self) -> None:
        """As `until_told`, for worker threads."""
        if self.wait_told is not None:
            self.wait_told(TOLD_S)

    def _tell(self, stale: Stale) -> None:
        if self.on_stale is not None:
            self.on_stale(stale)

    def _note_stored(self, inode: Inode) -> None:
        """Its bytes came, or went: it takes more or fewer blocks now. From any thread."""
        if inode in self._references.lookups:
            self._tell(Stale(((inode, False),), ()))

    def invalidated(self, applied: Applied) -> Stale:
        """What the kernel must forget after a remote change."""
        return stale_after(applied, self._references.lookups)
