"""The application in this process: on another backend, and on a disk that has no room."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.applications import Starlette

from blobfs.protocol import authorization_header
from server import auth
from server.app import create_app
from server.backends.interface import BlobKey, BlobReader, Staged
from server.backends.memory import MemoryBlobsBackend
from server.catalog import accounts
from server.errors import DiskFull, Unavailable
from server.service import Service
from server.settings import Settings, prepare_data


def run(app: Starlette, check: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """`check` with a client that has a token of the user `me`."""
    service: Service = app.state.service
    token = auth.new_token()
    with service.catalog.writing() as connection:
        user_id = accounts.add_account(connection, "me", None)
        accounts.add_token(connection, user_id, auth.hash_token(token), "write", "", None)

    async def talk() -> None:
        headers = {"Authorization": authorization_header("me", token)}
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers) as client:
            await check(client)

    try:
        anyio.run(talk)
    finally:
        service.catalog.close()


def test_the_application_serves_from_any_backend(data: Path) -> None:
    prepare_data(data)
    backend = MemoryBlobsBackend()

    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.put("/blobs/me/b", content=b"in memory")).status_code == 201
        assert (await client.get("/blobs/me/b", headers={"Range": "bytes=3-"})).content == b"memory"
        assert (await client.delete("/blobs/me/b")).status_code == 204

    run(create_app(Settings(data), backend), check)
    assert list(backend.list()) == []


def test_a_full_disk_refuses_what_grows_and_lets_deletions_through(data: Path) -> None:
    prepare_data(data)
    room = Settings(data)
    app = create_app(room)
    service: Service = app.state.service

    async def check(client: httpx.AsyncClient) -> None:
        tombstone = {"doc_id": "d", "base": "r1", "revision": "r2", "deleted": True, "payload": "eA=="}
        tombstone |= {"added": [], "removed": []}
        live = tombstone | {"base": None, "revision": "r1", "deleted": False}
        assert (await client.put("/blobs/me/b", content=b"x")).status_code == 201
        assert (await client.post("/documents/me", json={"changes": [live]})).status_code == 200
        service.settings = Settings(data, floor=1 << 60)
        for refused in (
            await client.put("/blobs/me/c", content=b"x"),
            await client.post("/documents/me", json={"changes": [live | {"doc_id": "e"}]}),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (507, "disk-full")
        assert (await client.post("/documents/me", json={"changes": [tombstone]})).json()["results"][0][
            "status"
        ] == "ok"
        assert (await client.delete("/blobs/me/b")).status_code == 204

    run(app, check)


class BrokenBackend(MemoryBlobsBackend):
    """A memory backend whose disk fails when something is to become durable."""

    def publish(self, items: Sequence[tuple[BlobKey, Staged]]) -> None:
        super().publish(items)
        raise OSError(5, "input/output error")


def test_a_failing_disk_is_503_and_leaves_neither_bytes_nor_reserved_room(data: Path) -> None:
    prepare_data(data)
    backend = BrokenBackend()
    app = create_app(Settings(data), backend)
    service: Service = app.state.service

    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.put("/blobs/me/b", content=b"x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"]
        assert (await client.get("/blobs/me/b")).status_code == 404
        with service.catalog.reading() as connection:
            account = accounts.find_account(connection, "me")
        assert (account.used, account.reserved) == (0, 0)

    run(app, check)
    assert list(backend.list()) == []


class WatchedBackend(MemoryBlobsBackend):
    """A memory backend that knows which of its blobs are open."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[BlobReader] = []
        self.closed: list[BlobReader] = []
        self.cut = 0

    def open(self, key: BlobKey) -> BlobReader | None:
        reader = super().open(key)
        if reader is None:
            return None
        content = reader.read(0, reader.size - self.cut)
        watched = WatchedReader(content, self.closed)
        self.opened.append(watched)
        return watched


class WatchedReader:
    """Tells when it is closed."""

    def __init__(self, content: bytes, closed: list[BlobReader]) -> None:
        self._content, self._closed, self.size = content, closed, len(content)

    def read(self, offset: int, length: int) -> bytes:
        assert self not in self._closed
        return self._content[offset : offset + length]

    def close(self) -> None:
        self._closed.append(self)


def test_whatever_is_asked_of_a_blob_it_is_closed_again(data: Path) -> None:
    prepare_data(data)
    backend = WatchedBackend()

    async def check(client: httpx.AsyncClient) -> None:
        for name, content in (("small", b"x" * 100), ("empty", b""), ("pieces", bytes(range(256)) * 3000)):
            assert (await client.put(f"/blobs/me/{name}", content=content)).status_code == 201
            assert (await client.get(f"/blobs/me/{name}")).content == content
        part = await client.get("/blobs/me/pieces", headers={"Range": "bytes=10-600000"})
        assert part.content == (bytes(range(256)) * 3000)[10:600001]
        assert (await client.head("/blobs/me/pieces")).status_code == 200
        backend.cut = 1
        assert (await client.get("/blobs/me/small")).status_code == 503

    run(create_app(Settings(data), backend), check)
    assert len(backend.opened) == 5  # once for each that was sent, or was to be
    assert set(map(id, backend.opened)) == set(map(id, backend.closed))


def test_a_disk_error_becomes_what_it_means_to_whoever_asked(data: Path) -> None:
    prepare_data(data)
    service: Service = create_app(Settings(data)).state.service

    def fail(code: int) -> None:
        raise OSError(code, "no")

    async def ask(code: int) -> None:
        await service.on_disk(fail, code)

    with pytest.raises(DiskFull):
        anyio.run(ask, 28)
    with pytest.raises(Unavailable):
        anyio.run(ask, 5)
    service.catalog.close()
