"""The write-ahead log of blobs.db: moved into the database beside the ledger, so that no writer waits for it.

SQLite itself would move it within a commit, under the ledger's lock: every byte written a second time, and two waits
for the disk. Here a connection of its own does so when nobody writes, or when the log has grown long; a commit does it
only when even that was not enough. Knows no rows. What may be on the disk when does not change: the log goes there
before the database does.
"""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

import sqlcipher3

from blobfs.store.database import SHORT_LOG, unlock

LONG: Final = 384 << 20
"""Bytes of log at which a commit moves them itself: who writes faster than the disk takes it waits for the disk."""
_SHARE: Final = 16
"""Of the disk's free room, a log that is not short takes one part in so many: on a full disk it is short.
It can shrink only while the database can grow, and a start after a crash needs what `store/reserve.py` sets aside."""
_MARGIN: Final = 1 << 20
"""Bytes that are left free when it is moved."""
_BEGIN_WRITING: Final = 2
"""SYNC_FILE_RANGE_WRITE."""
_sync_file_range = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def begin_writing(descriptor: int, offset: int = 0, length: int = 0) -> None:
    """Have the system begin to write a range of a file to the disk, so that there is less to wait for at a flush.

    A length of 0 is up to the end. Promises nothing.
    """
    if _sync_file_range is not None:
        _sync_file_range(descriptor, offset, length, _BEGIN_WRITING)


class Log:
    """The log of one database that another connection writes. For worker threads; needs no lock of the ledger's."""

    def __init__(self, path: Path, key: bytes, page_size: int) -> None:
        self._path = Path(f"{path}-wal")
        self._turn = threading.Lock()
        self._size = 0
        self._growth = 0
        self._connection = sqlcipher3.connect(os.fspath(path), isolation_level=None, check_same_thread=False, timeout=0)
        try:
            unlock(self._connection, key, page_size)
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute(f"PRAGMA journal_size_limit = {SHORT_LOG}").fetchall()
        except BaseException:
            self._connection.close()
            raise

    def hurry(self) -> None:
        """Have the system begin to write what was committed, so that there is less to wait for at the next flush."""
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                begin_writing(descriptor)
            finally:
                os.close(descriptor)

    def bound(self, growth: int) -> int:
        """Bytes of log at which whoever writes has to wait, with the room that the disk has now.

        0: it must not be moved at all. A database that cannot become longer by `growth` bytes takes what room there is
        and then gives none back, while deleting, and a start after a kill, need some.
        """
        self._growth = growth
        try:
            disk = os.statvfs(self._path.parent)
        except OSError:
            return SHORT_LOG
        free = disk.f_bavail * disk.f_frsize
        return 0 if growth and free < growth + _MARGIN else max(SHORT_LOG, min(LONG, free // _SHARE))

    def settle(self, *, is_calm: bool) -> None:
        """Move the log into the database if it is long, or not short and nobody writes. Does nothing on a full disk."""
        size, bound = self._size_now(), self.bound(self._growth)
        if not bound or size <= (SHORT_LOG if is_calm else bound // 2) or not self._turn.acquire(blocking=False):
            return
        try:
            self._move()
            # It answers at once when somebody is writing, and has nothing left to copy when nobody is.
            if is_calm:
                self._move("TRUNCATE")
        finally:
            self._turn.release()

    def move(self) -> None:
        """Move what was committed into the database, whose file then has its size, unless it is read."""
        with self._turn:
            self._move()

    def _move(self, how: str = "PASSIVE") -> None:
        with suppress(sqlcipher3.DatabaseError):
            self._connection.execute(f"PRAGMA wal_checkpoint({how})").fetchall()

    def _size_now(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """To be called before the connection that writes is closed: that one moves what is left."""
        with self._turn:
            self._connection.close()
