"""Reading a request: who asks, its ids, its query, its body within limits. Hostile input ends here, with a 4xx.

Must not know what any route does. Invariant: what these functions return is well-formed and bounded.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, TypeVar, cast

import anyio
from sqlalchemy import Connection
from starlette.requests import Request

from blobfs.protocol import DEFAULT_NAMESPACE, is_id
from server import auth
from server.auth import Action, Principal
from server.errors import BadRequest, LengthRequired, TooLarge, Unavailable
from server.intake import Intake
from server.quota import Place
from server.service import Service

R = TypeVar("R")

BODY_S: Final = 1800
"""Seconds for a whole body: the largest blob at 75 kbit/s."""

MAX_QUERY: Final = 8192
"""Characters of a query."""


def service_of(request: Request) -> Service:
    """What this process serves with."""
    return cast(Service, request.app.state.service)


def intake_of(request: Request) -> Intake:
    """The way in for blobs."""
    return cast(Intake, request.app.state.intake)


async def authorise(request: Request, action: Action) -> Principal:
    """The principal, allowed to do `action` to the account in the path.

    Raises:
        Unauthorized, Forbidden: the answer of `auth`.
        TooManyRequests: the account sends more than it may.
        BadRequest: the path names no possible user, or the query is too long.
    """
    principal, _ = await authorise_and_look(request, action, lambda _connection, _principal: None)
    return principal


async def authorise_and_look(
    request: Request, action: Action, look: Callable[[Connection, Principal], R]
) -> tuple[Principal, R]:
    """As `authorise`; and what `look` finds in the same view of the catalog, which saves a turn in a worker thread.

    Args:
        look: asked for nobody but whoever may do `action`, and before the rest of the request is checked.
    """
    principal, found = await _authorise(request, request.path_params["user"], action, look)
    if len(request.url.query) > MAX_QUERY:
        raise BadRequest("The query is too long.")
    return principal, found


async def authorise_operator(request: Request) -> Principal:
    """The principal, of whatever account, allowed to look at the server as a whole.

    Raises:
        Unauthorized, Forbidden, TooManyRequests: as `authorise` does.
    """
    principal, _ = await _authorise(request, None, Action.OPERATE, lambda _connection, _principal: None)
    return principal


async def _authorise(
    request: Request, user: str | None, action: Action, look: Callable[[Connection, Principal], R]
) -> tuple[Principal, R]:
    header = request.headers.get("authorization")

    def ask(connection: Connection) -> tuple[Principal, R | None]:
        principal = auth.authenticate(connection, header, user)
        return principal, look(connection, principal) if action in principal.actions else None

    service = service_of(request)
    principal, found = await service.read(ask)
    service.sightings.note(principal.token_id)
    # A sender can do nothing else, so whatever it asks for counts as a drop.
    rates = service.drops if principal.actions == auth.ALLOWED[auth.Scope.INCOMING] else service.rates
    rates.take(principal.user_id)
    principal.require(action)
    return principal, cast(R, found)  # `look` was asked, since `require` let it pass


def id_of(request: Request, name: str) -> str:
    """The id that stands in the path as `name`.

    Raises:
        BadRequest: it breaks the grammar.
    """
    return checked_id(request.path_params[name])


def checked_id(text: object) -> str:
    """`text`, which is an id.

    Raises:
        BadRequest: it is not.
    """
    if not isinstance(text, str) or not is_id(text):
        raise BadRequest("An id consists of 1 to 128 letters, digits, - and _.")
    return text


def place_of(request: Request, principal: Principal) -> Place:
    """Where the request's blobs are: the query's `namespace` of the principal's account."""
    namespace = checked_id(request.query_params.get("namespace", DEFAULT_NAMESPACE))
    return Place(principal.user_id, principal.user, namespace)


def flag_of(request: Request, name: str) -> bool:
    """A yes or no of the query; no when absent.

    Raises:
        BadRequest: neither of true, false, 1, 0.
    """
    value = request.query_params.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise BadRequest(f"{name} is true or false.")
    return value in ("true", "1")


