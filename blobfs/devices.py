"""This device among the others of its account: its own token, its card, and what is to be said about the rest.

Owns which devices were known before, and how often a device says that it is there. Knows nothing of commands.
Invariant: the token of an invite is given up once this device has one of its own and keeps it.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from dataclasses import replace
from typing import Final

import trio

from blobfs import __version__
from blobfs.account import Remote, connect, load_remote, save_remote
from blobfs.errors import AccessDenied, BlobfsError, BlobNotFound
from blobfs.remote.client import RemoteClient
from blobfs.remote.tokens import Token, list_tokens, make_token, revoke_token
from blobfs.store.cards import Cards
from blobfs.store.settings import Settings
from blobfs.store.store import Store
from blobfs.sync.engine import SyncEngine
from blobfs.values.cards import Card
from blobfs.values.revisions import DeviceId
from blobfs.wording import format_ago

BEACON_S: Final = 6 * 3600
"""Between two times that a card says "still here". Each one is a revision which the server keeps for a month, and wakes
every other device: four a day are some 60 KB a month, and tell days apart, which is what they are for."""
START_S: Final = 3600
"""At a start a card is brought up to date when it is older than this."""
LOOK_S: Final = 60
FRESH_S: Final = 3.0
"""For so long what was found out about the others is told again without another look."""
QUIET_S: Final = 3 * 86400
"""A device that was not heard from for so long is named in the status."""
NEW_S: Final = 7 * 86400
"""For so long after it was first seen a device is named as new."""

_KNOWN: Final = "devices.known"
_INVITE: Final = "door.invite"
_SPENT: Final = "door.spent"

log = logging.getLogger(__name__)


# --- the token of this device ---------------------------------------------------------------------------------------


async def own_token(remote: Remote, device: DeviceId) -> tuple[Remote, int | None]:
    """`remote` with a token that only this device has, and the number of the invite's that it stands in for, if any.

    Nothing is revoked yet: the new one has to be kept first. A server that makes no tokens leaves things as they are.

    Raises:
        RemoteError kinds.
    """
    if remote.is_embedded:
        return remote, None
    async with connect(remote) as client:
        try:
            mine = next((token for token in await list_tokens(client) if token.is_own), None)
            if mine is None or mine.label == device:
                return remote, None
            _, text = await make_token(client, device, None)
        except (BlobNotFound, AccessDenied):
            # An older server, or a token for less than a device; whether it opens anything, others find out.
            return remote, None
    return replace(remote, token=text), None if mine.expires_s is None else mine.token_id


def keep_token(settings: Settings, invite: Remote, remote: Remote, spent: int | None) -> None:
    """From now on `remote` is the server of the store, by this invite, whose token `spent` can go."""
    save_remote(settings, remote)
    settings.set(_INVITE, _digest(invite))
    settings.set(_SPENT, spent)


def was_taken(settings: Settings, invite: Remote) -> bool:
    """Whether this invite is the one that the store was connected with last."""
    return bool(settings.get(_INVITE) == _digest(invite))


def _digest(invite: Remote) -> str:
    return hashlib.sha256(f"{invite.url} {invite.user} {invite.token}".encode()).hexdigest()


# --- what is known of the others ------------------------------------------------------------------------------------


class Register:
    """The devices of the account, as this one knows them. Reads the store, so in a worker thread."""

    def __init__(self, store: Store) -> None:
        self._store, self.cards = store, Cards(store)

    def learn(self) -> None:
        """Note which devices there are. Those that are there the first time were there before this one looked."""
        known: dict[str, float] | None = self._store.settings.get(_KNOWN)
        there = {card.device for card in self.cards.all()} | set(self._store.documents.heads())
        news = there - set(known or ())
        if news or known is None:
            since = 0.0 if known is None else time.time()
            self._store.settings.set(_KNOWN, {**(known or {}), **dict.fromkeys(sorted(news), since)})

    def strangers(self) -> list[DeviceId]:
        """Devices that wrote documents and have no card: of an older blobfs, or hiding."""
        named = {card.device for card in self.cards.all()}
        return [device for device in self._store.documents.heads() if device not in named | {self._store.device}]

    def notices(self) -> list[str]:
        """What a person should hear, a sentence each."""
        now_s, found = time.time(), []
        known: dict[str, float] = self._store.settings.get(_KNOWN) or {}
        for card in self.cards.all():
            if card.device == self._store.device:
                if card.revoked:
                    found.append("this device was revoked by another one; what is here stays readable")
                continue
            joined_s, seen_s = known.get(card.device, 0.0), card.seen_ns / 1e9
            if now_s - joined_s < NEW_S:
                day = time.strftime("%Y-%m-%d", time.localtime(joined_s))
                found.append(
                    f"a new device '{card.name}' ({card.device}) joined on {day}; "
                    "if it is none of yours, revoke it with `blobfs device DIR --revoke` and change the passphrase"
                )
            if not card.revoked and now_s - seen_s > QUIET_S:
                found.append(f"last heard from '{card.name}' {format_ago(now_s - seen_s)}")
        return found


# --- while the store is open ----------------------------------------------------------------------------------------


class Devices:
    """This device's token and card, kept up to date while it syncs."""

    def __init__(self, store: Store, engine: SyncEngine, client: RemoteClient) -> None:
        self._store, self._engine, self._client = store, engine, client
        self.register = Register(store)
        self._heard: tuple[float, list[str]] = (-math.inf, [])
        self._own: Token | None = None
        self._started = False

    def notices(self) -> list[str]:
        """What a person should hear of the others, looked for every few seconds at most. From any thread."""
        looked, found = self._heard
        if time.monotonic() - looked > FRESH_S:
            if self._engine.is_well:
                self.register.learn()
            found = self.register.notices()
            self._heard = (time.monotonic(), found)
        return found

    async def run(self) -> None:
        """Until cancelled. No error of the server's ends it."""
        while True:
            await self._engine.first_look()
            if self._engine.is_well:
                try:
                    await self.keep()
                except BlobfsError as error:
                    # Whatever it is, the engine meets the same and shows it.
                    log.info("the card of this device is not up to date: %s", error)
            await trio.sleep(LOOK_S)

    async def keep(self) -> None:
        """Bring token and card up to date, once. Raises RemoteError and StoreError kinds."""
        if self._own is None:
            await self._settle_token()
        await trio.to_thread.run_sync(self.update)

    async def _settle_token(self) -> None:
        """On return this device has a token of its own, and those that were only on the way to it are gone."""
        settings, device = self._store.settings, self._store.device
        remote = load_remote(settings)
        fresh, spent = await own_token(remote, device)
        if fresh != remote:
            save_remote(settings, fresh)
            self._client.transport.use_token(fresh.user, fresh.token)
            if spent is not None:
                settings.set(_SPENT, spent)
        try:
            tokens = await list_tokens(self._client)
        except (BlobNotFound, AccessDenied):
            return
        own = next((token for token in tokens if token.is_own), None)
        if own is None:
            return
        left = [token.token_id for token in tokens if token.label == device and not token.is_own]
        # A server that was restored from a backup lets in whom it had forgotten to know: the cards remember.
        revoked = {(card.device, card.token) for card in self.register.cards.all() if card.revoked}
        left += [token.token_id for token in tokens if (token.label, token.token_id) in revoked]
        for token_id in {*left, *filter(None, [settings.get(_SPENT)])} - {own.token_id}:
            await revoke_token(self._client, token_id)
        settings.set(_SPENT, None)
        self._own = own

    def update(self) -> None:
        """Bring this device's card up to date, and note which others there are."""
        with self._store.transaction():
            cards, now_ns = self.register.cards, time.time_ns()
            former = cards.find(self._store.device)
            card = former or Card(self._store.device, "", created_ns=now_ns)
            due_s = BEACON_S if self._started else START_S
            # A clock that was set back must not silence a device until it is as late again.
            is_due = not 0 <= now_ns - card.seen_ns < due_s * 10**9
            token = card.token if self._own is None else self._own.token_id
            cards.write(
                replace(
                    card,
                    name=str(self._store.settings.get("device_name") or card.device[:8]),
                    version=__version__,
                    seen_ns=now_ns if is_due else card.seen_ns,
                    token=token,
                    # Whoever was let in again, with another token, is revoked no more.
                    revoked=card.revoked and token == card.token,
                )
            )
            self._started = True
        self.register.learn()
