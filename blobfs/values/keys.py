"""The account's keys: one random storage secret, and all that is derived from it.

The secret is wrapped in slots, one for each way to unlock it: the passphrase through Argon2id, the recovery words
through HKDF. docs/FORMAT.md, "Secrets", has the byte-exact recipe. Pure: reading and writing the file is
`store/secrets.py`.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NewType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blobfs.errors import StoreDamaged, StoreTooNew, WrongPassphrase
from blobfs.values.documents import Json, dump

AccountId = NewType("AccountId", str)
"""32 hex digits, drawn with the secret; binds every sealed document to its account."""

SECRETS_VERSION: Final = 1
_SALT: Final = 16


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """What one guess at the passphrase costs."""

    memory_kib: int
    iterations: int
    lanes: int


FLOOR: Final = Argon2Cost(memory_kib=64 << 10, iterations=3, lanes=1)
"""Weaker parameters are refused, whoever wrote them (THREATS S14)."""
CEILING: Final = Argon2Cost(memory_kib=4 << 20, iterations=64, lanes=64)
"""Stronger ones would be a way to exhaust this machine."""


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
    )


# --- slots ------------------------------------------------------------------------------------------------


def new_account() -> tuple[AccountId, bytes]:
    """A fresh account id and storage secret."""
    return AccountId(secrets.token_hex(16)), secrets.token_bytes(32)


def wrap(account: AccountId, secret: bytes, passphrase: bytes, recovery: bytes, cost: Argon2Cost = FLOOR) -> Json:
    """The secrets file: `secret` in a slot for the passphrase and one for the recovery key (32 random bytes)."""
    passphrase_slot: Json = {
        "kind": "passphrase",
        "kdf": "argon2id",
        "memory_kib": cost.memory_kib,
        "iterations": cost.iterations,
        "lanes": cost.lanes,
        "salt": _b64(secrets.token_bytes(_SALT)),
    }
    recovery_slot: Json = {"kind": "recovery", "kdf": "hkdf-sha256", "salt": _b64(secrets.token_bytes(_SALT))}
    body: Json = {"version": SECRETS_VERSION, "account": account}
    body["slots"] = [
        _seal_slot(body, passphrase_slot, _passphrase_key(passphrase_slot, passphrase), secret),
        _seal_slot(body, recovery_slot, _recovery_key(recovery_slot, recovery), secret),
    ]
    return body


def unwrap(body: Json, *, passphrase: bytes | None = None, recovery: bytes | None = None) -> tuple[AccountId, bytes]:
    """The account and its storage secret, from a secrets file and one way to unlock it.

    Raises:
        WrongPassphrase: the slot does not open with it.
        StoreTooNew: a version that this blobfs does not know.
        StoreDamaged: not a secrets file, or parameters below the floor.
    """
    if not isinstance(body, dict) or type(body.get("version")) is not int:
        raise StoreDamaged("the secrets file is not one of blobfs")
    if body["version"] != SECRETS_VERSION:
        raise StoreTooNew("the secrets file is of another version of blobfs; use that version or a newer one")
    try:
        account = AccountId(body["account"])
        if len(bytes.fromhex(account)) != 16:
            raise ValueError("account")
        slots = {slot["kind"]: slot for slot in body["slots"]}
        slot = slots["passphrase" if passphrase is not None else "recovery"]
        key = _passphrase_key(slot, passphrase) if passphrase is not None else _recovery_key(slot, recovery or b"")
        nonce, wrapped = _unb64(slot["nonce"]), _unb64(slot["wrapped"])
        if len(nonce) != 12 or len(wrapped) != 48:
            raise ValueError("slot")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreDamaged("the secrets file is damaged") from error
    try:
        return account, AESGCM(key).decrypt(nonce, wrapped, _slot_header(body, slot))
    except InvalidTag:
        raise WrongPassphrase("wrong passphrase or recovery words") from None


def _passphrase_key(slot: Json, passphrase: bytes) -> bytes:
    cost = Argon2Cost(int(slot["memory_kib"]), int(slot["iterations"]), int(slot["lanes"]))
    for name in ("memory_kib", "iterations", "lanes"):
        if not getattr(FLOOR, name) <= getattr(cost, name) <= getattr(CEILING, name):
            raise StoreDamaged("the secrets file asks for a passphrase hash outside the allowed strength")
    if slot["kdf"] != "argon2id":
        raise StoreDamaged("the secrets file names an unknown passphrase hash")
    return Argon2id(
        salt=_unb64(slot["salt"]),
        length=32,
        iterations=cost.iterations,
        lanes=cost.lanes,
        memory_cost=cost.memory_kib,
    ).derive(passphrase)


def _recovery_key(slot: Json, recovery: bytes) -> bytes:
    if slot["kdf"] != "hkdf-sha256":
        raise StoreDamaged("the secrets file names an unknown recovery hash")
    if len(recovery) != 32:
        raise WrongPassphrase("wrong passphrase or recovery words")
    return derive(recovery, "recovery", _unb64(slot["salt"]))


def _slot_header(body: Json, slot: Json) -> bytes:
    """The associated data of a slot: all that stands in the clear about it and the account."""
    header = {name: value for name, value in slot.items() if name != "wrapped"}
    return dump({"version": body["version"], "account": body["account"], "slot": header})


def _seal_slot(body: Json, slot: Json, key: bytes, secret: bytes) -> Json:
    nonce = secrets.token_bytes(12)
    slot = slot | {"nonce": _b64(nonce)}
    return slot | {"wrapped": _b64(AESGCM(key).encrypt(nonce, secret, _slot_header(body, slot)))}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unb64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError("text expected")
    return base64.b64decode(text, validate=True)


__all__: Sequence[str] = (
    "CEILING",
    "FLOOR",
    "AccountId",
    "Argon2Cost",
    "Keys",
    "derive",
    "derive_keys",
    "new_account",
    "unwrap",
    "wrap",
)
