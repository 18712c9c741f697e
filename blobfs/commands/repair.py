"""What `doctor` finds in a store's directory from outside, and with `--repair` puts right.

Needs no key. Invariants: without `repair` nothing is changed; with it nothing goes that a person wrote: modes are
tightened, a missing second copy is made, and only names that blobfs gives to what it throws away are removed.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from blobfs.answers.finding import Finding
from blobfs.config import SECRETS, SOCKET, Mount
from blobfs.control import ask
from blobfs.errors import BlobfsError, NotMounted
from blobfs.store.secrets import OLD_SUFFIX, read_secrets, write_secrets

_LEFT: Final = re.compile(r"\.secrets[.a-z]*\.json(\.old)?\.[0-9a-f]{16}|(documents|blobs)\.db\.v\d+-[-0-9]+\.part")
"""Files that are not whole yet, and are renamed when they are."""
_COPY: Final = re.compile(r"(documents|blobs)\.db\.v\d+-[-0-9]+")
_HARMLESS: Final = {"socket": None, "leftovers": None, "second copy": True}
"""In nobody's way: the next mount takes the socket's place, and a store has a second copy only after a change."""
_YOUNG_S: Final = 600
"""Seconds in which one of these may still be in the making."""


def look_over(mount: Mount, *, repair: bool) -> Iterator[Finding]:
    """A finding for each thing that is not as it should be; one that is well now says what was done."""
    for name, wrong, advice, mend in _wrongs(mount.store):
        if not repair:
            yield Finding(name, _HARMLESS.get(name, False), wrong, f"`blobfs doctor DIR --repair` {advice}")
            continue
        try:
            mend()
        except (OSError, BlobfsError) as error:
            yield Finding(name, False, f"{wrong}, and that could not be repaired: {error}", "see to it by hand")
        else:
            yield Finding(name, True, f"repaired: {wrong}")
    if copies := [entry for entry in _entries(mount.store) if _COPY.fullmatch(entry.name)]:
        size = sum(entry.stat().st_size for entry in copies) >> 20
        advice = "they go by themselves 30 days after they were made"
        yield Finding("copies", True, f"{len(copies)} copies of an older version take {size} MiB", advice)


def _wrongs(store: Path) -> Iterator[tuple[str, str, str, Callable[[], None]]]:
    """(name, what is wrong, what repairing does, what does it)."""
    if _is_open(store):
        text = "other users may look into the store's directory"
        yield (
            "store",
            text,
            "lets only this user in; what is in it is encrypted all the same",
            lambda: store.chmod(0o700),
        )
    entries = _entries(store)
    loose = [entry for entry in entries if entry.is_file() and not entry.is_symlink() and _is_open(entry)]
    if loose:
        text = f"other users may read {len(loose)} files of the store, such as {loose[0].name}"
        yield "files", text, "lets only this user read them; think of who changed that", lambda: _tighten(loose)
    secrets = store / SECRETS
    if secrets.exists() and not secrets.with_name(SECRETS + OLD_SUFFIX).exists():
        text = "the wrapped keys are in one file, as in every new store; a second one helps if it is damaged"
        # Written again as it is: the one from before becomes the second one.
        yield "second copy", text, "makes one", lambda: write_secrets(secrets, read_secrets(secrets))
    if (store / SOCKET).exists() and not _answers(store):
        yield "socket", "a killed process left its socket", "removes it", (store / SOCKET).unlink
    left = [entry for entry in entries if _LEFT.fullmatch(entry.name) and _age_s(entry) > _YOUNG_S]
    if left:
        text = f"{len(left)} files were never finished"
        yield "leftovers", text, "removes them; blobfs does not read them", lambda: _remove(left)


def _entries(store: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(store.iterdir())
    return []


def _is_open(path: Path) -> bool:
    with suppress(OSError):
        return bool(stat.S_IMODE(path.lstat().st_mode) & 0o077)
    return False


def _age_s(path: Path) -> float:
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime
    return 0.0


def _answers(store: Path) -> bool:
    """Whether a process serves the socket; one that is slow or of another version does, too."""
    try:
        ask(store, "status")
    except NotMounted:
        return False
    except BlobfsError:
        return True
    return True


def _tighten(paths: list[Path]) -> None:
    for path in paths:
        path.chmod(stat.S_IMODE(path.lstat().st_mode) & 0o700)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        os.unlink(path)
