"""The questions about who has access to the account: which devices there are, another name for this one, one that is to
be put out, an invite for one more, and an address for those who may only leave files.

Knows nothing of terminals. Invariant: a device that was revoked has lost its token before anything else is said of it.
"""

from __future__ import annotations

import time
from typing import Any, Final

import trio

from blobfs.account import invite_text, load_remote
from blobfs.answers.options import parse_name
from blobfs.answers.paths import text_of
from blobfs.control import Command
from blobfs.devices import Devices
from blobfs.errors import BlobNotFound, RemoteError, UsageError
from blobfs.protocol import INVITE_LABEL
from blobfs.remote.box import Box
from blobfs.remote.client import RemoteClient
from blobfs.remote.tokens import Token, list_tokens, make_token, revoke_token
from blobfs.store.store import Store
from blobfs.sync.engine import SyncEngine
from blobfs.values import drops
from blobfs.values.cards import Card
from blobfs.values.documents import Json
from blobfs.values.revisions import is_device

_ANSWER_S: Final = 10
"""Seconds that the list waits for the server; without its answer the cards alone are shown."""
_OLD: Final = "the server is of an older version and cannot do this; ask its operator to bring it up to date"


class DeviceAnswers:
    """Answers about devices."""

    def __init__(self, store: Store, engine: SyncEngine, client: RemoteClient, devices: Devices) -> None:
        self._store, self._engine, self._client, self._devices = store, engine, client, devices
        self._cards = devices.register.cards

    def commands(self) -> dict[str, Command]:
        """By their names on the socket."""
        return {
            "invite": self.invite,
            "devices": self.show,
            "rename-device": self.rename,
            "revoke-device": self.revoke,
            "drop-address": self.drop_address,
        }

    async def invite(self, question: Json) -> Json:
        """A new invite: a token of its own that waits `lifetime_s` for a device; with `pin`, the server's key."""
        remote = load_remote(self._store.settings)
        lifetime_s = int(question.get("lifetime_s") or 0) or None
        token, expires_s = remote.token, None
        try:
            _, token = await make_token(self._client, INVITE_LABEL, lifetime_s)
            expires_s = None if lifetime_s is None else time.time() + lifetime_s
        except BlobNotFound:
            # A server before tokens: the devices share one, as they did then.
            lifetime_s = None
        pin = remote.pin
        if question.get("pin") and pin is None:
            await self._client.greet()
            pin = self._client.transport.key.seen
            if pin is None:
                raise UsageError("the server is reached without TLS, so it has no key to pin; leave --pin out")
        heads = await trio.to_thread.run_sync(self._store.documents.heads)
        text = invite_text(remote, token, heads, pin)
        return {"invite": text, "embedded": remote.is_embedded, "expires": expires_s, "pinned": pin is not None}

    async def drop_address(self, question: Json) -> Json:
        """A new address for senders, for `days`; without, until it is revoked."""
        remote, keys, days = load_remote(self._store.settings), self._store.keys, question.get("days")
        box = Box(self._client.transport, remote.user)
        token = await box.admit("drop", days * 86400 if isinstance(days, int) else None)
        address = drops.Address(remote.url, remote.user, token, keys.account, drops.public_key(keys))
        return {"address": drops.pack_address(address), "embedded": remote.is_embedded}

    async def show(self, question: Json) -> Json:
        """`devices`, and `access`: tokens that are no device's, null when the server does not tell."""
        cards = await trio.to_thread.run_sync(self._cards.all)
        tokens: list[Token] | None = None
        with trio.move_on_after(_ANSWER_S):
            try:
                tokens = await list_tokens(self._client)
            except RemoteError:
                tokens = None
        claimed = _claimed(tokens or [], cards)
        access = [_access_json(token) for token in tokens or () if token.token_id not in claimed and not token.is_own]
        devices = [self._card_json(card) for card in cards]
        own_first = sorted(devices, key=lambda entry: (not entry["this"], entry["name"]))
        return {"devices": own_first, "access": None if tokens is None else access}

    def _card_json(self, card: Card) -> dict[str, Any]:
        return {
            "id": card.device,
            "name": card.name,
            "this": card.device == self._store.device,
            "revoked": card.revoked,
            "seen": card.seen_ns / 1e9,
            "created": card.created_ns / 1e9,
            "version": card.version,
        }

    async def rename(self, question: Json) -> Json:
        """This device is called `name` from now on."""
        name = parse_name(text_of(question, "name"))
        self._store.settings.set("device_name", name)
        if self._cards.find(self._store.device) is not None:
            await trio.to_thread.run_sync(self._devices.update)
        return {"name": name}

    async def revoke(self, question: Json) -> Json:
        """Put out the device `which`: its name, its id, or the number of a token that is no device's.

        Raises:
            UsageError: there is no such one, there are several, or it is this one. RemoteError kinds: nothing was done.
        """
        which = text_of(question, "which")
        cards = await trio.to_thread.run_sync(self._cards.all)
        try:
            tokens = await list_tokens(self._client)
        except BlobNotFound:
            raise UsageError(_OLD) from None
        claimed = _claimed(tokens, cards)
        loose = {str(token.token_id): token for token in tokens if token.token_id not in claimed}
        found = [card for card in cards if which in (card.name, card.device)]
        if not found and which in loose:
            return await self._revoke_loose(loose[which])
        if len(found) != 1:
            count = "several" if found else "no"
            raise UsageError(f"{count} devices are called that; `blobfs device DIR` lists them with their ids")
        card = found[0]
        if card.device == self._store.device:
            raise UsageError("this is the device itself; revoke it from another one, or delete its store")
        gone = [number for number in _tokens_of(card, tokens, cards) if await revoke_token(self._client, number)]
        await trio.to_thread.run_sync(self._cards.revoke, card.device)
        self._engine.retry()
        return {"revoked": card.name, "id": card.device, "tokens": len(gone)}

    async def _revoke_loose(self, token: Token) -> Json:
        if token.is_own:
            raise UsageError("this device uses that token itself")
        await revoke_token(self._client, token.token_id)
        return {"revoked": f"token {token.token_id}", "id": None, "tokens": 1}


def _claimed(tokens: list[Token], cards: list[Card]) -> set[int]:
    """The tokens that are shown as devices. Who was put out has none: what bears its name is somebody in hiding."""
    return {number for card in cards if not card.revoked for number in _tokens_of(card, tokens, cards)}


def _tokens_of(card: Card, tokens: list[Token], cards: list[Card]) -> list[int]:
    """The tokens that are a device's: labelled with its id, or named by its card and by no other one's."""
    rivals = {other.token for other in cards if other.device != card.device and not other.revoked}
    return [
        token.token_id
        for token in tokens
        if token.label == card.device
        or (
            token.token_id == card.token
            and not token.is_own
            and not is_device(token.label)
            and card.token not in rivals
        )
    ]


def _access_json(token: Token) -> dict[str, Any]:
    kind = "drop-address" if token.is_for_drops else "invite" if token.label == INVITE_LABEL else "operator"
    times = {"expires": token.expires_s, "seen": token.seen_s}
    return {"id": token.token_id, "kind": kind, "label": token.label} | times
