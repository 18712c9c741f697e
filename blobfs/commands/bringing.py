"""Bytes of a mount that are not on this device: which files they are of, and having them here before they are read.

Asks the mount's process by its socket: a wait for it ends with Ctrl-C, one in the kernel does not. Invariant: nothing
is taken from what the kernel remembers of a file, which may be from before its bytes were evicted.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from blobfs.commands.places import Place
from blobfs.errors import NoSpace

_STEP: Final = 4 << 20
"""Bytes brought at a time: one extent, while the mount's process fetches ahead of it."""
_PATIENCE_S: Final = 60
"""Seconds for that; the mount's process gives up before."""


class Absent:
    """What is not here of files in a mount."""

    def __init__(self, place: Place) -> None:
        self._mount = place.mount
        self._files = set[Path]()

    def look(self, folder: Path) -> None:
        """See which files in a folder are not all here. Raises BlobfsError."""
        self._files.update(folder / entry["name"] for entry in self._place(folder).list("absent"))

    def expect(self, path: Path) -> None:
        """Take this file for one that is not all here, without asking."""
        self._files.add(path)

    def bring(self, path: Path, offset: int) -> None:
        """On return the bytes of a file from `offset` on can be read, up to the end of a step; else the next call does.

        Raises:
            RemoteUnavailable: they do not come, or the server has been away for some time. What else keeps them away.
        """
        if path in self._files and offset % _STEP == 0:
            # Where the store has no room for bytes, a reader gets them all the same.
            with suppress(NoSpace):
                self._place(path).ask("bring", timeout_s=_PATIENCE_S, offset=offset, length=_STEP)

    def forget(self, path: Path) -> None:
        """That file is done."""
        self._files.discard(path)

    def _place(self, path: Path) -> Place:
        inner = path.relative_to(self._mount.mountpoint)
        return Place(self._mount, "" if inner == Path() else os.fspath(inner))
