"""`mount`, `status`, `sync`, `umount`, `lock`, `passwd`: arguments to a Config, answers to lines.

What opens a store is imported only by the commands that open one: scripts and prompts ask for the status all the time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Final

from blobfs.commands import files
from blobfs.commands.places import find_place, mounted
from blobfs.config import (
    GUESS_S,
    Config,
    Mount,
    Source,
    choose_store,
    default_store,
    recall_all,
    recall_around,
    resolve,
)
from blobfs.control import ask
from blobfs.errors import BlobfsError, UsageError
from blobfs.outside import look
from blobfs.outside import umount as end
from blobfs.screen import Bar, FilesBar, drawing, watch
from blobfs.status import format_pending, format_status, from_json, has_colour

_LOOK_S: Final = 0.5
"""Between two looks at what waits."""


def mount(options: argparse.Namespace) -> int:
    """`mount`."""
    from blobfs import mounting

    point = resolve(options.dir)
    if options.pin is not None and options.connect is None:
        raise UsageError("--pin goes with --connect INVITE; leave it out")
    config = Config(
        mountpoint=point,
        store=choose_store(point, options.store),
        passphrase=_source(options, "passphrase"),
        recovery=_source(options, "recovery"),
        connect=options.connect,
        pin=options.pin,
        device_name=_checked_name(options.device_name),
        background=options.background,
        allow_other=options.allow_other,
        read_only=options.read_only,
        keyring=options.keyring,
        words_check=options.words_check,
        passphrase_at_server=options.passphrase_at_server,
        lock_after=options.lock_after,
        guess_s=_guess_s(options),
        handover=options.handover,
        heal=options.heal,
        is_healing=options.healing,
    )
    return mounting.mount(config)


def _checked_name(name: str | None) -> str | None:
    if name is None:
        return None
    from blobfs.answers.options import parse_name  # brings the engine with it

    return parse_name(name)


def status(options: argparse.Namespace) -> int:
    """`status [PATH]`."""
    found = find_place(options.dir) if options.dir is not None else None
    show = _show_mounts if found is None or not found.inner else lambda options: files.show(found, as_json=options.json)
    if options.watch:
        return watch(lambda: show(options))
    text = show(options)
    print(text)
    return 0


def _show_mounts(options: argparse.Namespace) -> str:
    if options.dir is not None:
        path = resolve(options.dir)
        mounts = [recall_around(path) or Mount(path, default_store(path))]
    else:
        mounts = list(recall_all())
    found = [look(mount) for mount in mounts]
    if options.json:
        bodies = [status.to_json() for status in found]
        return json.dumps(bodies[0] if options.dir is not None else bodies, indent=2)
    told = [format_status(status, now_s=time.time(), colour=has_colour(sys.stdout)) for status in found]
    return "\n".join(told) or "nothing was mounted yet; begin with `blobfs mount DIR`"


def sync(options: argparse.Namespace) -> int:
    """`sync`."""
    # The daemon keeps the time; the answer is given a little longer to arrive.
    patience_s = None if options.timeout is None else options.timeout + 30
    store = mounted(options.dir).store
    is_shown = options.wait and sys.stderr.isatty()
    with drawing(partial(_draw_progress, store)) if is_shown else contextlib.nullcontext():
        answer = ask(
            store,
            "sync",
            timeout_s=patience_s if options.wait else 30,
            wait=options.wait,
            limit_s=options.timeout,
        )
    print(format_pending(from_json(answer).pending))
    return 0


def _draw_progress(store: Path, ended: threading.Event) -> None:
    """A bar of what still waits; before it one of what comes."""
    with contextlib.suppress(BlobfsError):
        with Bar("reading names", None, noun="names") as bar:
            while not ended.wait(_LOOK_S) and (status := from_json(ask(store, "status"))).reading:
                bar.reach(status.reading["done"], status.reading["total"])
                bar.trouble = status.reason or ""
        with FilesBar("sending", 0, 0) as bar:
            while not ended.wait(_LOOK_S):
                status = from_json(ask(store, "status"))
                # What is on its way counts as far as it is done: a large file is one document to the very end.
                done = sum(int(entry["done"]) for entry in status.transfers or () if entry["what"] == "upload")
                bar.remain(status.pending.documents or 0, max(0, (status.pending.bytes or 0) - done))
                bar.trouble = status.reason or ""


def recover(options: argparse.Namespace) -> int:
    """`recover`."""
    ask(mounted(options.dir).store, "recover")
    print("what the server lost is sent again; `blobfs sync DIR --wait` returns when it has everything")
    return 0


def umount(options: argparse.Namespace) -> int:
    """`umount`."""
    return end(resolve(options.dir), force=options.force)


def passwd(options: argparse.Namespace) -> int:
    """`passwd`."""
    from blobfs import mounting

    if (options.dir is None) == (options.store is None):
        raise UsageError("name the mount point, or the store with --store; one of them")
    store = resolve(options.store) if options.store is not None else mounted(options.dir).store
    return mounting.passwd(
        store,
        passphrase=_source(options, "passphrase"),
        recovery=_source(options, "recovery"),
        new=_source(options, "new_passphrase"),
        guess_s=_guess_s(options),
        keyring=options.keyring,
        keep_keys=options.keep_keys,
        words_check=options.words_check,
    )


def lock(options: argparse.Namespace) -> int:
    """`lock`: every mount ends, or the one that was named."""
    mounts = [mounted(options.dir)] if options.dir is not None else list(recall_all())
    held = [mount for mount in mounts if look(mount).pid is not None]
    for mount in held:
        end(mount.mountpoint, force=True)
    if not held:
        print("nothing was mounted")
    if options.forget:
        from blobfs.mounting import forget

        forget(mounts)
    return 0


def _guess_s(options: argparse.Namespace) -> float:
    return GUESS_S if options.guess_time is None else float(options.guess_time)


def _source(options: argparse.Namespace, name: str) -> Source:
    return Source(getattr(options, f"{name}_file"), getattr(options, f"{name}_fd"))
