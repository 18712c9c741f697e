"""What the journals hold and the databases lack, run again. Where the order of recovery is decided; see `ledger.py`.

Owns no file and no lock: its caller has both. Invariant: running it twice is running it once.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from blobfs.errors import StoreDamaged
from blobfs.store.database import Database
from blobfs.store.journal import journals, read
from blobfs.store.spool import Unreadable
from blobfs.store.staging import STAGE, Staging


def mark_of(documents: Database, blobs: Database) -> bytes:
    """The mark of the store that both databases bear; new ones get one.

    Raises:
        StoreDamaged: they are not of one store. A journal and a database of another store are refused.
    """
    mine, other = (bytes(database.one("SELECT store FROM applied", ())[0]) for database in (documents, blobs))
    if not mine and blobs.applied() == 0:
        mine = other or secrets.token_bytes(16)
        for database in (blobs, documents):
            database.run("UPDATE applied SET store = ?", (mine,))
            database.keep()
            database.commit(0)
        return mine
    if mine != other:
        raise StoreDamaged("documents.db and blobs.db are not of one store; put the right ones back")
    return mine


def replay(directory: Path, key: bytes, databases: Sequence[Database], staging: Staging) -> tuple[int, int]:
    """Run again every record that a database lacks; the number of the last one that is known, and how many there were.

    A record whose pieces are not in the spool is void, too: they were to be on the disk before it.

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
                lacking = [note for note in notes if applied[note[0]] < sequence]
                if not all(staging.believes(parameters) for _, name, parameters in lacking if name == STAGE):
                    break
                _run(lacking, databases)
                known, done = sequence, done + 1
    return max(known, *applied), done


def _run(notes: Sequence[Sequence[Any]], databases: Sequence[Database]) -> None:
    for number, sql, parameters in notes:
        # A piece that was fine and is not any more: it stays over its row, which cannot be read, and the rest can.
        with suppress(Unreadable):
            databases[number].replay(sql, parameters)
    for database in databases:
        database.keep()
