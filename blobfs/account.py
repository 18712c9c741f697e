"""The account at the server, as the door needs it: where it is, and the wrapped secret that waits there.

Owns the connection's record in the store's settings, and when the wrapped secret is sent. Knows nothing of
passphrases. Invariant: a secret on the server is only ever replaced by one of the same account.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from blobfs.errors import KeysChanged, PreconditionFailed, ProtocolError, StoreDamaged, WrongAccount
from blobfs.protocol import MAX_SEEN, Invite, pack_invite
from blobfs.remote.client import RemoteClient
from blobfs.store.settings import Settings
from blobfs.sync.keyring import is_older
from blobfs.values.documents import Json, dump, load
from blobfs.values.keys import AccountId, without_passphrase
from blobfs.values.revisions import DeviceId

_REMOTE: Final = "door.remote"
_PUBLISHED: Final = "door.published"
_PASSPHRASE: Final = "door.passphrase_at_server"  # noqa: S105 - a name


@dataclass(frozen=True, slots=True, repr=False)
class Remote:
    """A server and one device's right at it. Its repr does not show the token."""

    url: str
    user: str
    token: str
    port: int | None
    """Of the embedded server, 0 before its first start; None: the server is not ours to start."""
    pin: str | None = None
    """Of the server's key; None: its certificate counts."""
    seen: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Of an invite: what the inviting device had seen."""

    @property
    def is_embedded(self) -> bool:
        return self.port is not None

    def __repr__(self) -> str:
        return f"Remote(url={self.url!r}, user={self.user!r})"


def load_remote(settings: Settings) -> Remote:
    """The server of the store. Raises StoreDamaged when its record is not what was written."""
    body = settings.get(_REMOTE)
    try:
        found = Remote(url=body["url"], user=body["user"], token=body["token"], port=body["port"])
        return replace(found, pin=body.get("pin"))
    except (KeyError, TypeError):
        raise StoreDamaged("the store does not know its server; restore it from a backup") from None


def save_remote(settings: Settings, remote: Remote) -> None:
    """Make `remote` the server of the store."""
    body = {"url": remote.url, "user": remote.user, "token": remote.token, "port": remote.port}
    settings.set(_REMOTE, body | ({"pin": remote.pin} if remote.pin is not None else {}))


def move_remote(settings: Settings, remote: Remote, url: str, port: int) -> Remote:
    """The embedded server listens at `url` now."""
    moved = replace(remote, url=url, port=port)
    if moved != remote:
        save_remote(settings, moved)
    return moved


def connect(remote: Remote) -> RemoteClient:
    """A client of this server, not connected yet. Raises UsageError."""
    return RemoteClient(remote.url, remote.user, remote.token, pin=remote.pin)


def invite_text(remote: Remote, token: str, heads: Mapping[DeviceId, int], pin: str | None) -> str:
    """What another device needs beside the passphrase, and what this one has seen, so that an old state is noticed."""
    seen = sorted(sorted(heads.items(), key=lambda entry: -entry[1])[:MAX_SEEN])
    return pack_invite(Invite(remote.url, remote.user, token, tuple(seen), pin))


# --- the wrapped secret at the server -----------------------------------------------------------------------------


async def fetch_secrets(remote: Remote) -> Json | None:
    """The wrapped secret of the account, or None when no device has sent one. Raises RemoteError kinds."""
    async with connect(remote) as client:
        # Another program at the address is called that, not an account without a secret.
        await client.greet()
        there = await client.fetch_secret()
    return _parse(there[0]) if there is not None else None


def keeps_passphrase(settings: Settings) -> bool:
    """Whether the server gets the slot of the passphrase, too; without it, a new device needs the recovery words."""
    return bool(settings.get(_PASSPHRASE, True))


def keep_passphrase_away(settings: Settings, *, away: bool) -> None:
    """Whether from the next `publish_secrets` on the server is to have the slot of the recovery words alone."""
    settings.set(_PASSPHRASE, not away)


def public_body(settings: Settings, body: Json) -> Json:
    """What of the secrets file `body` the server is to have."""
    return body if keeps_passphrase(settings) else without_passphrase(body)


async def offer_secrets(remote: Remote, body: Json) -> None:
    """Send the first wrapped secret of the account.

    Raises:
        PreconditionFailed: another device was first.
        RemoteError kinds.
    """
    async with connect(remote) as client:
        await client.store_secret(dump(body))


async def publish_secrets(client: RemoteClient, settings: Settings, body: Json) -> None:
    """See that the server has this store's wrapped secret; asks nothing when it is known to.

    Raises:
        WrongAccount: the server keeps the secret of another account; nothing was changed.
        KeysChanged: it keeps one of a newer epoch.
        PreconditionFailed: another device changes it at this moment.
        RemoteError kinds.
    """
    body = public_body(settings, body)
    if settings.get(_PUBLISHED) == _digest(body):
        return
    there = await client.fetch_secret()
    if there is not None:
        check_account(_parse(there[0]), AccountId(body["account"]))
        if there[0] == dump(body):
            remember_published(settings, body)
            return
        is_older(_parse(there[0]), body)
    await client.store_secret(dump(body), there[1] if there is not None else None)
    remember_published(settings, body)


async def publish_again(client: RemoteClient, settings: Settings, body: Json) -> None:
    """As `publish_secrets`, whatever the server had before: it has lost it."""
    settings.set(_PUBLISHED, None)
    await publish_secrets(client, settings, body)


async def replace_secrets(client: RemoteClient, ours: Json, fresh: Json) -> None:
    """Put `fresh`, of a new epoch, in place of what this device has as `ours`.

    Raises:
        KeysChanged: another device was first. WrongAccount, RemoteError kinds. The server is then as before, unless it
        is its answer that was lost.
    """
    there = await client.fetch_secret()
    if there is not None:
        check_account(_parse(there[0]), AccountId(ours["account"]))
        is_older(_parse(there[0]), ours)
    try:
        await client.store_secret(dump(fresh), there[1] if there is not None else None)
    except PreconditionFailed:
        raise KeysChanged("another device changes the account's keys at this moment; mount, then try again") from None


def remember_published(settings: Settings, body: Json) -> None:
    """The server has of `body` what it is to have."""
    settings.set(_PUBLISHED, _digest(public_body(settings, body)))


def check_account(body: Json, account: AccountId) -> None:
    """Raises WrongAccount when a secrets file claims another account; that it is of this one, only unlocking shows."""
    if body.get("account") != account:
        raise WrongAccount(
            "the account at the server is not the one of this store; connect with --store NEW to keep both, or use "
            "the invite of the right account"
        )


def _parse(payload: bytes) -> Json:
    try:
        return load(payload)
    except (ValueError, RecursionError):
        raise ProtocolError(
            "the server keeps something else than an account's wrapped secret; ask its keeper"
        ) from None


def _digest(body: Json) -> str:
    return hashlib.sha256(dump(body)).hexdigest()
