"""A server's clients that do the least: what plain httpx moves in blobs, and raw connections that keep a server busy.

Blobs here are random bytes under random ids; nothing is sealed. Knows the protocol's routes and nothing of blobfs.
"""

from __future__ import annotations

import hashlib
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


@dataclass(frozen=True, slots=True)
class Rate:
    """What a server did."""

    requests: int
    seconds: float
    ids: list[str]
    """Of the blobs that are there now."""


async def press(
    account: Account, method: str, ids: Sequence[str], body: bytes, connections: int, limit_s: float
) -> Rate:
    """Ask for these blobs over so many connections, one request after the other on each, for `limit_s` at most."""
    left = iter(ids)
    done: list[str] = []
    end = trio.current_time() + limit_s
    lines = [f"Host: {account.host}", f"Authorization: {account.authorization}"]
    if method == "PUT":
        digest = protocol.digest_header(hashlib.sha256(body).digest())
        lines += [f"Content-Length: {len(body)}", f"{protocol.DIGEST}: {digest}"]
    tail = ("\r\n".join(lines) + "\r\n\r\n").encode() + (body if method == "PUT" else b"")
    wanted = 201 if method == "PUT" else 200

    async def work() -> None:
        stream = await trio.open_tcp_stream(account.host, account.port)
        async with stream:
            for blob_id in left:
                await stream.send_all(f"{method} {account.path(blob_id)} HTTP/1.1\r\n".encode() + tail)
                status, length = await _answer(stream)
                if status != wanted or (method == "GET" and length != len(body)):
                    raise WireFailed(f"{method} was answered with {status}, {length} bytes")
                done.append(blob_id)
                if trio.current_time() > end:
                    return

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(work)
    return Rate(len(done), time.perf_counter() - start, done)


async def _answer(stream: trio.SocketStream) -> tuple[int, int]:
    head = b""
    while HEAD_END not in head:
        piece = await stream.receive_some(1 << 18)
        if not piece:
            raise WireFailed("the server closed a connection in the middle of an answer")
        head += piece
    head, _, rest = head.partition(HEAD_END)
    lines = head.split(b"\r\n")
    length = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), 0)
    missing = length - len(rest)
    while missing > 0:
        piece = await stream.receive_some(min(missing, 1 << 18))
        if not piece:
            raise WireFailed("the server closed a connection in the middle of an answer")
        missing -= len(piece)
    return int(lines[0].split()[1]), length
