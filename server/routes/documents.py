"""`/documents`: the change feed with its long poll, the push of changes, earlier revisions. `/events`: the same news.

Must not know what documents say. Invariant: a feed reader that follows `cursor` sees every change once or more, never
none.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final

import anyio
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from blobfs.protocol import (
    MAX_CHANGES,
    MAX_DOCUMENT,
    MAX_DOCUMENTS_BODY,
    MAX_WAIT_S,
    ChangeJson,
    ChangeStatus,
    DocumentJson,
    FeedJson,
    ResultJson,
    is_id,
)
from server.auth import Action, Principal
from server.catalog import documents
from server.catalog.documents import Accepted, Change, Conflict, Document, Missing, Outcome
from server.errors import BadRequest, Forbidden, NotFound, ServerError, TooLarge
from server.routes.asking import authorise, count_of, flag_of, id_of, json_of, seconds_of, seq_of, service_of
from server.service import Service

MAX_REVISION: Final = 16 << 10
"""Characters of a revision: a version vector of as many devices as a client allows fits."""

_REVISION: Final = re.compile(r"[!-~]+")
_MEMBERS: Final = frozenset(ChangeJson.__annotations__)

BEAT_S: Final = 15
"""Between two signs of life on an idle event stream."""


# --- the feed ---------------------------------------------------------------------------------------------


async def show_feed(request: Request) -> Response:
    """GET of what changed after `since`; waits up to `wait` seconds while there is nothing."""
    principal = await authorise(request, Action.READ)
    since = seq_of(request.query_params.get("since"))
    limit, wait_s = count_of(request, "limit", MAX_CHANGES), seconds_of(request, "wait", MAX_WAIT_S)
    service, counts = service_of(request), flag_of(request, "count")

    async def load() -> bytes | None:
        return await service.read(_load_page, principal.user_id, since, limit, counts)

    page = await load()
    if page is None and wait_s and request.method == "GET":
        service.news.require_room(principal.user_id)
        page = await _wait_for_page(request, principal, load, wait_s)
    return Response(page or _pack_feed([], since, False), media_type="application/json")


async def _wait_for_page(
    request: Request, principal: Principal, load: Callable[[], Awaitable[bytes | None]], wait_s: float
) -> bytes | None:
    """The page as soon as there is one; None after `wait_s`, when the server ends or when the client is gone."""
    service = service_of(request)
    page: bytes | None = None
    failure: ServerError | None = None

    async def watch_client(scope: anyio.CancelScope) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    with service.news.listening(principal.user_id, principal.token_id):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch_client, tasks.cancel_scope)
            with anyio.move_on_after(wait_s):
                try:
                    while page is None and not service.news.closing:
                        changed = service.news.listen(principal.user_id)
                        service.news.require_token(principal.token_id)
                        page = await load()
                        if page is None:
                            await changed.wait()
                except ServerError as error:
                    failure = error  # raised below: out of the group it would come wrapped in another
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return page


def _load_page(connection: Connection, user_id: int, since: int, limit: int, counts: bool) -> bytes | None:
    """The packed page after `since`, with `counts` also how many come after it; None when it is empty."""
    if since > documents.last_seq(connection, user_id):
        since = 0  # a cursor from before this catalog was restored: the client has to see everything again
    page, more = _fill(documents.feed(connection, user_id, since, limit + 1), limit)
    if not page:
        return None
    last = page[-1]["seq"]
    left = (documents.count_after(connection, user_id, last) if more else 0) if counts else None
    return _pack_feed(page, last, more, left)


def _fill(found: Iterable[Document], limit: int) -> tuple[list[DocumentJson], bool]:
    """One page of what was found, and whether there is more."""
    page: list[DocumentJson] = []
    size = 0
    for document in found:
        if len(page) == limit or (page and size + len(document.payload) * 4 // 3 > MAX_DOCUMENTS_BODY):
            return page, True
        size += len(document.payload) * 4 // 3 + len(document.revision) + 256
        page.append(_document_json(document))
    return page, False


def _pack_feed(page: list[DocumentJson], last: int, more: bool, left: int | None = None) -> bytes:
    feed = FeedJson(documents=page, cursor=str(last), more=more)
    if left is not None:
        feed["left"] = left
    return json.dumps(feed, separators=(",", ":")).encode("ascii")


def _document_json(document: Document) -> DocumentJson:
    payload = base64.b64encode(document.payload).decode("ascii")
    return DocumentJson(
        doc_id=document.doc_id,
        seq=document.seq,
        revision=document.revision,
        deleted=document.deleted,
        payload=payload,
    )


async def show_revisions(request: Request) -> Response:
    """GET of a document's kept revisions, newest first; `cursor` goes on where a page ended."""
    principal = await authorise(request, Action.READ)
    doc_id, limit = id_of(request, "doc_id"), count_of(request, "limit", MAX_CHANGES)
    cursor = request.query_params.get("cursor")
    before = None if cursor is None else seq_of(cursor)
    packed = await service_of(request).read(_load_revisions, principal.user_id, doc_id, before, limit)
    return Response(packed, media_type="application/json")


