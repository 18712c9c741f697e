"""Epochs: a newer secret opens all older ones and no older one a newer, whatever is done to the file between."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.errors import CorruptBlob, CorruptDocument, StoreDamaged, StoreTooNew, UsageError, WrongPassphrase
from blobfs.values import crypto, epochs, framing, keys
from blobfs.values.documents import MAX_EPOCHS, DocId, Document, Kind, dump, encode, load
from blobfs.values.revisions import DeviceId, Revision

ACCOUNT = keys.AccountId("ab" * 16)
RECOVERY = bytes(range(32))
PASSPHRASE = keys.passphrase_bytes("a long passphrase")
SECRETS = tuple(bytes([number]) * 32 for number in range(MAX_EPOCHS + 1))
REFUSALS = (StoreDamaged, StoreTooNew, WrongPassphrase)


def file_of(epoch: int) -> Any:
    """A secrets file of the account in this epoch."""
    chain = epochs.seal_older(ACCOUNT, SECRETS[:epoch], SECRETS[epoch])
    return keys.wrap(ACCOUNT, SECRETS[epoch], PASSPHRASE, RECOVERY, keys.FLOOR, older=chain)


FILE = dump(file_of(3))


def open_all(body: Any) -> tuple[bytes, ...]:
    """All secrets that the recovery key opens."""
    account, secret = keys.unwrap(body, recovery=RECOVERY)
    assert account == ACCOUNT
    return (*epochs.open_older(body, secret), secret)


@pytest.mark.parametrize("epoch", [0, 1, 2, MAX_EPOCHS - 1])
def test_the_newest_secret_opens_all_older_ones(epoch: int) -> None:
    body = load(dump(file_of(epoch)))
    assert open_all(body) == SECRETS[: epoch + 1]
    assert (body["version"], epochs.claimed_epoch(body)) == (1 if epoch == 0 else 2, epoch)
    assert keys.unwrap(body, passphrase=PASSPHRASE) == (ACCOUNT, SECRETS[epoch])


def test_an_account_has_an_end_of_epochs() -> None:
    with pytest.raises(UsageError, match="keep-keys"):
        epochs.seal_older(ACCOUNT, SECRETS[:MAX_EPOCHS], SECRETS[MAX_EPOCHS])


def test_an_older_secret_opens_no_newer_one() -> None:
    body = load(FILE)
    for secret in SECRETS[:3]:
        with pytest.raises(StoreDamaged):
            epochs.open_older(body, secret)


def test_a_new_passphrase_alone_leaves_epoch_words_and_older_secrets() -> None:
    other = keys.passphrase_bytes("another passphrase")
    body = load(dump(keys.replace_passphrase(load(FILE), SECRETS[3], other, keys.FLOOR)))
    assert open_all(body) == SECRETS[:4]
    assert keys.unwrap(body, passphrase=other) == (ACCOUNT, SECRETS[3])
    assert epochs.is_same_line(body, load(FILE))
    assert not epochs.is_same_line(file_of(3), load(FILE))


@pytest.mark.parametrize("order", [order for order in itertools.permutations(range(3)) if order != (0, 1, 2)])
def test_older_secrets_in_another_order_are_refused(order: tuple[int, ...]) -> None:
    body = load(FILE)
    body["older"] = [body["older"][place] for place in order]
    with pytest.raises(REFUSALS):
        open_all(body)


@pytest.mark.parametrize("kept", [slice(0, 2), slice(1, 3), slice(0, 0), slice(2, 3)])
@pytest.mark.parametrize("tells", [True, False])
def test_a_chain_that_was_cut_is_refused(kept: slice, tells: bool) -> None:
    body = load(FILE)
    body["older"] = body["older"][kept]
    body["epoch"] = len(body["older"]) if tells else 3
    with pytest.raises(REFUSALS):
        open_all(body)


def test_a_file_cannot_be_passed_off_as_one_of_version_1() -> None:
    body = load(FILE)
    with pytest.raises(REFUSALS):
        open_all({"version": 1, "account": ACCOUNT, "slots": body["slots"]})
    with pytest.raises(REFUSALS):
        open_all(body | {"version": 1})
    with pytest.raises(REFUSALS):
        open_all(file_of(0) | {"version": 2, "epoch": 3, "older": body["older"]})


def test_the_chain_of_another_file_of_the_account_is_refused() -> None:
    with pytest.raises(REFUSALS):
        open_all(load(FILE) | {"older": file_of(3)["older"]})


JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [None, 0, -1, 5, 4, 64, 1 << 5_000, 3.0, True, "", "AAAA", [], {}, [[]], [None] * 3, [{}] * 3, "\ud800"]
)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["version", "account", "epoch", "older", "slots", "surplus"]), JUNK, st.booleans())
def test_no_member_of_the_file_can_be_changed(member: str, value: Any, remove: bool) -> None:
    body = load(FILE)
    if remove and member in body:
        del body[member]
    else:
        body[member] = value
    with pytest.raises(REFUSALS):
        open_all(body)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2), st.sampled_from(["nonce", "wrapped", "surplus"]), JUNK)
def test_no_member_of_an_older_secret_can_be_changed(place: int, member: str, value: Any) -> None:
    body = load(FILE)
    body["older"][place][member] = value
    with pytest.raises(REFUSALS):
        open_all(body)


@given(st.integers(0, 2), st.integers(0, 48 * 8 - 1))
def test_no_bit_of_an_older_secret_can_be_changed(place: int, bit: int) -> None:
    body = load(FILE)
    wrapped = bytearray(base64.b64decode(body["older"][place]["wrapped"]))
    wrapped[bit // 8] ^= 1 << bit % 8
    body["older"][place]["wrapped"] = base64.b64encode(wrapped).decode()
    with pytest.raises(REFUSALS):
        open_all(body)
    with pytest.raises(StoreDamaged):
        epochs.open_older(body, SECRETS[3])


# --- what is sealed in an epoch ---------------------------------------------------------------------------------

OLD = keys.derive_keys(ACCOUNT, SECRETS[0])
NEW = keys.derive_keys(ACCOUNT, SECRETS[2], SECRETS[:2])
REVISION = Revision().advanced(DeviceId("00000000000000aa"))
DOCUMENT = Document(doc_id=DocId("document"), kind=Kind.FILE)


def test_the_keys_of_an_account_are_those_of_each_epoch_newest_first() -> None:
    assert [one.epoch for one in NEW.epochs] == [2, 1, 0]
    assert NEW.epochs[-1] == OLD
    assert len({one.blob for one in NEW.epochs}) == 3


def seal(epoch: keys.Keys, plaintext: bytes) -> tuple[Any, bytes]:
    plain = crypto.Plain(epoch, plaintext)
    return plain.blob_id, b"".join(plain.seal())


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("length", [0, 1, 200_000])
def test_blobs_of_all_epochs_open_with_the_newest_keys_and_newer_ones_with_no_older(number: int, length: int) -> None:
    epoch, plaintext = NEW.epochs[number], bytes(length)
    blob_id, stored = seal(epoch, plaintext)
    assert crypto.open_blob(NEW, blob_id, length, stored) == plaintext
    if number < 2:
        with pytest.raises(CorruptBlob):
            crypto.open_blob(OLD, blob_id, length, stored)


def test_the_holder_of_old_keys_cannot_put_bytes_under_the_name_of_a_blob() -> None:
    for victim in NEW.epochs:
        blob_id, _ = seal(victim, b"what was sealed")
        cipher, head = crypto._blob_cipher(OLD, blob_id), framing.preamble(15)
        forged = head + cipher.encrypt(crypto._FRAME_NONCE.pack(0, True), b"what was forged", head)
        with pytest.raises(CorruptBlob):
            crypto.open_blob(NEW, blob_id, 15, forged)


def test_documents_of_all_epochs_open_with_the_newest_keys_and_newer_ones_with_no_older() -> None:
    for epoch in NEW.epochs:
        sealed = crypto.seal_document(epoch, DOCUMENT, REVISION)
        opened = crypto.open_document(NEW, DOCUMENT.doc_id, REVISION, False, sealed)
        assert (opened, opened.epoch) == (DOCUMENT, epoch.epoch)
        if epoch.epoch:
            with pytest.raises(CorruptDocument):
                crypto.open_document(OLD, DOCUMENT.doc_id, REVISION, False, sealed)


@pytest.mark.parametrize("told", [1, 2])
def test_a_document_that_tells_another_epoch_than_its_keys_are_of_is_refused(told: int) -> None:
    key = keys.derive(OLD.document, "document", DOCUMENT.doc_id.encode())
    plaintext = encode(Document(doc_id=DOCUMENT.doc_id, kind=Kind.FILE, epoch=told))
    data = crypto._document_data(OLD, DOCUMENT.doc_id, REVISION, False)
    sealed = crypto.DOCUMENT_MAGIC + bytes(12) + AESGCM(key).encrypt(bytes(12), plaintext, data)
    with pytest.raises(CorruptDocument, match="another epoch"):
        crypto.open_document(NEW, DOCUMENT.doc_id, REVISION, False, sealed)
