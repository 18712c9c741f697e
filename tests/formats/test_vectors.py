"""docs/FORMAT.md against floor 0 and against the independent reader: every vector and worked total of the page."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from blobfs.values import crypto, documents, drops, epochs, extents, framing, keys, words
from blobfs.values.documents import DocId
from blobfs.values.extents import BlobId
from blobfs.values.revisions import Revision
from tests.formats import reader

PAGE = (Path(__file__).parents[2] / "docs" / "FORMAT.md").read_text(encoding="utf-8")
VECTORS: dict[str, Any] = {
    name: json.loads(text) for name, text in re.findall(r"^```json vectors:(\w+)\n(.*?)^```$", PAGE, re.M | re.S)
}
KEYS = keys.derive_keys(keys.AccountId(VECTORS["keys"]["account"]), bytes.fromhex(VECTORS["keys"]["secret"]))
ACCOUNT = reader.Account(VECTORS["keys"]["account"], bytes.fromhex(VECTORS["keys"]["secret"]))
BLOBS = reader.Blobs(ACCOUNT, Path("nowhere"))


def ruled(length: int) -> bytes:
    """The plaintext of the page's vectors."""
    return bytes(index % 251 for index in range(length))


def sealed(plaintext: bytes) -> tuple[BlobId, bytes]:
    plain = crypto.Plain(KEYS, plaintext)
    return plain.blob_id, b"".join(plain.seal())


def rows(header: str) -> list[list[str]]:
    """The cells of the table whose header line begins so."""
    lines = PAGE[PAGE.index(header) :].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def number(cell: str) -> int:
    match = re.match(r"[\d,]+", cell)
    assert match, cell
    return int(match[0].replace(",", ""))


def test_the_page_has_every_block_of_vectors() -> None:
    known = {"keys", "words", "secrets", "epochs", "blobs", "padme", "index", "tree", "documents", "incoming"}
    assert VECTORS.keys() == known


@pytest.mark.parametrize(
    "label", ["documents.db", "blobs.db", "journal", "document", "blob", "blob-id", "chain", "incoming"]
)
def test_each_key_of_the_page_comes_from_the_secret(label: str) -> None:
    assert ACCOUNT.key(label).hex() == VECTORS["keys"][label]
    assert getattr(KEYS, label.replace(".", "_").replace("-", "_")).hex() == VECTORS["keys"][label]


def test_the_recovery_words_of_the_page_are_the_key() -> None:
    vector = VECTORS["words"]
    assert words.recovery_words(bytes.fromhex(vector["key"])) == vector["words"]
    assert words.recovery_key(vector["words"]).hex() == vector["key"]
    assert reader.key_of_words(vector["words"]).hex() == vector["key"]


def test_the_secrets_file_of_the_page_opens_with_the_words_and_with_the_passphrase() -> None:
    vector = VECTORS["secrets"]
    passphrase = keys.passphrase_bytes(vector["passphrase"])
    assert passphrase.hex() == vector["passphrase_utf8_hex"]
    expected = (KEYS.account, bytes.fromhex(vector["secret"]))
    assert keys.unwrap(vector["file"], recovery=bytes.fromhex(vector["recovery"])) == expected
    assert keys.unwrap(vector["file"], passphrase=passphrase) == expected
    text = json.dumps(vector["file"]).encode()
    assert reader.unlock(text, words=VECTORS["words"]["words"]).secret.hex() == vector["secret"]
    assert reader.unlock(text, passphrase=vector["passphrase"]).secret.hex() == vector["secret"]


