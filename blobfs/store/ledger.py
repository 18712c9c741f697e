"""The ledger: both databases and the journal as one unit of commitment.

    transaction   statements run in the open batch of each database; one journal record   survives SIGKILL
    batch         after many records, or some seconds: both commit, a new journal begins  the same
    flush         logs and journal to the disk                                            survives power loss

A transaction with much payload is not written twice: blobs.db commits at once, and only what documents.db was told
goes into the journal. Content before pointer, so a crash in between leaves rows that nothing refers to.

Order of recovery: each database says up to which record it is complete; what lies beyond is run again from the
journals, oldest first. Between two statements of one thread nobody else runs: every access holds `lock`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from blobfs.errors import NoSpace
from blobfs.store import schema
from blobfs.store.database import Database, Value
from blobfs.store.journal import Journal, journals, read
from blobfs.values.keys import Keys

HEAVY: Final = 256 << 10
"""Bytes of payload from which a transaction commits blobs.db in place of copying them into the journal."""
BATCH_BYTES: Final = 16 << 20
"""Of journal, after which a batch is committed."""
BATCH_AGE_S: Final = 5.0
"""After which `tick` commits a batch."""


class Ledger:
    """Owns the databases' batches and the journal. Re-entrant: transactions join the one they are in."""

    def __init__(self, directory: Path, keys: Keys) -> None:
        """Open the databases in `directory`, making what is missing, and run again what the journals hold.

        Raises:
            StoreTooNew, StoreDamaged: as `Database`.
            NoSpace: there is no room for the recovery; nothing is lost.
        """
        self.lock = threading.RLock()
        self.changed: list[Callable[[], None]] = []
        """Called after a transaction that left something to send; by the thread that made it."""
        self._directory = directory
        self._key = keys.journal
        self.documents = Database(
            directory / "documents.db", 0, keys.documents_db, schema.DOCUMENTS_PAGE, schema.DOCUMENTS, 32 << 10
        )
        self.blobs = Database(directory / "blobs.db", 1, keys.blobs_db, schema.BLOBS_PAGE, schema.BLOBS, 32 << 10)
        self._databases = (self.documents, self.blobs)
        self._transaction = _Transaction(self)
        self._depth = 0
        self._dirty = False
        self._behind = False
        """The databases lack something that was acknowledged and is in the journal: a full disk came between."""
        self._since = 0.0
        self._unflushed = False
        self._retired: list[Path] = []
        self._sequence = 0
        self._journal: Journal
        self.recovered = self._recover()
        """Records that had to be run again: not zero after a crash."""

    # --- reading --------------------------------------------------------------------------------------

    def one(self, database: Database, sql: str, *parameters: Value) -> Any:
        """The first row of a query, or None."""
        with self.lock:
            if self._behind:
                self._catch_up()
            return database.one(sql, parameters)

    def all(self, database: Database, sql: str, *parameters: Value) -> list[Any]:
        """All rows of a query."""
        with self.lock:
            if self._behind:
                self._catch_up()
            return database.all(sql, parameters)

    # --- transactions -----------------------------------------------------------------------------------

    def transaction(self) -> _Transaction:
        """A context: all statements in it, or none. What is in it survives SIGKILL on leaving the outermost one.

        Raises, on leaving:
            NoSpace: nothing of it was kept.
        """
        return self._transaction

    def mark_changed(self) -> None:
        """The current transaction leaves something to send; `changed` is called after it."""
        self._dirty = True

    def _enter(self) -> None:
        self.lock.acquire()
        self._depth += 1
        if self._depth == 1:
            try:
                if self._behind:
                    self._catch_up()
                for database in self._databases:
                    database.begin()
            except BaseException:
                self._depth -= 1
                self.lock.release()
                raise

    def _leave(self, failed: bool) -> None:
        notify = False
        try:
            if self._depth == 1:
                try:
                    if failed:
                        self._undo()
                    else:
                        self._acknowledge()
                        notify = self._dirty
                finally:
                    self._dirty = False
                    for database in self._databases:
                        database.notes, database.weight = [], 0
        finally:
            self._depth -= 1
            self.lock.release()
        if notify:
            for callback in self.changed:
                callback()

    def _acknowledge(self) -> None:
        documents, blobs = self.documents, self.blobs
        notes = documents.notes + blobs.notes
        if notes:
            previous, self._sequence = self._sequence, self._sequence + 1
            if blobs.weight >= HEAVY:
                self._commit_blobs()
                notes = documents.notes
            try:
                self._journal.append(self._sequence, previous, notes)
            except NoSpace:
                # Bytes that are in blobs.db by now stay: a write that failed may have written a part.
                self._undo()
                raise
            if self._since == 0.0:
                self._since = time.monotonic()
        for database in self._databases:
            if database.in_step:
                database.keep()
        if self._journal.size >= BATCH_BYTES:
            self._commit()

    def _commit_blobs(self) -> None:
        self.blobs.keep()
        try:
            self.blobs.commit(self._sequence)
        except NoSpace:
            self._undo_batch()
            raise
        self._unflushed = True

    def _undo(self) -> None:
        """Take back the current transaction."""
        whole = [database.undo() for database in self._databases]
        if not all(whole):
            # A full disk made SQLite take back the whole batch, with transactions that were acknowledged.
            self._undo_batch()

    def _undo_batch(self) -> None:
        """Take back all since the last commit, then run again what the journal has of it."""
        for database in self._databases:
            database.drop()
        self._behind = True
        self._catch_up()

    def _catch_up(self) -> None:
        self._replay()
        self._behind = False

    # --- batches ------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Commit both databases and begin a new journal. Called with the lock held, between transactions."""
        try:
            self.blobs.commit(self._sequence)
            self.documents.commit(self._sequence)
        except NoSpace:
            # What was acknowledged is in the journal; it stays there until there is room.
            self._undo_batch()
            return
        self._unflushed = True
        self._since = 0.0
        if self._journal.records:
            old = self._journal
            self._journal = Journal(self._directory, self._key, old.number + 1)
            old.close()
            # Deleted only after the logs are on the disk: what a flush promised may be in here and nowhere else.
            self._retired.append(old.path)

    def tick(self) -> None:
        """Commit a batch that is old enough. For a worker thread, about once a second."""
        with self.lock:
            due = self._since and time.monotonic() - self._since >= BATCH_AGE_S and self._depth == 0
        if due:
            self.commit()

    def commit(self) -> None:
        """Commit the batch and bring it to the disk; superseded journals go. For a worker thread.

        Raises:
            NoSpace: the batch stays in the journal.
        """
        with self.lock:
            self._commit()
        self.flush()

    def flush(self) -> None:
        """On return everything acknowledged before the call survives power loss. For a worker thread."""
        with self.lock:
            journal, retired, logs = self._journal, self._retired, self._unflushed
            self._retired, self._unflushed = [], False
        try:
            if logs:
                self.blobs.flush()
                self.documents.flush()
            journal.flush()
        except OSError as error:
            with self.lock:
                self._retired, self._unflushed = retired + self._retired, True
            raise NoSpace("the disk that holds the store is full or failing") from error
        for path in retired:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Commit, bring everything to the disk, and close; an orderly end leaves no journal behind."""
        with self.lock:
            self._commit()
            self.flush()
            in_journal = self.documents.in_batch or self.blobs.in_batch
            self._journal.close()
            for database in self._databases:
                database.close()
            if not in_journal:
                self._journal.path.unlink(missing_ok=True)

    # --- recovery -------------------------------------------------------------------------------------------

    def _recover(self) -> int:
        old = journals(self._directory)
        done = self._replay()
        self._journal = Journal(self._directory, self._key, int(old[-1].name[8:]) + 1 if old else 1)
        if old:
            self.blobs.commit(self._sequence)
            self.documents.commit(self._sequence)
            for database in self._databases:
                database.flush()
            for path in old:
                path.unlink(missing_ok=True)
        return done

    def _replay(self) -> int:
        """Run again every record that a database lacks; how many there were."""
        applied = [database.applied() for database in self._databases]
        known, done = max(applied), 0
        for path in journals(self._directory):
            for sequence, previous, notes in read(path, self._key):
                if previous > known:
                    break  # What this record builds on went with the power.
                if min(applied) < sequence:
                    self._replay_notes([note for note in notes if applied[note[0]] < sequence])
                    done += 1
                known = max(known, sequence)
        # Never back: a number that is used twice would be taken for one that is applied.
        self._sequence = max(self._sequence, known)
        return done

    def _replay_notes(self, notes: Sequence[Sequence[Any]]) -> None:
        for database in self._databases:
            database.begin()
        for number, sql, parameters in notes:
            self._databases[number].replay(sql, parameters)
        for database in self._databases:
            database.keep()
            database.notes, database.weight = [], 0


class _Transaction:
    """What `with ledger.transaction()` enters; one object serves all, since the depth is the ledger's."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __enter__(self) -> None:
        self._ledger._enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger._leave(kind is not None)
