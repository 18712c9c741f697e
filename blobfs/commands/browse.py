"""`browse`: a one-time link to the page of a mount, and a browser that opens it."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess

from blobfs.commands.places import place

_OPENER = "xdg-open"


def browse(options: argparse.Namespace) -> int:
    """`browse`."""
    link = place(options.dir).ask("browse")
    print(link["url"])
    if not options.no_open and _has_desktop() and (opener := shutil.which(_OPENER)) is not None:
        # The link is an argument, which other users can read: the page answers processes of this user only.
        subprocess.Popen(  # noqa: S603 - our own address
            [opener, link["url"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    return 0


def _has_desktop() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
