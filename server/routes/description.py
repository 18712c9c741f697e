"""`GET /openapi.json`: docs/PROTOCOL.md once more, in the form that tools read.

Must not know what routes do. Invariant: every route and method of `app.ROUTES` is described here, with every status
that it can answer; a test holds the two against each other, and another sends what this page allows and forbids.
"""

from __future__ import annotations

import json
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from blobfs import protocol
from server.catalog.blobs import FLAG_BITS

Json = dict[str, Any]

ID: Final[Json] = {"type": "string", "pattern": f"^{protocol.ID.pattern}$"}
_TEXT: Final[Json] = {"type": "string"}
_TRUTH: Final[Json] = {"type": "boolean"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_CURSOR: Final[Json] = {"type": "string", "pattern": "^[0-9]{1,18}$"}
_DIGEST: Final[Json] = {"type": "string", "pattern": "^sha-256=:[A-Za-z0-9+/]{43}=:$"}
_BYTES: Final = "application/octet-stream"


def _list_of(items: Json, highest: int | None = None) -> Json:
    return {"type": "array", "items": items} | ({} if highest is None else {"maxItems": highest})


def _object(*optional: str, **members: Json) -> Json:
    required = [name for name in members if name not in optional]
    return {"type": "object", "properties": members, "required": required, "additionalProperties": False}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_FLAG: Final[Json] = {"enum": list(FLAG_BITS)}
_REVISION: Final[Json] = {"type": "string", "minLength": 1, "maxLength": 16 << 10, "pattern": "^[!-~]+$"}
_PAYLOAD: Final[Json] = {"type": "string", "contentEncoding": "base64"}
_IDS: Final = _list_of(ID, protocol.MAX_IDS)

SCHEMAS: Final[Json] = {
    "Error": _object(error=_object(code={"enum": list(protocol.ErrorCode)}, message=_TEXT, request_id=_TEXT)),
    "Document": _object(doc_id=ID, seq=_COUNT, revision=_REVISION, deleted=_TRUTH, payload=_PAYLOAD),
    "Change": _object(
        doc_id=_TEXT, base=_or_null(_TEXT), revision=_TEXT, deleted=_TRUTH, payload=_TEXT,
        added=_list_of(_TEXT), removed=_list_of(_TEXT),
    ),
    "Result": _object(
        doc_id=_TEXT, status={"enum": list(protocol.ChangeStatus)}, seq=_or_null(_COUNT),
        missing=_list_of(ID), current=_or_null(_ref("Document")),
    ),
    "List": {"anyOf": [_object(blobs=_IDS, cursor=_or_null(_TEXT)), _object(count=_COUNT)]},
    "Feed": _object("left", documents=_list_of(_ref("Document")), cursor=_TEXT, more=_TRUTH, left=_COUNT),
    "Revisions": _object(revisions=_list_of(_ref("Document")), cursor=_or_null(_TEXT)),
    "Uploaded": _object(
        results=_list_of(_object(blob_id=_TEXT, status={"enum": list(protocol.UploadStatus)})),
    ),
    "Token": _object(
        id=_COUNT, label=_TEXT, scopes=_list_of(_TEXT), created_s=_COUNT, expires_s=_or_null(_COUNT),
        seen_s=_or_null(_COUNT), is_own=_TRUTH,
    ),
    "NewToken": _object(
        label=ID, scope={"enum": ["write", "incoming"]},
        lifetime_s=_or_null({"type": "integer", "minimum": 1, "maximum": protocol.MAX_LIFETIME_S}),
    ),
    "Summary": _object(
        users=_list_of(_object(
            user=ID, used=_COUNT, quota=_or_null(_COUNT), blobs=_COUNT, created=_TEXT, removed=_TRUTH,
            devices=_list_of(_object(
                number=_COUNT, label=_TEXT, scopes=_list_of(_TEXT), expires=_or_null(_TEXT), seen=_or_null(_TEXT),
            )),
        )),
        failures=_list_of(_object(time=_TEXT, status=_COUNT, method=_TEXT, route=_TEXT, request_id=_TEXT)),
        failures_total=_COUNT,
        process=_object(open_requests=_COUNT, waiting_requests=_COUNT),
    ),
    "Usage": _object(used=_COUNT, quota=_or_null(_COUNT), objects=_COUNT),
    "About": _object(
        server={"const": "blobfs"}, version={"const": protocol.VERSION}, features=_list_of(_TEXT),
        limits={"type": "object", "additionalProperties": _COUNT},
    ),
}  # fmt: skip


def _query(name: str, schema: Json, required: bool = False) -> Json:
    return {"name": name, "in": "query", "required": required, "schema": schema}


def _header(name: str, schema: Json, required: bool = False) -> Json:
    return {"name": name, "in": "header", "required": required, "schema": schema}


_PATH_PARTS: Final = ("user", "blob_id", "doc_id", "item_id", "token_id")
_NAMESPACE: Final = _query("namespace", ID)
_LIMIT: Final = _query("limit", {"type": "integer", "minimum": 1})


def _operation(
    summary: str,
    answers: dict[int, Json | str | None],
    *errors: int,
    parameters: tuple[Json, ...] = (),
    body: Json | None = None,
    anonymous: bool = False,
) -> Json:
    """One method of one path.

    Args:
        answers: status → a JSON schema, a media type, or nothing.
        errors: statuses beside those that every route with a token has.
        body: media type → schema.
    """
    responses: Json = {}
    for status, content in answers.items():
        responses[str(status)] = {"description": summary}
        if content is not None:
            media = {content: {}} if isinstance(content, str) else {"application/json": {"schema": content}}
            responses[str(status)]["content"] = media
    common = (503,) if anonymous else (400, 401, 403, 429, 503)
    for status in sorted({*common, *errors}):
        responses[str(status)] = {"$ref": "#/components/responses/Error"}
    operation: Json = {"summary": summary, "responses": responses, "parameters": list(parameters)}
    if body is not None:
        content = {media: {"schema": schema} for media, schema in body.items()}
        operation["requestBody"] = {"required": True, "content": content}
    if anonymous:
        operation["security"] = []
    return operation


def _json(schema: Json) -> Json:
    return {"application/json": schema}


_RANGE: Final = (_header("Range", _TEXT), _header("If-Range", _TEXT), _header("If-None-Match", _TEXT))
_NEW_BLOB: Final = _operation(
    "Create a blob",
    {201: None}, 409, 411, 413, 507,
    parameters=(_NAMESPACE, _header(protocol.DIGEST, _DIGEST)),
    body={_BYTES: {"type": "string", "format": "binary"}},
)  # fmt: skip
_READ_BLOB: Final = (_NAMESPACE, _query("only_flags", _TRUTH), *_RANGE)
_SINCE: Final = _query("since", _CURSOR)

OPERATIONS: Final[dict[str, dict[str, Json]]] = {
    protocol.ROOT: {"get": _operation("What this server is", {200: _ref("About")}, anonymous=True)},
    protocol.HEALTH: {
        "get": _operation("Whether it works", {200: _object(status={"const": "ok"})}, anonymous=True),
    },
    protocol.DESCRIPTION: {"get": _operation("This page", {200: {"type": "object"}}, anonymous=True)},
    protocol.METRICS: {"get": _operation("Metrics for Prometheus", {200: "text/plain"}, 404)},
    protocol.ADMIN: {"get": _operation("A page for whoever runs the server", {200: "text/html"}, anonymous=True)},
    protocol.ADMIN + "/admin.js": {"get": _operation("Its script", {200: "text/javascript"}, anonymous=True)},
    protocol.ADMIN + "/admin.css": {"get": _operation("Its style", {200: "text/css"}, anonymous=True)},
    protocol.ADMIN + "/summary": {"get": _operation("What it shows", {200: _ref("Summary")})},
    protocol.BLOBS: {
        "get": _operation(
            "List blobs, or count them",
            {200: _ref("List")}, 406,
            parameters=(
                _NAMESPACE, _query("filter_flag", _FLAG), _query("order_by", {"enum": ["date", "+date", "-date"]}),
                _query("deleted", _TRUTH), _query("only_count", _TRUTH), _LIMIT, _query("cursor", _TEXT),
            ),
        ),
    },
    protocol.MISSING: {
        "post": _operation(
            "Which of these blobs are not here", {200: _object(missing=_IDS)}, 413,
            parameters=(_NAMESPACE,), body=_json(_object(ids=_IDS)),
        ),
    },
    protocol.BLOB: {
        "get": _operation(
            "Read a blob, or its flags",
            {200: None, 206: _BYTES, 304: None}, 404, 416, parameters=_READ_BLOB,
        ),
        "put": _NEW_BLOB,
        "post": _operation(
            "Replace a blob's flags", {204: None}, 404, 406, 412, 413,
            parameters=(
                _NAMESPACE, _query("expect", _TEXT), _query("older", {"type": "number", "minimum": 0}),
            ),
            body=_json(_list_of(_FLAG)),
        ),
        "delete": _operation("Delete a blob", {204: None}, 404, 409, parameters=(_NAMESPACE,)),
    },
    protocol.STREAM: {
        "post": _operation(
            "Many small blobs at once: docs/PROTOCOL.md has the framing",
            {200: None}, 413, 507,
            parameters=(_NAMESPACE, _query("direction", {"enum": ["upload", "download"]}, required=True)),
            body={_BYTES: {"type": "string", "format": "binary"}, "application/json": _object(ids=_IDS)},
        ),
    },
    protocol.DOCUMENTS: {
        "get": _operation(
            "What changed", {200: _ref("Feed")},
            parameters=(_SINCE, _LIMIT, _query("wait", {"type": "number", "minimum": 0}), _query("count", _TRUTH)),
        ),
        "post": _operation(
            "Change documents", {200: _object(results=_list_of(_ref("Result")))}, 413, 507,
            body=_json(_object(changes=_list_of(_ref("Change"), protocol.MAX_CHANGES))),
        ),
    },
    protocol.REVISIONS: {
        "get": _operation(
            "Earlier revisions", {200: _ref("Revisions")}, 404, parameters=(_LIMIT, _query("cursor", _CURSOR)),
        ),
    },
    protocol.EVENTS: {
        "get": _operation(
            "Changes as server-sent events", {200: "text/event-stream"},
            parameters=(_SINCE, _header("Last-Event-ID", _CURSOR)),
        ),
    },
    protocol.SECRETS: {
        "get": _operation("The wrapped secret", {200: _BYTES, 304: None}, 404, parameters=_RANGE[2:]),
        "put": _operation(
            "Store the wrapped secret", {201: None, 204: None}, 412, 413, 507,
            parameters=(_header("If-Match", _TEXT), _header("If-None-Match", {"const": "*"})),
            body={_BYTES: {"type": "string", "format": "binary", "minLength": 1}},
        ),
    },
    protocol.USAGE: {"get": _operation("What the account holds and may hold", {200: _ref("Usage")})},
    protocol.TOKENS: {
        "get": _operation("The account's tokens", {200: _object(tokens=_list_of(_ref("Token")))}),
        "post": _operation(
            "Make a token for another device", {201: _object(id=_COUNT, token=_TEXT)}, 413, 507,
            body=_json(_ref("NewToken")),
        ),
    },
    protocol.TOKEN: {"delete": _operation("Revoke a token", {204: None}, 404)},
    protocol.INCOMING: {
        "put": _NEW_BLOB
        | {"summary": "Leave something for an account", "parameters": [_header(protocol.DIGEST, _DIGEST)]},
    },
}  # fmt: skip
"""Path → method → operation."""


def describe() -> Json:
    """The whole page."""
    paths: Json = {}
    for path, methods in OPERATIONS.items():
        parts = [part for part in _PATH_PARTS if f"{{{part}}}" in path]
        paths[path] = {"parameters": [{"$ref": f"#/components/parameters/{part}"} for part in parts], **methods}
        if "get" in methods:
            paths[path]["head"] = methods["get"] | {"summary": methods["get"]["summary"] + ", without the body"}
    where = {"in": "path", "required": True, "schema": ID}
    error = {"description": "See error.code", "content": {"application/json": {"schema": _ref("Error")}}}
    token = {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Token BASE64(user:token)"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "blobfs", "version": str(protocol.VERSION), "description": "See docs/PROTOCOL.md."},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "parameters": {part: {"name": part, **where} for part in _PATH_PARTS},
            "responses": {"Error": error},
            "schemas": SCHEMAS,
            "securitySchemes": {"token": token},
        },
    }


async def show_description(_request: Request) -> Response:
    """GET of the page."""
    return Response(json.dumps(describe(), separators=(",", ":")), media_type="application/json")
