"""Epochs of an account: each has a storage secret of its own, and a newer one opens all older ones.

Older secrets are a chain in the secrets file: each is sealed under the next newer one. So whoever has an old secret
learns nothing of what is sealed in a later epoch. docs/FORMAT.md, "Secrets file", has the recipe. Pure.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from blobfs.errors import StoreDamaged, UsageError
from blobfs.values.documents import MAX_EPOCHS, Json, dump
from blobfs.values.keys import AccountId, decode_base64, derive, encode_base64, parse_secrets

_LABEL: Final = "older-secret"
_NONCE: Final = 12
_WRAPPED: Final = 48


def claimed_epoch(body: Json) -> int:
    """Which epoch a secrets file says that it is of; only opening it shows that it is.

    Raises:
        StoreDamaged, StoreTooNew: it is none that this blobfs can read.
    """
    head, _ = parse_secrets(body)
    return int(head.get("epoch", 0))


def is_same_line(body: Json, other: Json) -> bool:
    """Whether two secrets files of one epoch have the same secrets, as far as their open parts tell."""
    return bool(parse_secrets(body)[0] == parse_secrets(other)[0])


def open_older(body: Json, secret: bytes) -> tuple[bytes, ...]:
    """The secrets of all epochs before the one whose secret `unwrap` gave, oldest first.

    Raises:
        StoreDamaged: the chain is not what was sealed.
    """
    head, _ = parse_secrets(body)
    found: list[bytes] = []
    for epoch, entry in reversed(list(enumerate(head.get("older", [])))):
        nonce, wrapped = decode_base64(entry["nonce"], _NONCE), decode_base64(entry["wrapped"], _WRAPPED)
        try:
            secret = AESGCM(derive(secret, _LABEL)).decrypt(nonce, wrapped, _header(head["account"], epoch))
        except InvalidTag:
            raise StoreDamaged("the secrets file is damaged; restore it from a backup or from the server") from None
        found.append(secret)
    return tuple(reversed(found))


def seal_older(account: AccountId, older: Sequence[bytes], secret: bytes) -> list[Json]:
    """The chain for a secrets file: the secrets of the epochs before the one of `secret`, oldest first.

    Raises:
        UsageError: there are too many.
    """
    if len(older) >= MAX_EPOCHS:
        raise UsageError(
            f"the keys of an account can change {MAX_EPOCHS - 1} times; change the passphrase alone with --keep-keys, "
            "or move to a new account"
        )
    chain = []
    for epoch, (one, newer) in enumerate(zip(older, [*older, secret][1:], strict=True)):
        nonce = secrets.token_bytes(_NONCE)
        wrapped = AESGCM(derive(newer, _LABEL)).encrypt(nonce, one, _header(account, epoch))
        chain.append({"nonce": encode_base64(nonce), "wrapped": encode_base64(wrapped)})
    return chain


def _header(account: str, epoch: int) -> bytes:
    """The associated data of the secret of `epoch` in a chain."""
    return dump({"version": 2, "account": account, "epoch": epoch})
