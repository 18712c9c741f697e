"""What the API asks of the owner of a store about the incoming box; the part of the desk for what senders left.

Takes and gives plain values only. Invariant: an item that a program has taken is remembered before its call returns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from blobfs.api.loop import Loop
from blobfs.remote.box import Box
from blobfs.store.store import Store
from blobfs.sync.inbox import Inbox, Taken
from blobfs.values import drops
from blobfs.values.documents import Json


class Parcel(NamedTuple):
    """An item that this device has reserved; its bytes are staged."""

    item_id: str
    name: str
    size: int
    content: int
    stored: int


class Mailroom:
    """The incoming box of an account, for programs. From any thread but the engine's."""

    def __init__(self, store: Store, loop: Loop) -> None:
        self._store, self._loop = store, loop
        self._opened: Inbox | None = None

    def take(self, version: int) -> Parcel | None:
        """Reserve and bring the oldest item that nobody works on. Waits for the server; raises RemoteError kinds."""
        taken: Taken | None = self._loop.submit(self._take, version).result()
        if taken is None:
            return None
        return Parcel(taken.item_id, taken.head.name, taken.head.size, taken.content, taken.stored)

    async def _take(self, version: int) -> Taken | None:
        # What other devices did comes first: an item that they took is none.
        await self._loop.engine.first_look()
        return await self._inbox().take(version)

    def _inbox(self) -> Inbox:
        if self._opened is None:
            self._opened = Inbox(self._store, self._box())
        return self._opened

    def _box(self) -> Box:
        return Box(self._loop.client.transport, self._loop.client.user)

    def done(self, item_id: str) -> None:
        """The program has saved what it made of an item: it is not given again, and goes at the server."""
        self._store.arrivals.receive(item_id)

    def fail(self, item_id: str, reason: str, version: int) -> None:
        """The program cannot take an item. Waits for the server."""
        self._loop.submit(self._fail, item_id, reason, version).result()

    async def _fail(self, item_id: str, reason: str, version: int) -> None:
        await self._inbox().fail(item_id, reason, version)

    def failures(self) -> dict[str, Json]:
        """See `Arrivals.failures`."""
        return self._store.arrivals.failures()

    def address(self, days: int | None) -> str:
        """A new address for senders. Waits for the server."""
        address: str = self._loop.submit(self._address, days).result()
        return address

    async def _address(self, days: int | None) -> str:
        client, keys = self._loop.client, self._store.keys
        token = await self._box().admit("drop", None if days is None else days * 86400)
        return drops.pack_address(drops.Address(client.url, client.user, token, keys.account, drops.public_key(keys)))


def as_parcel(result: Any) -> Parcel | None:
    """A parcel whose type the journey did not keep."""
    return None if result is None else Parcel(*result)
