"""What a hostile server can do to blobs and documents (THREATS S1-S5, S13, S14): every change is an error that names
the object, and no wrong byte comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.errors import CorruptBlob, CorruptDocument, InvalidDocument
from blobfs.protocol import MAX_DOCUMENT
from blobfs.values import crypto, framing
from blobfs.values.documents import DocId, Document, encode
from blobfs.values.extents import FRAME, BlobId
from blobfs.values.framing import PREAMBLE, SEALED_FRAME
from blobfs.values.keys import Keys
from blobfs.values.revisions import DeviceId, Revision
from tests.values.strategies import KEYS, OTHER_ACCOUNT, OTHER_SECRET, revisions, valid_documents

checked = settings(deadline=None, max_examples=40)
SMALL = b"a small blob"


def seal(plaintext: bytes, keys: Keys = KEYS) -> tuple[BlobId, bytes]:
    plain = crypto.Plain(keys, plaintext)
    return plain.blob_id, b"".join(plain.seal())


def refused(stored: bytes, blob_id: BlobId, length: int, keys: Keys = KEYS) -> None:
    with pytest.raises(CorruptBlob):
        crypto.open_blob(keys, blob_id, length, stored)


# --- blobs --------------------------------------------------------------------------------------------------


@checked
@given(st.binary(max_size=300), st.sampled_from([0, 1, FRAME - 150, FRAME, 2 * FRAME]))
def test_a_blob_opens_to_what_was_sealed(data: bytes, zeros: int) -> None:
    plaintext = data + bytes(zeros)
    blob_id, stored = seal(plaintext)
    assert len(stored) == framing.sealed_size(len(plaintext))
    assert crypto.open_blob(KEYS, blob_id, len(plaintext), memoryview(stored)) == plaintext
    assert seal(plaintext) == (blob_id, stored)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 4 * FRAME), st.data())
def test_a_buffer_that_was_used_before_gets_the_same_bytes(length: int, data: st.DataObject) -> None:
    plaintext = (b"0123456789abcdef" * (length // 16 + 1))[:length]
    blob_id, stored = seal(plaintext)
    used = memoryview(bytearray(b"x" * (len(stored) + 100)))
    crypto.Plain(KEYS, plaintext).seal_into(used[: len(stored)])
    assert used[: len(stored)] == stored
    assert used[len(stored) :] == b"x" * 100
    if not length:
        return
    offset = data.draw(st.integers(0, length - 1))
    frames = framing.frames_for(length, offset, data.draw(st.integers(1, length - offset)))
    start, size = frames.first * FRAME, min(frames.count * FRAME, length - frames.first * FRAME)
    target = memoryview(bytearray(b"x" * (size + 100)))
    part = memoryview(stored)[frames.start : frames.start + frames.size]
    crypto.open_into(KEYS, blob_id, length, frames, part, target[:size])
    assert target[:size] == plaintext[start : start + size]
    assert target[size:] == b"x" * 100


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_a_buffer_gets_no_byte_of_a_frame_that_is_not_authentic(frame: int) -> None:
    length = 2 * FRAME + 5
    blob_id, stored = seal(b"p" * length)
    frames = framing.frames_for(length, 0, length)
    broken = bytearray(stored[frames.start :])
    broken[frame * SEALED_FRAME + 3] ^= 1
    target = memoryview(bytearray(length))
    with pytest.raises(CorruptBlob, match=f"frame {frame} "):
        crypto.open_into(KEYS, blob_id, length, frames, memoryview(broken), target)
    assert bytes(target[frame * FRAME :]) == bytes(length - frame * FRAME)
    with pytest.raises(CorruptBlob):
        crypto.open_into(KEYS, blob_id, length, frames, memoryview(broken)[:-1], target)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4 * FRAME), st.data())
def test_a_range_of_frames_opens_to_its_part(length: int, data: st.DataObject) -> None:
    plaintext = hashlib.shake_128(str(length).encode()).digest(length)
    blob_id, stored = seal(plaintext)
    offset = data.draw(st.integers(0, length - 1))
    frames = framing.frames_for(length, offset, data.draw(st.integers(1, length - offset)))
    part = stored[frames.start : frames.start + frames.size]
    opened = b"".join(crypto.open_frames(KEYS, blob_id, length, frames, part))
    assert opened == plaintext[frames.first * FRAME : (frames.first + frames.count) * FRAME]


@pytest.mark.parametrize("plaintext", [b"", SMALL], ids=["empty", "small"])
def test_each_flipped_bit_of_a_blob_is_found(plaintext: bytes) -> None:
    blob_id, stored = seal(plaintext)
    for bit in range(8 * len(stored)):
        changed = bytearray(stored)
        changed[bit // 8] ^= 1 << bit % 8
        refused(bytes(changed), blob_id, len(plaintext))


def test_a_blob_cut_at_any_byte_or_extended_is_found() -> None:
    blob_id, stored = seal(SMALL)
    for end in range(len(stored)):
        refused(stored[:end], blob_id, len(SMALL))
    for tail in (b"\0", stored, stored[PREAMBLE:]):
        refused(stored + tail, blob_id, len(SMALL))


def frames_of(stored: bytes) -> tuple[bytes, list[bytes]]:
    return stored[:PREAMBLE], [stored[at : at + SEALED_FRAME] for at in range(PREAMBLE, len(stored), SEALED_FRAME)]


def test_frames_in_another_order_dropped_or_repeated_are_found() -> None:
    plaintext = b"".join(bytes([number]) * FRAME for number in range(3))
    blob_id, stored = seal(plaintext)
    head, frames = frames_of(stored)
    for order in permutations(range(3)):
        if order != (0, 1, 2):
            refused(head + b"".join(frames[index] for index in order), blob_id, len(plaintext))
    for kept in ([0, 1], [0, 2], [1, 2], [0, 0, 2], [0, 1, 1], [0, 1, 2, 2]):
        refused(head + b"".join(frames[index] for index in kept), blob_id, len(plaintext))


def test_a_blob_cut_at_a_frame_is_found_even_if_the_length_is_cut_too() -> None:
    blob_id, stored = seal(bytes(2 * FRAME))
    shorter = framing.preamble(FRAME) + stored[PREAMBLE : PREAMBLE + SEALED_FRAME]
    refused(shorter, blob_id, 2 * FRAME)
    refused(shorter, blob_id, FRAME)


def test_a_frame_answered_for_another_one_is_found() -> None:
    blob_id, stored = seal(bytes(3 * FRAME))
    first = framing.frames_for(3 * FRAME, 0, 1)
    for at in (PREAMBLE + SEALED_FRAME, PREAMBLE + 2 * SEALED_FRAME):
        with pytest.raises(CorruptBlob):
            list(crypto.open_frames(KEYS, blob_id, 3 * FRAME, first, stored[at : at + SEALED_FRAME]))


def test_frames_of_two_blobs_of_one_length_do_not_mix() -> None:
    one, stored_one = seal(b"1" * (FRAME + 1))
    two, stored_two = seal(b"2" * (FRAME + 1))
    refused(stored_two, one, FRAME + 1)
    refused(stored_one, two, FRAME + 1)
    cut = PREAMBLE + SEALED_FRAME
    refused(stored_one[:cut] + stored_two[cut:], one, FRAME + 1)


@pytest.mark.parametrize("keys", [OTHER_SECRET], ids=["secret"])
def test_the_blob_of_another_account_is_found_and_has_another_name(keys: Keys) -> None:
    blob_id, stored = seal(SMALL)
    other_id, other = seal(SMALL, keys)
    assert other_id != blob_id
    assert other != stored
    refused(other, blob_id, len(SMALL))
    refused(other, other_id, len(SMALL))
    refused(stored, blob_id, len(SMALL), keys)


@pytest.mark.parametrize("place", [4, 5, 6, 7], ids=["version", "scheme", "method", "frame size"])
def test_every_other_version_scheme_method_and_frame_size_is_refused(place: int) -> None:
    blob_id, stored = seal(SMALL)
    for value in set(range(256)) - {stored[place]}:
        refused(stored[:place] + bytes([value]) + stored[place + 1 :], blob_id, len(SMALL))


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=120), st.booleans())
def test_noise_in_place_of_a_blob_is_refused(noise: bytes, with_preamble: bool) -> None:
    blob_id, stored = seal(SMALL)
    refused((stored[:PREAMBLE] if with_preamble else b"") + noise, blob_id, len(SMALL))


def test_a_buffer_changed_while_it_is_sealed_does_not_reach_the_blob() -> None:
    written = bytearray(b"x" * (FRAME + 1))
    plain = crypto.Plain(KEYS, memoryview(written))
    pieces = plain.seal()
    stored = next(pieces)
    written[:] = bytes(len(written))
    stored += b"".join(pieces)
    assert crypto.open_blob(KEYS, plain.blob_id, FRAME + 1, stored) == b"x" * (FRAME + 1)


# --- documents ----------------------------------------------------------------------------------------------

DOCUMENT = Document(DocId("a-document"), content={"a": 1})
REVISION = Revision.of({DeviceId("00000000000000aa"): 1, DeviceId("00000000000000bb"): 2})
SEALED = crypto.seal_document(KEYS, DOCUMENT, REVISION)


@checked
@given(valid_documents(), revisions, st.booleans(), st.booleans())
def test_a_document_opens_to_what_was_sealed(
    document: Document, revision: Revision, deleted: bool, padded: bool
) -> None:
    sealed = crypto.seal_document(KEYS, document, revision, deleted=deleted, padded=padded)
    assert crypto.open_document(KEYS, document.doc_id, revision, deleted, sealed) == document
    with pytest.raises(CorruptDocument):
        crypto.open_document(KEYS, document.doc_id, revision, not deleted, sealed)


@pytest.mark.parametrize(
    ("keys", "doc_id", "revision", "deleted"),
    [
        (OTHER_ACCOUNT, DOCUMENT.doc_id, REVISION, False),
        (OTHER_SECRET, DOCUMENT.doc_id, REVISION, False),
        (replace(KEYS, account=OTHER_ACCOUNT.account), DOCUMENT.doc_id, REVISION, False),
        (KEYS, DocId("another-one"), REVISION, False),
        (KEYS, DOCUMENT.doc_id, REVISION.advanced(DeviceId("00000000000000aa")), False),
        (KEYS, DOCUMENT.doc_id, Revision(REVISION.entries[:1]), False),
        (KEYS, DOCUMENT.doc_id, Revision(), False),
        (KEYS, DOCUMENT.doc_id, REVISION, True),
        (KEYS, DocId("root"), REVISION, False),
        (KEYS, DocId("ü\n"), REVISION, False),
    ],
    ids=["keys", "secret", "account", "id", "newer", "older", "no revision", "deleted", "root", "no id"],
)
def test_a_document_under_any_other_claim_is_refused(
    keys: Keys, doc_id: DocId, revision: Revision, deleted: bool
) -> None:
    with pytest.raises(CorruptDocument) as caught:
        crypto.open_document(keys, doc_id, revision, deleted, SEALED)
    assert str(caught.value).isascii()


def refused_document(sealed: bytes) -> None:
    with pytest.raises(CorruptDocument):
        crypto.open_document(KEYS, DOCUMENT.doc_id, REVISION, False, sealed)


def test_each_flipped_bit_of_a_document_is_found() -> None:
    for bit in range(8 * len(SEALED)):
        changed = bytearray(SEALED)
        changed[bit // 8] ^= 1 << bit % 8
        refused_document(bytes(changed))


@pytest.mark.parametrize(
    "change",
    [lambda sealed: sealed + b"\0", lambda sealed: sealed * 2, lambda sealed: sealed + bytes(MAX_DOCUMENT)],
    ids=["a byte", "itself", "a mebibyte"],
)
def test_a_document_extended_is_refused(change: Callable[[bytes], bytes]) -> None:
    refused_document(change(SEALED))


def test_a_document_over_the_limit_is_not_even_decrypted() -> None:
    with pytest.raises(CorruptDocument, match=f"came with {MAX_DOCUMENT + 1} bytes"):
        crypto.open_document(KEYS, DOCUMENT.doc_id, REVISION, False, SEALED.ljust(MAX_DOCUMENT + 1, b"x"))


def test_a_document_cut_at_any_byte_is_refused() -> None:
    for end in range(len(SEALED)):
        refused_document(SEALED[:end])


@checked
@given(st.binary(max_size=100))
def test_noise_in_place_of_a_document_is_refused(noise: bytes) -> None:
    refused_document(noise)
    refused_document(crypto.DOCUMENT_MAGIC + noise)


def test_two_sealings_of_one_document_share_no_nonce() -> None:
    assert crypto.seal_document(KEYS, DOCUMENT, REVISION)[5:17] != SEALED[5:17]


def test_padding_hides_the_exact_size_of_a_document() -> None:
    sizes = {
        len(crypto.seal_document(KEYS, replace(DOCUMENT, content={"a": "x" * size}), REVISION, padded=True))
        for size in range(200, 240)
    }
    assert len(sizes) <= 5


def test_the_largest_document_can_be_sealed_and_one_byte_more_cannot() -> None:
    room = MAX_DOCUMENT - 33 - len(encode(replace(DOCUMENT, content={"a": ""})))
    largest = replace(DOCUMENT, content={"a": "x" * room})
    for padded in (False, True):
        sealed = crypto.seal_document(KEYS, largest, REVISION, padded=padded)
        assert len(sealed) == MAX_DOCUMENT
        assert crypto.open_document(KEYS, DOCUMENT.doc_id, REVISION, False, sealed) == largest
    with pytest.raises(InvalidDocument, match="over the limit"):
        crypto.seal_document(KEYS, replace(DOCUMENT, content={"a": "x" * (room + 1)}), REVISION)
