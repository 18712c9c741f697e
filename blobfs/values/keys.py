"""The account's keys: one random storage secret, and all that is derived from it.

The secret is wrapped in slots, one for each way to unlock it: the passphrase through Argon2id, the recovery words
through HKDF. docs/FORMAT.md, "Secrets", has the byte-exact recipe. Pure: reading and writing the file is
`store/secrets.py`.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Any, Final, NewType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blobfs.errors import StoreDamaged, StoreError, StoreTooNew, UsageError, WrongPassphrase
from blobfs.values.documents import Json, dump

AccountId = NewType("AccountId", str)
"""32 hex digits, drawn with the secret; binds every sealed document to its account."""

SECRETS_VERSION: Final = 1
_DAMAGED: Final = "the secrets file is damaged; restore it from a backup or from the server"
_ACCOUNT: Final = re.compile(r"[0-9a-f]{32}")
_SALT: Final = 16
_NONCE: Final = 12
_COMMITMENT: Final = 32
_WRAPPED: Final = 32 + 16
_MEMBERS: Final = {
    "passphrase": {"kind", "kdf", "memory_kib", "iterations", "lanes", "salt", "nonce", "commitment", "wrapped"},
    "recovery": {"kind", "kdf", "salt", "nonce", "commitment", "wrapped"},
}
"""Exactly these stand in a slot of each kind: a member that nobody checks is room for a forger."""


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """What one guess at the passphrase costs."""

    memory_kib: int
    iterations: int
    lanes: int


FLOOR: Final = Argon2Cost(memory_kib=64 << 10, iterations=3, lanes=1)
"""Weaker parameters are refused, whoever wrote them (THREATS S14)."""
CEILING: Final = Argon2Cost(memory_kib=2 << 20, iterations=16, lanes=16)
"""Stronger ones would be a way to exhaust this machine: a new device gets its secrets file from the server. 2 GiB is
the most that RFC 9106 recommends."""


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """Every key of an account, 32 bytes each. Its repr shows none of them."""

    account: AccountId
    documents_db: bytes
    blobs_db: bytes
    journal: bytes
    document: bytes
    blob: bytes
    blob_id: bytes
    chain: bytes
    incoming: bytes
    """The private key, of X25519, for what senders seal to the account."""

    def __repr__(self) -> str:
        return f"Keys(account={self.account!r})"


def derive(key: bytes, label: str, context: bytes = b"") -> bytes:
    """HKDF-SHA256 of a 32-byte key: info = `blobfs v1 ` ‖ label ‖ NUL ‖ context, no salt, 32 bytes out."""
    info = b"blobfs v1 " + label.encode("ascii") + b"\0" + context
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)


def derive_keys(account: AccountId, secret: bytes) -> Keys:
    """All keys of the account whose storage secret is `secret` (32 bytes)."""
    return Keys(
        account=account,
        documents_db=derive(secret, "documents.db"),
        blobs_db=derive(secret, "blobs.db"),
        journal=derive(secret, "journal"),
        document=derive(secret, "document"),
        blob=derive(secret, "blob"),
        blob_id=derive(secret, "blob-id"),
        chain=derive(secret, "chain"),
        incoming=derive(secret, "incoming"),
    )


# --- slots ------------------------------------------------------------------------------------------------


def new_account() -> tuple[AccountId, bytes]:
    """A fresh account id and storage secret."""
    return AccountId(secrets.token_hex(16)), secrets.token_bytes(32)


def passphrase_bytes(text: str) -> bytes:
    """What goes into Argon2id for a typed passphrase: UTF-8 of its NFC form, so that every keyboard types the same.

    Raises:
        UsageError: empty, or not text.
    """
    try:
        passphrase = unicodedata.normalize("NFC", text).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError("the passphrase is not valid text; type it on a terminal set to UTF-8") from None
    if not passphrase:
        raise UsageError("the passphrase is empty; choose one of several words")
    return passphrase


def wrap(account: AccountId, secret: bytes, passphrase: bytes, recovery: bytes, cost: Argon2Cost = FLOOR) -> Json:
    """The secrets file: `secret` in a slot for the passphrase and one for the recovery key (32 random bytes).

    Args:
        passphrase: of `passphrase_bytes`.
    Raises:
        StoreDamaged: `cost` is outside the allowed strength.
        StoreError: too little memory for the passphrase hash.
    """
    recovery_slot: Json = {
        "kind": "recovery",
        "kdf": "hkdf-sha256",
        "salt": _b64(secrets.token_bytes(_SALT)),
        "nonce": _b64(secrets.token_bytes(_NONCE)),
    }
    slots = [
        _passphrase_slot(account, secret, passphrase, cost),
        _seal_slot(account, recovery_slot, _recovery_key(recovery_slot, recovery), secret),
    ]
    return {"version": SECRETS_VERSION, "account": account, "slots": slots}


def replace_passphrase(body: Json, secret: bytes, passphrase: bytes, cost: Argon2Cost = FLOOR) -> Json:
    """The secrets file `body` with a new passphrase; `secret` is what `unwrap` gave for it. Other slots stay.

    The old file still opens with the old passphrase, wherever a copy of it is.

    Raises:
        StoreDamaged: `body` is no secrets file.
    """
    try:
        account, slots = _parse_secrets(body)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreDamaged(_DAMAGED) from error
    slots["passphrase"] = _passphrase_slot(account, secret, passphrase, cost)
    return {"version": SECRETS_VERSION, "account": account, "slots": list(slots.values())}


def unwrap(body: Json, *, passphrase: bytes | None = None, recovery: bytes | None = None) -> tuple[AccountId, bytes]:
    """The account and its storage secret, from a secrets file and one way to unlock it.

    Raises:
        WrongPassphrase: the slot does not open with it.
        StoreTooNew: a version that this blobfs does not know.
        StoreDamaged: not a secrets file, or parameters outside the allowed strength.
        StoreError: too little memory for the passphrase hash.
    """
    if not isinstance(body, dict) or type(body.get("version")) is not int:
        raise StoreDamaged("the secrets file is not one of blobfs")
    if body["version"] != SECRETS_VERSION:
        raise StoreTooNew("the secrets file is of another version of blobfs; use that version or a newer one")
    try:
        account, slots = _parse_secrets(body)
        slot = slots["passphrase" if passphrase is not None else "recovery"]
        nonce, wrapped = _unb64(slot["nonce"], _NONCE), _unb64(slot["wrapped"], _WRAPPED)
        commitment = _unb64(slot["commitment"], _COMMITMENT)
        key = _passphrase_key(slot, passphrase) if passphrase is not None else _recovery_key(slot, recovery or b"")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreDamaged(_DAMAGED) from error
    # AES-GCM commits to no key: without this, a forged slot could open with several passphrases, and so test them.
    if not hmac.compare_digest(commitment, derive(key, "slot-commitment")):
        raise WrongPassphrase("wrong passphrase or recovery words")
    try:
        return account, AESGCM(derive(key, "slot")).decrypt(nonce, wrapped, _slot_header(account, slot))
    except InvalidTag:
        raise WrongPassphrase("wrong passphrase or recovery words, or a changed secrets file") from None


def _parse_secrets(body: Json) -> tuple[AccountId, dict[str, Json]]:
    """The account and the slots by kind. Raises KeyError, TypeError or ValueError for any other shape."""
    account, entries = body["account"], body["slots"]
    if (
        not isinstance(account, str)
        or _ACCOUNT.fullmatch(account) is None
        or set(body) != {"version", "account", "slots"}
    ):
        raise ValueError("account")
    if not isinstance(entries, list) or not 0 < len(entries) <= len(_MEMBERS):
        raise ValueError("slots")
    slots: dict[str, Json] = {}
    for slot in entries:
        if not isinstance(slot, dict) or set(slot) != _MEMBERS[slot["kind"]] or slot["kind"] in slots:
            raise ValueError("slot")
        slots[slot["kind"]] = slot
    return AccountId(account), slots


def _passphrase_slot(account: AccountId, secret: bytes, passphrase: bytes, cost: Argon2Cost) -> Json:
    slot: Json = {
        "kind": "passphrase",
        "kdf": "argon2id",
        "memory_kib": cost.memory_kib,
        "iterations": cost.iterations,
        "lanes": cost.lanes,
        "salt": _b64(secrets.token_bytes(_SALT)),
        "nonce": _b64(secrets.token_bytes(_NONCE)),
    }
    return _seal_slot(account, slot, _passphrase_key(slot, passphrase), secret)


def _passphrase_key(slot: Json, passphrase: bytes) -> bytes:
    if slot["kdf"] != "argon2id":
        raise StoreDamaged("the secrets file names an unknown passphrase hash")
    for name in ("memory_kib", "iterations", "lanes"):
        if type(slot[name]) is not int or not getattr(FLOOR, name) <= slot[name] <= getattr(CEILING, name):
            raise StoreDamaged("the secrets file asks for a passphrase hash outside the allowed strength")
    cost = Argon2Cost(slot["memory_kib"], slot["iterations"], slot["lanes"])
    return hash_passphrase(passphrase, _unb64(slot["salt"], _SALT), cost)


def hash_passphrase(passphrase: bytes, salt: bytes, cost: Argon2Cost) -> bytes:
    """Argon2id, 32 bytes out. Raises StoreError when there is too little memory."""
    try:
        return Argon2id(
            salt=salt, length=32, iterations=cost.iterations, lanes=cost.lanes, memory_cost=cost.memory_kib
        ).derive(passphrase)
    except MemoryError:
        raise StoreError(
            f"too little memory for the passphrase hash; make {cost.memory_kib >> 10} MiB free, then try again"
        ) from None


def _recovery_key(slot: Json, recovery: bytes) -> bytes:
    if slot["kdf"] != "hkdf-sha256":
        raise StoreDamaged("the secrets file names an unknown recovery hash")
    if len(recovery) != 32:
        raise WrongPassphrase("wrong passphrase or recovery words")
    return derive(recovery, "recovery", _unb64(slot["salt"], _SALT))


def _slot_header(account: AccountId, slot: Json) -> bytes:
    """The associated data of a slot: all that stands in the clear about it and the account."""
    header = {name: value for name, value in slot.items() if name != "wrapped"}
    return dump({"version": SECRETS_VERSION, "account": account, "slot": header})


def _seal_slot(account: AccountId, slot: Json, key: bytes, secret: bytes) -> Json:
    """`slot` with its commitment and the wrapped secret. `key` is used for this one slot, its salt being fresh."""
    slot = slot | {"commitment": _b64(derive(key, "slot-commitment"))}
    cipher, nonce = AESGCM(derive(key, "slot")), _unb64(slot["nonce"], _NONCE)
    return slot | {"wrapped": _b64(cipher.encrypt(nonce, secret, _slot_header(account, slot)))}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unb64(text: Any, length: int) -> bytes:
    if not isinstance(text, str):
        raise TypeError("text expected")
    data = base64.b64decode(text, validate=True)
    if len(data) != length or _b64(data) != text:
        raise ValueError("base64")
    return data
