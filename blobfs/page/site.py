"""The site: which page, picture or action answers a request, with what rights and headers.

Its data are the answers of the control socket. Invariants: without a session there is nothing but the page that says so
and the page's own style and script; what changes something comes by a form of the session; an error is a sentence.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import trio

from blobfs.control import Command
from blobfs.errors import BlobfsError, NotFound, RemoteError, UsageError
from blobfs.page import comparing, views
from blobfs.page.frame import Frame, name_of, state_line, whole
from blobfs.page.guard import Guard, Refused, Session
from blobfs.page.markup import Html, address, tag
from blobfs.page.previews import Previews
from blobfs.page.wire import Request, Response
from blobfs.values.documents import Json, name_to_text

log = logging.getLogger(__name__)

_HTML: Final = {"Content-Type": "text/html; charset=utf-8"}
_ASSETS: Final = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "page.svg": "image/svg+xml",
    "page.file.svg": "image/svg+xml",
    "page.picture.svg": "image/svg+xml",
}
_LIVE: Final = "x-live"
"""The header of what the page's script asks for by itself."""
_INNER: Final = re.compile(r"/[a-z]+/[!-~]*")
"""An address within the site."""
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # Nothing to others; to ourselves it is what makes a form say where it is from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Site:
    """The pages of one mount."""

    def __init__(self, folder: str, answers: Mapping[str, Command], previews: Previews, guard: Guard) -> None:
        """
        Args:
            folder: the mount's name, for titles.
            answers: what answers the control socket, by command.
        """
        self._folder, self._answers, self._previews, self._guard = folder, answers, previews, guard

    async def handle(self, request: Request) -> Response:
        """The answer to a request, whatever it is."""
        try:
            self._guard.check(request)
            response = await self._answer(request)
        except Refused as refused:
            response = _alone(refused.status, "No", str(refused))
        except Exception:
            log.exception("a page could not be made")
            response = _alone(500, "Something went wrong", "The log of the mount says more: `blobfs log DIR`.")
        response.headers = _HEADERS | response.headers
        return response

    async def _answer(self, request: Request) -> Response:
        if request.room in _ASSETS:
            text = resources.files("blobfs.page").joinpath(request.room).read_bytes()
            return Response(200, {"Content-Type": _ASSETS[request.room]}, text)
        if request.room == "open":
            return self._open(request)
        session = self._guard.session(request, is_idle=request.room == "state" or _LIVE in request.headers)
        if request.room == "do":
            self._guard.check_form(request, session)
            return await self._act(request, session)
        if request.method == "POST":
            raise Refused(405, "Nothing is changed there.")
        try:
            return await self._show(request, session)
        except BlobfsError as error:
            status = 404 if isinstance(error, NotFound) else 503 if isinstance(error, RemoteError) else 400
            if request.room == "raw":
                return Response(status, {"Content-Type": "text/plain; charset=utf-8"}, f"{error}.".encode())
            frame = await self._frame(request, session)
            return Response(status, dict(_HTML), views.sentence(frame, "That did not work", f"{error}."))

    def _open(self, request: Request) -> Response:
        if request.method != "GET":
            raise Refused(405, "A link is opened by following it.")
        session = self._guard.redeem(request.path)
        # A page and no redirection: the browser then asks for the next one from here, and so sends the cookie.
        body = whole("Opening", tag("p", tag("a", "Open the folder", href="/files/")), again="/files/")
        cookie = f"{self._guard.cookie}={session.key}; HttpOnly; SameSite=Strict; Path=/"
        return Response(200, _HTML | {"Set-Cookie": cookie}, body)

    # --- pages ----------------------------------------------------------------------------------------------------

    async def _ask(self, command: str, **question: Any) -> Json:
        return await self._answers[command](question)

    async def _frame(self, request: Request, session: Session, room: str = "", text: str = "") -> Frame:
        notice = "" if _LIVE in request.headers else session.notice
        session.notice = session.notice if _LIVE in request.headers else ""
        return Frame(self._folder, session.form, await self._ask("status"), notice, room, text)

    async def _show(self, request: Request, session: Session) -> Response:
        path = request.path.strip("/")
        if request.room == "raw":
            if "version" in request.query:
                return comparing.show_old(await comparing.read_old(self._ask, path, _number(request.query)))
            return await self._previews.show(path, request)
        if request.room == "state":
            status = await self._ask("status")
            told = {"state": status["state"], "line": state_line(status), "busy": bool(status["pending"]["documents"])}
            body = json.dumps(told).encode()
            return Response(200, {"Content-Type": "application/json"}, body)
        pages = {
            "": self._files,
            "files": self._files,
            "versions": self._versions,
            "version": self._version,
            "waiting": self._waiting,
            "conflicts": self._conflicts,
            "conflict": self._conflict,
            "trash": self._trash,
            "search": self._search,
        }
        page = pages.get(request.room)
        if page is None:
            raise NotFound("there is no such page")
        return Response(200, dict(_HTML), await page(request, session, path))

    async def _files(self, request: Request, session: Session, path: str) -> bytes:
        about = await self._ask("file", path=path)
        if about["kind"] != "directory":
            return views.file(await self._frame(request, session, "files"), path, about)
        listing = await self._ask("list", path=path, **_from(request))
        return views.folder(await self._frame(request, session, "files"), path, about, listing)

    async def _versions(self, request: Request, session: Session, path: str) -> bytes:
        answer = await self._ask("versions", path=path, **_from(request))
        return views.versions(await self._frame(request, session), path, answer)

    async def _version(self, request: Request, session: Session, path: str) -> bytes:
        number = _number(request.query)
        old = await comparing.read_old(self._ask, path, number)
        changes = await self._difference(comparing.as_text(*old), path)
        return views.version(await self._frame(request, session), path, number, old.size, changes)

    async def _difference(self, old: list[str] | None, path: str) -> Html:
        """From a text to the one that a file has."""
        new = comparing.as_text(*await self._previews.beginning(path, comparing.LONGEST))
        return await trio.to_thread.run_sync(comparing.difference, old, new)

    async def _waiting(self, request: Request, session: Session, path: str) -> bytes:
        about, aside = await self._ask("file", path=""), await self._ask("aside")
        return views.waiting(await self._frame(request, session, "waiting"), about, aside)

    async def _conflicts(self, request: Request, session: Session, path: str) -> bytes:
        answer = await self._ask("conflicts", path="", **_from(request))
        return views.conflicts(await self._frame(request, session, "conflicts"), answer)

    async def _conflict(self, request: Request, session: Session, path: str) -> bytes:
        copy, pair = await self._ask("file", path=path), await self._ask("pair", path=path)
        original = None if pair["original"] is None else await self._ask("file", path=pair["original"])
        changes = None
        if original is not None and original["kind"] == copy["kind"] == "file":
            beginning = await self._previews.beginning(pair["original"], comparing.LONGEST)
            changes = await self._difference(comparing.as_text(*beginning), path)
        return views.conflict(await self._frame(request, session, "conflicts"), path, copy, original, changes)

    async def _trash(self, request: Request, session: Session, path: str) -> bytes:
        return views.trash(await self._frame(request, session, "trash"), await self._ask("trash", **_from(request)))

    async def _search(self, request: Request, session: Session, path: str) -> bytes:
        text = request.query.get("q", "")
        answer = await self._ask("search", text=text, **_from(request))
        return views.search(await self._frame(request, session, text=text), answer)

    # --- actions --------------------------------------------------------------------------------------------------

    async def _act(self, request: Request, session: Session) -> Response:
        form = {name: name_to_text(unquote_to_bytes(value)) for name, value in request.form.items() if name != "form"}
        path = form.get("path", "")
        if request.path == "end":
            self._guard.close(session)
            return _alone(200, "Closed", "This page has ended. `blobfs browse` opens another one.")
        try:
            session.notice, back = await self._do(request.path, path, form)
        except BlobfsError as error:
            # Nothing was done: the person sees why where they were.
            session.notice, back = f"That did not work: {error}.", _here(request, self._guard.origin)
        return Response(303, {"Location": back})

    async def _do(self, action: str, path: str, form: Mapping[str, str]) -> tuple[str, str]:
        """What was done, in words, and the page that shows it."""
        if action == "pin":
            missing = (await self._ask("pin", path=path))["missing"]
            return "It stays here." if not missing else "It stays here; what is missing is on its way.", _at(path)
        if action == "unpin":
            await self._ask("unpin", path=path)
            return "It may go again when room is needed.", _at(path)
        if action == "evict":
            gone = await self._ask("evict", path=path)
            kept = "; what is pinned or not on the server yet stays" if gone["pinned"] or gone["dirty"] else ""
            return f"The bytes of {gone['evicted']} of {gone['files']} files are on the server only now{kept}.", _at(
                path
            )
        if action == "sync":
            await self._ask("sync")
            return "What waits is being sent.", _at(path)
        if action == "restore":
            await self._ask("restore", path=path, version=_number(form))
            return "That version is the newest one now.", _at(path)
        if action == "undelete":
            answer = await self._ask("undelete", doc_id=form.get("doc_id", ""))
            restored = answer["restored"]
            older = " The server does not show the version that was deleted: an older one came." * bool(answer["older"])
            return f"{name_of(restored[0])} is back.{older}", _at(restored[0].rpartition("/")[0])
        if action == "resolve":
            stays = await self._ask("resolve", path=path, keep=form.get("keep"))
            return "The conflict is resolved.", _at(stays["path"])
        raise UsageError("there is no such action")


def _at(path: str) -> str:
    return address("files", path)


def _here(request: Request, origin: str) -> str:
    """The page that a form was on, by what the browser says; never another site's."""
    page = request.headers.get("referer", "")
    inner = page.removeprefix(origin)
    return inner if page.startswith(origin) and _INNER.fullmatch(inner) else "/files/"


def _number(form: Mapping[str, str]) -> int:
    text = form.get("version", "")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise UsageError("there is no such version")
    return int(text)


def _from(request: Request) -> dict[str, int]:
    text = request.query.get("from", "")
    return {"from": int(text)} if text.isascii() and text.isdigit() and len(text) < 10 else {}


def _alone(status: int, title: str, text: str) -> Response:
    return Response(status, dict(_HTML), whole(title, tag("main", tag("h1", title), tag("p", text, role="alert"))))
