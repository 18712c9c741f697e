"""A reader of blobfs accounts that shares no code with blobfs, written from docs/FORMAT.md alone.

It proves that the page is complete, and it is the way out: with the secrets file, the words on paper, a copy of the
server's blobs and its sealed documents, it lays the tree down in an empty directory.

    python reader.py SECRETS.json WORDS.txt BLOBS_DIRECTORY DOCUMENTS.json EMPTY_DIRECTORY
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from mnemonic import Mnemonic

FRAME, EXTENT, FANOUT = 65_536, 4_194_304, 1_024
DOC_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Refused(Exception):
    """Something that docs/FORMAT.md tells a reader to refuse."""


def need(is_good: object, what: str) -> None:
    """Raise Refused unless `is_good`."""
    if not is_good:
        raise Refused(what)


# --- Keys, Secrets file, Recovery words ---------------------------------------------------------------------


def derive(key: bytes, label: str, context: bytes = b"") -> bytes:
    info = b"blobfs v1 " + label.encode() + b"\0" + context
    return HKDF(SHA256(), 32, None, info).derive(key)


def key_of_words(words: str) -> bytes:
    table = {word: number for number, word in enumerate(Mnemonic("english").wordlist)}
    bits = "".join(f"{table[word]:011b}" for word in words.lower().split())
    need(len(bits) == 264, "24 words")
    key = int(bits[:256], 2).to_bytes(32, "big")
    need(int(bits[256:], 2) == hashlib.sha256(key).digest()[0], "checksum of the words")
    return key


@dataclass
class Account:
    """An account id and its storage secrets."""

    name: str
    secret: bytes
    older: tuple[bytes, ...] = ()
    """Of the epochs before, oldest first."""

    def key(self, label: str) -> bytes:
        return derive(self.secret, label)

    def keys(self, label: str) -> list[tuple[int, bytes]]:
        """(epoch, key), newest first: the order in which a reader tries them."""
        return list(reversed([(epoch, derive(one, label)) for epoch, one in enumerate((*self.older, self.secret))]))


def unlock(text: bytes, *, words: str | None = None, passphrase: str | None = None) -> Account:
    """The account of a secrets file."""
    body = json.loads(text)
    head = {name: value for name, value in body.items() if name != "slots"}
    older: list[dict[str, str]] = []
    if body["version"] == 1:
        need(body.keys() == {"version", "account", "slots"}, "secrets file")
    else:
        need(body.keys() == {"version", "account", "epoch", "older", "slots"} and body["version"] == 2, "secrets file")
        older = body["older"]
        need(1 <= len(older) == body["epoch"] <= 63, "epochs")
    kind = "passphrase" if words is None else "recovery"
    (slot,) = [slot for slot in body["slots"] if slot["kind"] == kind]
    salt = base64.b64decode(slot["salt"], validate=True)
    if words is not None:
        need(slot["kdf"] == "hkdf-sha256", "kdf")
        slot_key = derive(key_of_words(words), "recovery", salt)
    else:
        need(slot["kdf"] == "argon2id" and 65_536 <= slot["memory_kib"] <= 2_097_152, "kdf")
        need(3 <= slot["iterations"] <= 16 and 1 <= slot["lanes"] <= 16, "kdf")
        typed = unicodedata.normalize("NFC", passphrase or "").encode()
        slot_key = Argon2id(
            salt=salt, length=32, iterations=slot["iterations"], lanes=slot["lanes"], memory_cost=slot["memory_kib"]
        ).derive(typed)
    commitment = base64.b64decode(slot["commitment"], validate=True)
    need(hmac.compare_digest(commitment, derive(slot_key, "slot-commitment")), "wrong words or passphrase")
    clear = {name: value for name, value in slot.items() if name != "wrapped"}
    wrapped, nonce = base64.b64decode(slot["wrapped"]), base64.b64decode(slot["nonce"])
    secret = unseal(derive(slot_key, "slot"), nonce, wrapped, canonical(head | {"slot": clear}))
    chain = [secret]
    for epoch in reversed(range(len(older))):
        wrapped, nonce = base64.b64decode(older[epoch]["wrapped"]), base64.b64decode(older[epoch]["nonce"])
        header = canonical({"version": 2, "account": body["account"], "epoch": epoch})
        chain.insert(0, unseal(derive(chain[0], "older-secret"), nonce, wrapped, header))
    return Account(body["account"], secret, tuple(chain[:-1]))


def canonical(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")


def unseal(key: bytes, nonce: bytes, sealed: bytes, data: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(nonce, sealed, data)
    except InvalidTag:
        raise Refused("authentication") from None


# --- Blobs ----------------------------------------------------------------------------------------------------


class Blobs:
    """The blobs of one account in a directory laid out as a server's `ROOT/USER/NAMESPACE`."""

    def __init__(self, account: Account, root: Path) -> None:
        self.root = root
        self.keys = [
            (key, name) for (_, key), (_, name) in zip(account.keys("blob"), account.keys("blob-id"), strict=True)
        ]

    def read(self, blob_id: str, length: int) -> bytes:
        """The plaintext of a blob, of `length` bytes, padding included."""
        return self.open(blob_id, length, (self.root / blob_id[:2] / blob_id).read_bytes())

    def open(self, blob_id: str, length: int, stored: bytes) -> bytes:
        preamble = b"BLFS" + bytes((1, 1, 1, 16)) + length.to_bytes(8, "big")
        frames = max(1, -(-length // FRAME))
        need(stored[:16] == preamble and len(stored) == 16 + length + 16 * frames, f"preamble or size of {blob_id}")
        for blob_key, name_key in self.keys:
            try:
                plaintext = self._unseal(blob_key, blob_id, frames, preamble, stored)
            except Refused:
                continue
            if hmac.new(name_key, preamble + plaintext, "sha256").hexdigest() == blob_id:
                return plaintext
        raise Refused(f"authentication or name of {blob_id}")

    def _unseal(self, blob_key: bytes, blob_id: str, frames: int, preamble: bytes, stored: bytes) -> bytes:
        key, pieces = derive(blob_key, "blob", bytes.fromhex(blob_id)), []
        for index in range(frames):
            start = 16 + index * (FRAME + 16)
            nonce = bytes(3) + index.to_bytes(8, "big") + bytes([index == frames - 1])
            pieces.append(unseal(key, nonce, stored[start : start + FRAME + 16], preamble))
        return b"".join(pieces)


def padme(length: int) -> int:
    if length < 2:
        return length
    e = length.bit_length() - 1
    s = e.bit_length()
    unit: int = 2 ** (e - s)
    return -(-length // unit) * unit


def extent_ids(blobs: Blobs, attachment: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """(number of the extent, blob id) of each that is no hole."""
    extents = -(-attachment["size"] // EXTENT)
    depth, level = 0, extents
    while level > FANOUT:
        depth, level = depth + 1, -(-level // FANOUT)
    need(attachment["depth"] == depth and len(attachment["ids"]) == level, "shape of the attachment")
    ids: dict[int, str] = {place: name for place, name in enumerate(attachment["ids"]) if name is not None}
    for above in range(depth, 0, -1):
        children: dict[int, str] = {}
        for place, name in ids.items():
            count = min(FANOUT, -(-extents // FANOUT ** (above - 1)) - FANOUT * place)
            plaintext = blobs.read(name, padme(32 * count) if attachment["padded"] else 32 * count)
            need(not any(plaintext[32 * count :]), "padding of an index")
            for child in range(count):
                entry = plaintext[32 * child : 32 * child + 32]
                if any(entry):
                    children[place * FANOUT + child] = entry.hex()
        ids = children
    yield from sorted(ids.items())


def pieces(blobs: Blobs, attachment: dict[str, Any]) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of each extent that is no hole."""
    for number, name in extent_ids(blobs, attachment):
        length = min(EXTENT, attachment["size"] - number * EXTENT)
        plaintext = blobs.read(name, padme(length) if attachment["padded"] else length)
        need(not any(plaintext[length:]), "padding of an extent")
        yield number * EXTENT, plaintext[:length]


# --- Documents ------------------------------------------------------------------------------------------------


def open_document(account: Account, doc_id: str, revision: str, deleted: bool, sealed: bytes) -> dict[str, Any]:
    """The JSON of a sealed document."""
    need(DOC_ID.fullmatch(doc_id) and doc_id != "root", "document id")
    need(sealed[:5] == b"BLFD\x01" and len(sealed) <= 1_048_576, f"format of document {doc_id}")
    parts = (account.name, doc_id, revision, "deleted" if deleted else "live")
    data = b"BLFD\x01" + b"".join(part.encode("ascii") + b"\0" for part in parts)
    for epoch, document_key in account.keys("document"):
        key = derive(document_key, "document", doc_id.encode("ascii"))
        try:
            plaintext = unseal(key, sealed[5:17], sealed[17:], data)
        except Refused:
            continue
        body: dict[str, Any] = json.loads(plaintext.decode("utf-8"), object_pairs_hook=members)
        need(body["format"] == 1 and body.get("epoch", 0) == epoch, f"format of document {doc_id}")
        return body
    raise Refused(f"authentication of document {doc_id}")


def raw_name(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@dataclass
class Entry:
    """A document at one place of the tree."""

    body: dict[str, Any]
    path: bytes
    blobs: Blobs = field(repr=False)

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        return pieces(self.blobs, self.body["attachment"])

    def content(self) -> bytes:
        """All bytes of a file that is small enough to be held."""
        data = bytearray(self.body["attachment"]["size"])
        for offset, piece in self.pieces():
            data[offset : offset + len(piece)] = piece
        return bytes(data)


# --- what senders leave ---------------------------------------------------------------------------------------


def open_item(account: Account, item_id: str, item: bytes) -> tuple[str, bytes]:
    """(name, bytes) of an item, by RFC 9180 as it is written."""
    need(item[:5] == b"BLFI\x01", "magic")
    length = int.from_bytes(item[5:7], "big")
    info = b"blobfs incoming v1\0" + account.name.encode() + b"\0" + item_id.encode()
    head = json.loads(_hpke_open(account.key("incoming"), item[7 : 7 + length], info))
    cipher, size, at = AESGCM(base64.b64decode(head["key"])), head["size"], 7 + length
    count, content = max(1, -(-size // 65_536)), b""
    for index in range(count):
        end = at + min(65_536, size - index * 65_536) + 16
        nonce = bytes(3) + index.to_bytes(8, "big") + bytes([index == count - 1])
        content += cipher.decrypt(nonce, item[at:end], None)
        at = end
    need(at == len(item), "the end of the item")
    return head["name"], content


def _hpke_open(private: bytes, sealed: bytes, info: bytes) -> bytes:
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"

    def extract(suite_id: bytes, salt: bytes, label: bytes, key: bytes) -> bytes:
        return hmac.new(salt or bytes(32), b"HPKE-v1" + suite_id + label + key, "sha256").digest()

    def expand(suite_id: bytes, key: bytes, label: bytes, context: bytes, size: int) -> bytes:
        # One block is enough: nothing here is longer than a hash.
        text = size.to_bytes(2, "big") + b"HPKE-v1" + suite_id + label + context
        return hmac.new(key, text + b"\x01", "sha256").digest()[:size]

    own, peer = X25519PrivateKey.from_private_bytes(private), sealed[:32]
    shared = own.exchange(X25519PublicKey.from_public_bytes(peer))
    context = peer + own.public_key().public_bytes_raw()
    secret = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", context, 32)
    schedule = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    final = extract(suite, secret, b"secret", b"")
    key, nonce = expand(suite, final, b"key", schedule, 32), expand(suite, final, b"base_nonce", schedule, 12)
    return AESGCM(key).decrypt(nonce, sealed[32:], b"")


def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    need(len(dict(pairs)) == len(pairs), "a member twice")
    return dict(pairs)


def read_tree(account: Account, blobs_root: Path, documents: list[dict[str, Any]]) -> dict[bytes, Entry]:
    """Path (parts joined by `/`) to entry, given each document's newest revision; see "The tree"."""
    blobs = Blobs(account, blobs_root)
    children: dict[str, list[tuple[bytes, str]]] = {}
    bodies: dict[str, dict[str, Any]] = {}
    for item in documents:
        payload = base64.b64decode(item["payload"], validate=True)
        body = open_document(account, item["doc_id"], item["revision"], item["deleted"], payload)
        if item["deleted"]:
            continue
        bodies[item["doc_id"]] = body
        for parent, text in body["names"] or [["root", item["doc_id"]]]:
            name = raw_name(text)
            need(name not in (b"", b".", b"..") and not {0, 0x2F} & set(name), "name")
            children.setdefault(parent, []).append((name, item["doc_id"]))
    tree: dict[bytes, Entry] = {}
    placed: set[str] = set()

    def place_below(above: bytes, entries: list[tuple[bytes, str]]) -> None:
        waiting = [(above, entries)]
        while waiting:
            above, entries = waiting.pop()
            for name, doc_id in sorted(entries):
                body = bodies[doc_id]
                is_directory = body["kind"] == "directory"
                if is_directory and doc_id in placed:
                    continue
                path = above + b"/" + name if above else name
                if path in tree:
                    path += b" (" + doc_id.encode() + b")"
                placed.add(doc_id)
                tree[path] = Entry(body, path, blobs)
                if is_directory:
                    waiting.append((path, children.get(doc_id, [])))

    place_below(b"", children.get("root", []))
    while lost := sorted(bodies.keys() - placed):
        above = [doc_id for doc_id in lost if bodies[doc_id]["kind"] == "directory"]
        held = {doc_id for parent in above for _, doc_id in children.get(parent, [])}
        first = next((doc_id for doc_id in lost if doc_id not in held), lost[0])
        place_below(b"", [(b"lost (" + first.encode() + b")", first)])
    return tree


def extract(tree: dict[bytes, Entry], target: Path) -> None:
    """Lay directories, files and symlinks down under `target`, a directory that exists and is empty."""
    need(not any(target.iterdir()), "the target is not empty")
    for path in sorted(tree, key=lambda path: path.count(b"/")):
        entry, place = tree[path], target / path.decode("utf-8", "surrogateescape")
        if entry.body["kind"] == "directory":
            place.mkdir()
        elif entry.body["kind"] == "symlink":
            place.symlink_to(raw_name(entry.body["target"]).decode("utf-8", "surrogateescape"))
        elif "attachment" in entry.body:
            with place.open("xb") as file:
                for offset, piece in entry.pieces():
                    file.seek(offset)
                    file.write(piece)
                file.truncate(entry.body["attachment"]["size"])


def main(arguments: list[str]) -> None:
    """`SECRETS WORDS BLOBS DOCUMENTS TARGET`; documents as a JSON array of what `GET /documents/USER` lists."""
    secrets, words, blobs, documents, target = map(Path, arguments)
    account = unlock(secrets.read_bytes(), words=words.read_text())
    extract(read_tree(account, blobs, json.loads(documents.read_bytes())), target)


if __name__ == "__main__":
    main(sys.argv[1:])
