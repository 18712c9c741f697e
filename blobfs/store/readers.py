"""Connections that read blobs.db beside the ledger: a large read runs in a thread of its own and waits for no writer.

They see what is committed and nothing of the ledger's open batch; whether that is enough is for the caller to know
(`ContentStore.read_beside`). Invariant: an answer is of one moment, whatever is committed meanwhile.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import sqlcipher3

from blobfs.store.database import Value, unlock

COUNT: Final = 2
"""Connections, and so large reads that run at once."""
_CACHE_KIB: Final = 2048
"""Of pages each: what leads to the rows. The rows themselves come once."""

Query = tuple[str, Sequence[Value]]


class Readers:
    """At most `COUNT` connections, opened when they are needed. For worker threads."""

    def __init__(self, path: Path, key: bytes, page_size: int) -> None:
        self._path, self._key, self._page_size = path, key, page_size
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(COUNT):
            self._idle.put(None)
        self._is_closed = False

    def ask(self, *queries: Query) -> list[list[Any]] | None:
        """The rows of each query, all of the same moment; None: ask the ledger, which also knows what is wrong."""
        if self._is_closed:
            return None
        connection = self._idle.get()
        try:
            if connection is None:
                connection = self._open()
            connection.execute("BEGIN")
            answers = [connection.execute(sql, parameters).fetchall() for sql, parameters in queries]
            connection.execute("COMMIT")
        except (sqlcipher3.DatabaseError, MemoryError):
            if connection is not None:
                connection.close()
                connection = None
            return None
        finally:
            self._idle.put(connection)
        return answers

    def _open(self) -> Any:
        connection = sqlcipher3.connect(os.fspath(self._path), isolation_level=None, check_same_thread=False)
        unlock(connection, self._key, self._page_size)
        for pragma in ("query_only = ON", "temp_store = MEMORY", f"cache_size = -{_CACHE_KIB}", "trusted_schema = OFF"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def close(self) -> None:
        """Wait for who is reading, and close: before the connection that writes is."""
        self._is_closed = True
        for connection in [self._idle.get() for _ in range(COUNT)]:
            if connection is not None:
                connection.close()
        for _ in range(COUNT):
            self._idle.put(None)
