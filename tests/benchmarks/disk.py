"""A disk of its own for each pass: an ext4 image, made afresh and mounted through a loop device.

So every filesystem starts on the same empty disk with a journal, whatever the machine's own disk is like. Knows
nothing of what is put there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.benchmarks.processes import wait_until

SIZE: Final = 6 << 30
"""Bytes; the image is sparse. Some of the peers need several times what is written (caches, logs of old versions)."""
BUSY_S: Final = 10.0


class DiskFailed(Exception):
    """No fresh disk; the text says what to do."""


def why_not() -> str:
    """What keeps this process from having a fresh disk; empty when nothing does."""
    if os.geteuid() != 0:
        return (
            "not root, so no fresh ext4 image is mounted: figures are those of the disk as it is, and nothing is cold"
        )
    for program in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(program) is None:
            return f"{program} is not installed, so figures are those of the disk as it is"
    return ""


@contextlib.contextmanager
def fresh_disk(scratch: Path) -> Iterator[Path]:
    """An empty directory on an empty disk, or just an empty directory when `why_not` says so; gone afterwards.

    Raises:
        DiskFailed: the image could not be made or mounted.
    """
    image, place = scratch / "disk.img", scratch / "disk"
    place.mkdir()
    if why_not():
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return
    try:
        with open(image, "wb") as file:
            file.truncate(SIZE)
        # Nothing is left to be initialised in the background, where it would be counted as somebody's work.
        _call("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-m", "0", str(image))
        _call("mount", "-o", "loop", str(image), str(place))
        try:
            yield place
        finally:
            _unmount(place)
    finally:
        image.unlink(missing_ok=True)
        place.rmdir()


def _unmount(place: Path) -> None:
    def is_unmounted() -> bool:
        return subprocess.run(["umount", place], stderr=subprocess.DEVNULL, check=False).returncode == 0

    if not wait_until(is_unmounted, BUSY_S):
        _call("umount", "-l", str(place))  # somebody looks at it; it goes when they leave


def _call(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DiskFailed(f"{argv[0]}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
