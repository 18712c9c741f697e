"""The incoming box at the server as typed calls: what senders left, who works on it, and leaving something.

Knows nothing of keys. Invariant: as in `client.py`, whatever comes out was checked against the protocol's grammar.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from blobfs import protocol
from blobfs.errors import BlobExists, BlobNotFound, BlobTooLarge, PreconditionFailed, ProtocolError
from blobfs.protocol import Flag
from blobfs.remote.refusals import ADVICE
from blobfs.remote.transport import Lane, Transport

PAGE: Final = 200
"""Items looked at in one go."""
_MAX_ANSWER: Final = 64 << 10
_QUERY: Final = {"namespace": protocol.INCOMING_NAMESPACE}


class Box:
    """The incoming box of one account."""

    def __init__(self, transport: Transport, user: str) -> None:
        self._transport, self._user = transport, user

    async def items(self, flag: Flag) -> list[str]:
        """The ids of items with this flag, the oldest first; `PAGE` at most."""
        query: dict[str, str | int] = {**_QUERY, "filter_flag": flag.value, "order_by": "date", "limit": PAGE}
        path = protocol.BLOBS.format(user=self._user)
        answer = await self._transport.request(Lane.BULK, "GET", path, most=_MAX_ANSWER, query=query)
        ids = _parse(answer.body)
        if not all(isinstance(item_id, str) and protocol.is_id(item_id) for item_id in ids) or len(ids) > PAGE:
            raise ProtocolError(ADVICE[ProtocolError] + " (incoming)")
        return ids

    async def flag(self, item_id: str, flag: Flag, expect: Flag, older_s: float = 0.0) -> bool:
        """Give an item a flag in place of another, which it must have had for `older_s` seconds; whether that was so.

        Of several that ask for the same at once, one is told yes.
        """
        query: dict[str, str | int] = {**_QUERY, "expect": expect.value}
        if older_s:
            query["older"] = f"{older_s:g}"
        try:
            await self._ask("POST", item_id, query=query, body=json.dumps([flag.value]).encode("ascii"))
        except (PreconditionFailed, BlobNotFound):
            return False
        return True

    async def delete(self, item_id: str) -> None:
        """On return the item is not there any more."""
        try:
            await self._ask("DELETE", item_id, query=dict(_QUERY))
        except BlobNotFound:
            return

    @asynccontextmanager
    async def open(self, item_id: str) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """The bytes of an item in pieces, `MAX_BLOB` at most; nothing in them is authenticated. Raises BlobNotFound."""
        path = protocol.BLOB.format(user=self._user, blob_id=item_id)
        opened = self._transport.open(Lane.BULK, "GET", path, query=dict(_QUERY), deadline_s=1800)
        async with opened as (_, _, chunks), aclosing(_bounded(chunks)) as pieces:
            yield pieces

    async def leave(self, item_id: str, item: bytes) -> None:
        """Leave an item there; one of this id that is there already is taken for it. As a sender."""
        path = protocol.INCOMING.format(user=self._user, item_id=item_id)
        try:
            await self._transport.request(Lane.BULK, "PUT", path, most=_MAX_ANSWER, body=item)
        except BlobExists:
            return

    async def admit(self, label: str, lifetime_s: int | None) -> str:
        """Make a token that is good for leaving things and for nothing else; its text."""
        body = json.dumps({"label": label, "lifetime_s": lifetime_s, "scope": "incoming"}).encode("ascii")
        path = protocol.TOKENS.format(user=self._user)
        answer = await self._transport.request(Lane.BULK, "POST", path, most=_MAX_ANSWER, body=body)
        try:
            return str(json.loads(answer.body)["token"])
        except (ValueError, LookupError, TypeError, RecursionError):
            raise ProtocolError(ADVICE[ProtocolError] + " (token)") from None

    async def _ask(self, method: str, item_id: str, **request: Any) -> None:
        path = protocol.BLOB.format(user=self._user, blob_id=item_id)
        await self._transport.request(Lane.BULK, method, path, most=_MAX_ANSWER, **request)


async def _bounded(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > protocol.MAX_BLOB:
            raise BlobTooLarge("an item is larger than the server may take")
        yield chunk


def _parse(body: bytes) -> list[Any]:
    try:
        ids = json.loads(body)["blobs"]
    except (ValueError, LookupError, TypeError, RecursionError):
        ids = None
    if not isinstance(ids, list):
        raise ProtocolError(ADVICE[ProtocolError] + " (incoming)")
    return ids
