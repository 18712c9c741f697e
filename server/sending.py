"""A file's bytes on their way to a connection, from the page cache and without a copy.

`BoundedConnection` offers it to responses as the extension `SEND_FILE` of ASGI: instead of all messages with a body
they send a single one of this type, with the keys of `FileMessage`.

Must not know routes, backends or TLS, which has to see every byte. Invariant: nothing that waits for a disk runs on the
event loop; the bytes go behind all that was written before them, and no more of them once the connection closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable
from typing import Final, NotRequired, Protocol, TypedDict

from anyio import CapacityLimiter, to_thread
from uvicorn.protocols.http.flow_control import FlowControl

SEND_FILE: Final = "blobfs.response.file"

SENDERS: Final = 8
"""Threads that send files, of all connections: enough to keep a disk's queue filled, like those that read them."""

AT_ONCE: Final = 256 << 10
"""Bytes read at a time where the kernel cannot send a file by itself."""

PROGRESS: Final = 256 << 10
"""Bytes that a client has to take to count as alive: a few now and then would hold a connection for hours."""

_UNABLE: Final = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP))
_senders: Final = CapacityLimiter(SENDERS)


class OpenFile(Protocol):
    """A file with a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""

    def close(self) -> None:
        """Close it; harmless when repeated."""


class FileMessage(TypedDict):
    """The body of a response whose length was announced."""

    type: str
    file: OpenFile
    """Closed when sending returns; when it raises, that is left to who sends the message."""
    offset: int
    count: int
    """Bytes, at least one."""
    progress: NotRequired[Callable[[], None]]
    """Called whenever the client took `PROGRESS` bytes."""


class FileSending:
    """The way for files of one connection without TLS."""

    def __init__(self, transport: asyncio.Transport, flow: FlowControl) -> None:
        self._transport = transport
        self._flow = flow
        self._socket: socket.socket | None = None
        self._pushing = threading.Lock()

    @property
    def is_busy(self) -> bool:
        """Whether somebody else's bytes would now stand in the middle of a file."""
        return self._socket is not None

    def stop(self) -> None:
        """The connection is closed: a file under way ends here, also where its client takes nothing."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the client was faster
                self._socket.shutdown(socket.SHUT_RDWR)

    async def send(self, message: FileMessage) -> bool:
        """Send it; True when the system has taken everything. Either way the file is closed.

        Answers:
            False: the connection is closed, or closing.
        Raises:
            OSError: the file cannot be read, or is shorter. How much was sent, nobody knows.
        """
        await self._flush()
        if not self._transport.is_closing():
            # A descriptor of its own: while a thread works with it, its number can become nothing else's.
            out = self._transport.get_extra_info("socket").dup()
            self._socket = out
            try:
                if await self._send(out, message):
                    return True
            except (ConnectionError, TimeoutError):
                self._transport.abort()
            finally:
                self._socket = None
                with self._pushing:  # the end of the process cancels what waits for a thread, and the thread goes on
                    out.close()
        await to_thread.run_sync(message["file"].close, limiter=_senders)
        return False

    async def _send(self, out: socket.socket, message: FileMessage) -> bool:
        file, offset, left = message["file"], message["offset"], message["count"]
        progress, told = message.get("progress", lambda: None), offset
        while not self._transport.is_closing():
            sent = await to_thread.run_sync(self._push, out, file, offset, left, limiter=_senders)
            offset, left = offset + sent, left - sent
            if not left:
                return True
            if offset - told >= PROGRESS:
                told = offset
                progress()
            await _writable(out)
        return False

    def _push(self, out: socket.socket, file: OpenFile, offset: int, count: int) -> int:
        with self._pushing:
            return push(out, file, offset, count)

    async def _flush(self) -> None:
        """Wait until what was written before, as the response's head, is with the system."""
        self._transport.set_write_buffer_limits(high=0)
        try:
            await self._flow.drain()
        finally:
            self._transport.set_write_buffer_limits()


async def _writable(out: socket.socket) -> None:
    """Wait until the socket takes bytes again, or tells why it never will."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(out, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(out)


def push(out: socket.socket, file: OpenFile, offset: int, count: int) -> int:
    """Send what the socket takes without waiting; how many bytes that were, at most `count`. In a worker thread."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < count:
            size = _send_some(out, file.fileno(), offset + sent, count - sent)
            if not size:
                # The length was announced already, so breaking off is the only honest answer.
                raise OSError(errno.EIO, "a file is shorter than it was when it was opened")
            sent += size
        file.close()
    return sent


def _send_some(out: socket.socket, file: int, offset: int, count: int) -> int:
    try:
        return os.sendfile(out.fileno(), file, offset, count)
    except OSError as error:
        if error.errno not in _UNABLE:  # of which there are filesystems
            raise
    piece = os.pread(file, min(count, AT_ONCE), offset)
    return out.send(piece) if piece else 0
