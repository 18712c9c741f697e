"""Whether the server keeps the secrets file of this device's epoch: the news that another device began a newer one.

Knows which epoch a secrets file claims, and nothing of passphrases. Invariant: a file of a newer epoch, or of another
account, is never replaced, and never believed: it goes to `keep`, and opens when somebody gives its passphrase.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from blobfs.errors import KeysChanged, PreconditionFailed, ProtocolError, StoreError, WrongAccount
from blobfs.remote.client import RemoteClient
from blobfs.values.documents import Json, load
from blobfs.values.epochs import claimed_epoch, is_same_line
from blobfs.values.keys import Keys

_log: Final = logging.getLogger(__name__)

CHANGED: Final = (
    "the account's keys were changed on another device; nothing is sent or taken until you unmount and mount again "
    "with the new passphrase"
)
FORKED: Final = (
    "the account's keys were changed on two devices at once, and the other one was first; keep this store as it is, "
    "and join again with a new one"
)
_TRIES: Final = 3


class Keyring:
    """The wrapped secret at the server, as sync needs it."""

    def __init__(
        self, client: RemoteClient, keys: Keys, secret: Callable[[], bytes] | None, keep: Callable[[Json], None]
    ) -> None:
        """`secret` reads this device's file, which is left with a server that has none or an older one."""
        self._client, self._keys, self._secret, self._keep = client, keys, secret, keep

    async def check(self) -> None:
        """On return the server has the secrets file of this account and epoch, or one that was not opened here.

        Raises:
            WrongAccount: it has another account's. KeysChanged: one of a newer epoch. RemoteError kinds.
        """
        for _ in range(_TRIES):
            found, own = await self._client.fetch_secret(), self._own()
            if (found is not None and not self._is_older(found[0], own)) or own is None:
                return
            try:
                await self._client.store_secret(own, None if found is None else found[1])
                return
            except PreconditionFailed:
                continue

    def _own(self) -> bytes | None:
        """This device's file; None: it cannot be read, which is no reason not to sync."""
        try:
            return None if self._secret is None else self._secret()
        except StoreError as error:
            _log.warning("the secrets file of this store cannot be read: %s", error)
            return None

    def _is_older(self, secret: bytes, own: bytes | None) -> bool:
        """Whether the server's file is of an epoch before this device's. Raises as `check`."""
        body = parse(secret)
        if body.get("account") != self._keys.account:
            raise WrongAccount("the server holds the data of another account; connect this store to its own one")
        if _epoch_of(body) > self._keys.epoch:
            self._keep(body)
            raise KeysChanged(CHANGED)
        return own is not None and is_older(body, parse(own))


def is_older(theirs: Json, ours: Json) -> bool:
    """Whether the server's secrets file is of an epoch before the one of this device's file.

    Raises:
        KeysChanged: it is of a newer one, or of another change to the same one. ProtocolError: it is none.
    """
    there, here = _epoch_of(theirs), _epoch_of(ours)
    if there > here:
        raise KeysChanged(CHANGED)
    if there == here and here and not is_same_line(theirs, ours):
        raise KeysChanged(FORKED)
    return there < here


def _epoch_of(body: Json) -> int:
    if body.get("version") == 1:
        return 0
    try:
        return claimed_epoch(body)
    except StoreError:
        raise ProtocolError("this blobfs cannot read the wrapped secret that the server keeps; update blobfs") from None


def parse(secret: bytes) -> Json:
    """A secrets file as the server has it. Raises ProtocolError: it is none."""
    try:
        body = load(secret)
        if not isinstance(body, dict) or "account" not in body:
            raise ValueError("members")
    except (ValueError, RecursionError):
        raise ProtocolError("what the server keeps as the wrapped secret is none; check the address") from None
    return body
