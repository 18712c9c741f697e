"""The parsers of blobfs.protocol take what the other side writes, and noise meets the documented answer only."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs import protocol

checked = settings(deadline=None, max_examples=150)
ids = st.from_regex(protocol.ID, fullmatch=True)


@checked
@given(st.binary(min_size=32, max_size=32))
def test_a_digest_comes_back_from_its_header(digest: bytes) -> None:
    header = protocol.digest_header(digest)
    assert protocol.parse_digest_header(header) == digest
    assert protocol.parse_digest_header(f"sha-512=:AAAA:, {header}") == digest


@checked
@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda data: f"sha-256=:{base64.b64encode(data).decode()}:"))
def test_noise_in_a_digest_header_is_no_digest(value: str) -> None:
    digest = protocol.parse_digest_header(value)
    assert digest is None or len(digest) == 32


@checked
@given(ids, st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60))
def test_an_authorization_comes_back_from_its_header(user: str, token: str) -> None:
    assert protocol.parse_authorization_header(protocol.authorization_header(user, token)) == (user, token)


@checked
@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda data: "Token " + base64.b64encode(data).decode()))
def test_noise_in_an_authorization_header_is_nobody(value: str) -> None:
    found = protocol.parse_authorization_header(value)
    assert found is None or (protocol.is_id(found[0]) and found[1])


@checked
@given(ids, st.integers(0, protocol.MAX_BLOB), st.sampled_from(protocol.ItemStatus))
def test_the_header_of_an_item_comes_back(blob_id: str, length: int, status: protocol.ItemStatus) -> None:
    packed = protocol.pack_item_header(blob_id, length, status)
    size = protocol.ITEM_HEADER.size
    assert protocol.unpack_item_header(packed[:size]) == (status, len(blob_id), length)
    assert packed[size:].decode("ascii") == blob_id


@checked
@given(
    st.binary(min_size=10, max_size=10) | st.binary(min_size=3, max_size=3).map(lambda data: b"\0" + data + bytes(6))
)
def test_noise_in_place_of_an_item_is_a_bad_stream_or_within_the_limits(fixed: bytes) -> None:
    try:
        _, id_length, length = protocol.unpack_item_header(fixed)
    except protocol.BadStream:
        return
    assert 1 <= id_length <= 128
    assert length <= protocol.MAX_BLOB


@pytest.mark.parametrize("text", ["", "a\n", "a/b", "..", "ü", "a" * 129, "a%2Fb", "\0"])
def test_what_is_no_id_is_refused(text: str) -> None:
    assert not protocol.is_id(text)


pins = st.binary(min_size=32, max_size=32).map(lambda digest: f"sha256//{base64.b64encode(digest).decode()}")
heads = st.dictionaries(
    st.binary(min_size=8, max_size=8).map(bytes.hex), st.integers(1, 10**18 - 1), max_size=protocol.MAX_SEEN
).map(lambda seen: tuple(sorted(seen.items())))
invites = st.builds(
    protocol.Invite,
    url=st.sampled_from(["https://h", "https://h.example.org:8443/below", "https://[::1]:1"]),
    user=ids,
    token=st.from_regex(r"[A-Za-z0-9_-]{1,256}", fullmatch=True),
    seen=heads,
    pin=st.none() | pins,
)


@checked
@given(invites)
def test_an_invite_comes_back_from_its_text_with_and_without_a_pin(invite: protocol.Invite) -> None:
    text = protocol.pack_invite(invite)
    assert protocol.parse_invite(text) == invite
    assert text.startswith(protocol.INVITE_PREFIX if invite.pin is None else protocol.PINNED_PREFIX)


@checked
@given(invites, st.integers(0, 10**6), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_changed_invite_is_another_one_or_none(invite: protocol.Invite, at: int, letter: str) -> None:
    text = protocol.pack_invite(invite)
    place = at % len(text)
    changed = text[:place] + letter + text[place + 1 :]
    try:
        found = protocol.parse_invite(changed)
    except ValueError:
        return
    assert protocol.pack_invite(found) == changed


@checked
@given(
    st.dictionaries(
        st.sampled_from(["v", "url", "user", "token", "seen", "pin", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=9),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
        ),
    ),
    st.sampled_from(["blobfs1:", "blobfs2:"]),
)
def test_json_that_no_device_wrote_is_no_invite(body: dict[str, object], prefix: str) -> None:
    packed = base64.urlsafe_b64encode(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(ValueError, match="invite"):
        protocol.parse_invite(prefix + packed.decode().rstrip("="))


def test_the_longest_invite_fits_into_a_qr_code() -> None:
    seen = tuple((f"{number:016x}", 10**18 - 1) for number in range(protocol.MAX_SEEN))
    url = "https://" + "h" * (1024 - 8)
    invite = protocol.Invite(url, "u" * 128, "t" * 256, seen, "sha256//" + "A" * 43 + "=")
    assert len(protocol.pack_invite(invite)) <= 2953


@pytest.mark.parametrize(
    "pin", ["", "sha256//", "sha256//" + "A" * 44, "sha256//" + "A" * 42 + "B=", "SHA256//" + "A" * 43 + "="]
)
def test_what_is_no_pin_is_in_no_invite(pin: str) -> None:
    assert not protocol.is_pin(pin)
    with pytest.raises(ValueError, match="pin"):
        protocol.pack_invite(protocol.Invite("https://h", "u", "t", pin=pin))


def test_a_server_without_tls_has_no_pin_in_its_invite() -> None:
    with pytest.raises(ValueError, match="https"):
        protocol.pack_invite(protocol.Invite("http://127.0.0.1:1", "u", "t", pin="sha256//" + "A" * 43 + "="))
