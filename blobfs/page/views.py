"""The pages: answers of the control socket, drawn. Pure.

Invariant: nothing is fetched by being listed; a preview of what is not here is asked for on the page of that file.
"""

from __future__ import annotations

from typing import Final

from blobfs.page.frame import Frame, badge, button, crumbs, draw, moment, name_of, pages, table
from blobfs.page.markup import Child, Html, address, tag
from blobfs.page.previews import PICTURE, THUMBNAIL
from blobfs.values.documents import Json
from blobfs.wording import format_bytes

_PICTURES: Final = (".png", ".jpg", ".jpeg", ".gif", ".webp")


def folder(frame: Frame, path: str, about: Json, listing: Json) -> bytes:
    """A folder."""
    rows = [_row(f"{path}/{entry['name']}".lstrip("/"), entry) for entry in listing["entries"]]
    shown = table(("Name", "State", "Size", "Changed"), rows, "Files") if rows else tag("p", "This folder is empty.")
    return draw(
        frame,
        name_of(path) or "Files",
        crumbs(frame.folder, path),
        tag("div", _keeping(frame, path, about, "folder"), class_="actions"),
        tag("div", shown, id="list", data_live=address("files", path) if listing["next"] is None else None),
        pages("files", path, listing),
    )


def _row(path: str, entry: Json) -> Html:
    is_folder = entry["kind"] == "directory"
    marks: list[Child] = [tag("span", "pinned", class_="badge pin")] if entry["pinned"] else []
    marks += [tag("span", "conflict", class_="badge waits")] if entry.get("conflict") else []
    name = tag("bdi", entry["name"] + ("/" if is_folder else ""))
    return tag(
        "tr",
        tag("td", _icon(path, entry), tag("a", name, href=address("files", path)), class_="file"),
        tag("td", badge(entry), marks),
        tag("td", "" if is_folder else format_bytes(entry["size"]), class_="number"),
        tag("td", moment(entry["mtime"]), class_="when"),
    )


def _icon(path: str, entry: Json) -> Html:
    if entry["kind"] == "directory":
        return tag("span", class_="icon folder")
    light = entry.get("local") and entry.get("size", 0) <= THUMBNAIL
    if light and entry["size"] and path.lower().endswith(_PICTURES):
        source = address("raw", path, small=1)
        return tag("img", src=source, alt="", loading="lazy", decoding="async", class_="icon", width=32, height=32)
    return tag("span", class_="icon picture" if path.lower().endswith(_PICTURES) else "icon")


def _keeping(frame: Frame, path: str, about: Json, noun: str) -> list[Child]:
    """What can be done with a file or folder as far as its bytes on this device go."""
    made: list[Child] = []
    if about["pinned_itself"]:
        made.append(button(frame, "unpin", "Unpin", path=path))
    elif about["pinned"]:
        made.append(tag("span", "Kept here by a folder above", class_="hint"))
    else:
        made.append(button(frame, "pin", f"Keep this {noun} here", path=path))
    if not about["pinned"] and about.get("here"):
        made.append(button(frame, "evict", "Free its room here", path=path))
    return [*made, button(frame, "sync", "Sync now", path=path)]


def file(frame: Frame, path: str, about: Json) -> bytes:
    """A file, with its preview."""
    facts = [
        ("Size", f"{format_bytes(about['size'])}, {format_bytes(about['here'])} of it here"),
        ("Changed", moment(about["mtime"])),
        ("On the server", "yes" if about["synced"] else "not as it is now"),
    ]
    if about["since"] is not None:
        facts += [("Waits since", moment(about["since"])), ("Why", about["reason"]), ("Next", about["next"])]
    return draw(
        frame,
        name_of(path),
        crumbs(frame.folder, path),
        tag("p", badge(about), tag("span", "pinned", class_="badge pin") if about["pinned"] else None),
        preview(path, about),
        tag("dl", [[tag("dt", name), tag("dd", value)] for name, value in facts]),
        tag(
            "div",
            _keeping(frame, path, about, "file"),
            tag("a", "Versions", href=address("versions", path), class_="button"),
            class_="actions",
        ),
    )


