"""WriteBack: brings what open files have buffered into the store, and bounds how much is buffered.

Knows open files and the store's attachments; not names, nor the kernel. A full buffer is stored by a worker thread
while its writer fills the next (a flight); close, fsync and truncation wait for the flight and store the rest at once.
Invariant: bytes leave a buffer only when the store has them; a flight that fails puts them back, under newer ones.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from blobfs.errors import BlobfsError, BytesAbsent
from blobfs.fs.handles import OpenFile
from blobfs.fs.presence import Presence
from blobfs.store.store import Store
from blobfs.values.nodes import Node

log = logging.getLogger(__name__)

SPILL: Final = 4 << 20
"""Bytes at which one file's buffer goes to the store: one extent, so that whole extents are written at once."""
MAX_HELD: Final = 32 << 20
"""Bytes of all buffers together at which all go: what the daemon's memory can grow by, however many files are open."""


class WriteBack:
    """From buffers into the store. Single-threaded but for its flights: call it from the trio loop."""

    def __init__(self, store: Store, presence: Presence) -> None:
        self._store = store
        self._presence = presence
        self.background: trio.Nursery | None = None
        """Where flights take place; without it their writers wait."""
        self.held = 0
        """Bytes in the buffers of all files."""

    async def make_room(self, file: OpenFile) -> None:
        """Called before each write: on return the file's buffer is below its bound.

        Raises:
            NoSpace: it cannot be stored, and nothing more is taken. All else that `flush` raises.
        """
        if file.buffer.held < SPILL:
            return
        await self.landed(file)
        if self.background is None or file.has_crashed:
            await self.flush(file)
        else:
            file.take_off()
            self.background.start_soon(self._fly, file)

    async def flush(self, file: OpenFile) -> None:
        """On return all that the file had buffered is in the store, and survives SIGKILL.

        Raises:
            NoSpace; RemoteUnavailable, IntegrityError: a row that it covers in part could not be brought.
        """

        def store() -> None:
            if file.is_dirty:
                self.settle(file, self.write(file))

        if file.flight is None:
            try:
                store()  # nearly always all that it takes
                return
            except BytesAbsent:
                pass
        await self._presence.perform(store, first=lambda: self.landed(file))

    async def landed(self, file: OpenFile) -> None:
        """Wait until no flight of the file is under way. Checkpoint: only when there is one."""
        while file.flight is not None:
            await file.landing.wait()

    def write(self, file: OpenFile, size: int | None = None, now_ns: int | None = None) -> Node:
        """Put what is buffered into the store, cut or extended to `size`; `settle` must follow when all has gone well.

        There must be no flight. Raises BytesAbsent, NoSpace, NotFound; nothing was changed then.
        """
        mtime_ns = now_ns or file.mtime_ns
        whole = file.size if size is None else size
        return self._store.attachments.write(file.inode, file.buffer.pieces(size), whole, mtime_ns, mtime_ns)

    def settle(self, file: OpenFile, node: Node) -> None:
        """What `write` answered is committed."""
        self.held -= file.settle(node)

    async def _fly(self, file: OpenFile) -> None:
        flight = file.flight
        assert flight is not None
        arguments = (file.inode, flight.pieces(), file.size, file.mtime_ns, file.mtime_ns)
        try:
            after = await trio.to_thread.run_sync(self._store.attachments.write, *arguments)
        except BlobfsError as error:
            log.warning("inode %d: a full buffer could not be stored yet: %s", file.inode, error)
            file.crash()
        except Exception:
            log.exception("inode %d: a full buffer could not be stored", file.inode)
            file.crash()
        except BaseException:
            file.crash()
            raise
        else:
            self.held -= file.land(after)
