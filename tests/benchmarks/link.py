"""A link to a server: a TCP proxy in a thread that counts what passes and, if told to, is slow as a line would be.

Knows of HTTP only where a request starts, to count requests by what they ask for. Invariant: bytes pass unchanged and
in order; what waits in here is bounded by what a line of this speed and length holds.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import trio

CHUNK: Final = 16 << 10
_REQUEST: Final = re.compile(rb"([A-Z]{3,7}) /([a-z]*)[^ ]* HTTP/1\.1\r\n")
LATE_S: Final = 0.02
HELD: Final = 64
"""Chunks on their way in one direction of a connection: 1 MiB, more than 100 Mbit/s and 50 ms hold."""


@dataclass
class Line:
    """One direction: seconds that bytes travel, and bytes a second that all connections share."""

    delay_s: float
    rate: float
    _free_at: float = 0.0

    def depart(self, length: int) -> float:
        """When the last of these bytes is on the line, in seconds of trio's clock."""
        # A line does not idle because its proxy woke up late; so far late is made good.
        self._free_at = max(self._free_at, trio.current_time() - LATE_S) + length / self.rate
        return self._free_at


@dataclass
class Link:
    """What passed since it was last reset."""

    port: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    """By method and the first part of the path, as `GET blobs`."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Count from here."""
        self.up_bytes = self.down_bytes = 0
        self.requests.clear()


@contextlib.contextmanager
def linked(server_port: int, *, round_trip_s: float = 0.0, bits_per_s: float = math.inf) -> Iterator[Link]:
    """A link to the server at a port of this machine, until the end of the block."""
    link = Link()
    ready = threading.Event()
    scope = trio.CancelScope()
    token: list[trio.lowlevel.TrioToken] = []
    up, down = (Line(round_trip_s / 2, bits_per_s / 8) for _ in range(2))

    async def carry(client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", server_port)
        await trio.sleep(round_trip_s)  # what it takes to connect
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(_pump, client, server, up, link, True)
            nursery.start_soon(_pump, server, client, down, link, False)

    async def main() -> None:
        token.append(trio.lowlevel.current_trio_token())
        with scope:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            link.port = listeners[0].socket.getsockname()[1]
            ready.set()
            await trio.serve_listeners(carry, listeners)

    thread = threading.Thread(target=trio.run, args=(main,), name="link")
    thread.start()
    ready.wait()
    try:
        yield link
    finally:
        token[0].run_sync_soon(scope.cancel)
        thread.join()


async def _pump(source: trio.SocketStream, target: trio.SocketStream, line: Line, link: Link, is_up: bool) -> None:
    send, receive = trio.open_memory_channel[tuple[float, bytes]](HELD)

    async def deliver() -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for arrival, chunk in receive:
                await trio.sleep_until(arrival)
                await target.send_all(chunk)
            await target.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with send:
                while chunk := await source.receive_some(CHUNK):
                    came = trio.current_time()
                    _count(link, chunk, is_up)
                    if math.isinf(line.rate):
                        departure = trio.current_time()
                    else:
                        departure = line.depart(len(chunk))
                        await trio.sleep_until(departure)
                    # What the line makes good for being late shortens nobody's way.
                    await send.send((max(came, departure) + line.delay_s, bytes(chunk)))


def _count(link: Link, chunk: bytes, is_up: bool) -> None:
    if not is_up:
        link.down_bytes += len(chunk)
        return
    link.up_bytes += len(chunk)
    found = _REQUEST.match(chunk)
    if found is not None:  # both clients begin a request with a segment of its own
        link.requests[f"{found[1].decode()} {found[2].decode()}"] += 1
