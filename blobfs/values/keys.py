"""The account's keys: a random storage secret for each epoch, and all that is derived from it.

The newest secret is wrapped in slots, one for each way to unlock it: the passphrase through Argon2id, the recovery
words through HKDF; `epochs.py` has the older ones. docs/FORMAT.md, "Secrets file", has the byte-exact recipe. Pure:
reading and writing the file is `store/secrets.py`.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NewType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blobfs.errors import StoreDamaged, StoreError, StoreTooNew, UsageError, WrongPassphrase
from blobfs.values.documents import MAX_EPOCHS, Json, dump

AccountId = NewType("AccountId", str)
"""32 hex digits, drawn with the secret; binds every sealed document to its account."""

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
    """Every key of an epoch of an account, 32 bytes each, and those of the epochs before. Its repr shows none of them.

    Whatever is written is sealed with the newest; what is read may be of any.
    """

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
    epoch: int = 0
    older: tuple[Keys, ...] = ()
    """Those of all epochs before this one, newest first; theirs are empty."""

    @property
    def epochs(self) -> tuple[Keys, ...]:
        """These and the older ones, newest first: the order in which a reader tries them."""
        return (self, *self.older)

    def __repr__(self) -> str:
        return f"Keys(account={self.account!r})"


def is_account(text: str) -> bool:
    """Whether `text` can be an account's id."""
    return _ACCOUNT.fullmatch(text) is not None


def derive(key: bytes, label: str, context: bytes = b"") -> bytes:
    """HKDF-SHA256 of a 32-byte key: info = `blobfs v1 ` ‖ label ‖ NUL ‖ context, no salt, 32 bytes out."""
    info = b"blobfs v1 " + label.encode("ascii") + b"\0" + context
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)


def derive_keys(account: AccountId, secret: bytes, older: Sequence[bytes] = ()) -> Keys:
    """All keys of the account whose storage secret is `secret` (32 bytes).

    Args:
        older: the secrets of the epochs before, oldest first.
    """
    before = [_derive_epoch(account, one, number) for number, one in enumerate(older)]
    return replace(_derive_epoch(account, secret, len(before)), older=tuple(reversed(before)))


def _derive_epoch(account: AccountId, secret: bytes, epoch: int) -> Keys:
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
        epoch=epoch,
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


def wrap(
    account: AccountId,
    secret: bytes,
    passphrase: bytes,
    recovery: bytes,
    cost: Argon2Cost,
    older: Sequence[Json] = (),
) -> Json:
    """The secrets file: `secret` in a slot for the passphrase and one for the recovery key (32 random bytes).

    Args:
        passphrase: of `passphrase_bytes`.
        older: the secrets of the epochs before, as `epochs.py` seals them; with none the file is of version 1.
    Raises:
        StoreDamaged: `cost` is outside the allowed strength.
        StoreError: too little memory for the passphrase hash.
    """
    recovery_slot: Json = {
        "kind": "recovery",
        "kdf": "hkdf-sha256",
        "salt": encode_base64(secrets.token_bytes(_SALT)),
        "nonce": encode_base64(secrets.token_bytes(_NONCE)),
    }
    head = _head(account, older)
    slots = [
        _passphrase_slot(head, secret, passphrase, cost),
        _seal_slot(head, recovery_slot, _recovery_key(recovery_slot, recovery), secret),
    ]
    return head | {"slots": slots}


def _head(account: AccountId, older: Sequence[Json]) -> Json:
    """All of a secrets file but its slots, each of which is bound to it."""
    if not older:
        return {"version": 1, "account": account}
    return {"version": 2, "account": account, "epoch": len(older), "older": list(older)}


def replace_passphrase(body: Json, secret: bytes, passphrase: bytes, cost: Argon2Cost) -> Json:
    """The secrets file `body` with a new passphrase; `secret` is what `unwrap` gave for it. Other slots stay.

    The old file still opens with the old passphrase, wherever a copy of it is.

    Raises:
        StoreDamaged: `body` is no secrets file.
    """
    head, slots = parse_secrets(body)
    slots["passphrase"] = _passphrase_slot(head, secret, passphrase, cost)
    return head | {"slots": list(slots.values())}


def unwrap(body: Json, *, passphrase: bytes | None = None, recovery: bytes | None = None) -> tuple[AccountId, bytes]:
    """The account and its newest storage secret, from a secrets file and one way to unlock it.

    Raises:
        WrongPassphrase: the slot does not open with it.
        StoreTooNew: a version that this blobfs does not know.
        StoreDamaged: not a secrets file, or parameters outside the allowed strength.
        StoreError: too little memory for the passphrase hash.
    """
    head, slots = parse_secrets(body)
    if passphrase is not None and "passphrase" not in slots:
        raise WrongPassphrase("this copy of the secrets file opens with the recovery words alone")
    try:
        slot = slots["passphrase" if passphrase is not None else "recovery"]
        nonce, wrapped = decode_base64(slot["nonce"], _NONCE), decode_base64(slot["wrapped"], _WRAPPED)
        commitment = decode_base64(slot["commitment"], _COMMITMENT)
        key = _passphrase_key(slot, passphrase) if passphrase is not None else _recovery_key(slot, recovery or b"")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreDamaged(_DAMAGED) from error
    # AES-GCM commits to no key: without this, a forged slot could open with several passphrases, and so test them.
    if not hmac.compare_digest(commitment, derive(key, "slot-commitment")):
        raise WrongPassphrase("wrong passphrase or recovery words")
    try:
        secret = AESGCM(derive(key, "slot")).decrypt(nonce, wrapped, _slot_header(head, slot))
    except InvalidTag:
        raise WrongPassphrase("wrong passphrase or recovery words, or a changed secrets file") from None
    return AccountId(head["account"]), secret