def preview(path: str, about: Json, **query: int) -> Html:
    """A picture, or text that the page's script puts in; without it, a link to the same bytes."""
    source = address("raw", path, **query)
    if about["kind"] != "file" or not about["size"]:
        return tag("p", "There is nothing in it." if about["kind"] == "file" else "This is no ordinary file.")
    if path.lower().endswith(_PICTURES) and about["size"] <= PICTURE:
        picture = tag("img", src=source, alt=f"Preview of {name_of(path)}", decoding="async")
        return tag("figure", tag("a", picture, href=source), class_="preview")
    return tag(
        "figure",
        tag("a", "Show the beginning as text", href=source),
        tag("pre", tabindex=0, hidden=True, aria_label="The beginning of the file"),
        class_="preview",
        data_text=source,
    )


def versions(frame: Frame, path: str, answer: Json) -> bytes:
    """What a file was before."""
    rows = [
        tag(
            "tr",
            tag("td", _version_link(path, entry)),
            tag("td", moment(entry["mtime"])),
            tag("td", "deleted" if entry["deleted"] else format_bytes(entry["size"] or 0), class_="number"),
            tag("td", tag("bdi", ", ".join(entry["names"]))),
            tag(
                "td",
                tag("span", "as it is now", class_="hint")
                if entry["current"]
                else None
                if entry["deleted"]
                else button(frame, "restore", "Restore", path=path, version=entry["version"]),
            ),
        )
        for entry in answer["entries"]
    ]
    return draw(
        frame,
        f"Versions of {name_of(path)}",
        crumbs(frame.folder, path),
        tag("h1", "Versions"),
        tag("p", "Restoring one makes it the newest; what the file is now stays a version.", class_="hint"),
        table(("Version", "Changed", "Size", "Name", ""), rows, "Versions")
        if rows
        else tag("p", "There are none yet."),
        pages("versions", path, answer),
    )


def _version_link(path: str, entry: Json) -> Child:
    if entry["deleted"] or entry["current"]:
        return str(entry["version"])
    return tag("a", f"Version {entry['version']}", href=address("version", path, version=entry["version"]))


def version(frame: Frame, path: str, number: int, size: int, changes: Html) -> bytes:
    """An earlier version: its preview, and what has changed since."""
    return draw(
        frame,
        f"Version {number} of {name_of(path)}",
        crumbs(frame.folder, path),
        tag("h1", f"Version {number}"),
        tag("p", f"{format_bytes(size)} ", tag("a", "All versions", href=address("versions", path))),
        tag("div", button(frame, "restore", "Restore", path=path, version=number), class_="actions"),
        preview(path, {"kind": "file", "size": size}, version=number),
        tag("h2", "From then to now"),
        changes,
    )


def waiting(frame: Frame, about: Json, aside: Json) -> bytes:
    """What the server does not have yet, and what was put aside."""
    rows = [
        tag(
            "tr",
            tag("td", tag("a", tag("bdi", entry["path"] or frame.folder), href=address("files", entry["path"]))),
            tag("td", tag("span", entry["state"], class_="badge waits")),
            tag("td", moment(entry["since"])),
            tag("td", entry["reason"], tag("br"), tag("span", entry["next"], class_="hint")),
        )
        for entry in about["waiting_files"]
    ]
    more = about["waiting"] - len(rows)
    put_aside = [
        tag(
            "tr",
            tag("td", tag("bdi", entry["doc_id"] if entry["path"] is None else entry["path"])),
            tag("td", moment(entry["since"])),
            tag("td", entry["reason"]),
        )
        for entry in aside["entries"]
    ]
    return draw(
        frame,
        "Waiting",
        tag("h1", "Waiting for the server"),
        table(("File", "State", "Since", "Why, and what is next"), rows, "Waiting")
        if rows
        else tag("p", "Nothing waits: everything is on the server."),
        tag("p", f"and {more} more", class_="hint") if more > 0 else None,
        [tag("h2", "Put aside"), table(("File", "Since", "Why"), put_aside, "Put aside")] if put_aside else None,
        tag("div", button(frame, "sync", "Sync now", path=""), class_="actions"),
    )


