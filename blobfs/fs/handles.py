"""OpenFile: one open inode, however many handles it has, with the buffer that all of them write to.

Knows no store and no kernel. Invariant: while `is_dirty`, `size` and `mtime_ns` are the file's truth and the store's
are older; otherwise the store's are.
"""

from __future__ import annotations

from blobfs.fs.buffers import WriteBuffer
from blobfs.values.nodes import Inode, Node


class OpenFile:
    """What is known of an inode that is open, or whose last bytes could not be stored yet."""

    __slots__ = ("buffer", "handles", "inode", "is_dirty", "is_partial", "mtime_ns", "next_offset", "node", "size")

    def __init__(self, inode: Inode, node: Node | None = None) -> None:
        self.inode = inode
        self.handles = 1
        self.buffer = WriteBuffer()
        self.is_dirty = False
        self.node = node
        """As the store had it after the last flush; None until the first write asks for it."""
        self.size = 0 if node is None else node.size
        self.mtime_ns = 0
        self.is_partial = False
        """Whether a read had to fetch: then reads in sequence are worth a prefetch."""
        self.next_offset = 0
        """Where a reader in sequence goes on."""

    def load(self, node: Node) -> Node:
        """Take over what the store knows, but for what is buffered."""
        self.node = node
        if not self.is_dirty:
            self.size = node.size
        return node

    def put(self, offset: int, data: bytes, now_ns: int) -> int:
        """Buffer a write. The bytes that the buffer grew by."""
        held = self.buffer.held
        self.buffer.put(offset, data)
        end = offset + len(data)
        if end > self.size:
            self.size = end
        self.mtime_ns = now_ns
        self.is_dirty = True
        return self.buffer.held - held

    def settle(self, node: Node) -> int:
        """The store has everything and answered `node`. The bytes that the buffer gives free."""
        held = self.buffer.held
        self.buffer.clear()
        self.is_dirty = False
        self.load(node)
        return held

    def seen_through(self, node: Node) -> Node:
        """`node` of the store with what is buffered laid over it."""
        return node._replace(
            size=self.size,
            stored=max(node.stored, min(self.size, node.stored + self.buffer.held)),
            mtime_ns=self.mtime_ns,
            ctime_ns=max(node.ctime_ns, self.mtime_ns),
        )
