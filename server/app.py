"""The ASGI application: routes, the table of errors to statuses, what is true of every response, start and end.

Must not know how the process is started. Invariant: whatever a request holds, the answer is a status with, from 400 on,
a JSON body of code, sentence and request id; nothing of the server's inside is in it.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import anyio
from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blobfs import protocol
from blobfs.protocol import ErrorCode
from server import collect, errors, quota
from server.backends.interface import BlobsBackend
from server.catalog import accounts, documents
from server.catalog.engine import Catalog
from server.intake import Intake
from server.meter import Meter
from server.routes import about, admin, blobs, description, metrics, stream, tokens, usage
from server.routes import documents as document_routes
from server.routes import secrets as secret_routes
from server.sending import SEND_FILE
from server.service import Service, open_backend
from server.settings import Settings

LOG: Final = logging.getLogger("blobfs.server")

STATUS: Final[dict[type[Exception], tuple[int, ErrorCode]]] = {
    errors.BadRequest: (400, ErrorCode.BAD_REQUEST),
    errors.BadDigest: (400, ErrorCode.BAD_DIGEST),
    errors.Unauthorized: (401, ErrorCode.UNAUTHORIZED),
    errors.Forbidden: (403, ErrorCode.FORBIDDEN),
    errors.AccountMissing: (401, ErrorCode.UNAUTHORIZED),
    errors.NotFound: (404, ErrorCode.NOT_FOUND),
    errors.InvalidFlags: (406, ErrorCode.INVALID_FLAGS),
    errors.BlobExists: (409, ErrorCode.EXISTS),
    errors.BlobReferred: (409, ErrorCode.REFERRED),
    errors.LengthRequired: (411, ErrorCode.LENGTH_REQUIRED),
    errors.PreconditionFailed: (412, ErrorCode.PRECONDITION_FAILED),
    errors.TooLarge: (413, ErrorCode.TOO_LARGE),
    errors.BadRange: (416, ErrorCode.BAD_RANGE),
    errors.TooManyRequests: (429, ErrorCode.TOO_MANY_REQUESTS),
    errors.Unavailable: (503, ErrorCode.UNAVAILABLE),
    errors.OverQuota: (507, ErrorCode.OVER_QUOTA),
    errors.DiskFull: (507, ErrorCode.DISK_FULL),
}
"""The one place where an error becomes a status. Looked up by MRO, so the most specific class counts."""


def _route(path: str, **endpoints: Callable[[Request], Awaitable[Response]]) -> Route:
    """One path with an endpoint for each method, so that a 405 names them all."""

    async def dispatch(request: Request) -> Response:
        request.scope["blobfs.route"] = path
        return await endpoints["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, dispatch, methods=list(endpoints))


ROUTES: Final = (
    _route(protocol.ROOT, GET=about.show_about),
    _route(protocol.HEALTH, GET=about.show_health),
    _route(protocol.DESCRIPTION, GET=description.show_description),
    _route(protocol.ADMIN, GET=admin.show_page),
    _route(protocol.ADMIN + "/admin.js", GET=admin.show_script),
    _route(protocol.ADMIN + "/admin.css", GET=admin.show_style),
    _route(protocol.ADMIN + "/summary", GET=admin.show_summary),
    _route(protocol.METRICS, GET=metrics.show_metrics),
    _route(protocol.MISSING, POST=blobs.show_missing),  # above BLOB, which has POST as well
    _route(protocol.BLOBS, GET=blobs.list_blobs),
    _route(
        protocol.BLOB,
        GET=blobs.show_blob,
        PUT=blobs.create_blob,
        POST=blobs.flag_blob,
        DELETE=blobs.delete_blob,
    ),
    _route(protocol.STREAM, POST=stream.stream_blobs),
    _route(protocol.DOCUMENTS, GET=document_routes.show_feed, POST=document_routes.push_changes),
    _route(protocol.REVISIONS, GET=document_routes.show_revisions),
    _route(protocol.EVENTS, GET=document_routes.show_events),
    _route(protocol.SECRETS, GET=secret_routes.show_secrets, PUT=secret_routes.store_secrets),
    _route(protocol.USAGE, GET=usage.show_usage),
    _route(protocol.TOKENS, GET=tokens.list_tokens, POST=tokens.make_token),
    _route(protocol.TOKEN, DELETE=tokens.revoke_token),
    _route(protocol.INCOMING, PUT=secret_routes.drop_incoming),
)


def create_app(settings: Settings, backend: BlobsBackend | None = None) -> Starlette:
    """The application on the settings' data directory, which is prepared and locked.

    Args:
        backend: where blobs go; by default where the settings say.
    Raises:
        DataUnusable: the catalog or what keeps the blobs cannot be opened.
    """
    backend = backend or open_backend(settings)
    service = Service(settings, Catalog(settings.url_of_catalog), backend)
    handlers: dict[Any, Any] = {errors.ServerError: _answer_error, HTTPException: _answer_http}
    app = Starlette(routes=list(ROUTES), exception_handlers=handlers, lifespan=_run)
    app.router.redirect_slashes = False  # a path is right or it is not; nobody is sent elsewhere
    app.state.service = service
    app.state.intake = Intake(service)
    app.add_middleware(Envelope, idle_s=settings.idle_s, meter=service.meter)
    return app


@contextlib.asynccontextmanager
async def _run(app: Starlette) -> AsyncIterator[None]:
    """Before the first request undo what a dead process left; then collect now and then; at the end close."""
    service: Service = app.state.service
    await to_thread.run_sync(_recover, service)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            service.news.watch,
            lambda ids: service.read(documents.last_seqs, ids),
            lambda ids: service.read(accounts.living_tokens, ids),
        )
        tasks.start_soon(_keep_up, service, app.state.intake)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
    await to_thread.run_sync(_end, service)


def _end(service: Service) -> None:
    # Without the catalog only times of tokens are lost, and an end in good order is worth more.
    with contextlib.suppress(errors.ServerError), service.catalog.writing() as connection:
        service.sightings.write_down(connection)
    service.catalog.close()


def _recover(service: Service) -> None:
    service.backend.sweep()
    owners = service.catalog.owners()
    # Alone on the catalog, whatever is reserved was reserved by a process that is dead.
    before_ns = time.time_ns() if owners is None else _longest_ago()
    with service.catalog.writing() as connection:
        quota.recover(connection, service.backend, before_ns, set(), owners)
    collect.unlink_all(service.catalog, service.backend)


async def _keep_up(service: Service, intake: Intake) -> None:
    settings = service.settings
    while True:
        await anyio.sleep(settings.upkeep_s)
        try:
            owners = await to_thread.run_sync(service.catalog.owners)
            await service.note(quota.recover, service.backend, _longest_ago(), set(intake.active), owners)
            await service.note(service.sightings.write_down)
            await to_thread.run_sync(
                collect.collect, service.catalog, service.backend, settings.grace_s, settings.retention_s
            )
        except Exception:  # whatever it was, serving goes on, and the next run may do better
            LOG.exception("upkeep failed")


def _longest_ago() -> int:
    """Older than any upload can be: what was reserved before was left by a failure that could not even be noted."""
    return time.time_ns() - int(3600e9)


# --- errors -----------------------------------------------------------------------------------------------


def _answer_error(request: Request, error: Exception) -> Response:
    headers = {}
    if isinstance(error, errors.BadRange):
        headers["Content-Range"] = f"bytes */{error.size}"
    if isinstance(error, errors.Unauthorized | errors.AccountMissing):
        headers["WWW-Authenticate"] = 'Token realm="blobfs"'
    if isinstance(error, errors.Unavailable | errors.TooManyRequests):
        headers["Retry-After"] = "5" if isinstance(error, errors.Unavailable) else "1"
    if isinstance(error, errors.DiskFull):
        LOG.warning("disk full", extra={"fields": {"request": request.scope.get("blobfs.request_id", "")}})
    for kind in type(error).__mro__:
        if kind in STATUS:
            status, code = STATUS[kind]
            return _error_response(request.scope, status, code, str(error), headers)
    raise error


_HTTP: Final = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}


def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _HTTP.get(error.status_code, ErrorCode.BAD_REQUEST)
    message = f"{HTTPStatus(error.status_code).phrase}."
    return _error_response(request.scope, error.status_code, code, message, dict(error.headers or {}))


def _error_response(scope: Scope, status: int, code: ErrorCode, message: str, headers: dict[str, str]) -> Response:
    body = {"code": code, "message": message, "request_id": scope.get("blobfs.request_id", "")}
    return JSONResponse({"error": body}, status_code=status, headers=headers)


# --- around every request ---------------------------------------------------------------------------------


class Envelope:
    """Gives each request an id, each response its common headers, each failure its one log line."""

    def __init__(self, app: ASGIApp, idle_s: float, meter: Meter) -> None:
        self._app = app
        self._idle_s = idle_s
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["blobfs.request_id"] = secrets.token_hex(8)
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = {protocol.REQUEST_ID: request_id, "Cache-Control": "no-store"}
                extra["X-Content-Type-Options"] = "nosniff"
                if status >= 400 and any(name == b"expect" for name, _ in scope["headers"]):
                    extra["Connection"] = "close"  # whether the body will come now is for nobody to know
                pairs = [(name.lower().encode(), value.encode()) for name, value in extra.items()]
                message["headers"] = [*message.get("headers", []), *pairs]
            # A reader that takes nothing is given up: the piece it does not take, and its thread's blob, are ours.
            with anyio.fail_after(self._idle_s) as limit:
                if message["type"] == SEND_FILE:  # all in one message, so who takes a part of it begins anew
                    message["progress"] = lambda: setattr(limit, "deadline", anyio.current_time() + self._idle_s)
                await send(message)

        failure: BaseException | None = None
        self._meter.open += 1
        try:
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = 499
        except Exception as error:
            failure = error
            if not status:
                message = "The server failed; its log has more under this request id."
                answer = _error_response(scope, 500, ErrorCode.INTERNAL, message, {})
                await answer(scope, receive, send_with_headers)
        finally:
            self._meter.open -= 1
        took_s = time.perf_counter() - started
        route = scope.get("blobfs.route", "-")
        self._meter.count(route, scope["method"], status, took_s, request_id)
        fields = {"request": request_id, "method": scope["method"], "route": route}
        fields |= {"status": status, "ms": round(took_s * 1000, 1)}
        if failure is not None:
            LOG.error("request failed", extra={"fields": fields}, exc_info=failure)
        elif status >= 500 and status != 507:
            LOG.error("request refused", extra={"fields": fields})
        else:
            LOG.debug("request", extra={"fields": fields})
