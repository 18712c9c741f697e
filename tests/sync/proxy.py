"""A way to the server that a test can cut, slow down and block."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import trio

_REQUEST: Final = re.compile(rb"([A-Z]{3,7}) /([a-z]*)[^ ]* HTTP/1\.1\r\n")
_UPLOADS: Final = {(b"PUT", b"blobs"), (b"POST", b"stream")}


class Proxy:
    """A TCP proxy; its switches can be set at any time."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self.url = ""
        self.refusing = False
        """New connections are closed at once."""
        self.cut_after: int | None = None
        """Bytes of an answer after which a connection is cut."""
        self.delay_s = 0.0
        """Before each piece of an answer."""
        self.stalled = False
        """Nothing passes any more, and nothing is closed."""
        self.moved = 0
        """Bytes that came from the server."""
        self.sent = 0
        """Bytes that went to it."""
        self.requests = 0
        self.stalled_uploads = False
        """Bytes of blobs do not pass, and nothing is closed."""
        self.waiting_uploads = 0
        self.connections = 0
        self.pieces_left: int | None = None
        """Pieces of answers that still pass; then every connection is cut, and none is taken any more."""
        self.broken = trio.Event()
        """Set when that has happened."""
        self.failures = 0
        """Requests that are answered with 503 from here, and get no further."""
        self.failed_at = 0.0
        """When the last of them was answered, by trio's clock."""
        self.retry_after_s = 0
        """What those answers ask for."""
        self._open: set[trio.SocketStream] = set()

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        await trio.serve_listeners(self._pass, listeners, task_status=task_status)

    async def cut(self) -> None:
        """Cut every connection there is."""
        for stream in list(self._open):
            await trio.aclose_forcefully(stream)

    async def _may_pass(self) -> bool:
        """Whether another piece of an answer does."""
        if self.pieces_left is None:
            return True
        if self.pieces_left > 0:
            self.pieces_left -= 1
            return True
        self.refusing = True
        self.broken.set()
        await self.cut()
        return False

    async def _take(self, what: tuple[bytes, ...], client: trio.SocketStream) -> bool:
        """Whether a request, of which this is the beginning, goes on to the server."""
        self.requests += 1
        if self.failures:
            self.failures -= 1
            self.failed_at = trio.current_time()
            answer = f"Retry-After: {self.retry_after_s}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            await client.send_all(b"HTTP/1.1 503 Service Unavailable\r\n" + answer.encode())
            return False
        if what in _UPLOADS:
            self.waiting_uploads += 1
            while self.stalled_uploads:  # noqa: ASYNC110
                await trio.sleep(0.01)
            self.waiting_uploads -= 1
        return True

    async def _pass(self, client: trio.SocketStream) -> None:
        self.connections += 1
        try:
            async with client:
                if self.refusing:
                    return
                async with await trio.open_tcp_stream(self._host, self._port) as server:
                    self._open |= {client, server}
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._pump, client, server, False, nursery.cancel_scope)
                        nursery.start_soon(self._pump, server, client, True, nursery.cancel_scope)
                    self._open -= {client, server}
        except OSError:
            return

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, answers: bool, scope: trio.CancelScope
    ) -> None:
        passed = 0
        try:
            async for data in source:
                while self.stalled:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                if answers and self.delay_s:
                    await trio.sleep(self.delay_s)
                piece = data
                if answers and not await self._may_pass():
                    break
                if not answers and (request := _REQUEST.match(data)) and not await self._take(request.groups(), source):
                    break
                if answers and self.cut_after is not None:
                    piece = data[: max(0, self.cut_after - passed)]
                passed += len(piece)
                self.moved += len(piece) if answers else 0
                self.sent += 0 if answers else len(piece)
                await sink.send_all(piece)
                if len(piece) < len(data):
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def proxying(target: str) -> AsyncIterator[Proxy]:
    """A running proxy before `target`."""
    proxy = Proxy(target)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        yield proxy
        nursery.cancel_scope.cancel()
