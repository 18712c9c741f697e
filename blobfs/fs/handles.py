"""OpenFile: one open inode, however many handles it has, with the buffer that all of them write to.

Knows no store and no kernel. Invariant: while `is_dirty`, `size` and `mtime_ns` are the file's truth and the store's
are older; otherwise the store's are. Bytes in `flight` are being stored by a thread, and nobody changes them.
"""

from __future__ import annotations

import trio

from blobfs.fs.buffers import WriteBuffer
from blobfs.fs.privileges import Power
from blobfs.values.nodes import Inode, Node


class OpenFile:
    """What is known of an inode that is open, or whose last bytes could not be stored yet."""

    __slots__ = (
        "buffer",
        "flight",
        "handles",
        "has_crashed",
        "inode",
        "is_dirty",
        "is_partial",
        "landing",
        "mtime_ns",
        "next_offset",
        "node",
        "power",
        "size",
    )

    def __init__(self, inode: Inode, node: Node | None = None) -> None:
        self.inode = inode
        self.handles = 1
        self.buffer = WriteBuffer()
        self.flight: WriteBuffer | None = None
        self.landing: trio.Event
        """Set when the flight is over; there is one while there is a flight."""
        self.has_crashed = False
        """Whether the last flight failed: then writers wait for the next attempt, to be told."""
        self.is_dirty = False
        self.node = node
        """As the store had it after the last flush; None until the first write asks for it."""
        self.size = 0 if node is None else node.size
        self.mtime_ns = 0
        self.power = Power.ROOT
        """Of the weakest who has opened it for writing."""
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
        self.is_dirty = self.has_crashed = False
        self.load(node)
        return held

    def take_off(self) -> None:
        """The buffer is about to be stored by a thread; writers get a new one."""
        self.flight, self.buffer, self.landing = self.buffer, WriteBuffer(), trio.Event()

    def land(self, node: Node) -> int:
        """The flight is in the store, which answered `node`. The bytes that it gives free."""
        assert self.flight is not None
        held, self.flight = self.flight.held, None
        self.is_dirty = bool(self.buffer)
        self.load(node)
        self.landing.set()
        return held

    def crash(self) -> None:
        """The flight failed: its bytes are buffered again, beneath what was written meanwhile."""
        assert self.flight is not None
        below, self.flight = self.flight, None
        for offset, data in self.buffer.pieces():
            below.put(offset, data)
        self.buffer, self.has_crashed = below, True
        self.landing.set()

    def overlay(self, offset: int, target: bytearray) -> None:
        """Lay what is buffered over `target`, which holds the bytes of the store from `offset` on."""
        if self.flight is not None:
            self.flight.overlay(offset, target)
        self.buffer.overlay(offset, target)

    def seen_through(self, node: Node) -> Node:
        """`node` of the store with what is buffered laid over it."""
        held = self.buffer.held + (0 if self.flight is None else self.flight.held)
        return node.but(
            size=self.size,
            stored=max(node.stored, min(self.size, node.stored + held)),
            mtime_ns=self.mtime_ns,
            ctime_ns=max(node.ctime_ns, self.mtime_ns),
        )
