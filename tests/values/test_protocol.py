"""The parsers of blobfs.protocol take what the other side writes, and noise meets the documented answer only."""

from __future__ import annotations

import base64

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
