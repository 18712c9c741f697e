"""Requests that two parsers could understand differently, at a server that stands behind another one."""

from __future__ import annotations

import base64
import socket

import pytest

from tests.sync.kit import Account

BODY = "0\r\n\r\nGET /blobs/{user} HTTP/1.1\r\nHost: x\r\n\r\n"
FORMS = {
    "length and chunks": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "two lengths": "Content-Length: 4\r\nContent-Length: 5\r\n",
    "a list of lengths": "Content-Length: 4, 4\r\n",
    "a length with a sign": "Content-Length: +4\r\n",
    "a coding that is none": "Transfer-Encoding: xchunked\r\n",
    "chunks that are not the last coding": "Transfer-Encoding: chunked, identity\r\n",
    "a space before the colon": "Content-Length : 4\r\n",
    "a folded line": "X: a\r\n Content-Length: 4\r\n",
    "a NUL": "X: a\0b\r\nContent-Length: 4\r\n",
    "a bare line feed": "X: a\nContent-Length: 4\r\n",
}


def ask(account: Account, request: str) -> bytes:
    """All that the server answers until it closes the connection."""
    with socket.create_connection(("127.0.0.1", account.server.port), timeout=30) as connection:
        connection.sendall(request.encode("latin-1"))
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_request_of_two_meanings_is_refused_and_ends_the_connection(account: Account) -> None:
    token = base64.b64encode(f"{account.user}:{account.token}".encode()).decode()
    head = f"PUT /blobs/{account.user}/{'ab' * 32} HTTP/1.1\r\nHost: x\r\nAuthorization: Token {token}\r\n"
    for form, lines in FORMS.items():
        answer = ask(account, f"{head}{lines}\r\n{BODY.format(user=account.user)}")
        assert answer.startswith(b"HTTP/1.1 400 "), form
        assert answer.count(b"HTTP/1.1 ") == 1, form


def test_a_header_behind_the_body_is_none(account: Account) -> None:
    token = base64.b64encode(f"{account.user}:{account.token}".encode()).decode()
    chunked = f"PUT /blobs/{account.user}/{'cd' * 32} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", account.server.port), timeout=30) as connection:
        connection.sendall(f"{chunked}4\r\nabcd\r\n0\r\nAuthorization: Token {token}\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_what_stands_behind_a_body_without_end_is_cut_off_for_whoever_has_no_token(account: Account) -> None:
    for behind in ("0\r\nX: ", "4;x="):
        head = f"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{behind}"
        with socket.create_connection(("127.0.0.1", account.server.port), timeout=30) as connection:
            connection.sendall(head.encode())
            # Closed with bytes unread: a reset.
            with pytest.raises(ConnectionError):
                connection.sendall(b"a" * (32 << 20))
