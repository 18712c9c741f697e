"""Invites: one text for each, and nothing else parses."""

import base64
import json

import pytest

from blobfs.protocol import INVITE_PREFIX, Invite, is_server_url, pack_invite, parse_invite

INVITE = Invite("http://127.0.0.1:8090", "alice", "secret-token_1")


def packed(body: object) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return INVITE_PREFIX + base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def test_an_invite_survives_the_round_trip() -> None:
    assert parse_invite(pack_invite(INVITE)) == INVITE
    assert parse_invite(f"  {pack_invite(INVITE)}\n") == INVITE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "blobfs1:",
        "blobfs2:" + pack_invite(INVITE)[8:],
        pack_invite(INVITE) + "=",
        pack_invite(INVITE)[:-1],
        pack_invite(INVITE)[:20] + "\n" + pack_invite(INVITE)[20:],
        packed([]),
        packed({"v": 2, **INVITE._asdict()}),
        packed({"v": 1, **INVITE._asdict(), "extra": 1}),
        packed({"v": 1, **INVITE._asdict(), "user": 7}),
        packed({"v": 1, **INVITE._asdict(), "user": "../x"}),
        packed({"v": 1, **INVITE._asdict(), "url": "ftp://x"}),
        packed({"v": 1, **INVITE._asdict(), "token": ""}),
        INVITE_PREFIX + "A" * 5000,
        INVITE_PREFIX + "é",
        INVITE_PREFIX + base64.urlsafe_b64encode(b"[" * 3000).decode().rstrip("="),
    ],
)
def test_anything_else_is_no_invite(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which ValueError is no promise
        parse_invite(text)


def test_a_server_address_is_plain_http_or_https() -> None:
    assert all(map(is_server_url, ["http://h", "https://h:1/p", "http://[::1]:80"]))
    bad = [
        "",
        "h",
        "http://",
        "http://u@h",
        "http://h?q",
        "http://h#f",
        "http://h:x",
        "http://h:0",
        "http://h h",
        "file:///x",
    ]
    assert not any(map(is_server_url, bad))
