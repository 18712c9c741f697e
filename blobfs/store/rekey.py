"""New keys for the databases of a store, after its account began another epoch.

Knows the two files and nothing of what is in them. Invariants: at every moment, SIGKILL and power loss included, each
database opens as a whole with the key of one of the epochs; nothing is rekeyed while a journal waits to be run again,
since that is sealed with the keys of its time.

A database gets its new key in one transaction with a rollback journal, not a log: both take as much room again as the
database for as long as it lasts (1 GiB for 1 GiB), but a journal is gone right after, while a log has to be copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import sqlcipher3

from blobfs.errors import NoSpace, StoreDamaged, StoreInUse
from blobfs.store import schema
from blobfs.store.database import FULL, is_full, refusal, unlock
from blobfs.store.journal import journals
from blobfs.store.spool import segments
from blobfs.values.keys import Keys

Watch = Callable[[Path, int, Callable[[], None]], None]
"""Runs what it is given to its end; it may show how far the work on a file of so many bytes is, meanwhile."""

DATABASES: Final = (("documents.db", schema.DOCUMENTS_PAGE), ("blobs.db", schema.BLOBS_PAGE))
_MARKS: Final = ("user_version", "application_id")
_NO_SPACE: Final = "the disk that holds the store is full or failing, so its databases have their old keys still"
_MARGIN: Final = 16 << 20
"""Bytes of disk that must stay free beside the journal."""


def run_plainly(path: Path, size: int, work: Callable[[], None]) -> None:
    """A `Watch` that shows nothing."""
    work()


def find(directory: Path, keys: Keys) -> list[Keys]:
    """With the keys of which epoch each database opens now.

    Raises:
        StoreDamaged: one opens with none of them. NoSpace.
    """
    return [_find(directory / name, page, keys) for name, page in DATABASES]


def finish(directory: Path, keys: Keys, watch: Watch = run_plainly) -> None:
    """On return both databases open with the newest keys. The caller holds the store's lock.

    Raises:
        NoSpace: the disk has no room for the journal; nothing was changed. StoreDamaged.
        StoreInUse: somebody opened the store in between, and was killed.
    """
    for name, page in DATABASES:
        path = directory / name
        # One that is not there is made with the newest keys, if it may be.
        former = _find(path, page, keys) if path.exists() else keys
        if former is keys:
            continue
        if journals(directory):
            raise StoreInUse("another process used this store a moment ago; try again")
        size = path.stat().st_size
        _require_room(directory, size)
        watch(path, size, lambda path=path, page=page, former=former: _rekey(path, page, former, keys))  # type: ignore[misc]


def require_room(directory: Path) -> None:
    """Raises NoSpace when there is no room for new keys."""
    staged = sum(path.stat().st_size for path in segments(directory))  # goes into blobs.db first
    _require_room(directory, staged + max((directory / name).stat().st_size for name, _ in DATABASES))


def _require_room(directory: Path, size: int) -> None:
    if shutil.disk_usage(directory).free < size + _MARGIN:
        raise NoSpace(
            f"new keys need {(size + _MARGIN) >> 20} MiB free on the disk of the store for a while; make room"
        )


def progress(path: Path) -> int:
    """Bytes of the database that have their new key by now: what it replaces is in the journal first."""
    with suppress(FileNotFoundError):
        return os.stat(f"{path}-journal").st_size
    return 0


def _find(path: Path, page: int, keys: Keys) -> Keys:
    for epoch in keys.epochs:
        with suppress(StoreDamaged), closing(connect(path, page, epoch)):
            return epoch
    raise StoreDamaged(f"{path.name} cannot be read with this store's key")


def _rekey(path: Path, page: int, former: Keys, keys: Keys) -> None:
    with closing(connect(path, page, former)) as connection:
        try:
            # What the last user left in the log moves into the database here, and the log goes.
            if connection.execute("PRAGMA journal_mode = DELETE").fetchone() != ("delete",):
                raise StoreInUse(f"{path.name} is in use; end the program that has it open, then try again")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA rekey = \"x'{_key(path, keys).hex()}'\"").fetchall()
        except sqlcipher3.DatabaseError as error:
            raise (NoSpace(_NO_SPACE) if is_full(error) else StoreDamaged(f"{path.name} is damaged")) from error
    # The pragma says nothing when it fails: SQLCipher has then taken all of it back.
    if _find(path, page, keys) is not keys:
        raise NoSpace(_NO_SPACE)


def connect(path: Path, page: int, keys: Keys) -> Any:
    """A connection that has read something with these keys. Raises StoreDamaged: it cannot."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        raise refusal(path, error) from error
    connection = sqlcipher3.connect(os.fspath(path), isolation_level=None, check_same_thread=False)
    try:
        for pragma in (
            "cipher_log_level = NONE",
            f"key = \"x'{_key(path, keys).hex()}'\"",
            "cipher_log_level = NONE",
            f"cipher_page_size = {page}",
            "cipher_hmac_algorithm = HMAC_SHA256",
        ):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except (sqlcipher3.DatabaseError, MemoryError) as error:
        connection.close()
        if is_full(error):
            raise NoSpace(FULL) from error
        raise StoreDamaged(f"{path.name} cannot be read with this store's key") from error
    return connection


def look(path: Path, page: int, keys: Keys, *, into_log: bool = False) -> tuple[int, int] | None:
    """`user_version` and `application_id` of a database, as they were when its log was last moved into it.

    Nothing is written, not even a log that waits is moved: that takes room, which a full disk does not have. With
    `into_log` they are those of the log, which must be nobody's; it gets its index. None: it opens with the keys of
    no epoch.
    """
    for epoch in keys.epochs:
        address = f"file:{quote(os.fspath(path))}?mode=ro" + ("" if into_log else "&immutable=1")
        with (
            suppress(sqlcipher3.DatabaseError, MemoryError),
            closing(sqlcipher3.connect(address, uri=True, isolation_level=None)) as connection,
        ):
            unlock(connection, _key(path, epoch), page)
            version, mark = (connection.execute(f"PRAGMA {name}").fetchone() for name in _MARKS)
            return int(version[0]), int(mark[0])
    return None


def _key(path: Path, keys: Keys) -> bytes:
    return keys.documents_db if path.name == "documents.db" else keys.blobs_db
