"""`/blobs`: list, bytes, creation, flags, deletion, and which of many ids are missing.

Must not know how bytes are kept. Invariant: bytes are sent only of blobs whose row the catalog has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from blobfs import protocol
from blobfs.protocol import DEFAULT_NAMESPACE, DIGEST, MAX_LIST, digest_header, is_id, parse_digest_header
from server import collect
from server.auth import Action, Principal
from server.catalog import blobs
from server.catalog.accounts import lock_account
from server.catalog.blobs import Blob, Selection
from server.errors import BadRequest, InvalidFlags, NotFound, Unavailable
from server.limits import step
from server.quota import Place
from server.routes.asking import (
    authorise,
    authorise_and_look,
    checked_id,
    chunks_of,
    count_of,
    flag_of,
    id_of,
    ids_in,
    intake_of,
    json_of,
    length_of,
    place_of,
    seconds_of,
    service_of,
)
from server.routes.ranges import BlobResponse, begin, etag_of, is_match, parse_range
from server.sending import SEND_FILE

MAX_IDS_BODY: Final = 2 << 20
"""Bytes of a JSON body of ids: `MAX_IDS` of the longest, and some white space."""


MAX_OLDER_S: Final = 86400.0
"""Seconds that a reservation by flags may last."""


async def show_blob(request: Request) -> Response:
    """GET and HEAD of one blob, or of its flags."""
    named = request.query_params.get("namespace", DEFAULT_NAMESPACE), request.path_params["blob_id"]

    def look(connection: Connection, principal: Principal) -> Blob | None:
        return blobs.find(connection, principal.user_id, *named) if all(map(is_id, named)) else None

    principal, blob = await authorise_and_look(request, Action.READ, look)
    place, blob_id = place_of(request, principal), id_of(request, "blob_id")
    only_flags = flag_of(request, "only_flags")
    service = service_of(request)
    if blob is None:
        raise NotFound("There is no such blob.")
    if only_flags:
        return JSONResponse(blobs.flag_names(blob.flags))
    etag = etag_of(blob.sha256)
    headers = {"ETag": etag, "Accept-Ranges": "bytes"}
    if is_match(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    headers["Content-Type"] = "application/octet-stream"
    if request.method == "HEAD":
        headers |= {"Content-Length": str(blob.size), DIGEST: digest_header(blob.sha256)}
        return Response(headers=headers)
    wanted = parse_range(request.headers.get("range"), request.headers.get("if-range"), etag, blob.size)
    first, last = wanted or (0, blob.size - 1)
    length = last - first + 1
    most = step(service.meter.open)
    is_direct = SEND_FILE in request.scope.get("extensions", ())
    begun = await service.on_disk(begin, service.backend, place.key(blob_id), blob.size, first, length, most, is_direct)
    if begun is None:
        if await service.read(blobs.find, place.user_id, place.namespace, blob_id) is None:
            raise NotFound("There is no such blob.")
        raise Unavailable("The server cannot read this blob; its operator finds more with `check`.")
    if wanted is None:
        headers[DIGEST] = digest_header(blob.sha256)
        return BlobResponse(service, begun, first, length, headers, 200)
    headers |= {"Content-Range": f"bytes {first}-{last}/{blob.size}", "Repr-Digest": digest_header(blob.sha256)}
    return BlobResponse(service, begun, first, length, headers, 206)


async def create_blob(request: Request) -> Response:
    """PUT of one blob."""
    principal = await authorise(request, Action.CREATE)
    place, blob_id = place_of(request, principal), id_of(request, "blob_id")
    return await receive_blob(request, place, blob_id, flags=0)


async def receive_blob(request: Request, place: Place, blob_id: str, flags: int) -> Response:
    """The body becomes the blob: 201.

    Args:
        flags: bits that it starts with.
    """
    digest = None
    if (header := request.headers.get(DIGEST)) is not None:
        digest = parse_digest_header(header)
        if digest is None:
            raise BadRequest(f"{DIGEST} has the form sha-256=:BASE64:.")
    length = length_of(request)
    blob = await intake_of(request).take(place, blob_id, chunks_of(request), length, digest, flags)
    return Response(status_code=201, headers={"ETag": etag_of(blob.sha256)})


async def flag_blob(request: Request) -> Response:
    """POST of one blob's flags: replaces them, when they are those that the query expects."""
    principal = await authorise(request, Action.CHANGE)
    place, blob_id = place_of(request, principal), id_of(request, "blob_id")
    expected = request.query_params.get("expect")
    expected_bits = None if expected is None else _flags_in([name for name in expected.split(",") if name])
    older_s = seconds_of(request, "older", MAX_OLDER_S)
    service = service_of(request)
    async with json_of(request, principal, 4096, _flags_in) as flags:
        await service.write(blobs.set_flags, place.user_id, place.namespace, blob_id, flags, expected_bits, older_s)
    return Response(status_code=204)


