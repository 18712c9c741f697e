"""A store of an older version becomes one of this version, after both of its databases were copied.

Knows how one version becomes the next one, and nothing of what either means. Invariants: nothing is changed before
both copies are whole and on the disk; each database is of one version or of another, SIGKILL and power loss included,
and what was interrupted goes on at the next opening; no step runs while a journal waits that an older version wrote.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, NamedTuple

import sqlcipher3

from blobfs.errors import NoSpace, StoreDamaged, StoreTooNew
from blobfs.store import schema
from blobfs.store.database import FULL, TOO_NEW, is_full, refusal
from blobfs.store.journal import journals
from blobfs.store.ledger import Ledger
from blobfs.store.rekey import DATABASES, connect, look
from blobfs.store.settling import Settler
from blobfs.store.spool import segments
from blobfs.values.keys import Keys

STEPS: Final[Mapping[int, Mapping[str, str]]] = {1: {"blobs.db": schema.STAGED}}
"""From a version to the next: the SQL for each database, by its name. A database that is not named stays as it is."""
KEPT_S: Final = 30 * 86400
"""Seconds after which the copies of an older version go."""
READABLE: Final = (
    "a newer blobfs wrote this store, and nothing in it was changed; update blobfs, or mount it with --read-only, "
    "which this version can"
)
_MARGIN: Final = 64 << 20
"""Bytes of disk that must stay free beside the copies."""

log = logging.getLogger(__name__)


def bring_up(directory: Path, keys: Keys) -> bool:
    """On return neither database is of an older version; whether one was. The caller holds the store's lock.

    Raises:
        StoreTooNew, NoSpace (there is no room for the copies): nothing was changed. StoreDamaged.
    """
    forget_copies(directory, time.time() - KEPT_S)
    if not all((directory / name).exists() for name, _ in DATABASES):
        return False
    found = [_version(directory / name, page, keys) for name, page in DATABASES]
    if max(found) > schema.VERSION:
        raise StoreTooNew(TOO_NEW)
    # A database of version 0 is one that was never finished: whoever opens it makes it.
    if 0 in found or min(found) >= schema.VERSION:
        return False
    if journals(directory) or segments(directory):
        # A copy is of the databases alone.
        with closing(Ledger(directory, keys)) as ledger:
            Settler(ledger).settle_all()
    if len(set(found)) == 1:
        # Where they differ, one was brought up already, so both copies are there.
        _copy(directory, found[0])
    for (name, page), version in zip(DATABASES, found, strict=True):
        _step(directory / name, page, keys, version)
    log.info("the store is of version %s now, and was of version %s", schema.VERSION, min(found))
    return True


class Newer(NamedTuple):
    """What the databases of a newer blobfs say of themselves."""

    version: int
    oldest_reader: int | None
    """The lowest version that may read them; None: they do not say."""

    @property
    def is_readable(self) -> bool:
        """Whether this blobfs may read them."""
        return self.oldest_reader is not None and self.oldest_reader <= schema.VERSION


def newer(directory: Path, keys: Keys) -> Newer | None:
    """What a newer blobfs left here; None: it is of this version, older, damaged or no store. Writes nothing."""
    found = [look(directory / name, page, keys) for name, page in DATABASES if (directory / name).exists()]
    known = [marks for marks in found if marks is not None]
    version = max((version for version, _ in known), default=0)
    if version <= schema.VERSION:
        return None
    readers = [schema.oldest_reader(mark) for _, mark in known]
    return Newer(version, None if None in readers else max(reader for reader in readers if reader is not None))


def refuse_newer(directory: Path, keys: Keys) -> None:
    """Raises StoreTooNew, with what can be done, before anything is written."""
    found = newer(directory, keys)
    if found is not None:
        raise StoreTooNew(READABLE if found.is_readable else TOO_NEW)


def copies(directory: Path) -> list[Path]:
    """The copies of older versions that are kept."""
    return sorted(path for name, _ in DATABASES for path in directory.glob(f"{name}.v*-*"))


def forget_copies(directory: Path, before_s: float) -> None:
    """Remove copies, half-made ones too, that were made before a time."""
    for path in copies(directory):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before_s:
                path.unlink()


def _version(path: Path, page: int, keys: Keys) -> int:
    found = look(path, page, keys, into_log=True)
    if found is None:
        raise StoreDamaged(f"{path.name} cannot be read with this store's key")
    return found[0]


def _copy(directory: Path, version: int) -> None:
    sizes = [(directory / name).stat().st_size for name, _ in DATABASES]
    if shutil.disk_usage(directory).free < sum(sizes) + _MARGIN:
        raise NoSpace(
            f"the store is of an older blobfs, and is copied before it is changed, which needs "
            f"{(sum(sizes) + _MARGIN) >> 20} MiB free on its disk; make room, or use the older blobfs"
        )
    date = time.strftime("%Y%m%d-%H%M%S")
    for name, _ in DATABASES:
        target = directory / f"{name}.v{version}-{date}"
        part = target.with_name(f"{target.name}.part")
        try:
            shutil.copyfile(directory / name, part)
            part.chmod(0o600)
            _flush(part)
            os.rename(part, target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise refusal(target, error) from error
    _flush(directory)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _step(path: Path, page: int, keys: Keys, version: int) -> None:
    """All steps of one database, in one transaction."""
    with closing(connect(path, page, keys)) as connection:
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_script(path.name, version))
        except sqlcipher3.DatabaseError as error:
            raise (NoSpace(FULL) if is_full(error) else StoreDamaged(f"{path.name} is damaged")) from error


def _script(name: str, version: int) -> str:
    steps = [STEPS[number].get(name, "") for number in range(version, schema.VERSION)]
    return "\n".join(("BEGIN IMMEDIATE;", *steps, schema.stamp(), "COMMIT;"))