def _load_revisions(connection: Connection, user_id: int, doc_id: str, before: int | None, limit: int) -> bytes:
    page, more = _fill(documents.revisions(connection, user_id, doc_id, before), limit)
    if not page and before is None:
        raise NotFound("There is no such document.")
    answer = {"revisions": page, "cursor": str(page[-1]["seq"]) if more else None}
    return json.dumps(answer, separators=(",", ":")).encode("ascii")


# --- the push ---------------------------------------------------------------------------------------------


async def push_changes(request: Request) -> Response:
    """POST of changes: one transaction, one result for each."""
    principal = await authorise(request, Action.CREATE)
    service = service_of(request)
    async with json_of(request, principal, MAX_DOCUMENTS_BODY, _parse_changes) as changes:
        if Action.CHANGE not in principal.actions:
            _refuse_replacing(changes)
        valid = [change for change in changes if isinstance(change, Change)]
        outcomes = iter(await service.write(_push, service, principal.user_id, valid) if valid else [])
        service.news.tell(principal.user_id)
        packed = await anyio.to_thread.run_sync(_pack_results, changes, outcomes)
    return Response(packed, media_type="application/json")


def _push(connection: Connection, service: Service, user_id: int, changes: list[Change]) -> list[Outcome]:
    if not all(change.deleted for change in changes):  # a full disk must let deletions through
        service.require_space(sum(len(change.payload) for change in changes))
    return documents.push(connection, user_id, changes)


def _refuse_replacing(changes: Iterable[Change | str]) -> None:
    if any(isinstance(change, Change) and (change.base is not None or change.deleted) for change in changes):
        raise Forbidden("This token may only add documents, not change or delete them.")


def _parse_changes(body: Any) -> list[Change | str]:
    """The changes of a body; for one that breaks a limit only its `doc_id`.

    Raises:
        BadRequest: the body has another form.
        TooLarge: too many changes.
    """
    if not isinstance(body, dict) or set(body) != {"changes"} or not isinstance(body["changes"], list):
        raise BadRequest('The body is {"changes": [...]}.')
    if len(body["changes"]) > MAX_CHANGES:
        raise TooLarge(f"There are at most {MAX_CHANGES} changes in one request.")
    return [_parse_change(change) for change in body["changes"]]


