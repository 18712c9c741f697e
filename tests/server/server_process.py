"""A real server process on a temporary directory, and accounts on it."""

import base64
import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx

from blobfs.protocol import authorization_header, pack_item_header
from server import auth
from server.catalog import accounts
from server.catalog.engine import Catalog
from server.cli import COMMANDS
from server.settings import Settings
from tests import administration

ROOT = Path(__file__).parents[2]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "server", *map(str, arguments)]


class RunningServer:
    """`python -m server` until `stop` or `kill`."""

    def __init__(
        self, data: Path, *arguments: object, catalog_url: str | None = None, log: IO[str] | None = None
    ) -> None:
        """With a `catalog_url`, DATA/server.toml says the same; `log`: where standard error goes."""
        self.data = data
        self.process = subprocess.Popen(
            command("--data", data, "--port", 0, *arguments), stdout=subprocess.PIPE, stderr=log, cwd=ROOT, text=True
        )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 120)
        assert readable, "the server did not say that it listens"
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line
        self.url = line.removeprefix("listening on ").strip()
        self.catalog = Catalog(Settings(data, catalog_url=catalog_url).url_of_catalog)
        self.clients: list[httpx.Client] = []

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.close()

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> int:
        for client in self.clients:
            client.close()
        code = self.process.wait(120)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.catalog.close()
        return code

    def account(self, name: str, quota: int | None = None, scope: str = "write") -> "Account":
        with self.catalog.writing() as connection:
            user_id = accounts.add_account(connection, name, quota)
        return self.token(name, user_id, scope)

    def token(self, name: str, user_id: int, scope: str, expires_ns: int | None = None) -> "Account":
        token = auth.new_token()
        with self.catalog.writing() as connection:
            number = accounts.add_token(connection, user_id, auth.hash_token(token), scope, "", expires_ns)
        return Account(self, name, user_id, token, number)

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return run(*arguments, "--data", self.data)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command to its end, or what is to refuse to be a server."""
    if arguments and str(arguments[0]) in COMMANDS:
        return administration.run(*arguments)
    return subprocess.run(command(*arguments), cwd=ROOT, text=True, capture_output=True, timeout=120, check=False)


class Account:
    """A user of a running server, and an HTTP client with its token."""

    def __init__(self, server: RunningServer, name: str, user_id: int, token: str, number: int) -> None:
        self.server, self.name, self.user_id, self.token, self.number = server, name, user_id, token, number
        self.http = self.client()

    def client(self, **options: Any) -> httpx.Client:
        headers = {"Authorization": authorization_header(self.name, self.token)}
        client = httpx.Client(base_url=self.server.url, headers=headers, timeout=60, trust_env=False, **options)
        self.server.clients.append(client)
        return client

    def put(self, blob_id: str, content: bytes, **params: str) -> httpx.Response:
        return self.http.put(f"/blobs/{self.name}/{blob_id}", content=content, params=params)

    def get(self, blob_id: str, **headers: str) -> httpx.Response:
        return self.http.get(
            f"/blobs/{self.name}/{blob_id}", headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    def raw(self, line: str, *headers: str, body: bytes = b"", end: str = "\r\n\r\n") -> int:
        """The status of a request that no client tidies up; 0 when the server closed without one."""
        fixed = ["Host: x", f"Authorization: {authorization_header(self.name, self.token)}", "Connection: close"]
        request = ("\r\n".join([line, *fixed, *headers]) + end).encode() + body
        address = urlsplit(self.server.url)
        answer = b""
        with socket.create_connection((address.hostname, address.port), timeout=30) as sock:
            try:
                sock.sendall(request)
                while piece := sock.recv(65536):
                    answer += piece
            except (ConnectionResetError, BrokenPipeError):
                pass
        return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0

    def upload(self, items: list[tuple[str, bytes]]) -> list[str]:
        body = b"".join(pack_item_header(name, len(data)) + data for name, data in items)
        answer = self.http.post(f"/stream/{self.name}", params={"direction": "upload"}, content=body)
        assert answer.status_code == 200, answer.text
        return [result["status"] for result in answer.json()["results"]]

    def push(self, *changes: dict[str, Any]) -> list[dict[str, Any]]:
        answer = self.http.post(f"/documents/{self.name}", json={"changes": list(changes)})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["results"])

    def feed(self, **params: Any) -> dict[str, Any]:
        answer = self.http.get(f"/documents/{self.name}", params=params)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def used(self) -> tuple[int, int]:
        """(used, reserved)"""
        with self.server.catalog.reading() as connection:
            account = accounts.find_account(connection, self.name)
        return account.used, account.reserved


def change(doc_id: str, base: str | None, revision: str, payload: bytes = b"sealed", **more: Any) -> dict[str, Any]:
    encoded = base64.b64encode(payload).decode()
    made = {"doc_id": doc_id, "base": base, "revision": revision, "payload": encoded}
    return made | {"deleted": False, "added": [], "removed": []} | more


def blob_id_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def random_blobs(number: int, size: int) -> list[tuple[str, bytes]]:
    return [(blob_id_of(data), data) for data in (os.urandom(size) for _ in range(number))]


def files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def wait_until(condition: Any, seconds: float = 60) -> None:
    """For what other processes do: looks again and again, with an end."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        select.select([], [], [], 0.02)
