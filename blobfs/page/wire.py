"""HTTP/1.1 on one connection: requests out of bytes, answers into bytes. The framing is h11's.

Knows no route and no right. Invariant: a peer can make the process hold no more than `MAX_HEAD` and `MAX_BODY` bytes of
a request, and a connection on which nothing moves ends.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

import h11
import trio

from blobfs.values.documents import name_to_text

MAX_HEAD: Final = 16 << 10
MAX_BODY: Final = 64 << 10
"""Bytes of a form: a path, a token and some words."""
MAX_FIELDS: Final = 32
QUIET_S: Final = 60
"""How long a connection may send, or take, nothing."""
_PIECE: Final = 64 << 10

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    method: str
    room: str
    """The first part of the path; empty for `/`."""
    path: str
    """The rest, decoded, with names as `blobfs.answers.paths` takes them."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case name; of a header that came twice, both with a comma between."""
    form: Mapping[str, str]


@dataclass(slots=True)
class Response:
    """One answer: `body`, or `length` bytes of `stream`."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None
    length: int = 0


class TooLarge(Exception):
    """A body of more than `MAX_BODY` bytes."""


Handler = Callable[[Request], Awaitable[Response]]


async def attend(stream: trio.SocketStream, handle: Handler) -> None:
    """Answer requests until the peer goes or nothing comes."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    while True:
        request = await _receive(stream, connection)
        if request is None:
            return
        await _send(stream, connection, await handle(request), with_body=request.method != "HEAD")
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            return
        connection.start_next_cycle()


async def _receive(stream: trio.SocketStream, connection: h11.Connection) -> Request | None:
    """None: the peer has gone, or sent what is no request, and was told."""
    head, body = None, bytearray()
    try:
        with trio.fail_after(QUIET_S):
            while not isinstance(event := await _next(stream, connection), h11.EndOfMessage | h11.ConnectionClosed):
                if isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > MAX_BODY:
                        raise TooLarge
            return None if head is None or isinstance(event, h11.ConnectionClosed) else _request(head, bytes(body))
    except trio.TooSlowError:
        return None
    except (h11.RemoteProtocolError, TooLarge, ValueError):
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            refusal = Response(400, {"Connection": "close"}, b"This is no request.\n")
            # HEAD is answered without a body, also when it came with a broken one.
            await _send(stream, connection, refusal, with_body=head is None or head.method != b"HEAD")
        return None


async def _next(stream: trio.SocketStream, connection: h11.Connection) -> h11.Event | h11.ConnectionClosed:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Event):
            return event
        if connection.they_are_waiting_for_100_continue:
            await stream.send_all(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        connection.receive_data(await stream.receive_some(_PIECE))


def _request(head: h11.Request, body: bytes) -> Request:
    target, _, query = head.target.partition(b"?")
    room, _, path = target.removeprefix(b"/").partition(b"/")
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    is_form = headers.get("content-type", "").partition(";")[0] == "application/x-www-form-urlencoded"
    return Request(
        method=head.method.decode("latin-1"),
        room=room.decode("latin-1"),
        path=name_to_text(unquote_to_bytes(path)),
        query=_fields(query),
        headers=headers,
        form=_fields(body) if is_form else {},
    )


def _fields(text: bytes) -> dict[str, str]:
    # The bytes of names that are no UTF-8 come as they were quoted.
    pairs = parse_qsl(text.decode("latin-1"), encoding="utf-8", errors="surrogateescape", max_num_fields=MAX_FIELDS)
    return dict(pairs)


async def _send(
    stream: trio.SocketStream, connection: h11.Connection, response: Response, *, with_body: bool = True
) -> None:
    length = len(response.body) if response.stream is None else response.length
    headers = [(name.encode("ascii"), value.encode("ascii")) for name, value in response.headers.items()]
    headers.append((b"Content-Length", b"%d" % length))
    await _write(stream, connection, h11.Response(status_code=response.status, headers=headers))
    if with_body and response.stream is not None:
        async for piece in response.stream:
            await _write(stream, connection, h11.Data(data=piece))
    elif with_body and response.body:
        await _write(stream, connection, h11.Data(data=response.body))
    await _write(stream, connection, h11.EndOfMessage())


async def _write(stream: trio.SocketStream, connection: h11.Connection, event: h11.Event) -> None:
    data = connection.send(event)
    if data:
        with trio.fail_after(QUIET_S):
            await stream.send_all(data)
