"""The honest server behind a loopback proxy that does evil: one switch an attack, and a recorder of every answer.

The proxy is HTTP/1.1 in threads, so devices in this process and daemons with mounts can both be sent through it.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_OURS = ("connection", "content-length", "transfer-encoding", "keep-alive", "date", "server")


@dataclass(frozen=True)
class Asked:
    """A request as it came from a device."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def is_blob(self) -> bool:
        """Whether it reads bytes of one blob."""
        return self.method == "GET" and re.fullmatch(r"/blobs/[^/]+/[0-9a-f]{64}", self.path) is not None

    @property
    def is_feed(self) -> bool:
        return self.method == "GET" and re.fullmatch(r"/documents/[^/]+", self.path) is not None

    @property
    def is_push(self) -> bool:
        return self.method == "POST" and re.fullmatch(r"/documents/[^/]+", self.path) is not None

    @property
    def is_secret(self) -> bool:
        return self.path.startswith("/secrets/")

    @property
    def blob_id(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Answer:
    """A whole answer, or one whose body comes from `stream` without an announced end."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: Iterable[bytes] | None = None

    def json(self) -> Any:
        return json.loads(self.body)


Attack = Callable[[Asked, Answer], Answer]


class Evil:
    """A server that devices are sent to in place of the honest one."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.attack: Attack | None = None
        self.answer: Callable[[Asked], Answer | None] = lambda asked: None
        """Answers without the honest server being asked."""
        self.records: list[tuple[Asked, Answer]] = []
        self._lock = threading.Lock()

        class Handler(_Handler):
            evil = self

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self.attack = None
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def exchange(self, asked: Asked) -> Answer:
        """What the device gets."""
        made = self.answer(asked)
        if made is not None:
            return made
        honest = self.ask(asked)
        with self._lock:
            self.records.append((asked, honest))
        # Read once: the test may take it away at any time.
        attack = self.attack
        return honest if attack is None else attack(asked, honest)

    def ask(self, asked: Asked) -> Answer:
        """The honest server's answer."""
        host = urllib.parse.urlsplit(self.upstream)
        connection = http.client.HTTPConnection(str(host.hostname), host.port, timeout=120)
        query = f"?{urllib.parse.urlencode(asked.query)}" if asked.query else ""
        headers = {name: value for name, value in asked.headers.items() if name not in (*_OURS, "host")}
        try:
            connection.request(asked.method, asked.path + query, asked.body, headers)
            response = connection.getresponse()
            kept = {name.lower(): value for name, value in response.getheaders() if name.lower() not in _OURS}
            return Answer(response.status, kept, response.read())
        except OSError:
            return Answer(503)
        finally:
            connection.close()

    def recorded(self, which: Callable[[Asked], bool]) -> list[tuple[Asked, Answer]]:
        """Earlier exchanges, for replay."""
        with self._lock:
            return [entry for entry in self.records if which(entry[0])]

    def documents(self) -> list[dict[str, Any]]:
        """Every revision of every document that went by, oldest first."""
        found = []
        for asked, answer in self.recorded(lambda asked: asked.is_feed or asked.is_push):
            if asked.is_feed and answer.status == 200:
                found += answer.json()["documents"]
            elif asked.is_push:
                found += json.loads(asked.body)["changes"]
        return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A device that hung up is nobody's fault."""


class _Handler(BaseHTTPRequestHandler):
    evil: Evil
    protocol_version = "HTTP/1.1"
    # Head and body go out by themselves: the body would wait some 40 ms for the device to confirm the head.
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(120)

    def _serve(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        query = dict(urllib.parse.parse_qsl(parts.query))
        answer = self.evil.exchange(Asked(self.command, parts.path, query, headers, body))
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.stream is None:
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)
            return
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        with suppress(OSError):
            for piece in answer.stream:
                self.wfile.write(piece)
                self.wfile.flush()

    do_GET = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: pytest shows what a test needs."""


@contextmanager
def evil_before(upstream: str) -> Iterator[Evil]:
    """An evil server before an honest one."""
    evil = Evil(upstream)
    try:
        yield evil
    finally:
        evil.close()


# --- attacks ----------------------------------------------------------------------------------------------


def on_blobs(change: Callable[[bytes], bytes]) -> Attack:
    """Change the bytes of every blob that is read; the headers go on telling what was asked for."""

    def attack(asked: Asked, answer: Answer) -> Answer:
        return replace(answer, body=change(answer.body)) if asked.is_blob and answer.status == 206 else answer

    return attack


def on_feed(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Attack:
    """Change the documents of every page of the feed; what comes is numbered so that it is in order."""

    def attack(asked: Asked, answer: Answer) -> Answer:
        if not asked.is_feed or answer.status != 200:
            return answer
        page = answer.json()
        first = page["documents"][0]["seq"] if page["documents"] else 1
        page["documents"] = [{**entry, "seq": first + number} for number, entry in enumerate(change(page["documents"]))]
        return replace(answer, body=json.dumps(page).encode())

    return attack


def flip(entry: dict[str, Any], at: int) -> dict[str, Any]:
    """A document with one bit of its payload changed."""
    payload = bytearray(base64.b64decode(entry["payload"]))
    payload[at % len(payload)] ^= 1
    return {**entry, "payload": base64.b64encode(payload).decode()}


def drip(piece: bytes = b" ", every_s: float = 0.1, stop: threading.Event | None = None) -> Iterator[bytes]:
    """A body that never ends and hardly moves."""
    stop = stop or threading.Event()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        yield piece
        if stop.wait(every_s):
            return