def _parse_change(change: Any) -> Change | str:
    if not isinstance(change, dict) or set(change) != _MEMBERS:
        raise BadRequest("A change has the members " + ", ".join(sorted(_MEMBERS)) + ".")
    texts = (change["doc_id"], change["revision"], change["payload"])
    lists = (change["added"], change["removed"])
    if not all(isinstance(text, str) for text in texts) or not isinstance(change["deleted"], bool):
        raise BadRequest("A change has a member of the wrong type.")
    if not all(isinstance(ids, list) and all(isinstance(item, str) for item in ids) for ids in lists):
        raise BadRequest("added and removed are lists of ids.")
    if not (change["base"] is None or isinstance(change["base"], str)):
        raise BadRequest("base is a revision or null.")
    try:
        payload = base64.b64decode(change["payload"], validate=True)
    except (binascii.Error, ValueError):
        return str(change["doc_id"])
    parsed = Change(
        change["doc_id"],
        change["base"],
        change["revision"],
        change["deleted"],
        payload,
        tuple(dict.fromkeys(change["added"])),
        tuple(dict.fromkeys(change["removed"])),
    )
    return parsed if _is_valid(parsed) else parsed.doc_id


def _is_valid(change: Change) -> bool:
    if not is_id(change.doc_id) or not 0 < len(change.payload) <= MAX_DOCUMENT:
        return False
    for revision in (change.revision, change.base):
        if revision is not None and (len(revision) > MAX_REVISION or not _REVISION.fullmatch(revision)):
            return False
    if change.revision == change.base or (change.deleted and change.added):
        return False
    both = set(change.added) & set(change.removed)
    return not both and all(is_id(blob_id) for blob_id in change.added + change.removed)


def _pack_results(changes: Iterable[Change | str], outcomes: Iterable[Outcome]) -> bytes:
    """The answer's body. Documents in it stop at `MAX_DOCUMENTS_BODY` bytes; the feed has the rest."""
    remaining = iter(outcomes)
    results: list[ResultJson] = []
    room = MAX_DOCUMENTS_BODY
    for change in changes:
        if isinstance(change, str):
            results.append(_result(change, ChangeStatus.INVALID))
            continue
        result = _outcome_json(change.doc_id, next(remaining))
        if result["current"] is not None:
            room -= len(result["current"]["payload"])
            if room < 0:
                result["current"] = None
        results.append(result)
    return json.dumps({"results": results}, separators=(",", ":")).encode("ascii")


def _outcome_json(doc_id: str, outcome: Outcome) -> ResultJson:
    if isinstance(outcome, Accepted):
        return _result(doc_id, ChangeStatus.OK, seq=outcome.seq)
    if isinstance(outcome, Conflict):
        current = None if outcome.current is None else _document_json(outcome.current)
        return _result(doc_id, ChangeStatus.CONFLICT, current=current)
    if isinstance(outcome, Missing):
        return _result(doc_id, ChangeStatus.MISSING_BLOBS, missing=list(outcome.blob_ids))
    return _result(doc_id, ChangeStatus.OVER_QUOTA)


def _result(
    doc_id: str,
    status: ChangeStatus,
    seq: int | None = None,
    missing: list[str] | None = None,
    current: DocumentJson | None = None,
) -> ResultJson:
    return ResultJson(doc_id=doc_id, status=status, seq=seq, missing=missing or [], current=current)


# --- events -----------------------------------------------------------------------------------------------


async def show_events(request: Request) -> Response:
    """GET of a stream of events: one whenever the account's sequence has grown."""
    principal = await authorise(request, Action.READ)
    since = seq_of(request.headers.get("last-event-id", request.query_params.get("since")))
    if request.method == "HEAD":
        return Response(media_type="text/event-stream")
    service_of(request).news.require_room(principal.user_id)
    stream = _events(service_of(request), principal, since)
    return StreamingResponse(stream, media_type="text/event-stream")


async def _events(service: Service, principal: Principal, since: int) -> AsyncIterator[str]:
    user_id = principal.user_id
    with service.news.listening(user_id, principal.token_id):
        yield ": connected\n\n"
        while not service.news.closing and not service.news.is_revoked(principal.token_id):
            changed = service.news.listen(user_id)
            seq = await service.read(documents.last_seq, user_id)
            if seq != since:
                since = seq
                yield f'id: {seq}\nevent: change\ndata: {{"cursor": "{seq}"}}\n\n'
                continue
            with anyio.move_on_after(BEAT_S) as beat:
                await changed.wait()
            if beat.cancelled_caught:
                yield ": still here\n\n"
