"""Bodies that go straight into a buffer: bounded by it, and a connection serves again only after a whole answer."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from blobfs.errors import AccessDenied, BlobfsError, CorruptBlob, ProtocolError, RemoteUnavailable
from blobfs.remote import direct
from blobfs.remote.client import RemoteClient
from blobfs.remote.transport import Lane, Limits
from blobfs.values.extents import BlobId
from tests.sync.kit import trio_test

NAME = BlobId("ab" * 32)
RANGE = "Content-Range: bytes 0-9/10"
BODY = b"0123456789"
Ask = Callable[[], Awaitable[bytes]]


def answer(status: str, body: bytes, *headers: str) -> bytes:
    """Head and body, without a length."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


WHOLE = answer("206 P", BODY, RANGE, "Content-Length: 10")
LAST = answer("206 P", BODY, RANGE, "Content-Length: 10", "Connection: close")


class Speaker:
    """A server that gives one answer to each request on each connection, and counts the connections."""

    def __init__(self) -> None:
        self.answer = WHOLE
        self.ends = False
        """Close each connection after an answer."""
        self.url = ""
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        await trio.serve_listeners(self._talk, listeners, task_status=task_status)

    async def _talk(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self.open += 1
        with suppress(trio.BrokenResourceError):
            async with stream:
                head = b""
                while chunk := await stream.receive_some(65536):
                    head += chunk
                    if head.endswith(b"\r\n\r\n"):
                        self.requests.append(head)
                        head = b""
                        await stream.send_all(self.answer)
                        if self.ends:
                            break
        self.open -= 1


@asynccontextmanager
async def speaking(limits: Limits | None = None) -> AsyncIterator[tuple[Speaker, Ask, RemoteClient]]:
    """A server, a call that asks it for ten bytes, and the client that it asks with."""
    speaker = Speaker()
    async with trio.open_nursery() as nursery:
        await nursery.start(speaker.serve)
        async with RemoteClient(speaker.url, "user", "token", limits=limits) as client:

            async def ask() -> bytes:
                buffer = bytearray(12)
                with trio.fail_after(60):
                    await client.receive(NAME, 0, memoryview(buffer)[1:11])
                assert buffer[0] == buffer[11] == 0
                return bytes(buffer[1:11])

            yield speaker, ask, client
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.001)


@pytest.mark.parametrize(("idle_s", "connections"), [(math.inf, 1), (-1.0, 3)], ids=["soon", "late"])
def test_a_connection_serves_the_request_that_comes_soon(
    monkeypatch: pytest.MonkeyPatch, idle_s: float, connections: int
) -> None:
    @trio_test
    async def run() -> None:
        async with speaking() as (speaker, ask, _):
            assert [await ask() for _ in range(3)] == 3 * [BODY]
            assert len(speaker.requests) == 3
            assert speaker.connections == connections

    monkeypatch.setattr(direct, "_IDLE_S", idle_s)
    run()


@trio_test
async def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    async with speaking() as (speaker, ask, _):
        speaker.answer = LAST
        assert [await ask() for _ in range(3)] == 3 * [BODY]
        assert speaker.connections == 3


@trio_test
async def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again() -> None:
    async with speaking() as (speaker, ask, client):
        speaker.ends = True
        own = client.transport._lanes[Lane.READER].direct
        assert own is not None
        for _ in range(3):
            assert await ask() == BODY
            await until(lambda: own._idle[-1][1].is_readable())
        assert speaker.connections == 3


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        (answer("206 P", b"4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n", RANGE, "Transfer-Encoding: chunked"), False),
        (answer("206 P", BODY, RANGE, "Connection: close"), True),
        (answer("103 Early", b"", "Link: x") + WHOLE, False),
        (WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"), False),
    ],
    ids=["in chunks", "up to the end", "behind something else", "of an old server"],
)
def test_a_body_that_comes_another_way_arrives_all_the_same(said: bytes, ends: bool) -> None:
    @trio_test
    async def run() -> None:
        async with speaking() as (speaker, ask, _):
            speaker.answer, speaker.ends = said, ends
            assert [await ask() for _ in range(2)] == 2 * [BODY]

    run()


@pytest.mark.parametrize(
    ("said", "ends", "kind"),
    [
        (answer("206 P", BODY + b"x", RANGE, "Content-Length: 11"), False, CorruptBlob),
        (answer("206 P", b"b\r\n0123456789x\r\n0\r\n\r\n", RANGE, "Transfer-Encoding: chunked"), False, CorruptBlob),
        (answer("206 P", BODY, RANGE, "Content-Length: 1" + 5000 * "0"), False, RemoteUnavailable),
        (answer("206 P", BODY[:5], RANGE, "Content-Length: 10"), True, RemoteUnavailable),
        (WHOLE + WHOLE.replace(BODY, b"otherother"), False, RemoteUnavailable),
        (b"HTTP/1.1 206 P\r\n" + 20_000 * b"X: y\r\n", False, RemoteUnavailable),
        (b"\x15\x03\x03\x00\x02\x02\x46", True, RemoteUnavailable),
        (b"", True, RemoteUnavailable),
        (answer("204 N", b"", RANGE, "Content-Length: 10"), False, ProtocolError),
        (answer("302 F", b"", "Location: http://127.0.0.1:1/", "Content-Length: 0"), False, ProtocolError),
        (answer("401 U", b"no", "Content-Length: 2"), False, AccessDenied),
        (answer("401 U", 200_000 * b"x", "Content-Length: 1000000000"), False, AccessDenied),
    ],
    ids=[
        *(
            "longer",
            "longer in chunks",
            "of absurd length",
            "cut",
            "with another one behind it",
            "with an endless head",
        ),
        *("of another protocol", "nothing", "without a body", "sent elsewhere", "refused", "refused at length"),
    ],
)
def test_an_answer_that_is_none_costs_its_request_alone(said: bytes, ends: bool, kind: type[BlobfsError]) -> None:
    @trio_test
    async def run() -> None:
        async with speaking() as (speaker, ask, _):
            speaker.answer, speaker.ends = said, ends
            with pytest.raises(kind):
                await ask()
            speaker.answer, speaker.ends = WHOLE, False
            assert await ask() == BODY

    run()


@pytest.mark.parametrize(
    "said", [b"", answer("206 P", BODY[:5], RANGE, "Content-Length: 10")], ids=["at once", "later"]
)
def test_a_server_that_falls_silent_is_given_up(said: bytes) -> None:
    @trio_test
    async def run() -> None:
        async with speaking(Limits(silence_s=0.1)) as (speaker, ask, _):
            speaker.answer = said
            with pytest.raises(RemoteUnavailable, match="does not answer"):
                await ask()
            await until(lambda: speaker.open == 0)

    run()


@trio_test
async def test_cancelled_requests_leave_neither_connections_nor_fewer_turns_behind() -> None:
    async with speaking(Limits(readers=2)) as (speaker, ask, _):
        for said in (b"", WHOLE[:-5]):
            speaker.answer = said
            for pause_s in [0, 0.0005, 0.001, 0.002, 0.01] * 2:
                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(ask)
                    await trio.sleep(pause_s)
                    nursery.cancel_scope.cancel()
        await until(lambda: speaker.open == 0)
        speaker.answer = WHOLE
        assert await ask() == BODY


@trio_test
async def test_a_limit_holds_for_these_bodies() -> None:
    async with speaking() as (_, ask, client):
        client.transport.down.bytes_per_s = 20
        start = trio.current_time()
        assert await ask() == BODY
        assert trio.current_time() - start > 0.2
