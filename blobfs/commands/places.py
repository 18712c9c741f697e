"""From a path on the command line to a mount, and to a path in it that the mount's process understands.

Invariant: the last name of a path is never followed when it is a symbolic link: a link is a file of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blobfs.config import Mount, recall_around, resolve
from blobfs.control import ask
from blobfs.errors import NotMounted, UsageError
from blobfs.values.documents import Json


@dataclass(frozen=True, slots=True)
class Place:
    """A path in a mount."""

    mount: Mount
    inner: str
    """From the mount's top, with `/` between names; empty for the top."""

    @property
    def path(self) -> Path:
        """As the rest of the machine sees it."""
        return self.mount.mountpoint / self.inner

    def ask(self, command: str, *, timeout_s: float | None = 120, **arguments: Any) -> Json:
        """Ask the mount's process about this path. Raises as `control.ask`."""
        return ask(self.mount.store, command, timeout_s=timeout_s, path=self.inner, **arguments)

    def list(self, command: str) -> Iterator[Json]:
        """All entries of an answer that comes in pages."""
        first: int | None = 0
        while first is not None:
            answer = self.ask(command, **{"from": first})
            yield from answer["entries"]
            first = answer["next"]


def mounted(path: Path) -> Mount:
    """The mount that a path is in. Raises NotMounted: this user never mounted one there."""
    mount = recall_around(resolve(path))
    if mount is None:
        raise NotMounted(f"{path} was never mounted by this user; mount it with `blobfs mount {path}`")
    return mount


def place(path: Path) -> Place:
    """A path in a mount, which need not be there. Raises NotMounted."""
    found = find_place(path)
    if found is None:
        raise NotMounted(f"{path} is in no mount of this user; `blobfs status` lists them")
    return found


def find_place(path: Path) -> Place | None:
    """A path in a mount; None when no mount is around it."""
    whole = Path(os.path.abspath(path))
    if not os.path.ismount(whole):
        whole = resolve(whole.parent) / whole.name
    mount = recall_around(whole) or recall_around(resolve(path))
    if mount is None:
        return None
    try:
        inner = whole.relative_to(mount.mountpoint)
    except ValueError:
        inner = resolve(path).relative_to(mount.mountpoint)
    return Place(mount, "" if inner == Path() else os.fspath(inner))


def inside(path: Path) -> Place:
    """A path in a mount, but not its top. Raises UsageError, NotMounted."""
    found = place(path)
    if not found.inner:
        raise UsageError(f"{path} is the mount itself; name a file or folder in it")
    return found