def conflicts(frame: Frame, answer: Json) -> bytes:
    """The conflict copies."""
    rows = [
        tag(
            "tr",
            tag("td", tag("a", tag("bdi", entry["path"]), href=address("conflict", entry["path"]))),
            tag("td", format_bytes(entry["size"]), class_="number"),
            tag("td", moment(entry["mtime"])),
        )
        for entry in answer["entries"]
    ]
    body = (
        table(("Copy", "Size", "Changed"), rows, "Conflict copies")
        if rows
        else tag("p", "There are no conflict copies.")
    )
    return draw(frame, "Conflicts", tag("h1", "Conflicts"), body, pages("conflicts", "", answer))


def conflict(frame: Frame, path: str, copy: Json, original: Json | None, changes: Html | None) -> bytes:
    """A file and a copy that a conflict made of it, side by side, and `changes` from the one to the other."""
    sides = [] if original is None else [_side(frame, path, original, "original", "The file", "Keep this one")]
    sides.append(_side(frame, path, copy, "copy", "The copy", "Keep this one" if original else "Keep it"))
    hint = "What is not kept stays in the trash, or as a version, for as long as the server keeps such."
    return draw(
        frame,
        "Conflict",
        crumbs(frame.folder, path),
        tag("h1", "Which one stays?"),
        tag("div", sides, class_="sides"),
        tag(
            "div", button(frame, "resolve", "Keep both", path=path, keep="both") if original else None, class_="actions"
        ),
        tag("p", hint, class_="hint"),
        [tag("h2", "From the file to the copy"), changes] if changes is not None else None,
    )


def _side(frame: Frame, path: str, about: Json, keep: str, title: str, text: str) -> Html:
    return tag(
        "section",
        tag("h2", title),
        tag("p", tag("a", tag("bdi", name_of(about["path"])), href=address("files", about["path"]))),
        tag("p", format_bytes(about["size"]), ", changed ", moment(about["mtime"]), " ", badge(about)),
        button(frame, "resolve", text, path=path, keep=keep),
        preview(about["path"], about),
    )


def trash(frame: Frame, answer: Json) -> bytes:
    """What was deleted."""
    rows = [
        tag(
            "tr",
            tag("td", tag("bdi", entry["path"] + ("/" if entry["kind"] == "directory" else ""))),
            tag("td", moment(entry["deleted"])),
            tag("td", button(frame, "undelete", "Bring back", doc_id=entry["doc_id"])),
        )
        for entry in answer["entries"]
    ]
    body = table(("Name", "Deleted", ""), rows, "Trash") if rows else tag("p", "The trash is empty.")
    return draw(frame, "Trash", tag("h1", "Trash"), body, pages("trash", "", answer))


def search(frame: Frame, answer: Json) -> bytes:
    """What has a name like that."""
    rows = [
        tag(
            "tr",
            tag(
                "td",
                tag(
                    "a",
                    tag("bdi", entry["path"] + ("/" if entry["kind"] == "directory" else "")),
                    href=address("files", entry["path"]),
                ),
            ),
            tag("td", format_bytes(entry["size"]) if entry["kind"] == "file" else "", class_="number"),
            tag("td", moment(entry["mtime"])),
        )
        for entry in answer["entries"]
    ]
    found = f"{answer['total']} found" if answer["total"] else "Nothing has such a name."
    return draw(
        frame,
        "Search",
        tag("h1", "Search"),
        tag("p", found, role="status"),
        table(("Name", "Size", "Changed"), rows, "Found") if rows else None,
        pages("search", "", answer, q=frame.text),
    )


def sentence(frame: Frame, title: str, text: str) -> bytes:
    """A page that says one thing."""
    back: Child = tag("p", tag("a", "Back to the files", href="/files/"))
    return draw(frame, title, tag("h1", title), tag("p", text, role="alert"), back)
