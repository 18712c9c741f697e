"""A store that a newer blobfs wrote: whether this one may read it, and a copy in which it does.

The copy is what is opened, so nothing that opening a store does can reach the original: no migration, no journal, no
times of reading. Invariant: of the store itself nothing but its lock is opened for writing, and that stays empty.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from blobfs.errors import NoSpace, StoreTooNew
from blobfs.store import rekey, schema, upgrade
from blobfs.store.database import TOO_NEW, refusal
from blobfs.store.journal import journals
from blobfs.store.rekey import DATABASES
from blobfs.store.spool import segments
from blobfs.store.store import Store, holding
from blobfs.values.keys import Keys

_FICLONE: Final = 0x40049409
"""The ioctl that makes a file share another one's bytes; few file systems can."""
_MARGIN: Final = 64 << 20
"""Bytes of disk that must stay free beside the copy."""
_PIECE: Final = 16 << 20
_TELL: Final = (
    "update blobfs, or read the account's files with `blobfs mount OTHER --store NEW --connect INVITE --read-only`"
)


@contextmanager
def reading(path: Path, keys: Keys) -> Iterator[Store]:
    """A store with what the newer one in `path` has, for the block; whatever happens to it, `path` stays as it is.

    Raises:
        StoreTooNew: this blobfs may not read it, or it was not closed in order. NoSpace: there is no room for a copy.
        StoreInUse: somebody has it open. StoreDamaged.
    """
    with holding(path):
        _require_readable(path, upgrade.newer(path, keys))
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-read-", dir=path.parent) as directory:
            copy = Path(directory)
            for name in (*(name for name, _ in DATABASES), *(segment.name for segment in segments(path))):
                _copy(path / name, copy / name)
            for (name, page), epoch in zip(DATABASES, rekey.find(copy, keys), strict=True):
                with closing(rekey.connect(copy / name, page, epoch)) as connection:
                    connection.executescript(schema.stamp())
            with closing(Store.open(copy, keys)) as store:
                yield store


def _require_readable(path: Path, found: upgrade.Newer | None) -> None:
    if found is not None and not found.is_readable:
        raise StoreTooNew(TOO_NEW)
    left = [log for name, _ in DATABASES for log in (path / f"{name}-wal", path / f"{name}-journal")]
    if journals(path) or any(log.exists() and log.stat().st_size for log in left):
        raise StoreTooNew(
            "a newer blobfs wrote this store and was not ended in order, so what it left has to be brought in by one "
            f"of its version first; {_TELL}"
        )


def _copy(source: Path, target: Path) -> None:
    """A copy that takes no room where the file system can share bytes."""
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        writer = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with suppress(OSError):
                fcntl.ioctl(writer, _FICLONE, reader)
                return
            size = os.fstat(reader).st_size
            if shutil.disk_usage(target.parent).free < size + _MARGIN:
                raise NoSpace(
                    f"a store of a newer blobfs is read through a copy, which needs {(size + _MARGIN) >> 20} MiB free "
                    "beside the store; make room, or update blobfs"
                )
            done = 0
            while done < size:
                done += os.sendfile(writer, reader, done, min(_PIECE, size - done))
        except OSError as error:
            raise refusal(target, error) from error
        finally:
            os.close(writer)
    finally:
        os.close(reader)
