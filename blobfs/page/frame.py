"""What every page has around it, and the small things that stand on several: forms, states, sizes, paths. Pure.

Invariant: whatever changes something is a form with the session's secret in it, sent by POST.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from blobfs.page.markup import Child, Html, address, join, quoted, tag
from blobfs.values.documents import Json
from blobfs.wording import format_bytes

_ROOMS: Final = (("files", "Files"), ("waiting", "Waiting"), ("conflicts", "Conflicts"), ("trash", "Trash"))


@dataclass(frozen=True, slots=True)
class Frame:
    """What is around a page."""

    folder: str
    """The name of the mount."""
    form: str
    """The session's secret."""
    status: Json
    """As the control socket answers."""
    notice: str = ""
    here: str = ""
    """The room, for the menu."""
    text: str = ""
    """What was searched for."""


def draw(frame: Frame, title: str, *body: Child) -> bytes:
    """A whole page."""
    menu = [
        tag("a", text, href=f"/{room}/", aria_current="page" if room == frame.here else None) for room, text in _ROOMS
    ]
    search = tag(
        "form",
        tag("input", type="search", name="q", value=frame.text, placeholder="Search names", aria_label="Search names"),
        tag("button", "Search"),
        action="/search/",
        role="search",
        id="search",
    )
    head = tag(
        "header",
        tag("a", "Skip to the content", href="#main", class_="skip"),
        tag("a", tag("strong", tag("bdi", frame.folder)), href="/files/", class_="name"),
        tag("nav", menu, aria_label="Rooms"),
        search,
        button(frame, "end", "Close this page", quiet=True),
    )
    notice = tag("p", frame.notice, role="status", id="notice") if frame.notice else None
    state = tag("p", state_line(frame.status), id="state", role="status", data_state=str(frame.status["state"]))
    return whole(f"{title} - {frame.folder}", head, state, tag("main", notice, body, id="main", tabindex=-1))


def whole(title: str, *body: Child, again: str | None = None) -> bytes:
    """A page with nothing around it. `again`: where the browser goes from it at once."""
    refresh = tag("meta", http_equiv="refresh", content=f"0;url={again}") if again else None
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        refresh,
        tag("title", title),
        tag("link", rel="stylesheet", href="/page.css"),
        tag("link", rel="icon", href="/page.svg", type="image/svg+xml"),
        tag("script", src="/page.js", defer=True),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', body), lang='en')}\n".encode("utf-8", "replace")


def button(
    frame: Frame, action: str, text: Child, *, path: str | None = None, quiet: bool = False, **fields: str | int
) -> Html:
    """A form of one button."""
    hidden = {"form": frame.form} | ({} if path is None else {"path": path}) | fields
    inputs = [tag("input", type="hidden", name=name, value=quoted(str(value))) for name, value in hidden.items()]
    return tag(
        "form",
        inputs,
        tag("button", text, class_="quiet" if quiet else None),
        method="post",
        action=f"/do/{action}",
    )


def state_line(status: Json) -> str:
    """How it stands with the server, in words."""
    pending = status["pending"]
    count = pending["documents"] or 0
    waits = f"{count} waiting ({format_bytes(pending['bytes'] or 0)})" if count else "everything is on the server"
    state = "Connected" if status["state"] == "mounted" else str(status["state"]).capitalize()
    moving = f", {len(status['transfers'])} on the way" if status["transfers"] else ""
    aside = f", {len(status['parked'])} put aside" if status["parked"] else ""
    return f"{state} · {waits}{moving}{aside}" + (f" · {status['reason']}" if status["reason"] else "")


def badge(entry: Json) -> Html:
    """Where a file's bytes are, and whether the server has them."""
    if entry.get("dirty"):
        return tag("span", entry.get("state") or "waiting", class_="badge waits", title=entry.get("reason"))
    state = entry.get("state")
    if state is None:
        return Html("")
    kind = {"here": "here", "server only": "away"}.get(str(state), "part")
    return tag("span", state, class_=f"badge {kind}")


def name_of(path: str) -> str:
    """The last name of a path."""
    return path.rstrip("/").rpartition("/")[2]


def crumbs(folder: str, path: str) -> Html:
    """The folders that a path is in, each a link; the last one is where one is."""
    parts = [part for part in path.split("/") if part]
    links = [(folder, "")] + [(part, "/".join(parts[: number + 1])) for number, part in enumerate(parts)]
    shown: list[Html] = []
    for number, (name, inner) in enumerate(links):
        last = number == len(links) - 1
        shown.append(tag("li", tag("bdi", name) if last else tag("a", tag("bdi", name), href=address("files", inner))))
    return tag("nav", tag("ol", shown), class_="crumbs", aria_label="Folders")


def moment(seconds: float) -> Html:
    """A time, in local time."""
    try:
        local = time.localtime(seconds)
    except (OverflowError, ValueError, OSError):
        return join("unknown")
    return tag("time", time.strftime("%Y-%m-%d %H:%M", local), datetime=time.strftime("%Y-%m-%dT%H:%M:%S%z", local))


def table(heads: tuple[str, ...], rows: list[Html], label: str) -> Html:
    """Rows under their heads."""
    head = tag("thead", tag("tr", [tag("th", text, scope="col") for text in heads]))
    return tag("table", head, tag("tbody", rows), aria_label=label)


def pages(room: str, path: str, answer: Json, **query: str | int) -> Html | None:
    """A link to the next page of a long list."""
    if answer["next"] is None:
        return None
    target = address(room, path, **query | {"from": answer["next"]})
    return tag("p", tag("a", "More", href=target, rel="next"), class_="more")
