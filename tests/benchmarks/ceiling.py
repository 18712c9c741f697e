"""What SQLCipher itself does on a disk with the rows of blobfs: the ceiling of long writes and reads, without a mount.

Rows of 128 KiB in pages of 16 KiB with HMAC-SHA256, 4 MiB a commit, one thread, SQLite's own checkpoints of 32 MiB.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import sqlcipher3

from tests.benchmarks.trial import LARGE, MIB, Result, drop_caches

_ROW: Final = 128 << 10
_ROWS: Final = 32
"""Of one commit."""
_PAGE: Final = 16 << 10
_PRAGMAS: Final = (
    f"key = \"x'{'ab' * 32}'\"",
    f"cipher_page_size = {_PAGE}",
    "cipher_hmac_algorithm = HMAC_SHA256",
    "auto_vacuum = INCREMENTAL",
    "journal_mode = WAL",
    "synchronous = NORMAL",
    "cache_size = -32768",
    f"wal_autocheckpoint = {(32 << 20) // _PAGE}",
)


def measure(disk: Path, scale: float, seed: int) -> dict[str, Result]:
    """A file of rows below `disk`, written with an fsync at the end, then read with empty caches."""
    path, size = disk / "ceiling.db", max(4, round(LARGE * scale) // 4 * 4)
    data = random.Random(seed).randbytes(_ROW * _ROWS)
    pieces = [data[start : start + _ROW] for start in range(0, len(data), _ROW)]
    count = size * MIB // _ROW
    with closing(_open(path)) as connection:
        connection.execute("CREATE TABLE rows (position INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
        with _timed(size) as written:
            for first in range(0, count, _ROWS):
                connection.execute("BEGIN IMMEDIATE")
                rows = [(first + number, piece) for number, piece in enumerate(pieces)]
                connection.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", rows)
                connection.execute("COMMIT")
            descriptor = os.open(f"{path}-wal", os.O_RDONLY)
            os.fdatasync(descriptor)
            os.close(descriptor)
    drop_caches()
    with closing(_open(path)) as connection, _timed(size) as read:
        for position in range(count):
            (payload,) = connection.execute("SELECT payload FROM rows WHERE position = ?", (position,)).fetchone()
            if payload != pieces[position % _ROWS]:
                read["error"] = "bytes differ"
    return {"seq_write": written, "seq_read_cold": read}


def _open(path: Path) -> Any:
    connection = sqlcipher3.connect(os.fspath(path), isolation_level=None)
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


@contextmanager
def _timed(size: int) -> Iterator[Result]:
    result: Result = {"unit": "MiB/s"}
    cpu, start = time.process_time(), time.perf_counter()
    yield result
    result["elapsed_s"] = time.perf_counter() - start
    result["daemon_cpu_s"] = time.process_time() - cpu
    result["value"] = size / result["elapsed_s"]
