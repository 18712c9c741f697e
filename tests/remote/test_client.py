"""RemoteClient against a server that says whatever a test wants: it believes nothing, hangs nowhere, leaks nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    CorruptBlob,
    DataMissing,
    ProtocolError,
    QuotaExceeded,
    RemoteUnavailable,
    UsageError,
)
from blobfs.remote.client import RemoteClient
from blobfs.remote.transport import Lane, Limits
from blobfs.values.documents import DocId
from blobfs.values.extents import BlobId
from tests.ports import Port
from tests.sync.kit import trio_test

NAME = BlobId("ab" * 32)


class Liar:
    """An HTTP server of one answer, which remembers what it was asked."""

    def __init__(self) -> None:
        self.answer = b""
        self.silent = False
        self.requests: list[bytes] = []
        self.url = ""

    def say(self, status: str, body: bytes = b"", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        self.answer = "\r\n".join(lines).encode() + body

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        await trio.serve_listeners(self._talk, listeners, task_status=task_status)

    async def _talk(self, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                while request := await self._hear(stream):
                    self.requests.append(request)
                    while self.silent:  # noqa: ASYNC110
                        await trio.sleep(0.01)
                    await stream.send_all(self.answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _hear(self, stream: trio.SocketStream) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = await stream.receive_some(65536)
            if not chunk:
                return b""
            data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        length = int(lines[0].split(b":")[1]) if lines else 0
        while len(body) < length:
            body += await stream.receive_some(65536)
        return head


@asynccontextmanager
async def lying(limits: Limits | None = None) -> AsyncIterator[tuple[Liar, RemoteClient]]:
    liar = Liar()
    async with trio.open_nursery() as nursery:
        await nursery.start(liar.serve)
        async with RemoteClient(liar.url, "user", "token", limits=limits) as client:
            yield liar, client
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        ("401 x", "unauthorized", AccessDenied),
        ("403 x", "", AccessDenied),
        ("507 x", "over-quota", QuotaExceeded),
        ("503 x", "unavailable", RemoteUnavailable),
        ("429 x", "too-many-requests", RemoteUnavailable),
        ("500 x", "", RemoteUnavailable),
        ("302 x", "", ProtocolError),
        ("418 x", "", ProtocolError),
    ],
)
def test_a_status_becomes_an_error_of_ours(status: str, code: str, kind: type[BlobfsError]) -> None:
    @trio_test
    async def ask() -> None:
        async with lying() as (liar, client):
            body = json.dumps({"error": {"code": code, "message": "\x1b[31mred\n", "request_id": "1"}}).encode()
            liar.say(status, body, "Retry-After: 7", "Location: http://127.0.0.1:1/elsewhere")
            with pytest.raises(kind) as caught:
                await client.feed(None)
            assert "\x1b" not in str(caught.value)
            assert "\n" not in str(caught.value)
            if isinstance(caught.value, RemoteUnavailable):
                assert caught.value.retry_after_s == 7
            assert len(liar.requests) == 1

    ask()


@trio_test
async def test_cookies_are_neither_kept_nor_sent_and_no_proxy_is_used() -> None:
    async with lying() as (liar, client):
        liar.say("200 OK", b'{"documents":[],"cursor":"1","more":false}', "Set-Cookie: a=b; Path=/")
        await client.feed(None)
        await client.feed(None)
        assert not any(b"cookie" in request.lower() for request in liar.requests)
        assert all(b"Authorization: Token" in request for request in liar.requests)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"documents":[],"cursor":"1","more":false,"more":true}',
        b'{"documents":[],"cursor":1,"more":false}',
        b'{"documents":[],"cursor":"1","more":true}',
        b'{"documents":NaN,"cursor":"1","more":false}',
        b'{"documents":[{"doc_id":"../x","seq":1,"revision":"a","deleted":false,"payload":""}],"cursor":"1","more":false}',
        b'{"documents":[{"doc_id":"x","seq":true,"revision":"a","deleted":false,"payload":""}],"cursor":"1","more":false}',
        b'{"documents":[{"doc_id":"x","seq":1,"revision":"a","deleted":false,"payload":"*"}],"cursor":"1","more":false}',
        b'{"documents":[],"cursor":"1","more":false,"left":-1}',
        b'{"documents":[],"cursor":"1","more":false,"left":"1"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_feed_that_breaks_the_protocol_is_refused(body: bytes) -> None:
    @trio_test
    async def ask() -> None:
        async with lying() as (liar, client):
            liar.say("200 OK", body)
            with pytest.raises(ProtocolError):
                await client.feed(None)

    ask()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b'{"used":-1,"quota":null,"objects":0}',
        b'{"used":0,"quota":1.5,"objects":0}',
        b'{"used":true,"quota":null,"objects":0}',
        b'{"used":0,"quota":"9","objects":0}',
        b'{"used":' + b"9" * 400 + b',"quota":null,"objects":0}',
    ],
)
def test_a_usage_that_breaks_the_protocol_is_refused(body: bytes) -> None:
    @trio_test
    async def ask() -> None:
        async with lying() as (liar, client):
            liar.say("200 OK", body)
            with pytest.raises(ProtocolError):
                await client.usage()

    ask()


@trio_test
async def test_a_server_that_knows_no_usage_has_told_none() -> None:
    async with lying() as (liar, client):
        liar.say("404 x")
        assert await client.usage() is None


@trio_test
async def test_a_range_that_was_not_asked_for_is_refused() -> None:
    async with lying() as (liar, client):
        liar.say("206 Partial", b"x" * 10, "Content-Range: bytes 1-10/100")
        with pytest.raises(ProtocolError):
            await client.get(NAME, 0, 10)
        liar.say("200 OK", b"x" * 10)
        with pytest.raises(ProtocolError):
            await client.get(NAME, 0, 10)
        liar.say("404 x")
        with pytest.raises(DataMissing):
            await client.get(NAME, 0, 10)


@trio_test
async def test_a_buffer_gets_what_was_asked_for_and_nothing_beyond_its_end() -> None:
    buffer = bytearray(20)
    async with lying() as (liar, client):
        liar.say("206 Partial", b"0123456789", "Content-Range: bytes 0-9/10")
        await client.receive(NAME, 0, memoryview(buffer)[5:15])
        assert bytes(buffer) == bytes(5) + b"0123456789" + bytes(5)
        for answer in (b"x" * 11, b"x" * 9):
            liar.say("206 Partial", answer, "Content-Range: bytes 0-9/10")
            with pytest.raises(CorruptBlob):
                await client.receive(NAME, 0, memoryview(buffer)[5:15])
            assert bytes(buffer[15:]) == bytes(5)


@trio_test
async def test_a_body_that_is_cut_is_a_passing_fault() -> None:
    async with lying(Limits(silence_s=0.3)) as (liar, client):
        liar.answer = b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-9/10\r\nConnection: close\r\n\r\nshort"
        with trio.fail_after(60), pytest.raises(RemoteUnavailable):
            await client.get(NAME, 0, 10)


@trio_test
async def test_cancelled_requests_do_not_exhaust_the_client() -> None:
    async with lying(Limits(readers=2, bulk=2)) as (liar, client):
        liar.say("206 Partial", b"x" * 10, "Content-Range: bytes 0-9/10")
        for pause_s in [0, 0.0005, 0.001, 0.002, 0.01] * 8:
            liar.silent = True
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(client.get, NAME, 0, 10)
                await trio.sleep(pause_s)
                nursery.cancel_scope.cancel()
        liar.silent = False
        with trio.fail_after(60):
            for lane in (Lane.READER, Lane.BULK):
                assert await client.get(NAME, 0, 10, lane=lane) == b"x" * 10


@trio_test
async def test_a_silent_server_is_given_up() -> None:
    async with lying(Limits(silence_s=0.1)) as (liar, client):
        liar.silent = True
        with trio.fail_after(60), pytest.raises(RemoteUnavailable):
            await client.revisions(DocId("a"))


@trio_test
async def test_readers_do_not_queue_behind_uploads() -> None:
    async with lying(Limits(bulk=1)) as (liar, client):
        liar.silent = True
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.put, NAME, b"x")
            with trio.fail_after(60):
                while not liar.requests:  # noqa: ASYNC110
                    await trio.sleep(0.001)
                liar.requests.clear()
                liar.silent = False
                liar.say("206 Partial", b"x" * 10, "Content-Range: bytes 0-9/10")
                assert await client.get(NAME, 0, 10) == b"x" * 10
            nursery.cancel_scope.cancel()


@trio_test
async def test_a_number_of_connections_is_in_force_at_once_and_leaves_every_lane_one() -> None:
    async with lying() as (liar, client):
        liar.silent = True
        for connections in (4, 16, 10):
            client.transport.share(connections)
            async with trio.open_nursery() as nursery:
                for _ in range(30):
                    nursery.start_soon(client.put, NAME, b"x")
                    nursery.start_soon(client.get, NAME, 0, 10)
                    nursery.start_soon(partial(client.feed, None, wait_s=60))
                with trio.fail_after(60):
                    while len(liar.requests) < connections:  # noqa: ASYNC110
                        await trio.sleep(0.001)
                await trio.testing.wait_all_tasks_blocked()
                assert len(liar.requests) == connections
                asked = [request.split()[0:2] for request in liar.requests]
                assert {method for method, _ in asked} == {b"PUT", b"GET"}
                assert any(b"/documents/" in path for _, path in asked)
                nursery.cancel_scope.cancel()
            liar.requests.clear()


@pytest.mark.parametrize(
    "url", ["", "ftp://host", "http://example.org", "http://10.0.0.1:80", "https://user@host", "https://"]
)
def test_an_address_that_cannot_be_used_is_refused_at_once(url: str) -> None:
    with pytest.raises(UsageError):
        RemoteClient(url, "user", "token")


@pytest.mark.parametrize("url", ["https://example.org", "http://127.0.0.1:1", "http://[::1]:1", "http://localhost/a/"])
def test_https_and_loopback_addresses_are_taken(url: str) -> None:
    assert RemoteClient(url, "user", "token").url == url.rstrip("/")


@trio_test
async def test_a_refused_connection_is_a_sentence() -> None:
    port = Port()
    async with RemoteClient(f"http://127.0.0.1:{port.number}", "user", "token") as client:
        with pytest.raises(RemoteUnavailable, match="cannot be reached"):
            await client.feed(None)


@pytest.mark.parametrize(
    ("scheme", "answer", "said"),
    [
        ("https", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "speaks no TLS; check whether https"),
        ("http", b"\x15\x03\x03\x00\x02\x02\x46", "breaks off in place of an answer; check whether its address"),
    ],
)
def test_a_port_that_speaks_another_protocol_is_told_as_that(scheme: str, answer: bytes, said: str) -> None:
    async def reply(stream: trio.SocketStream) -> None:
        async with stream:
            # All of it: who closes with something unread resets the connection, and the answer with it.
            await stream.receive_some(65536)
            await stream.send_all(answer)

    @trio_test
    async def ask() -> None:
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, reply, 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1]
            async with RemoteClient(f"{scheme}://127.0.0.1:{port}", "user", "token") as client:
                with pytest.raises(RemoteUnavailable, match=said):
                    await client.feed(None)
            nursery.cancel_scope.cancel()

    ask()
