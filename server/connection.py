"""One HTTP connection: uvicorn's protocol with bounds on the head of a request, which uvicorn leaves without any, and
with files sent by the kernel (`server/sending.py`).

Must not know routes. Invariant: a request's head is at most `MAX_HEAD` bytes in `MAX_HEADERS` headers, and complete
`HEAD_S` after its first byte was due; what stands behind its body is no part of it, and not longer either. Nothing is
written into the middle of a file.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any, Final, cast

from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import is_ssl

from server.limits import step
from server.sending import SEND_FILE, FileMessage, FileSending

MAX_HEAD: Final = 64 << 10
MAX_HEADERS: Final = 100
HEAD_S: Final = 30


class BoundedConnection(HttpToolsProtocol):
    """Counts and times the head, and what is neither head nor body; the body is the application's to bound."""

    _size = 0
    _number = 0
    _brought_body = False
    _timer: asyncio.TimerHandle | None = None
    _files: FileSending | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if not is_ssl(transport):
            self._files = FileSending(transport, self.flow)
            self.app = functools.partial(_with_files, self.app, self._files)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._files is not None:
            self._files.stop()
        super().connection_lost(exc)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        self._brought_body = False
        super().data_received(data)
        if self._timer is not None:  # the head is not complete yet
            self._size += len(data)
            if self._size > MAX_HEAD and not self.transport.is_closing():
                self.send_400_response("The head of the request is too long.")
        elif self._brought_body:
            self._size = 0
        else:
            # Extensions of a chunk, or trailers, of which the parser holds each as long as it goes on.
            self._size += len(data)
            if self._size > MAX_HEAD:
                self.transport.close()

    def send_400_response(self, msg: str) -> None:
        if self._files is not None and self._files.is_busy:
            self.transport.abort()
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._number = 0
        self._arm()

    def on_body(self, body: bytes) -> None:
        self._brought_body = True
        super().on_body(body)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._timer is not None:
            # A trailer is none of the headers: whoever stands before this server has not seen it as one.
            super().on_header(name, value)
        self._number += 1
        if self._number > MAX_HEADERS or len(name) + len(value) > MAX_HEAD:
            raise ValueError("too many headers")  # the parser stops, and uvicorn answers 400

    def on_headers_complete(self) -> None:
        self._disarm()
        self._size = 0
        # What asyncio asks the socket for at a time; to a connection with TLS it means nothing.
        self.transport.max_size = step(len(self.tasks) + 1)  # type: ignore[attr-defined]
        super().on_headers_complete()


async def _with_files(app: Any, files: FileSending, scope: Scope, receive: Receive, send: Send) -> None:
    """The application with the extension. What that means to the response, uvicorn's cycle has to be told."""
    cycle: RequestResponseCycle = send.__self__  # type: ignore[attr-defined]

    async def send_or_file(message: Message) -> None:
        if message["type"] != SEND_FILE:
            await send(message)
        elif message["count"] != cycle.expected_content_length:
            raise RuntimeError("The file is not as long as was announced.")
        elif await files.send(cast(FileMessage, message)):
            cycle.expected_content_length = 0
            await send({"type": "http.response.body"})
        else:
            cycle.disconnected = True  # as after any other write in vain: the rest is let go without a word

    scope["extensions"] = {SEND_FILE: {}}
    await app(scope, receive, send_or_file)
