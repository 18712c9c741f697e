"""The account's tokens at the server: list, make, revoke.

Knows nothing of devices. Invariant: as `client.py`'s, what comes out was checked against the protocol.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from blobfs import protocol
from blobfs.errors import BlobNotFound, ProtocolError
from blobfs.remote.client import RemoteClient
from blobfs.remote.refusals import ADVICE
from blobfs.remote.transport import Lane

_MOST: Final = 512 * protocol.MAX_TOKENS
"""Bytes of a list."""
_TEXT: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the account. Times are seconds since the epoch."""

    token_id: int
    label: str
    expires_s: int | None
    seen_s: int | None
    is_own: bool
    """It is the one of this device."""
    is_for_drops: bool = False
    """It lets its bearer leave things and nothing else."""


async def list_tokens(client: RemoteClient) -> list[Token]:
    """All of the account. Raises BlobNotFound: an older server, which knows no such question."""
    route = protocol.TOKENS.format(user=client.user)
    answer = await client.transport.request(Lane.BULK, "GET", route, most=_MOST)
    entries = _load(answer.body).get("tokens")
    if not isinstance(entries, list) or len(entries) > 2 * protocol.MAX_TOKENS:
        raise _broken()
    return [_token(entry) for entry in entries]


async def make_token(client: RemoteClient, label: str, lifetime_s: int | None) -> tuple[int, str]:
    """(number, text) of a new token with the rights of a device. Raises BlobNotFound as `list_tokens`."""
    body = json.dumps({"label": label, "lifetime_s": lifetime_s}).encode("ascii")
    route, headers = protocol.TOKENS.format(user=client.user), {"Content-Type": "application/json"}
    answer = await client.transport.request(Lane.BULK, "POST", route, most=4096, body=body, headers=headers)
    made = _load(answer.body)
    number, text = made.get("id"), made.get("token")
    if type(number) is not int or number < 0 or not isinstance(text, str) or not _TEXT.fullmatch(text):
        raise _broken()
    return number, text


async def revoke_token(client: RemoteClient, token_id: int) -> bool:
    """Put whoever has the token out; whether there was such a token."""
    route = protocol.TOKEN.format(user=client.user, token_id=token_id)
    try:
        await client.transport.request(Lane.BULK, "DELETE", route, most=4096)
    except BlobNotFound:
        return False
    return True


def _load(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise _broken() from None
    if not isinstance(found, dict):
        raise _broken()
    return found


def _token(entry: Any) -> Token:
    if not isinstance(entry, dict):
        raise _broken()
    number, label, is_own = entry.get("id"), entry.get("label"), entry.get("is_own")
    if type(number) is not int or number < 0 or not isinstance(label, str) or not isinstance(is_own, bool):
        raise _broken()
    is_for_drops = entry.get("scopes") == ["incoming"]
    return Token(number, label[:128], _time(entry.get("expires_s")), _time(entry.get("seen_s")), is_own, is_for_drops)


def _time(value: Any) -> int | None:
    if value is None or (type(value) is int and 0 <= value < 1 << 40):
        return value
    raise _broken()


def _broken() -> ProtocolError:
    return ProtocolError(ADVICE[ProtocolError] + " (tokens)")
