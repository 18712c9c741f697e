"""A server's clients that do the least: what plain httpx moves in blobs, and raw connections that keep a server busy.

Blobs here are random bytes under random ids; nothing is sealed. Knows the protocol's routes and nothing of blobfs.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import httpx
import trio

from blobfs import protocol

AT_ONCE: Final = 4
"""Requests of plain httpx at once; more moved no more."""
HEAD_END: Final = b"\r\n\r\n"
STREAMED: Final = 250
"""Blobs in one request of a stream."""


class WireFailed(Exception):
    """The server answered something else than was expected."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who asks whom."""

    host: str
    port: int
    user: str
    token: str

    @property
    def authorization(self) -> str:
        return protocol.authorization_header(self.user, self.token)

    def path(self, blob_id: str) -> str:
        return f"/blobs/{self.user}/{blob_id}"


def new_ids(count: int) -> list[str]:
    """Ids that nobody has used."""
    return [secrets.token_urlsafe(24) for _ in range(count)]


# --- plain httpx --------------------------------------------------------------------------------------------------


async def put_all(account: Account, ids: Sequence[str], size: int) -> float:
    """PUT blobs of this many bytes; the seconds it took."""
    body = os.urandom(size)
    return await _all(account, "PUT", ids, body)


async def get_all(account: Account, ids: Sequence[str], size: int) -> float:
    """GET those blobs; the seconds it took."""
    return await _all(account, "GET", ids, b"", size)


async def _all(account: Account, method: str, ids: Sequence[str], body: bytes, size: int = 0) -> float:
    headers = {"Authorization": account.authorization}
    if body:
        headers[protocol.DIGEST] = protocol.digest_header(hashlib.sha256(body).digest())
    left = iter(ids)
    base = f"http://{account.host}:{account.port}"

    async def work(client: httpx.AsyncClient) -> None:
        for blob_id in left:
            answer = await client.request(method, account.path(blob_id), content=body or None, headers=headers)
            if answer.status_code not in (200, 201) or (size and len(answer.content) != size):
                raise WireFailed(f"{method} was answered with {answer.status_code}, {len(answer.content)} bytes")

    start = time.perf_counter()
    async with (
        httpx.AsyncClient(base_url=base, timeout=60.0, trust_env=False) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(AT_ONCE):
            nursery.start_soon(work, client)
    return time.perf_counter() - start


# --- raw connections -------------------------------------------------------------------------------------------------


class Kind(enum.Enum):
    """What a connection asks for, again and again."""

    PUT = "PUT"
    GET = "GET"
    UPLOAD = "stream up"
    DOWNLOAD = "stream down"

    @property
    def blobs(self) -> int:
        """How many go into one request."""
        return STREAMED if self in (Kind.UPLOAD, Kind.DOWNLOAD) else 1

    @property
    def is_new(self) -> bool:
        """Whether its blobs must not be there yet; otherwise they must be."""
        return self in (Kind.PUT, Kind.UPLOAD)


@dataclass(frozen=True, slots=True)
class Rate:
    """What a server did."""

    requests: int
    seconds: float
    ids: list[str]
    """Of the blobs that were moved."""


async def press(
    accounts: Sequence[Account], kind: Kind, ids: Sequence[str], body: bytes, connections: int, limit_s: float
) -> Rate:
    """Ask for these blobs over so many connections, one request after the other on each, for `limit_s` at most.

    Args:
        accounts: one and the same at each process of a server; connections take turns.
    """
    groups = iter([ids[at : at + kind.blobs] for at in range(0, len(ids), kind.blobs)])
    done: list[str] = []
    requests = 0
    end = trio.current_time() + limit_s
    # Made once: the client must not be what limits.
    digest = f"{protocol.DIGEST}: {protocol.digest_header(hashlib.sha256(body).digest())}"

    async def work(account: Account) -> None:
        nonlocal requests
        stream = await trio.open_tcp_stream(account.host, account.port)
        async with stream:
            for group in groups:
                await stream.send_all(_request(account, kind, group, body, digest))
                status, length = await _answer(stream)
                least = 0 if kind.is_new else len(body) * len(group)
                if status not in (200, 201) or length < least:
                    raise WireFailed(f"{kind.value} was answered with {status}, {length} bytes")
                done.extend(group)
                requests += 1
                if trio.current_time() > end:
                    return

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(connections):
            nursery.start_soon(work, accounts[number % len(accounts)])
    return Rate(requests, time.perf_counter() - start, done)


def check(account: Account, blob_id: str, body: bytes) -> None:
    """The blob is there and is `body`.

    Raises:
        WireFailed: it is not.
    """
    url = f"http://{account.host}:{account.port}{account.path(blob_id)}"
    answer = httpx.get(url, headers={"Authorization": account.authorization}, timeout=60.0, trust_env=False)
    if answer.status_code != 200 or answer.content != body:
        raise WireFailed(f"a blob was read back with {answer.status_code}, and is not what was sent")


def _request(account: Account, kind: Kind, ids: Sequence[str], body: bytes, digest: str) -> bytes:
    lines = [f"Host: {account.host}", f"Authorization: {account.authorization}"]
    method, path, content = kind.value, account.path(ids[0]), b""
    if kind is Kind.PUT:
        lines.append(digest)
        content = body
    elif kind is Kind.UPLOAD:
        method, path = "POST", f"/stream/{account.user}?direction=upload"
        content = b"".join(protocol.pack_item_header(blob_id, len(body)) + body for blob_id in ids)
    elif kind is Kind.DOWNLOAD:
        method, path = "POST", f"/stream/{account.user}?direction=download"
        content = json.dumps({"ids": list(ids)}).encode()
    if kind is not Kind.GET:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + content


async def _answer(stream: trio.SocketStream) -> tuple[int, int]:
    """Status, and bytes of the body (a few more for one in chunks)."""
    head = b""
    while HEAD_END not in head:
        head += await _receive(stream, 1 << 18)
    head, _, rest = head.partition(HEAD_END)
    lines = head.lower().split(b"\r\n")
    status = int(lines[0].split()[1])
    if b"transfer-encoding: chunked" in lines:
        length, tail = len(rest), rest[-7:]
        while tail != b"\r\n0\r\n\r\n":
            piece = await _receive(stream, 1 << 18)
            length, tail = length + len(piece), (tail + piece[-7:])[-7:]
        return status, length
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    missing = length - len(rest)
    while missing > 0:
        missing -= len(await _receive(stream, min(missing, 1 << 18)))
    return status, length


async def _receive(stream: trio.SocketStream, most: int) -> bytes:
    piece = await stream.receive_some(most)
    if not piece:
        raise WireFailed("the server closed a connection in the middle of an answer")
    return bytes(piece)
