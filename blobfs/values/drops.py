"""What senders leave for an account: addresses, and items sealed to its public key. docs/FORMAT.md has the bytes.

Anybody who has an address can seal an item; so what is in one says nothing about who made it, and it becomes a file or
anything else only when a device of the account makes it so. Invariant: no byte of an item is given out that was not
sealed, whole and in its place, to this account under this item id.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import struct
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from blobfs.errors import CorruptItem, UsageError
from blobfs.protocol import MAX_BLOB, is_id, is_server_url
from blobfs.values.documents import dump
from blobfs.values.keys import AccountId, Keys, is_account

PREFIX: Final = "blobfsdrop1:"
MAX_ADDRESS: Final = 4096
"""Characters of an address."""
FRAME: Final = 64 << 10
MAGIC: Final = b"BLFI\x01"
MAX_HEAD: Final = 2048
"""Bytes of the sealed head."""
_HEAD: Final = struct.Struct(">5sH")
_NONCE: Final = struct.Struct(">3xQB")
_TAG: Final = 16
_SUITE: Final = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
MAX_ITEM: Final = MAX_BLOB // (FRAME + _TAG) * FRAME - FRAME
"""Bytes of what is in an item: the server's largest blob, less a frame for the head."""
_NOT_ONE: Final = "that is no drop address, or a part of it is missing; copy all of it again"


class Address(NamedTuple):
    """All that a sender needs."""

    url: str
    """Of the server, without a trailing slash."""
    user: str
    token: str
    """Of scope `incoming`: good for leaving things, and for nothing else."""
    account: AccountId
    key: bytes
    """The account's public key, 32 bytes."""


class Head(NamedTuple):
    """What an item says of itself."""

    name: str
    size: int


# --- addresses ------------------------------------------------------------------------------------------------


def public_key(keys: Keys) -> bytes:
    """To which items for the account are sealed."""
    return _private(keys).public_key().public_bytes_raw()


def _private(keys: Keys) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(keys.incoming)


def pack_address(address: Address) -> str:
    """The text that a person gives to senders. Raises ValueError: one of its parts cannot be."""
    if not (is_server_url(address.url) and is_id(address.user) and _TOKEN.fullmatch(address.token)):
        raise ValueError("an address needs a server, a user and a token")
    if not is_account(address.account) or len(address.key) != 32:
        raise ValueError("an address needs an account and a key of 32 bytes")
    body = address._asdict() | {"v": 1, "key": base64.b64encode(address.key).decode("ascii")}
    packed = dump(body)
    # For people: a slip in copying must be told from a server that does not answer.
    check = hashlib.sha256(packed).digest()[:4]
    return PREFIX + base64.urlsafe_b64encode(packed + check).rstrip(b"=").decode("ascii")


def parse_address(text: str) -> Address:
    """The address in `text`; white space around it is forgiven. Raises UsageError: it is none."""
    text = text.strip()
    if len(text) > MAX_ADDRESS or not text.startswith(PREFIX):
        raise UsageError(_NOT_ONE)
    encoded = text.removeprefix(PREFIX)
    try:
        packed = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)[:-4]
        body = json.loads(packed.decode("ascii"))
        key = base64.b64decode(body["key"], validate=True)
        address = Address(body["url"], body["user"], body["token"], AccountId(body["account"]), key)
        # One text for each address: this also checks the sum, and refuses unknown members and versions.
        if pack_address(address) != text:
            raise ValueError("another spelling")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UsageError(_NOT_ONE) from None
    return address


# --- items ----------------------------------------------------------------------------------------------------


def new_item_id() -> str:
    """A random id for an item."""
    return secrets.token_hex(16)


def _info(account: AccountId, item_id: str) -> bytes:
    return b"blobfs incoming v1\0" + account.encode("ascii") + b"\0" + item_id.encode("ascii")


def seal_item(address: Address, item_id: str, name: str, content: bytes | memoryview) -> Iterator[bytes]:
    """The item of these bytes, piece by piece. Raises UsageError: too large, or a name that is too long."""
    if len(content) > MAX_ITEM:
        raise UsageError(f"an item has {MAX_ITEM} bytes at most; send larger things in parts")
    key = AESGCM.generate_key(256)
    head = dump({"name": name, "size": len(content), "key": base64.b64encode(key).decode("ascii")})
    public = X25519PublicKey.from_public_bytes(address.key)
    sealed = _SUITE.encrypt(head, public, _info(address.account, item_id))
    if len(sealed) > MAX_HEAD:
        raise UsageError("the name is too long; give it a shorter one")
    yield _HEAD.pack(MAGIC, len(sealed)) + sealed
    cipher, view = AESGCM(key), memoryview(content)
    for index in range(_frames(len(content))):
        frame = view[index * FRAME : (index + 1) * FRAME]
        yield cipher.encrypt(_nonce(index, len(content)), frame, None)


