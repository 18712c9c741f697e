"""`versions`, `restore`, `trash`: what the server still keeps of what was."""

from __future__ import annotations

import argparse
import base64
import json
import os
from pathlib import Path

from blobfs.commands.places import Place, inside, place
from blobfs.errors import NotFound, UsageError
from blobfs.screen import Bar
from blobfs.values.documents import Json
from blobfs.values.extents import EXTENT
from blobfs.wording import format_bytes, format_date, printable

_OLDER = "; the server does not show the version that was deleted: this is an older one"


def versions(options: argparse.Namespace) -> int:
    """`versions`: list them, or save one."""
    found = inside(options.path)
    if (options.version is None) != (options.output is None):
        raise UsageError("give both --version and --output to save a version, or neither to list them")
    if options.output is not None:
        return _save(found, options.version, options.output)
    entries = list(found.list("versions"))
    if options.json:
        print(json.dumps(entries, indent=2))
        return 0
    for entry in entries:
        print(_line(entry))
    return 0


def _line(entry: Json) -> str:
    size = "-" if entry["size"] is None else format_bytes(entry["size"])
    what = "deleted" if entry["deleted"] else "present" if entry["current"] else ""
    return f"{entry['version']:>8}  {format_date(entry['mtime'])}  {size:>10}  {what}".rstrip()


def _save(found: Place, version: int, output: Path) -> int:
    first = found.ask("read-version", version=version, index=0, timeout_s=None)
    total = first["total"]
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file, Bar(f"saving {printable(output.name)}", total) as bar:
            for index in range(-(-total // EXTENT)):
                answer = first if index == 0 else _extent(found, version, index)
                length = min(EXTENT, total - index * EXTENT)
                if not answer["hole"]:
                    file.seek(index * EXTENT)
                    file.write(base64.b64decode(answer["data"])[:length])
                bar.advance(length)
            file.truncate(total)
    except BaseException:
        output.unlink()
        raise
    print(f"Saved version {version}, {format_bytes(total)}, as {printable(os.fspath(output))}.")
    return 0


def _extent(found: Place, version: int, index: int) -> Json:
    return found.ask("read-version", version=version, index=index, timeout_s=None)


def restore(options: argparse.Namespace) -> int:
    """`restore`: an earlier version becomes the present one."""
    found = inside(options.path)
    answer = found.ask("restore", version=options.version)
    print(
        f"{printable(os.fspath(found.path))} is version {options.version} again, of "
        f"{format_date(answer['mtime'])}, {format_bytes(answer['size'])}. What it was stays a version."
    )
    return 0


def trash(options: argparse.Namespace) -> int:
    """`trash`: list what was deleted, or bring some back."""
    found = place(options.dir)
    entries = list(found.list("trash"))
    if options.restore:
        return _undelete(found, entries, options.names)
    if options.json:
        print(json.dumps(entries, indent=2))
        return 0
    for entry in entries:
        path = printable(entry["path"]) + ("/" if entry["kind"] == "directory" else "")
        print(f"{entry['doc_id']}  {format_date(entry['deleted'])}  {path}")
    if not entries:
        print("the trash is empty")
    return 0


def _undelete(found: Place, entries: list[Json], names: list[str]) -> int:
    if not names:
        raise UsageError("name what is to come back, by its path or id as `blobfs trash DIR` shows it")
    for name in names:
        wanted = [entry for entry in entries if name.rstrip("/") in (entry["path"], entry["doc_id"])]
        if not wanted:
            raise NotFound("there is no such file in the trash; `blobfs trash DIR` lists what is")
        if len(wanted) > 1:
            raise UsageError("several deleted files had that path; name one by its id")
        answer = found.ask("undelete", doc_id=wanted[0]["doc_id"], timeout_s=None)
        for path in answer["restored"]:
            older = _OLDER if path in answer["older"] else ""
            print(f"Restored {printable(os.fspath(found.mount.mountpoint / path))}{older}.")
    return 0
