"""`doctor`: checks of this machine, of a store, and by its mount's process; and a bundle of all that without names.

A mount that a killed process left is taken away; all else is repaired only when that was asked for. Invariant: what
goes into a bundle has no key, token, path, file name, address or name of a person or device in it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import sqlite3
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from blobfs import __version__, mountpoint
from blobfs.answers.finding import Finding
from blobfs.commands.places import mounted
from blobfs.commands.repair import look_over
from blobfs.commands.scrub import Scrubber
from blobfs.config import LOG, SECRETS, SERVER_LOG, Mount, Source
from blobfs.control import ask
from blobfs.errors import BlobfsError, FuseMissing, NotMounted, StoreError, UsageError
from blobfs.process import harden
from blobfs.screen import Bar, drawing
from blobfs.status import has_colour, paint
from blobfs.wording import printable

PROBLEM: Final = 23
"""Exit code when a check found something wrong."""
_LOOK_S: Final = 0.3
_LOG_BYTES: Final = 1 << 20
_MARKS: Final = {True: ("ok", "mounted"), False: ("problem", "trouble"), None: ("unknown", "offline")}


def doctor(options: argparse.Namespace) -> int:
    """`doctor`."""
    mount = mounted(options.dir) if options.dir is not None else None
    found = list(_machine())
    if mount is not None:
        found += _store(mount, repair=options.repair)
        with drawing(partial(_draw_progress, mount.store)) if sys.stderr.isatty() else contextlib.nullcontext():
            found += _inside(mount, options)
    healthy = all(finding.ok is not False for finding in found)
    if options.bundle is not None:
        _write_bundle(options.bundle, found, mount)
    if options.json:
        print(json.dumps({"healthy": healthy, "findings": [finding.to_json() for finding in found]}, indent=2))
    else:
        for finding in found:
            print(format_finding(finding, colour=has_colour(sys.stdout)))
    if options.bundle is not None:
        print(f"Wrote {options.bundle}; look into it before you send it.", file=sys.stderr)
    return 0 if healthy else PROBLEM


def _draw_progress(store: Path, ended: threading.Event) -> None:
    """What the mount's process checks at the moment."""
    with Bar("checking", None) as bar:
        while not ended.wait(_LOOK_S):
            with contextlib.suppress(BlobfsError):
                stage = ask(store, "doctor-stage")
                bar.begin(stage["what"], noun=stage.get("noun", "blobs"))
                bar.reach(stage["done"], stage["total"])


def format_finding(finding: Finding, *, colour: bool) -> str:
    """One line, and a second one that says what to do."""
    word, state = _MARKS[finding.ok]
    line = f"{paint(f'{word:<8}', state, colour)} {finding.name}: {printable(finding.text)}"
    lines = [line, *(f"            {printable(path)}" for path in finding.paths)]
    return "\n".join([*lines, f"         -> {printable(finding.advice)}"] if finding.advice else lines)


# --- this machine -------------------------------------------------------------------------------------------------


def _machine() -> Iterator[Finding]:
    text = f"blobfs {__version__}, Python {platform.python_version()}, Linux {platform.release()}"
    yield Finding("software", True, f"{text}, SQLite {sqlite3.sqlite_version}")
    try:
        mountpoint.check_fuse()
        yield Finding("FUSE", True, "/dev/fuse can be opened")
    except FuseMissing as error:
        yield Finding("FUSE", False, str(error), "follow what the sentence says")
    if shutil.which("fusermount3") or os.geteuid() == 0:
        yield Finding("fusermount3", True, "mounting and unmounting is possible")
    else:
        yield Finding("fusermount3", False, "the helper is missing", "install the package fuse3")


# --- the store, from outside ----------------------------------------------------------------------------------------


