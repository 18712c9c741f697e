"""HTTP: connections in lanes, deadlines, bounded bodies.

The sole importer of httpx. Knows nothing of blobs or documents. Invariants: no answer is read beyond the bytes that
its caller allows; no redirect, cookie or proxy of the environment is followed; a cancelled request never costs the
next one its connection; only `RemoteError` kinds come out.
"""

from __future__ import annotations

import enum
import ipaddress
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final, Self

import httpcore
import httpx
import trio

from blobfs.errors import RemoteUnavailable, UsageError, WrongServer
from blobfs.protocol import authorization_header, is_id
from blobfs.remote.causes import is_caused_by, sentence_of
from blobfs.remote.pins import ServerKey, WrongKey
from blobfs.remote.refusals import ADVICE, MAX_REFUSAL, refusal, too_long
from blobfs.remote.throttle import Throttle

_CHUNK: Final = 64 << 10
"""Bytes sent at once under a limit."""
_PIECE: Final = 1 << 20
"""The same without one: each is a system call or a few, and a copy in used memory."""
_SLOWEST: Final = 16 << 10
"""Bytes per second below which a body counts as stalled, on the whole of a request."""


# Each piece of an answer passes six layers: few large ones cost half of httpcore's 64 KiB.
httpcore.AsyncHTTP11Connection.READ_NUM_BYTES = 1 << 20


