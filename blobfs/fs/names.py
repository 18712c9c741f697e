"""Names: what creating, linking, moving and removing a name means, and when a deleted file's bytes may go.

Knows the store's tree and the kernel's references; of open files only that they are, and what is buffered for them. No
bytes. Invariant: a file whose last name is gone is purged once, after its last reference and its last handle.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from blobfs.errors import BlobfsError, InvalidArgument
from blobfs.fs.clock import coarse_ns
from blobfs.fs.handles import OpenFile
from blobfs.fs.inodes import References
from blobfs.store.store import Store
from blobfs.values.documents import Kind
from blobfs.values.nodes import Entry, Inode, Node

log = logging.getLogger(__name__)

MAX_DOOMED: Final = 32
"""Deleted files purged in one transaction; fewer wait for the next `flush_all`."""


class Names:
    """The names of one store: the part of FileSystem that no byte of a file passes through."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tree = store.tree
        self._references = References()
        self._files: dict[Inode, OpenFile] = {}

    # --- asking -------------------------------------------------------------------------------------------

    def lookup(self, parent: Inode, name: bytes) -> Node:
        """The node of a name; the kernel holds one more reference to it."""
        node = self._tree.lookup(parent, name)
        self._references.look(node.inode)
        return self.seen(node)

    def forget(self, inode: Inode, count: int) -> None:
        """The kernel gives `count` references back."""
        if self._references.forget(inode, count) and inode not in self._files:
            self._doom(inode)

    def entries(self, inode: Inode, after: int, limit: int) -> list[Entry]:
        """At most `limit` entries of a directory whose cookies are above `after`, ascending."""
        return self._tree.entries(inode, after, limit)

    def newest(self, inode: Inode) -> int:
        """A cookie that no entry of this directory is above, as long as it gets no further one."""
        return self._tree.newest_cookie()

    def entry_sent(self, inode: Inode) -> None:
        """The kernel got this inode in a directory listing, which counts as a look-up."""
        self._references.look(inode)

    def parent(self, inode: Inode) -> Inode:
        """The directory that a directory is in; the root is its own."""
        return self._tree.parent(inode)

    def seen(self, node: Node) -> Node:
        """`node` of the store with what is buffered for it laid over."""
        file = self._files.get(node.inode)
        return node if file is None or not file.is_dirty else file.seen_through(node)

    # --- changing -----------------------------------------------------------------------------------------

    def make(
        self,
        parent: Inode,
        name: bytes,
        kind: Kind,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Node:
        """A new file, directory, symlink or special file; the kernel holds a reference to it."""
        above = self._tree.get(parent)
        if above.mode & 0o2000:  # a setgid directory hands down its group, and to directories the bit as well
            gid = above.gid
            if kind is Kind.DIRECTORY:
                mode |= 0o2000
        node = self._tree.create(
            parent, name, kind, mode=mode & 0o7777, uid=uid, gid=gid, now_ns=coarse_ns(), rdev=rdev, target=target
        )
        self._references.look(node.inode)
        return node

    def link(self, inode: Inode, parent: Inode, name: bytes) -> Node:
        """One more name for a file; the kernel holds one more reference to it."""
        node = self._tree.link(inode, parent, name, time.time_ns())
        self._references.look(inode)
        self._outdate(inode)
        return self.seen(node)

    def unlink(self, parent: Inode, name: bytes) -> None:
        """Remove a name; the file lives on while it is open."""
        self._deleted(self._store.freeing(lambda: self._tree.unlink(parent, name, time.time_ns())))

    def rmdir(self, parent: Inode, name: bytes) -> None:
        """Remove an empty directory."""
        self._deleted(self._store.freeing(lambda: self._tree.rmdir(parent, name, time.time_ns())))

    def rename(
        self,
        parent: Inode,
        name: bytes,
        new_parent: Inode,
        new_name: bytes,
        *,
        exchange: bool = False,
        no_replace: bool = False,
    ) -> None:
        """Move a name; what it replaces lives on while it is open."""
        replaced = self._store.freeing(
            lambda: self._tree.rename(
                parent, name, new_parent, new_name, time.time_ns(), exchange=exchange, no_replace=no_replace
            )
        )
        if replaced is not None:
            self._deleted(replaced)

    def readlink(self, inode: Inode) -> bytes:
        """Where a symlink points."""
        node = self._tree.get(inode)
        if node.kind is not Kind.SYMLINK:
            raise InvalidArgument("this is no symbolic link")
        return node.target

    # --- what is gone -------------------------------------------------------------------------------------

    def _deleted(self, node: Node) -> None:
        inode = node.inode
        self._outdate(inode)
        if node.deleted:
            self._references.delete(inode)
            if inode not in self._references.lookups and inode not in self._files:
                self._doom(inode)

    def _outdate(self, inode: Inode) -> None:
        file = self._files.get(inode)
        if file is not None:
            file.node = None

    def _doom(self, inode: Inode) -> None:
        if self._references.doom(inode) >= MAX_DOOMED:
            self._purge()

    def _purge(self) -> None:
        doomed = self._references.take_doomed()
        if not doomed:
            return
        try:
            self._store.freeing(lambda: self._tree.purge(*doomed))
        except BlobfsError as error:
            self._references.put_back(doomed)
            log.warning("the space of %d deleted files is not free yet: %s", len(doomed), error)