def _store(mount: Mount, *, repair: bool) -> Iterator[Finding]:
    if mountpoint.is_dead(mount.mountpoint):
        mountpoint.unmount(mount.mountpoint, lazy=True)
        advice = "mount it again; `blobfs log` tells how it ended"
        yield Finding("mount point", True, "what a killed process had left there was taken away", advice)
    try:
        mount.store.stat()
    except FileNotFoundError:
        yield Finding("store", False, "the store's directory is gone", "mount the disk that it is on, or restore it")
        return
    found = list(look_over(mount, repair=repair))
    if not any(finding.name == "store" for finding in found):
        yield Finding("store", True, "only this user may enter it")
    yield from found
    if not (mount.store / SECRETS).exists():
        yield Finding("keys", False, "secrets.json is missing", "copy it from a backup, or from another device's store")
    errors = sum(" ERROR " in line for line in _tail(mount.store / LOG).splitlines())
    if errors:
        yield Finding("log", None, f"{errors} errors are in the log", "`blobfs log DIR` shows them")


def _tail(path: Path) -> str:
    """The end of a log; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
            return file.read(_LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _inside(mount: Mount, options: argparse.Namespace) -> Iterator[Finding]:
    """By the process that has the store open, or, with a passphrase, by opening it here."""
    try:
        # What is sent again may be much, and shows how far it is.
        answer = ask(
            mount.store, "doctor", timeout_s=None if options.repair else 600, deep=options.deep, repair=options.repair
        )
    except NotMounted:
        yield from _unmounted(mount, options)
        return
    except BlobfsError as error:
        yield Finding("mount", False, str(error), "unmount and mount again")
        return
    running = next((str(entry["text"]) for entry in answer["findings"] if entry["name"] == "version"), "")
    if not running.endswith(f" {__version__}"):
        text = f"{running}, this command is {__version__}"
        yield Finding("version", None, text, "unmount and mount again to use the new one")
    yield from (Finding.of(entry) for entry in answer["findings"] if entry["name"] != "version")


def _unmounted(mount: Mount, options: argparse.Namespace) -> Iterator[Finding]:
    source = Source(options.passphrase_file, options.passphrase_fd)
    recovery = Source(options.recovery_file, options.recovery_fd)
    if not source and not recovery:
        advice = "mount it, or give --passphrase-file, so that the databases can be checked"
        yield Finding("databases", None, "not mounted, so locked", advice)
        return
    from blobfs.store.store import Store
    from blobfs.unlock import unlock

    harden()
    try:
        unlocked = unlock(mount.store, source, recovery)
        yield Finding("keys", True, "the passphrase opens the store")
        store = Store.open(mount.store, unlocked.keys())
    except StoreError as error:
        yield Finding("databases", False, str(error), "docs/TROUBLESHOOTING.md tells what to do")
        return
    try:
        with Bar("checking the databases", None) as bar:
            faults = store.check(bar.reach)
        if faults and options.repair:
            store.mend()
            faults, mended = store.check(), len(faults)
            yield Finding("mending", not faults, f"{mended} faults were found, {len(faults)} are left")
    finally:
        store.close()
    if faults:
        yield Finding(
            *("databases", False, f"{len(faults)} faults, the first: {faults[0]}"),
            "`--repair` makes the two databases agree; if it stays, make a bundle and report it",
        )
    else:
        yield Finding("databases", True, "documents agree with their bytes")


# --- the bundle -----------------------------------------------------------------------------------------------------


def _write_bundle(path: Path, found: list[Finding], mount: Mount | None) -> None:
    scrubber = Scrubber()
    parts = {"findings.json": json.dumps([replace(finding, paths=()).to_json() for finding in found], indent=2)}
    if mount is not None:
        scrubber.hide(os.fspath(mount.store), "STORE")
        scrubber.hide(os.fspath(mount.mountpoint), "MOUNT")
        for name in (LOG, *(f"{LOG}.{number}" for number in (1, 2, 3)), SERVER_LOG):
            if text := _tail(mount.store / name):
                parts[name] = text
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be made ({error.strerror}); name a new file in a directory that is there"
        ) from None
    with open(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as bundle:
        for name, text in parts.items():
            data = "".join(scrubber.scrub(line) for line in text.splitlines(keepends=True)).encode()
            info = tarfile.TarInfo(f"blobfs-doctor/{name}")
            info.size, info.mode, info.mtime = len(data), 0o600, int(time.time())
            bundle.addfile(info, io.BytesIO(data))