def _flags_in(names: Any) -> int:
    if not isinstance(names, list):
        raise BadRequest("The flags are a list of names.")
    if not all(isinstance(name, str) and name in blobs.FLAG_BITS for name in names):
        raise InvalidFlags("The flags are " + ", ".join(protocol.Flag) + ".")
    return blobs.flag_bits(names)


async def delete_blob(request: Request) -> Response:
    """DELETE of one blob."""
    principal = await authorise(request, Action.CHANGE)
    place, blob_id = place_of(request, principal), id_of(request, "blob_id")
    service = service_of(request)
    await service.write(_delete, place, blob_id)
    # Bytes after the row: a crash in between leaves them to the next start, and never a row without bytes.
    await service.note(collect.unlink, service.backend)
    return Response(status_code=204)


def _delete(connection: Connection, place: Place, blob_id: str) -> None:
    lock_account(connection, place.user_id)
    blobs.delete_one(connection, place.user_id, place.namespace, blob_id, DEFAULT_NAMESPACE)


async def show_missing(request: Request) -> Response:
    """POST of ids: those that the server lacks."""
    principal = await authorise(request, Action.READ)
    place = place_of(request, principal)
    async with json_of(request, principal, MAX_IDS_BODY, lambda body: ids_in(body, protocol.MAX_IDS)) as ids:
        return JSONResponse({"missing": await service_of(request).read(_missing, place, ids)})


def _missing(connection: Connection, place: Place, ids: Sequence[str]) -> list[str]:
    held = blobs.find_several(connection, place.user_id, place.namespace, ids)
    return [blob_id for blob_id in dict.fromkeys(ids) if blob_id not in held]


# --- lists ------------------------------------------------------------------------------------------------

_ORDERS: Final = {"date": False, "+date": False, " date": False, "-date": True}  # a + in a query means a space


async def list_blobs(request: Request) -> Response:
    """GET of an account's ids, page by page, or of their number."""
    principal = await authorise(request, Action.READ)
    place = place_of(request, principal)
    flag = request.query_params.get("filter_flag")
    bits = None if flag is None else _flags_in([flag])
    selection = Selection(place.user_id, place.namespace, bits, flag_of(request, "deleted"))
    service = service_of(request)
    if flag_of(request, "only_count"):
        return JSONResponse({"count": await service.read(blobs.count, selection)})
    limit = count_of(request, "limit", MAX_LIST)
    order, cursor = request.query_params.get("order_by"), request.query_params.get("cursor")
    if order is None:
        after = "" if cursor is None else checked_id(cursor)
        ids = await service.read(blobs.list_by_id, selection, after, limit + 1)
        return _page(ids, ids, limit)
    if order not in _ORDERS:
        raise BadRequest("order_by is date, +date or -date.")
    rows = await service.read(
        blobs.list_by_date, selection, None if cursor is None else _parse_cursor(cursor), _ORDERS[order], limit + 1
    )
    return _page([blob_id for _, blob_id in rows], [f"{when}.{blob_id}" for when, blob_id in rows], limit)


def _parse_cursor(cursor: str) -> tuple[int, str]:
    when, dot, blob_id = cursor.partition(".")
    if not (dot and when.isascii() and when.isdigit() and len(when) <= 19 and int(when) < 1 << 63):
        raise BadRequest("This is no cursor of this server's.")
    return int(when), checked_id(blob_id)


def _page(ids: list[str], cursors: list[str], limit: int) -> Response:
    more = len(ids) > limit
    return JSONResponse({"blobs": ids[:limit], "cursor": cursors[limit - 1] if more else None})