def count_of(request: Request, name: str, highest: int) -> int:
    """A number of the query, from 1 on and cut to `highest`, which is also what it is when absent.

    Raises:
        BadRequest: no such number.
    """
    value = request.query_params.get(name)
    if value is None:
        return highest
    if not (value.isascii() and value.isdigit() and len(value) <= 18 and int(value) > 0):
        raise BadRequest(f"{name} is a number from 1 on.")
    return min(int(value), highest)


def seconds_of(request: Request, name: str, highest: float) -> float:
    """A duration of the query in seconds, cut to `highest`; 0 when absent.

    Raises:
        BadRequest: no such duration.
    """
    text = request.query_params.get(name, "0")
    try:
        value = float(text) if len(text) <= 18 else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise BadRequest(f"{name} is a number of seconds.")
    return min(value, highest)


def seq_of(text: str | None) -> int:
    """The sequence number in a cursor; 0 when there is none.

    Raises:
        BadRequest: it is no cursor of this server's.
    """
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest("This is no cursor of this server's.")
    return int(text)


def length_of(request: Request) -> int | None:
    """Bytes that the request announced; None for a chunked body.

    Raises:
        LengthRequired: neither a length nor chunks.
        BadRequest: a length that is no number.
    """
    value = request.headers.get("content-length")
    if value is None:
        if "chunked" in request.headers.get("transfer-encoding", "").lower():
            return None
        raise LengthRequired("The body needs a Content-Length or the chunked coding.")
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise BadRequest("Content-Length is no number.")
    return int(value)


async def chunks_of(request: Request) -> AsyncIterator[bytes]:
    """The body as it arrives. A sender that is silent for `idle_s`, or takes `BODY_S` altogether, is given up.

    Raises:
        Unavailable: it was too slow.
        ClientDisconnect: it went away.
    """
    stream = request.stream()
    end = anyio.current_time() + BODY_S
    while anyio.current_time() < end:
        chunk = None
        # The scope must not enclose a yield: what the consumer does with a chunk is not the sender's silence.
        with anyio.move_on_after(service_of(request).settings.idle_s):
            chunk = await anext(stream, b"")
        if chunk is None:
            break
        if not chunk:  # Starlette ends a body with an empty chunk and yields none before
            return
        yield chunk
    raise Unavailable("The body came too slowly.")


@contextlib.asynccontextmanager
async def json_of(request: Request, principal: Principal, highest: int, read: Callable[[Any], R]) -> AsyncIterator[R]:
    """What `read` makes of the body, which is JSON of at most `highest` bytes. Counts as held until the end.

    Args:
        read: checks the form, in the thread that parses; so what hostile JSON swells to goes again there.
    Raises:
        TooLarge: it is longer.
        BadRequest: it is no JSON, or has duplicate members, NaN or a lone surrogate.
        TooManyRequests, Unavailable: the account, or the server, holds too much already.
    """
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length[:18]) > highest:
        raise TooLarge(f"The body has at most {highest} bytes.")
    service, body = service_of(request), bytearray()
    with service.bodies.hold(principal.user_id) as held:
        async for chunk in chunks_of(request):
            held.grow(len(chunk))
            body += chunk
            if len(body) > highest:
                raise TooLarge(f"The body has at most {highest} bytes.")
        yield await service.parse(lambda text: read(_parse(text)), bytes(body))


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body is not JSON of the form that is needed.") from error


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(members)
    if len(table) != len(members):
        raise ValueError("a member occurs twice")
    return table


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def ids_in(body: Any, highest: int) -> list[str]:
    """The ids of a body `{"ids": [...]}`.

    Raises:
        BadRequest: another form, or an id that is none.
        TooLarge: more than `highest`.
    """
    if not isinstance(body, dict) or set(body) != {"ids"} or not isinstance(body["ids"], list):
        raise BadRequest('The body is {"ids": [...]}.')
    if len(body["ids"]) > highest:
        raise TooLarge(f"There are at most {highest} ids in one request.")
    return [checked_id(blob_id) for blob_id in body["ids"]]