def _frames(size: int) -> int:
    return max(1, -(-size // FRAME))


def _nonce(index: int, size: int) -> bytes:
    """The counter of a frame, and whether it is the last one. The key is one item's only."""
    return _NONCE.pack(index, int(index == _frames(size) - 1))


class Opener:
    """Opens an item as its bytes come; holds a frame of it at most."""

    def __init__(self, keys: Sequence[Keys], item_id: str) -> None:
        """
        Args:
            keys: of every epoch of the account, the newest first.
        """
        self._keys, self._item_id = keys, item_id
        self._held = bytearray()
        self._cipher: AESGCM | None = None
        self._index = 0
        self.head: Head | None = None

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What the next bytes of the item bring. Raises CorruptItem: it was not sealed like this."""
        self._held += piece
        if self.head is None and not self._open_head():
            return
        assert self.head is not None
        while self._index < _frames(self.head.size):
            length = min(FRAME, self.head.size - self._index * FRAME) + _TAG
            if len(self._held) < length:
                return
            yield self._open_frame(bytes(self._held[:length]), self.head.size)
            del self._held[:length]
        if self._held:
            raise CorruptItem("more came than was sealed")

    def end(self) -> Head:
        """There is no more; what the item says of itself. Raises CorruptItem: it was cut."""
        if self.head is None or self._index < _frames(self.head.size):
            raise CorruptItem("the item was cut")
        return self.head

    def _open_frame(self, sealed: bytes, size: int) -> bytes:
        assert self._cipher is not None
        try:
            plain = self._cipher.decrypt(_nonce(self._index, size), sealed, None)
        except InvalidTag:
            raise CorruptItem("a part of the item was changed") from None
        self._index += 1
        return plain

    def _open_head(self) -> bool:
        """Open the head, if all of it has come."""
        if len(self._held) < _HEAD.size:
            return False
        magic, length = _HEAD.unpack(self._held[: _HEAD.size])
        if magic != MAGIC or length > MAX_HEAD:
            raise CorruptItem("what was left is no item of blobfs")
        end = _HEAD.size + length
        if len(self._held) < end:
            return False
        key, self.head = _parse_head(self._decrypt(bytes(self._held[_HEAD.size : end])))
        self._cipher = AESGCM(key)
        del self._held[:end]
        return True

    def _decrypt(self, sealed: bytes) -> bytes:
        for keys in self._keys:
            try:
                return _SUITE.decrypt(sealed, _private(keys), _info(keys.account, self._item_id))
            except (InvalidTag, ValueError):
                continue
        raise CorruptItem("the item was sealed for another account, under another id, or was changed")


def _parse_head(plain: bytes) -> tuple[bytes, Head]:
    try:
        body = json.loads(plain.decode("ascii"))
        key, head = base64.b64decode(body["key"], validate=True), Head(body["name"], body["size"])
        if set(body) != {"name", "size", "key"} or len(key) != 32 or not isinstance(head.name, str):
            raise ValueError("head")
        if type(head.size) is not int or not 0 <= head.size <= MAX_ITEM:
            raise ValueError("size")
    except (ValueError, LookupError, TypeError, RecursionError):
        raise CorruptItem("the head of the item is none") from None
    return key, head


def file_name(text: str) -> bytes:
    """A name that a sender chose, as one that a file may have and that shows what it is: never hidden, one line."""
    # The last part only, whatever the sender's system calls a path.
    last = re.split(r"[/\\]", text)[-1]
    shown = "".join("_" if unicodedata.category(one)[0] in "CZ" and one != " " else one for one in last).strip()
    shown = re.sub(r"^\.+", "_", shown) or "item"
    # Lock and swap files stay where they are made, so nothing from outside may look like one.
    shown = shown + ".item" if shown.endswith(".swp") else shown
    name = shown.encode("utf-8", "replace")
    if len(name) > _MAX_NAME:
        stem, dot, ending = shown.rpartition(".")
        ending = dot + ending if stem and len(ending) < 16 else ""
        room = _MAX_NAME - len(ending.encode("utf-8", "replace"))
        name = name[:room].decode("utf-8", "ignore").encode() + ending.encode("utf-8", "replace")
    return name


_MAX_NAME: Final = 200
"""Bytes; less than a file may have, so that there is room for a number."""
