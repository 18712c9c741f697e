"""`/secrets` and `/incoming`: an account's wrapped secret, and what trusted senders leave for it.

Must not know what the bytes are. Invariant: a wrapped secret is replaced only by whoever names the one that is there.
"""

from __future__ import annotations

import hashlib

from sqlalchemy import Connection, insert, select, update
from starlette.requests import Request
from starlette.responses import Response

from blobfs.protocol import INCOMING_NAMESPACE, MAX_SECRETS, Flag
from server.auth import Action
from server.catalog import blobs
from server.catalog.accounts import lock_account
from server.catalog.schema import SECRETS, USERS
from server.errors import BadRequest, NotFound, OverQuota, PreconditionFailed, TooLarge
from server.quota import Place
from server.routes.asking import authorise, chunks_of, id_of, service_of
from server.routes.blobs import receive_blob
from server.routes.ranges import etag_of, is_match


def _find(connection: Connection, user_id: int) -> bytes | None:
    return connection.execute(select(SECRETS.c.payload).where(SECRETS.c.user_id == user_id)).scalar()


def _etag(payload: bytes) -> str:
    return etag_of(hashlib.sha256(payload).digest())


async def show_secrets(request: Request) -> Response:
    """GET of the wrapped secret."""
    principal = await authorise(request, Action.READ)
    payload = await service_of(request).read(_find, principal.user_id)
    if payload is None:
        raise NotFound("The account has no wrapped secret here.")
    headers = {"ETag": _etag(payload)}
    if is_match(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(payload, media_type="application/octet-stream", headers=headers)


async def store_secrets(request: Request) -> Response:
    """PUT of the wrapped secret: 201 for the first one, 204 in place of the one that `If-Match` names."""
    principal = await authorise(request, Action.CREATE)
    if_match, if_none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if if_none_match is not None and if_none_match.strip() != "*":
        raise BadRequest("If-None-Match is * here.")
    if (if_match is None) == (if_none_match is None):
        raise PreconditionFailed("Say If-None-Match: * for the first secret, or If-Match with the one to replace.")
    if if_match is not None:
        principal.require(Action.CHANGE)
    payload = bytearray()
    async for chunk in chunks_of(request):
        payload += chunk
        if len(payload) > MAX_SECRETS:
            raise TooLarge(f"A wrapped secret has at most {MAX_SECRETS} bytes.")
    if not payload:
        raise BadRequest("A wrapped secret has at least one byte.")
    created = await service_of(request).write(_store, principal.user_id, bytes(payload), if_match)
    return Response(status_code=201 if created else 204, headers={"ETag": _etag(bytes(payload))})


def _store(connection: Connection, user_id: int, payload: bytes, if_match: str | None) -> bool:
    """Returns whether it is the first.

    Raises:
        PreconditionFailed: it is not what the request named that is here.
        OverQuota: no room.
    """
    account = lock_account(connection, user_id)
    old = _find(connection, user_id)
    if (old is None) != (if_match is None) or (old is not None and not is_match(if_match, _etag(old))):
        raise PreconditionFailed("Another device stored a secret first.")
    more = len(payload) - len(old or b"")
    if account.quota is not None and more > 0 and account.used + account.reserved + more > account.quota:
        raise OverQuota("The account's quota has no room for the secret.")
    if old is None:
        connection.execute(insert(SECRETS), {"user_id": user_id, "payload": payload})
    else:
        connection.execute(update(SECRETS).where(SECRETS.c.user_id == user_id).values(payload=payload))
    connection.execute(update(USERS).where(USERS.c.id == user_id).values(used=USERS.c.used + more))
    return old is None


async def drop_incoming(request: Request) -> Response:
    """PUT by a trusted sender: a blob of the incoming namespace, flagged for the recipient's devices."""
    principal = await authorise(request, Action.DROP)
    place = Place(principal.user_id, principal.user, INCOMING_NAMESPACE)
    return await receive_blob(request, place, id_of(request, "item_id"), blobs.flag_bits([Flag.PENDING]))
