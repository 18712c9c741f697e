"""What the journals hold and the databases lack, run again. Where the order of recovery is decided; see `ledger.py`.

Owns no file and no lock: its caller has both. Invariant: running it twice is running it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blobfs.store.database import Database
from blobfs.store.journal import journals, read


def replay(directory: Path, key: bytes, databases: Sequence[Database]) -> tuple[int, int]:
    """Run again every record that a database lacks; the number of the last one that is known, and how many there were.

    Raises:
        NoSpace, StoreDamaged: as the statements in them.
    """
    applied = [database.applied() for database in databases]
    known, done = min(applied), 0
    for path in journals(directory):
        for sequence, previous, notes in read(path, key):
            void = applied[1] < sequence if previous == sequence else previous > known
            if void:
                break  # What this record builds on went with the power, or was never finished.
            if known < sequence:
                _run([note for note in notes if applied[note[0]] < sequence], databases)
                known, done = sequence, done + 1
    return max(known, *applied), done


def _run(notes: Sequence[Sequence[Any]], databases: Sequence[Database]) -> None:
    for number, sql, parameters in notes:
        databases[number].replay(sql, parameters)
    for database in databases:
        database.keep()
