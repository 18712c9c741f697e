"""`GET /` and `GET /healthz`, the only pages without a token. They tell nothing of any account."""

from __future__ import annotations

from sqlalchemy import Connection, text
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from blobfs import protocol
from server.routes.asking import service_of


async def show_about(_request: Request) -> Response:
    """Version, features and limits."""
    limits = {
        "blob": protocol.MAX_BLOB,
        "document": protocol.MAX_DOCUMENT,
        "changes": protocol.MAX_CHANGES,
        "documents_body": protocol.MAX_DOCUMENTS_BODY,
        "stream_items": protocol.MAX_STREAM_ITEMS,
        "ids": protocol.MAX_IDS,
        "list": protocol.MAX_LIST,
        "wait_s": protocol.MAX_WAIT_S,
        "secrets": protocol.MAX_SECRETS,
    }
    features = ["blobs", "stream", "documents", "events", "secrets", "tokens", "usage", "incoming"]
    return JSONResponse({"server": "blobfs", "version": protocol.VERSION, "features": features, "limits": limits})


def _ask(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))


async def show_health(request: Request) -> Response:
    """200 when the catalog answers, 503 when it does not."""
    await service_of(request).read(_ask)
    return JSONResponse({"status": "ok"})