def test_the_file_of_the_page_with_three_epochs_opens_and_each_epoch_has_its_own_names() -> None:
    vector = VECTORS["epochs"]
    recovery, secrets = bytes.fromhex(vector["recovery"]), [bytes.fromhex(one) for one in vector["secrets"]]
    account, newest = keys.unwrap(vector["file"], recovery=recovery)
    assert (*epochs.open_older(vector["file"], newest), newest) == tuple(secrets)
    assert [keys.derive(one, "older-secret").hex() for one in secrets[1:]] == vector["older-secret keys"]
    ours = keys.derive_keys(account, newest, secrets[:2])
    assert [crypto.blob_id(one, b"\0") for one in reversed(ours.epochs)] == vector["blob_ids"]
    other = reader.unlock(json.dumps(vector["file"]).encode(), words=VECTORS["words"]["words"])
    assert (other.secret, other.older) == (secrets[2], tuple(secrets[:2]))
    sealed_one = vector["document"]
    doc_id, revision = DocId(sealed_one["doc_id"]), Revision.parse(sealed_one["revision"])
    stored, plaintext = bytes.fromhex(sealed_one["sealed"]), sealed_one["plaintext"].encode()
    nonce = bytes.fromhex(sealed_one["nonce"])
    assert crypto._seal_document(ours, doc_id, plaintext, revision, False, nonce) == stored
    assert documents.encode(crypto.open_document(ours, doc_id, revision, False, stored)) == plaintext
    assert reader.open_document(other, doc_id, str(revision), False, stored) == json.loads(plaintext)


@pytest.mark.parametrize("vector", VECTORS["blobs"], ids=lambda vector: str(vector["length"]))
def test_blobs_are_sealed_as_the_page_says(vector: dict[str, Any]) -> None:
    plaintext = ruled(vector["length"])
    blob_id, stored = sealed(plaintext)
    assert blob_id == vector["blob_id"]
    assert len(stored) == vector["sealed_length"] == framing.sealed_size(len(plaintext))
    assert hashlib.sha256(stored).hexdigest() == vector["sealed_sha256"]
    assert stored.hex() == vector.get("sealed", stored.hex())
    key = keys.derive(KEYS.blob, "blob", bytes.fromhex(blob_id)).hex()
    assert key == vector.get("key", key)
    assert BLOBS.open(blob_id, len(plaintext), stored) == plaintext


def test_padme_sizes_are_those_of_the_page() -> None:
    for length, wanted in VECTORS["padme"]:
        assert extents.padme(length) == reader.padme(length) == wanted


def test_the_index_of_the_page_is_the_blob_of_its_ids() -> None:
    vector = VECTORS["index"]
    plaintext = extents.index_plaintext(vector["ids"])
    assert plaintext.hex() == vector["plaintext"]
    blob_id, stored = sealed(plaintext)
    assert (blob_id, stored.hex()) == (vector["blob_id"], vector["sealed"])
    padded = extents.pad(plaintext)
    assert (len(padded), sealed(padded)[0]) == (vector["padded_length"], vector["padded_blob_id"])
    assert extents.parse_index(padded, len(vector["ids"])) == vector["ids"]


@pytest.mark.parametrize("vector", VECTORS["tree"], ids=["plain", "padded"])
def test_the_attachment_of_the_page_grows_the_same_tree(vector: dict[str, Any], tmp_path: Path) -> None:
    made: list[dict[str, Any]] = []
    padded = vector["attachment"]["padded"]

    def put(plaintext: bytes) -> BlobId:
        blob_id, stored = sealed(plaintext)
        made.append({"length": len(plaintext), "blob_id": blob_id})
        place = tmp_path / blob_id[:2] / blob_id
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(stored)
        return blob_id

    tail = ruled(vector["size"] % extents.EXTENT)
    present = {0: put(ruled(extents.EXTENT)), 1025: put(extents.pad(tail) if padded else tail)}
    assert {str(index): blob_id for index, blob_id in present.items()} == vector["extents"]
    attachment = extents.build(vector["size"], present, put, padded=padded)
    assert made == vector["blobs"]
    assert list(attachment.ids) == vector["attachment"]["ids"]
    assert (attachment.size, attachment.depth) == (vector["attachment"]["size"], vector["attachment"]["depth"])
    found = dict(reader.pieces(reader.Blobs(ACCOUNT, tmp_path), vector["attachment"]))
    assert found == {0: ruled(extents.EXTENT), 1025 * extents.EXTENT: tail}


