"""`/tokens`: an account's devices let others in and out.

Must not know what devices are called: a label is an id. Invariant: a token's text leaves once, with the answer that
makes it; nobody makes or revokes one that may do more than the one that asks, and a token that was revoked makes none.
"""

from __future__ import annotations

import time
from typing import Any, Final

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from blobfs.protocol import INVITE_LABEL, MAX_LIFETIME_S, MAX_TOKENS, MadeTokenJson, NewTokenJson, TokenJson
from server import auth
from server.auth import Action, Principal, Scope
from server.catalog import accounts
from server.errors import BadRequest, Forbidden, NotFound, OverQuota, Unauthorized
from server.routes.asking import authorise, checked_id, id_of, json_of, service_of
from server.sightings import Sightings

_MAX_BODY: Final = 4096
_MEMBERS: Final = frozenset(NewTokenJson.__annotations__)
_SCOPES: Final = (Scope.WRITE, Scope.INCOMING)
_S: Final = 10**9


async def list_tokens(request: Request) -> Response:
    """GET of the account's tokens."""
    principal = await authorise(request, Action.DELEGATE)
    service = service_of(request)
    tokens = await service.read(_load_tokens, principal, service.sightings)
    return JSONResponse({"tokens": tokens})


def _load_tokens(connection: Connection, principal: Principal, sightings: Sightings) -> list[TokenJson]:
    return [
        TokenJson(
            id=token.token_id,
            label=token.label,
            scopes=token.scopes.split(),
            created_s=token.created_ns // _S,
            expires_s=_seconds(token.expires_ns),
            seen_s=_seconds(sightings.last(token.token_id, token.seen_ns)),
            is_own=token.token_id == principal.token_id,
        )
        for token in accounts.list_tokens(connection, principal.user_id)
    ]


def _seconds(when_ns: int | None) -> int | None:
    return None if when_ns is None else when_ns // _S


async def make_token(request: Request) -> Response:
    """POST of a label and a lifetime: a new token with the rights of a device."""
    principal = await authorise(request, Action.DELEGATE)
    async with json_of(request, principal, _MAX_BODY, _parse) as wanted:
        text = auth.new_token()
        number = await service_of(request).write(make, principal, auth.hash_token(text), wanted)
    return JSONResponse(MadeTokenJson(id=number, token=text), status_code=201)


def _parse(body: Any) -> NewTokenJson:
    if not isinstance(body, dict) or set(body) | {"scope"} != _MEMBERS:
        raise BadRequest('The body is {"label": ..., "lifetime_s": ..., "scope": ...}, the last of them optional.')
    scope = body.get("scope", Scope.WRITE)
    if scope not in _SCOPES:
        raise BadRequest(f"scope is {' or '.join(_SCOPES)}.")
    lifetime_s = body["lifetime_s"]
    if lifetime_s is not None and (type(lifetime_s) is not int or not 0 < lifetime_s <= MAX_LIFETIME_S):
        raise BadRequest(f"lifetime_s is a number of seconds, from 1 to {MAX_LIFETIME_S}, or null.")
    return NewTokenJson(label=checked_id(body["label"]), lifetime_s=lifetime_s, scope=scope)


def make(connection: Connection, principal: Principal, digest: bytes, wanted: NewTokenJson) -> int:
    """Store a new token; its number.

    Raises:
        Unauthorized: the one that asks was revoked a moment ago.
        OverQuota: the account has `MAX_TOKENS`.
    """
    # The lock makes an order of this and of a revocation, so no token outlives the one that it was made with by luck.
    accounts.lock_account(connection, principal.user_id)
    if principal.token_id not in accounts.living_tokens(connection, [principal.token_id]):
        raise Unauthorized("The token is unknown, expired or revoked.")
    accounts.drop_invites(connection, principal.user_id, INVITE_LABEL)
    if len(accounts.list_tokens(connection, principal.user_id)) >= MAX_TOKENS:
        raise OverQuota(f"The account has {MAX_TOKENS} tokens; revoke some.")
    lifetime_s = wanted["lifetime_s"]
    expires_ns = None if lifetime_s is None else time.time_ns() + lifetime_s * _S
    scopes = auth.parse_scopes([wanted["scope"]])
    return accounts.add_token(
        connection, principal.user_id, digest, scopes, wanted["label"], expires_ns, principal.token_id
    )


async def revoke_token(request: Request) -> Response:
    """DELETE of a token, and of the invites that were made with it. What waits with it ends."""
    principal = await authorise(request, Action.DELEGATE)
    name = id_of(request, "token_id")
    if not (name.isdigit() and len(name) <= 18):
        raise NotFound("The account has no such token.")
    service = service_of(request)
    for token_id in await service.write(revoke, principal, int(name)):
        service.news.revoke(principal.user_id, token_id)
    return Response(status_code=204)


def revoke(connection: Connection, principal: Principal, token_id: int) -> list[int]:
    """Forget a token and the unused invites made with it; the numbers of all.

    Raises:
        NotFound: the account has no such token. Forbidden: it may do more than the one that asks.
    """
    accounts.lock_account(connection, principal.user_id)
    found = {token.token_id: token for token in accounts.list_tokens(connection, principal.user_id)}
    if token_id not in found:
        raise NotFound("The account has no such token.")
    if not principal.covers(found[token_id].scopes):
        raise Forbidden("That token may do more than this one; the server's keeper can revoke it.")
    accounts.drop_invites(connection, principal.user_id, INVITE_LABEL, made_by=token_id)
    accounts.revoke_token(connection, principal.user_id, token_id)
    left = {token.token_id for token in accounts.list_tokens(connection, principal.user_id)}
    return [number for number in found if number not in left]