def has_passphrase(body: Json) -> bool:
    """Whether a passphrase opens a secrets file. Raises StoreDamaged, StoreTooNew."""
    return "passphrase" in parse_secrets(body)[1]


def without_passphrase(body: Json) -> Json:
    """A secrets file that only the recovery words open: there is nothing in it to guess. Raises as `parse_secrets`."""
    head, slots = parse_secrets(body)
    if "recovery" not in slots:
        raise StoreDamaged(_DAMAGED)
    return head | {"slots": [slots["recovery"]]}


def parse_secrets(body: Json) -> tuple[Json, dict[str, Json]]:
    """All of a secrets file but its slots, and the slots by kind. What they say is claimed, until one is opened.

    Raises:
        StoreTooNew: a version that this blobfs does not know.
        StoreDamaged: not a secrets file.
    """
    if not isinstance(body, dict) or type(body.get("version")) is not int:
        raise StoreDamaged("the secrets file is not one of blobfs")
    if body["version"] not in (1, 2):
        raise StoreTooNew("the secrets file is of another version of blobfs; use that version or a newer one")
    try:
        return _parse_head(body), _parse_slots(body["slots"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreDamaged(_DAMAGED) from error


def _parse_head(body: Json) -> Json:
    """Raises KeyError, TypeError or ValueError for any other shape than what `_head` makes."""
    account, older = body["account"], body["older"] if body["version"] == 2 else []
    if not isinstance(account, str) or not is_account(account):
        raise ValueError("account")
    if not isinstance(older, list) or len(older) >= MAX_EPOCHS or (not older and body["version"] == 2):
        raise ValueError("older")
    for entry in older:
        if not isinstance(entry, dict) or set(entry) != {"nonce", "wrapped"}:
            raise ValueError("older")
        decode_base64(entry["nonce"], _NONCE), decode_base64(entry["wrapped"], _WRAPPED)
    head = _head(AccountId(account), older)
    # One is no number here, and neither is 1.0: a member has one way to be written.
    if {name: value for name, value in body.items() if name != "slots"} != head or type(
        body.get("epoch", 0)
    ) is not int:
        raise ValueError("members")
    return head


def _parse_slots(entries: Json) -> dict[str, Json]:
    """Raises KeyError, TypeError or ValueError."""
    if not isinstance(entries, list) or not 0 < len(entries) <= len(_MEMBERS):
        raise ValueError("slots")
    slots: dict[str, Json] = {}
    for slot in entries:
        if not isinstance(slot, dict) or set(slot) != _MEMBERS[slot["kind"]] or slot["kind"] in slots:
            raise ValueError("slot")
        slots[slot["kind"]] = slot
    return slots


def _passphrase_slot(head: Json, secret: bytes, passphrase: bytes, cost: Argon2Cost) -> Json:
    slot: Json = {
        "kind": "passphrase",
        "kdf": "argon2id",
        "memory_kib": cost.memory_kib,
        "iterations": cost.iterations,
        "lanes": cost.lanes,
        "salt": encode_base64(secrets.token_bytes(_SALT)),
        "nonce": encode_base64(secrets.token_bytes(_NONCE)),
    }
    return _seal_slot(head, slot, _passphrase_key(slot, passphrase), secret)


def _passphrase_key(slot: Json, passphrase: bytes) -> bytes:
    if slot["kdf"] != "argon2id":
        raise StoreDamaged("the secrets file names an unknown passphrase hash")
    for name in ("memory_kib", "iterations", "lanes"):
        if type(slot[name]) is not int or not getattr(FLOOR, name) <= slot[name] <= getattr(CEILING, name):
            raise StoreDamaged("the secrets file asks for a passphrase hash outside the allowed strength")
    cost = Argon2Cost(slot["memory_kib"], slot["iterations"], slot["lanes"])
    return hash_passphrase(passphrase, decode_base64(slot["salt"], _SALT), cost)


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
    return derive(recovery, "recovery", decode_base64(slot["salt"], _SALT))


def _slot_header(head: Json, slot: Json) -> bytes:
    """The associated data of a slot: all that stands in the clear about it and the account."""
    return dump(head | {"slot": {name: value for name, value in slot.items() if name != "wrapped"}})


def _seal_slot(head: Json, slot: Json, key: bytes, secret: bytes) -> Json:
    """`slot` with its commitment and the wrapped secret. `key` is used for this one slot, its salt being fresh."""
    slot = slot | {"commitment": encode_base64(derive(key, "slot-commitment"))}
    cipher, nonce = AESGCM(derive(key, "slot")), decode_base64(slot["nonce"], _NONCE)
    return slot | {"wrapped": encode_base64(cipher.encrypt(nonce, secret, _slot_header(head, slot)))}


def encode_base64(data: bytes) -> str:
    """As it stands in a secrets file."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: Any, length: int) -> bytes:
    """Exactly `length` bytes, written the one way that `encode_base64` writes them. Raises TypeError, ValueError."""
    if not isinstance(text, str):
        raise TypeError("text expected")
    data = base64.b64decode(text, validate=True)
    if len(data) != length or encode_base64(data) != text:
        raise ValueError("base64")
    return data
