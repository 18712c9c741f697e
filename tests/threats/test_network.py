"""The way to the server: no plain HTTP, no certificate but the right one, no redirect, no cookie, no stripped token."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from blobfs.errors import ProtocolError, RemoteError, RemoteUnavailable, UsageError
from blobfs.firstrun import read_invite
from blobfs.protocol import INVITE_PREFIX
from blobfs.remote.client import RemoteClient
from blobfs.remote.transport import Limits
from tests.sync.kit import Account, trio_test
from tests.threats.evil import Answer, Evil, evil_before

HOUR = datetime.timedelta(hours=1)


class Authority:
    """A certificate authority that lives as long as a test."""

    def __init__(self, place: Path, name: str) -> None:
        self._place, self._key = place, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = (
            self._begin(self._name, self._key, now - 24 * HOUR, now + HOUR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(self._identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.file = place / f"{name}.pem"
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def _begin(self, subject: x509.Name, key: Any, begin: Any, end: Any) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return builder.not_valid_before(begin).not_valid_after(end)

    def context(self, address: str = "127.0.0.1", *, expired: bool = False) -> ssl.SSLContext:
        """What a server with a certificate for `address` uses."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        end = now - HOUR if expired else now + HOUR
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier)
        made = (
            self._begin(subject, key, now - 12 * HOUR, end)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
            .add_extension(authority, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        file = self._place / "server.pem"
        form = serialization.PrivateFormat.PKCS8
        file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
            + made.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


class _Greeter(BaseHTTPRequestHandler):
    heard: list[str]

    def do_GET(self) -> None:
        self.heard.append(self.headers.get("Authorization", ""))
        body = b'{"version": 1}'
        self.send_response_only(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A handshake that fails is what most of these tests want."""


@contextmanager
def greeting(context: ssl.SSLContext) -> Iterator[tuple[str, list[str]]]:
    """A TLS server that greets whoever believes it; (its URL, the credentials that it was shown)."""

    class Greeter(_Greeter):
        heard: list[str] = []  # noqa: RUF012

    server = _Quiet(("127.0.0.1", 0), Greeter)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}", Greeter.heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def _greet(url: str, ca_file: Path | None) -> None:
    limits = Limits(connect_s=60, silence_s=60)
    async with RemoteClient(url, "user", "token", limits=limits, ca_file=str(ca_file) if ca_file else None) as client:
        await client.greet()


@trio_test
async def test_only_a_certificate_of_a_known_authority_for_this_address_and_time_is_believed(tmp_path: Path) -> None:
    right, wrong = Authority(tmp_path, "right"), Authority(tmp_path, "wrong")
    with greeting(right.context()) as (url, heard):
        await _greet(url, right.file)
        assert len(heard) == 1
    for context, trusted, said in (
        (wrong.context(), right.file, "for its address"),
        (right.context(), None, "for its address"),
        (right.context("127.0.0.2"), right.file, "for its address"),
        (right.context(expired=True), right.file, "at this time; check this machine's clock"),
    ):
        with greeting(context) as (url, heard):
            with pytest.raises(RemoteUnavailable, match=f"certificate is not valid {said}"):
                await _greet(url, trusted)
            assert not heard


@trio_test
async def test_old_protocols_are_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "right")
    context = authority.context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with greeting(context) as (url, heard):
        with pytest.raises(RemoteUnavailable):
            await _greet(url, authority.file)
        assert not heard


def test_plain_http_is_for_this_machine_only() -> None:
    for url in ("http://example.org", "http://10.0.0.1", "http://localhost.example.org", "http://127.0.0.1.nip.io"):
        with pytest.raises(UsageError, match="https"):
            RemoteClient(url, "user", "token")
    for url in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://example.org"):
        RemoteClient(url, "user", "token")


@trio_test
async def test_a_redirect_is_an_error_and_the_token_goes_nowhere_else(account: Account, evil: Evil) -> None:
    with evil_before(account.server.url) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            evil.answer = lambda asked, status=status: Answer(status, {"location": elsewhere.url + asked.path})
            with pytest.raises(RemoteError):
                async with RemoteClient(evil.url, account.user, account.token) as client:
                    await client.greet()
        assert not elsewhere.records


@trio_test
async def test_cookies_are_not_sent_back(account: Account, evil: Evil) -> None:
    evil.attack = lambda asked, answer: Answer(answer.status, {"set-cookie": "track=me; Path=/"}, answer.body)
    async with account.device("two", url=evil.url) as two:
        two.write("f", b"x")
        await two.settle()
    assert evil.records
    assert not [asked for asked, _ in evil.records if "cookie" in asked.headers]


@trio_test
async def test_headers_without_end_and_other_noise_are_a_sentence_within_the_deadline(
    account: Account, evil: Evil
) -> None:
    began = time.monotonic()
    for answer in (
        Answer(200, {f"x-{number}": "x" * 1000 for number in range(500)}, b"{}"),
        Answer(200, {}, b"x" * (1 << 20)),
        Answer(200, {"content-encoding": "gzip"}, b"\x1f\x8b" + bytes(100)),
        Answer(500, {}, b"\xff" * (1 << 20)),
        Answer(200, {}, stream=iter([b"[" * 1000] * 10_000)),
    ):
        evil.answer = lambda asked, answer=answer: answer
        with pytest.raises((ProtocolError, RemoteUnavailable)):
            async with RemoteClient(evil.url, account.user, account.token) as client:
                await client.greet()
    assert time.monotonic() - began < 60


def test_an_address_that_no_name_service_can_be_asked_for_is_a_sentence() -> None:
    for host in (
        "xn--zzzzzzzz",
        "xn--.example",
        "a..b",
        "a" * 300,
        "b." + "c" * 64 + ".d",
        "[::1]evil",
        "h:0x50",
        "[v1.x]",
    ):
        with pytest.raises(UsageError, match="no URL"):
            RemoteClient(f"https://{host}", "user", "token")
    for url in (
        "file:///etc/passwd",
        "ftp://h",
        "https://u:p@h",
        "https://h?q",
        "https://h:99999",
        "http://2130706433",
    ):
        with pytest.raises(UsageError):
            RemoteClient(read_invite(_invite(url)).url, "user", "token")


def _invite(url: str) -> str:
    body = json.dumps({"token": "t", "url": url, "user": "u", "v": 1}, separators=(",", ":")).encode()
    return INVITE_PREFIX + base64.urlsafe_b64encode(body).rstrip(b"=").decode()


@trio_test
async def test_answers_before_the_answer_and_other_protocols_end_at_the_deadline(account: Account) -> None:
    """1xx without end, a switch of protocols, two answers at once, lengths that disagree."""
    early = b"HTTP/1.1 102 Processing\r\n\r\n"
    good = b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"version": 1}'
    for answer in (
        early * 100_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 200_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX\r\n\r\n{}",
        b"HTTP/2.0 200 OK\r\n\r\n{}",
        b"\x16\x03\x01" * 1000,
    ):
        limits = Limits(connect_s=5, silence_s=2)
        async with _saying(answer) as (url, _), RemoteClient(url, "user", "token", limits=limits) as client:
            with pytest.raises((ProtocolError, RemoteUnavailable)), trio.fail_after(30):
                await client.greet()
    # What is sent behind an answer is no answer to the next question.
    async with _saying(good + good.replace(b"200", b"403")) as (url, heard):
        async with RemoteClient(url, "user", "token") as client:
            await client.greet()
            with pytest.raises((ProtocolError, RemoteUnavailable)), trio.fail_after(30):
                await client.feed(None)
        assert len(heard) == 2


@asynccontextmanager
async def _saying(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that says `answer` to each connection's first question, and then is silent; (its URL, what it heard)."""
    heard: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            heard.append(await stream.receive_some(65536))
            await stream.send_all(answer)
            if len(heard) > 1 or not answer.startswith(b"HTTP/1.1 200"):
                await stream.aclose()

    async with trio.open_nursery() as nursery:
        serve_tcp = partial(trio.serve_tcp, host="127.0.0.1")
        (listener,) = await nursery.start(serve_tcp, serve, 0)
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}", heard
        nursery.cancel_scope.cancel()
