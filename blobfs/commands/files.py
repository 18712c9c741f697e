"""`status PATH`, `conflicts`, `pin`, `unpin`, `evict`, `cp`: questions about files to the process that holds them."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from blobfs.commands.places import Place, inside, place
from blobfs.errors import (
    BlobfsError,
    InvalidArgument,
    IsADirectory,
    NotFound,
    NotMounted,
    RemoteUnavailable,
    UsageError,
)
from blobfs.screen import Bar, passing
from blobfs.status import has_colour, paint
from blobfs.values.documents import Json
from blobfs.wording import counted, format_bytes, format_date, format_time, printable

_POLL_S: Final = 0.2
_PATIENCE_S: Final = 30
"""Seconds without a byte, after which waiting for pinned files ends."""


# --- status -------------------------------------------------------------------------------------------------------


def show(found: Place, *, as_json: bool) -> str:
    """The state of one file or folder."""
    body = found.ask("file")
    body["path"] = os.fspath(found.path)
    return json.dumps(body, indent=2) if as_json else format_state(body, colour=has_colour(sys.stdout))


def format_state(body: Json, *, colour: bool = False, now_s: float | None = None) -> str:
    """Some lines about one file or folder."""
    folder = body["kind"] == "directory"
    state = paint(body["state"], "mounted" if body["synced"] else "offline", colour)
    lines = [f"{printable(body['path'])}: {state}{_elsewhere(body)}"]
    if folder:
        files, folders = counted(body["files"], "file"), counted(body["folders"], "folder")
        lines.append(f"  holds    {files} in {folders}, {format_bytes(body['size'])}")
        lines.append(f"  here     {format_bytes(body['here'])}, {counted(body['files_here'], 'file')} whole")
    else:
        lines.append(f"  size     {format_bytes(body['size'])}, {format_bytes(body['here'])} of it here")
        if body["unsent"]:
            lines.append(f"  unsent   {format_bytes(body['unsent'])}")
        if body["open"]:
            lines.append("  open     a program has it open")
    if body["pinned"]:
        lines.append(f"  pinned   {'itself' if body['pinned_itself'] else 'by a folder above'}")
    if body["since"] is not None:
        age_s = (now_s or time.time()) - body["since"]
        lines.append(f"  waits    since {format_date(body['since'])}, {format_time(age_s)}")
        # What to do about it is what comes next.
        lines.append(f"  why      {printable(body['reason'].partition(';')[0])}")
        lines.append(f"  next     {printable(body['next'])}")
    if folder and body.get("conflicts"):
        copies = "1 copy" if body["conflicts"] == 1 else f"{body['conflicts']} copies"
        lines.append(f"  conflict {copies} in it; `blobfs conflicts {printable(body['path'])}` lists what to settle")
    if folder and body["waiting"]:
        lines.append(f"  waiting  {counted(body['waiting'], 'document')}, such as")
        lines += [
            f"           {printable(entry['path'] or '.')}: {printable(entry['reason'])}"
            for entry in body["waiting_files"]
        ]
    return "\n".join(lines)


def _elsewhere(body: Json) -> str:
    return ", on the server" if body["synced"] and body["state"] != "server only" else ""


def conflicts(options: argparse.Namespace) -> int:
    """`conflicts`: a line for each copy; with --keep, one is settled."""
    if options.keep is not None:
        return _settle(inside(options.path), options.keep)
    found = place(options.path)
    entries = list(found.list("conflicts"))
    if options.json:
        print(json.dumps([entry | {"path": os.fspath(found.mount.mountpoint / entry["path"])} for entry in entries]))
        return 0
    for entry in entries:
        path = printable(os.fspath(found.mount.mountpoint / entry["path"]))
        print(f"{format_date(entry['mtime'])}  {format_bytes(entry['size']):>10}  {path}")
    if not entries:
        print("there are no conflict copies")
    return 0


def _settle(copy: Place, keep: str) -> int:
    stays = copy.ask("resolve", keep="original" if keep == "file" else keep)["path"]
    path = printable(os.fspath(copy.mount.mountpoint / stays))
    told = {
        "file": f"Kept {path} as it is; the copy is in the trash.",
        "copy": f"{path} has the content of the copy; what it was is in the trash, or a version.",
        "both": f"Kept both; the copy is {path} now.",
    }
    print(told[keep])
    return 0


# --- what stays here --------------------------------------------------------------------------------------------------


def pin(options: argparse.Namespace) -> int:
    """`pin`: files and folders stay here, and come."""
    if options.list is not None:
        found = place(options.list)
        for entry in found.list("pins"):
            path = os.fspath(found.mount.mountpoint / entry["path"])
            print(printable(path) + ("/" if entry["kind"] == "directory" else ""))
        return 0
    places = [place(path) for path in _paths(options)]
    wanted: list[int] = []
    for found in places:
        answer = found.ask("pin", match=options.match)
        missing = f", {format_bytes(answer['missing'])} on the way" if answer["missing"] else ", all of it is here"
        wanted.append(answer["missing"])
        print(f"Pinned {printable(os.fspath(found.path))}: {counted(answer['files'], 'file')}{missing}.")
    if options.wait:
        for found, absent in zip(places, wanted, strict=True):
            _wait_until_here(found, options.match, absent)
    return 0


def _wait_until_here(found: Place, pattern: str | None, missing: int) -> None:
    """Raises RemoteUnavailable: nothing came for some time."""
    moved = time.monotonic()
    with Bar(f"fetching {printable(found.path.name)}", missing) as bar:
        while missing:
            time.sleep(_POLL_S)
            before, missing = missing, found.ask("pin", match=pattern)["missing"]
            bar.advance(before - missing)
            if missing != before:
                moved = time.monotonic()
            elif time.monotonic() - moved > _PATIENCE_S:
                reason = found.ask("status")["reason"] or "nothing came from the server for some time"
                raise RemoteUnavailable(f"{reason}; what is pinned comes when the server sends it")


def unpin(options: argparse.Namespace) -> int:
    """`unpin`."""
    for path in _paths(options):
        found = place(path)
        answer = found.ask("unpin", match=options.match)
        still = "; a folder above it is pinned" if answer["still"] else ""
        print(f"Unpinned {answer['unpinned']} of {printable(os.fspath(found.path))}{still}.")
    return 0


def evict(options: argparse.Namespace) -> int:
    """`evict`: local bytes go that the server has confirmed."""
    for path in _paths(options):
        found = place(path)
        answer = found.ask("evict", match=options.match)
        kept = [f"{answer[what]} kept, being {text}" for what, text in _KEPT.items() if answer[what]]
        told = f"{format_bytes(answer['freed'])} of {counted(answer['evicted'], 'file')}"
        print("; ".join([f"Evicted {told} in {printable(os.fspath(found.path))}", *kept]) + ".")
    return 0


_KEPT: Final = {"pinned": "pinned", "dirty": "not on the server yet"}


def _paths(options: argparse.Namespace) -> list[Path]:
    if not options.paths:
        raise UsageError("name a file or folder in a mount")
    return list(options.paths)


# --- cp ---------------------------------------------------------------------------------------------------------------


def copy(options: argparse.Namespace) -> int:
    """`cp`: within a mount, without sending or fetching a byte."""
    source, target = inside(options.source), options.target
    if os.path.isdir(target):
        target = Path(target) / source.path.name
    aim = inside(target)
    if aim.mount.store != source.mount.store:
        raise UsageError("both have to be in the same mount; from one mount to another, use `cp`")
    if not os.path.lexists(source.path):
        raise NotFound(f"there is no {source.path}")
    if source.path.is_dir() and not source.path.is_symlink():
        if not options.recursive:
            raise IsADirectory(f"{source.path} is a folder; give -r to copy all in it")
        if source.path == aim.path or source.path in aim.path.parents:
            raise InvalidArgument("a folder cannot be copied into itself")
        with passing("counting what there is to copy"):
            count = sum(len(found) for _, _, found in os.walk(source.path))
        with Bar("copying", count, noun="files") as bar:
            return _copy_folder(source, aim, bar)
    return _copy_one(source, aim)


def _copy_one(source: Place, aim: Place) -> int:
    if source.path.is_symlink():
        os.symlink(os.readlink(source.path), aim.path)
    else:
        source.ask("copy", target=aim.inner)
    return 0


def _copy_folder(source: Place, aim: Place, bar: Bar) -> int:
    os.mkdir(aim.path, source.path.stat().st_mode & 0o7777)
    worst: BlobfsError | None = None
    for entry in sorted(os.scandir(source.path), key=lambda entry: entry.name):
        inner = Place(source.mount, f"{source.inner}/{entry.name}")
        to = Place(aim.mount, f"{aim.inner}/{entry.name}")
        try:
            if entry.is_dir(follow_symlinks=False):
                _copy_folder(inner, to, bar)
            else:
                _copy_one(inner, to)
                bar.advance(1)
        except NotMounted:
            raise
        except BlobfsError as error:
            bar.say(f"blobfs: {printable(os.fspath(inner.path))}: {printable(str(error))}")
            worst = error
    if worst is not None:
        raise worst
    return 0
