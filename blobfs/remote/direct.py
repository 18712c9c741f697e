"""Bodies received straight into their caller's memory, from servers on this machine.

httpx hands each byte through four buffers and six layers; here the system copies it once. TLS has buffers of its own,
and goes the usual way. Knows connections, heads and lengths; not lanes, tokens or what an answer means. Invariants:
nothing is received beyond the buffer or the bounds below; a connection is used again only after an answer that was read
to its end and leaves it open, so whatever is cancelled or fails costs its own connection and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import h11
import httpx
import trio

from blobfs.remote.refusals import MAX_REFUSAL, too_long
from blobfs.remote.throttle import Throttle

_MAX_HEAD: Final = 64 << 10
_HEAD: Final = 16 << 10
"""Bytes asked for before the length is known: what they have of the body is copied once more."""
_STEP: Final = 1 << 20
"""Bytes received at once: others have a turn in between."""
_LIMITED: Final = 64 << 10
"""The same under a limit."""
_BODIES: Final = (200, 206)
_IDLE_S: Final = 4.0
"""After which an unused connection is not trusted any more: servers close them after five."""


class Reply(NamedTuple):
    """An answer. Its body is in the buffer when the status is below 300."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    size: int
    """Bytes in the buffer."""
    refusal: bytes
    """The body of any other status, cut at `MAX_REFUSAL`."""


class Direct:
    """Connections to one server that wait for their next request. The caller bounds how many are in use."""

    def __init__(self, url: httpx.URL, *, connect_s: float, silence_s: float) -> None:
        self._host, self._port = url.host, url.port or 80
        self._connect_s, self._silence_s = connect_s, silence_s
        self._idle: list[tuple[float, trio.socket.SocketType]] = []

    async def get(self, target: bytes, headers: Mapping[str, str], into: memoryview, throttle: Throttle) -> Reply:
        """Ask for `target`, and receive a body of at most as many bytes as `into` has.

        Raises:
            AnswerTooLong: it is longer. httpx.HTTPError: there was no whole answer.
        """
        socket = self._waiting() or await self._connect()
        is_whole = False
        try:
            with trio.CancelScope() as silence:
                exchange = _Exchange(socket, throttle, silence, self._silence_s)
                reply, is_whole = await exchange.perform(target, headers, into)
                return reply
            raise httpx.ReadTimeout("the server fell silent")
        except OSError as error:
            raise httpx.ReadError(str(error)) from error
        except (h11.ProtocolError, ValueError) as error:  # h11 takes any number of digits for a length; int does not
            raise httpx.RemoteProtocolError(str(error)) from error
        finally:
            if is_whole:
                self._idle.append((trio.current_time(), socket))
            else:
                socket.close()

    def _waiting(self) -> trio.socket.SocketType | None:
        oldest = trio.current_time() - _IDLE_S
        while self._idle:
            since, socket = self._idle.pop()
            # One that can be read was closed by the server, or has bytes that nobody asked for.
            if since >= oldest and not socket.is_readable():
                return socket
            socket.close()
        return None

    async def _connect(self) -> trio.socket.SocketType:
        try:
            with trio.fail_after(self._connect_s):
                return (await trio.open_tcp_stream(self._host, self._port)).socket
        except trio.TooSlowError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error

    def close(self) -> None:
        """Close what waits."""
        while self._idle:
            self._idle.pop()[1].close()


class _Exchange:
    """One request and its answer on one connection."""

    def __init__(
        self, socket: trio.socket.SocketType, throttle: Throttle, silence: trio.CancelScope, silence_s: float
    ) -> None:
        self._socket, self._throttle = socket, throttle
        self._silence, self._silence_s = silence, silence_s
        self._talk = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)

    async def perform(self, target: bytes, headers: Mapping[str, str], into: memoryview) -> tuple[Reply, bool]:
        """The answer, and whether the connection can be used again."""
        talk = self._talk
        request = h11.Request(method="GET", target=target, headers=list(headers.items()))
        await self._send((talk.send(request) or b"") + (talk.send(h11.EndOfMessage()) or b""))
        while not isinstance(event := await self._next(), h11.Response):
            pass  # such as a 103 of something in between
        found = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
        if event.status_code >= 300:
            body = await self._refusal()
            return Reply(event.status_code, found, 0, body), self._is_done
        if event.status_code in _BODIES and "content-length" in found and "transfer-encoding" not in found:
            size = await self._receive(int(found["content-length"]), into)
            # h11 did not see the body: what it thinks of our side tells whether the server leaves the connection open.
            return Reply(event.status_code, found, size, b""), talk.our_state is h11.DONE
        size = await self._gather(into)
        return Reply(event.status_code, found, size, b""), self._is_done

    @property
    def _is_done(self) -> bool:
        return self._talk.our_state is h11.DONE and self._talk.their_state is h11.DONE

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        while (event := self._talk.next_event()) is h11.NEED_DATA:
            self._wait()
            self._talk.receive_data(await self._socket.recv(_HEAD))
        assert not isinstance(event, type) or event is h11.PAUSED
        return event

    def _wait(self) -> None:
        self._silence.deadline = trio.current_time() + self._silence_s

    async def _send(self, data: bytes) -> None:
        while data:
            self._wait()
            data = data[await self._socket.send(data) :]

    async def _receive(self, length: int, into: memoryview) -> int:
        """A body of known length."""
        if length > len(into):
            raise too_long()
        came = self._talk.trailing_data[0]
        at = len(came)
        if at > length:
            raise h11.RemoteProtocolError("more than was announced")
        into[:at] = came
        await self._pass(at)
        while at < length:
            self._wait()
            step = _STEP if self._throttle.bytes_per_s is None else _LIMITED
            size = await self._socket.recv_into(into[at : min(at + step, length)])
            if not size:
                raise httpx.ReadError("the body was cut")
            at += size
            await self._pass(size)
        return length

    async def _gather(self, into: memoryview) -> int:
        """A body that comes in chunks, or ends with its connection."""
        size = 0
        while isinstance(event := await self._next(), h11.Data):
            start, size = size, size + len(event.data)
            if size > len(into):
                raise too_long()
            into[start:size] = event.data
            await self._pass(len(event.data))
        return size

    async def _refusal(self) -> bytes:
        body = b""
        while len(body) < MAX_REFUSAL and isinstance(event := await self._next(), h11.Data):
            body += event.data
        return body[:MAX_REFUSAL]

    async def _pass(self, size: int) -> None:
        if self._throttle.bytes_per_s is not None:
            self._silence.deadline = float("inf")
            await self._throttle.take(size)