class Lane(enum.StrEnum):
    """Requests of one lane share connections and never wait for those of another."""

    READER = "reader"
    """Somebody is blocked in `read`."""
    BULK = "bulk"
    """Uploads, documents, read-ahead."""
    POLL = "poll"
    """The feed, which is held open for a minute, and questions that are answered at once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, numbers of connections."""

    connect_s: float = 10.0
    silence_s: float = 30.0
    """Without one byte moving."""
    readers: int = 8
    bulk: int = 6
    """Enough to keep a line of 50 ms round trip busy with 4 MiB blobs; more only lengthens each one's turn."""
    polls: int = 2
    """One is held open by the feed, the other is for whoever cannot wait for it."""

    def shared(self, connections: int) -> Limits:
        """The same with so many at a time in all: readers and bulk share what the polls leave, as they do here."""
        left = connections - self.polls
        bulk = max(1, left * self.bulk // (self.bulk + self.readers))
        return replace(self, bulk=bulk, readers=max(1, left - bulk))


CONNECTIONS: Final = 16
MIN_CONNECTIONS: Final = 4
MAX_CONNECTIONS: Final = 64
"""Of all lanes together: as usual, at least, at most."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer with a status below 300."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes
    """Empty when it was received into a buffer of the caller's."""
    size: int
    """Bytes that came."""


class Transport:
    """One account on one server. An async context manager."""

    def __init__(
        self,
        url: str,
        user: str,
        token: str,
        *,
        limits: Limits,
        ca_file: str | None = None,
        pin: str | None = None,
    ) -> None:
        """
        Args:
            pin: of the only key that the server may have, in place of a certificate that is believed.
        Raises:
            UsageError: an address that cannot be used, with the reason.
        """
        self.url = _checked_url(url)
        if not is_id(user) or not token:
            raise UsageError("the invite names no possible user or has no token; ask for a new one")
        self.up, self.down = Throttle(), Throttle()
        if pin is not None and not self.url.startswith("https://"):
            raise UsageError("only a server at an https address has a key to pin; leave --pin out")
        self._headers = {
            "Host": httpx.URL(self.url).netloc.decode("ascii"),
            "Authorization": authorization_header(user, token),
            "Accept-Encoding": "identity",
        }
        self.key = ServerKey(pin)
        context = self.key.context(ca_file)
        self._limits = limits
        self._lanes = {lane: _Connections(self.url, context, limits, count) for lane, count in _counts(limits).items()}

    def share(self, connections: int) -> None:
        """Use so many connections at most, from now on; requests that are under way end as they are."""
        for lane, count in _counts(self._limits.shared(connections)).items():
            self._lanes[lane].widen(count)

    def use_token(self, user: str, token: str) -> None:
        """From the next request on."""
        self._headers["Authorization"] = authorization_header(user, token)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(2):
            for lane in self._lanes.values():
                await lane.close()

    async def request(
        self,
        lane: Lane,
        method: str,
        path: str,
        *,
        most: int,
        query: Mapping[str, str | int] | None = None,
        body: bytes | memoryview = b"",
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
        into: memoryview | None = None,
    ) -> Answer:
        """Send a request and read its whole answer, of at most `most` bytes.

        Args:
            path: within the server's URL; ids need no quoting.
            wait_s: how long the server may think before it answers.
            into: a buffer of `most` bytes or more for them: fresh memory for megabytes costs more than their transfer.
        Raises:
            RemoteError: its kind by the status; `RemoteUnavailable` when there was no whole answer.
        """
        deadline_s = wait_s + 60 + (len(body) + most) / _SLOWEST
        async with self.open(
            lane, method, path, query=query, body=body, headers=headers, wait_s=wait_s, deadline_s=deadline_s
        ) as (status, found, chunks):
            pieces, size = [], 0
            async for chunk in chunks:
                start, size = size, size + len(chunk)
                if size > most:
                    raise too_long()
                if into is None:
                    pieces.append(chunk)
                else:
                    into[start:size] = chunk
            return Answer(status, found, pieces[0] if len(pieces) == 1 else b"".join(pieces), size)

    @asynccontextmanager
    async def open(
        self,
        lane: Lane,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: bytes | memoryview = b"",
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
        deadline_s: float = 600.0,
    ) -> AsyncIterator[tuple[int, Mapping[str, str], AsyncGenerator[bytes, None]]]:
        """Send a request; (status, headers, the body in pieces), all within `deadline_s`. Raises as `request`."""
        connections = self._lanes[lane]
        try:
            with trio.fail_after(deadline_s):
                async with connections.borrow() as transport:
                    request = httpx.Request(
                        method,
                        self.url + path,
                        params=query,
                        headers={**self._headers, "Content-Length": str(len(body)), **(headers or {})},
                        stream=_Body(body, self.up),
                        extensions={"timeout": connections.timeout(wait_s).as_dict()},
                    )
                    response = await transport.handle_async_request(request)
                    chunks = self._body(response)
                    try:
                        if response.status_code >= 300:
                            raise refusal(response.status_code, response.headers, await _beginning(chunks))
                        yield response.status_code, response.headers, chunks
                    finally:
                        # A stream that is not at its end closes its connection; that needs no more than a moment.
                        with trio.CancelScope(shield=True), trio.move_on_after(1):
                            await response.aclose()
                            await _run_out(chunks)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError) as error:
            if is_caused_by(error, WrongKey):
                raise WrongServer(ADVICE[WrongServer]) from error
            raise RemoteUnavailable(sentence_of(error, self.url)) from error
        except trio.TooSlowError:
            raise RemoteUnavailable("the server is too slow; blobfs tries again by itself") from None

    async def _body(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        async for chunk in response.aiter_raw():
            if self.down.bytes_per_s is not None:
                await self.down.take(len(chunk))
            yield chunk


def _counts(limits: Limits) -> dict[Lane, int]:
    return {Lane.READER: limits.readers, Lane.BULK: limits.bulk, Lane.POLL: limits.polls}


class _Body(httpx.AsyncByteStream):
    """A request's bytes. No generator, as httpx makes one: those that a broken connection leaves unfinished are
    warned of when they are collected.
    """

    def __init__(self, body: bytes | memoryview, throttle: Throttle) -> None:
        self._body, self._throttle, self._at = body, throttle, 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._at = 0
        return self

    async def __anext__(self) -> bytes:
        if self._at >= len(self._body):
            raise StopAsyncIteration
        limited = self._throttle.bytes_per_s is not None
        piece = bytes(self._body[self._at : self._at + (_CHUNK if limited else _PIECE)])
        self._at += len(piece)
        await self._throttle.take(len(piece))
        return piece


# --- connections ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Generation:
    """Connections of one httpx transport, and how many requests it has under way."""

    transport: httpx.AsyncHTTPTransport
    users: int = 0
    spoilt: bool = False


@dataclass(slots=True)
class _Connections:
    """The connections of one lane.

    httpcore can lose the slot of a request that is cancelled at the wrong moment. So the bound is a limiter of ours,
    and after a cancellation a fresh transport serves whoever comes next; the old one ends with its last request.
    """

    url: str
    context: ssl.SSLContext
    limits: Limits
    count: int
    _limiter: trio.CapacityLimiter = field(init=False)
    _generation: _Generation | None = None

    def __post_init__(self) -> None:
        self._limiter = trio.CapacityLimiter(self.count)

    def widen(self, count: int) -> None:
        """So many requests at a time, more or fewer than before."""
        self._limiter.total_tokens = count

    def timeout(self, wait_s: float) -> httpx.Timeout:
        """For a request whose answer may take `wait_s` to begin."""
        silence_s = self.limits.silence_s
        return httpx.Timeout(silence_s, connect=self.limits.connect_s, read=silence_s + wait_s)

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[httpx.AsyncHTTPTransport]:
        async with self._limiter:
            generation = self._fresh()
            generation.users += 1
            try:
                yield generation.transport
            except (trio.Cancelled, httpx.HTTPError, GeneratorExit):
                generation.spoilt = True
                raise
            finally:
                generation.users -= 1
                if generation.spoilt and not generation.users:
                    with trio.CancelScope(shield=True), trio.move_on_after(1):
                        await generation.transport.aclose()

    def _fresh(self) -> _Generation:
        if self._generation is None or self._generation.spoilt:
            # The limiter is the bound. What a lower one leaves idle is closed by its age.
            pool = httpx.Limits(max_connections=2 * MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
            # Redirects, cookies and proxies are a client's: what is beneath it knows none, and costs a sixth less. The
            # environment names no certificates.
            transport = httpx.AsyncHTTPTransport(verify=self.context, trust_env=False, limits=pool)
            self._generation = _Generation(transport)
        return self._generation

    async def close(self) -> None:
        if self._generation is not None:
            await self._generation.transport.aclose()


# --- addresses and errors ---------------------------------------------------------------------------------


_NO_URL: Final = "the server's address is no URL; it looks like https://host or http://127.0.0.1:8000"


def _checked_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
        host = parsed.host
        # What looks the name up stumbles over labels that are empty or too long, long after this.
        parsed.raw_host.decode("ascii").encode("idna")
    except (httpx.InvalidURL, TypeError, ValueError):
        raise UsageError(_NO_URL) from None
    if parsed.scheme not in ("http", "https") or not host or parsed.userinfo or parsed.query:
        raise UsageError(_NO_URL)
    if parsed.scheme == "http" and not _is_loopback(host):
        raise UsageError("plain http is for servers on this machine only; use the server's https address")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


async def _run_out(chunks: AsyncIterator[bytes]) -> None:
    """Let the generators of a closed body come to their end: httpx leaves them to the garbage collector."""
    with suppress(httpx.HTTPError, httpx.StreamError):
        async for _ in chunks:
            pass


async def _beginning(chunks: AsyncIterator[bytes]) -> bytes:
    body = b""
    async for chunk in chunks:
        body += chunk
        if len(body) > MAX_REFUSAL:
            break
    return body[:MAX_REFUSAL]