@pytest.mark.parametrize("vector", VECTORS["documents"], ids=["live", "deleted"])
def test_documents_are_sealed_as_the_page_says(vector: dict[str, Any]) -> None:
    doc_id, revision, deleted = DocId(vector["doc_id"]), Revision.parse(vector["revision"]), vector["deleted"]
    plaintext = vector["plaintext"].encode("ascii")
    document = documents.decode(doc_id, plaintext)
    assert documents.encode(document) == plaintext
    nonce = bytes.fromhex(vector["nonce"])
    stored = crypto._seal_document(KEYS, doc_id, plaintext, revision, deleted, nonce)
    assert stored.hex() == vector["sealed"]
    assert crypto._document_data(KEYS, doc_id, revision, deleted).hex() == vector["associated_data"]
    assert keys.derive(KEYS.document, "document", doc_id.encode()).hex() == vector["key"]
    assert crypto.open_document(KEYS, doc_id, revision, deleted, stored) == document
    assert reader.open_document(ACCOUNT, doc_id, str(revision), deleted, stored) == json.loads(plaintext)


def test_items_and_addresses_are_those_of_the_page() -> None:
    vector = VECTORS["incoming"]
    assert ACCOUNT.key("incoming").hex() == KEYS.incoming.hex() == vector["incoming"]
    assert drops.public_key(KEYS).hex() == vector["public"]
    address = drops.parse_address(vector["address"])
    assert address == (vector["url"], vector["user"], vector["token"], KEYS.account, drops.public_key(KEYS))
    assert drops.pack_address(address) == vector["address"]
    item = bytes.fromhex(vector["item"])
    assert f"= {len(item)} bytes" in PAGE
    opener = drops.Opener([KEYS], vector["item_id"])
    assert b"".join(opener.feed(item)) == ruled(vector["size"])
    assert opener.end() == (vector["name"], vector["size"])
    assert reader.open_item(ACCOUNT, vector["item_id"], item) == (vector["name"], ruled(vector["size"]))
    for content in (b"", ruled(65_536), ruled(200_000)):
        made = b"".join(drops.seal_item(address, "other", "n", content))
        assert reader.open_item(ACCOUNT, "other", made) == ("n", content)
    assert f"{drops.MAX_ITEM:,}" in PAGE


def test_the_worked_totals_of_frames_are_right() -> None:
    table = rows("| length | frames | stored |")
    assert len(table) == 5
    for length, frames, stored in table:
        assert framing.frame_count(number(length)) == number(frames)
        assert framing.sealed_size(number(length)) == number(stored.partition("= ")[2])


def test_the_worked_totals_of_attachments_are_right() -> None:
    table = rows("| size | extents | depth |")
    assert len(table) == 7
    for size_cell, count, depth, ids, _ in table:
        size = number(size_cell)
        assert extents.extent_count(size) == number(count)
        assert extents.depth_for(size) == number(depth)
        assert -(-number(count) // extents.INLINE ** number(depth)) == number(ids)


def test_the_worked_range_of_frames_is_right() -> None:
    assert framing.frames_for(extents.EXTENT, 100_000, 200_000) == framing.Frames(1, 4, 65_568, 262_208)
    assert "frames 1 to 4: bytes 65,568 to 327,775 of the blob, 4 * 65,552 = 262,208" in PAGE


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    for limit in (
        keys.FLOOR.memory_kib,
        keys.CEILING.memory_kib,
        documents.MAX_TARGET,
        documents.MAX_XATTR,
        documents.MAX_XATTRS,
        documents.MAX_OWNER,
        documents.MAX_LINKS,
        extents.EXTENT,
        extents.INLINE,
        extents.FRAME,
        framing.SEALED_FRAME,
    ):
        assert f"{limit:,}" in PAGE
