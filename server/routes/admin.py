"""`/admin`: a page for whoever runs the server, and the JSON that it shows.

Must not know what accounts keep: there is nothing but sizes, counts and times to show. Invariant: the page itself holds
nothing of any account and may be loaded by everyone; what it shows needs a token with the scope admin, which stays in
the page's memory; and nothing runs in it but its own script.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.catalog import accounts
from server.routes.asking import authorise_operator, service_of
from server.sightings import Sightings

_PAGES: Final = Path(__file__).parents[1] / "pages"
_TYPES: Final = {
    "admin.html": "text/html; charset=utf-8",
    "admin.js": "text/javascript; charset=utf-8",
    "admin.css": "text/css; charset=utf-8",
}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

FAILURES: Final = 100
"""Failures shown."""


def _show(name: str) -> Response:
    return Response((_PAGES / name).read_bytes(), headers=_HEADERS | {"Content-Type": _TYPES[name]})


async def show_page(_request: Request) -> Response:
    """GET of the page."""
    return _show("admin.html")


async def show_script(_request: Request) -> Response:
    """GET of its script."""
    return _show("admin.js")


async def show_style(_request: Request) -> Response:
    """GET of its style."""
    return _show("admin.css")


async def show_summary(request: Request) -> Response:
    """GET of what the page shows."""
    await authorise_operator(request)
    service = service_of(request)
    users = await service.read(_load_users, service.sightings)
    failures = list(service.meter.failures())
    shown = [
        {
            "time": _time(int(failure.when_s * 1e9)),
            "status": failure.status,
            "method": failure.method,
            "route": failure.route,
            "request_id": failure.request_id,
        }
        for failure in failures[:FAILURES]
    ]
    process = {"open_requests": service.meter.open, "waiting_requests": service.news.waiting}
    return JSONResponse({"users": users, "failures": shown, "failures_total": len(failures), "process": process})


def _load_users(connection: Connection, sightings: Sightings) -> list[dict[str, Any]]:
    devices: dict[int, list[dict[str, Any]]] = {}
    for token in accounts.list_all_tokens(connection):
        device = {"number": token.token_id, "label": token.label, "scopes": token.scopes.split()}
        device |= {"expires": _time(token.expires_ns), "seen": _time(sightings.last(token.token_id, token.seen_ns))}
        devices.setdefault(token.user_id, []).append(device)
    return [
        {
            "user": account.name,
            "used": account.used,
            "quota": account.quota,
            "blobs": account.blobs,
            "created": _time(account.created_ns),
            "removed": account.removed,
            "devices": devices.get(account.user_id, []),
        }
        for account in accounts.list_accounts(connection)
    ]


def _time(when_ns: int | None) -> str | None:
    return None if when_ns is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when_ns // 10**9))
