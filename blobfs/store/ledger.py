"""The ledger: both databases and the journal as one unit of commitment.

    transaction   statements run in the open batch of each database, or wait in its
                  backlog; one journal record                                             survives SIGKILL
    batch         after many records, or some seconds: both commit, a new journal begins  the same
    flush         logs and journal to the disk                                            survives power loss

A transaction with much payload is not written twice: its record holds only what documents.db was told, and is void
unless blobs.db, which commits right after it, is complete up to it.

What may reach the disk before what, so that power loss leaves a state that was, or one that the sweep can mend:
spool before journal before blobs.db before documents.db. Only a heavy commit may be on the disk without the records
before it: then blobs.db has bytes that no document has heard of. It has never lost any: whatever deletes rows says
`mark_loss`, and the journal goes to the disk first.

Order of recovery: each database says up to which record it is complete; what lies beyond is run again from the
journals, oldest first, up to the first record that is cut or void. Every access holds `lock`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from blobfs.errors import NoSpace
from blobfs.store import schema
from blobfs.store.backlogs import RELIEF, Backlogs
from blobfs.store.committer import Committer
from blobfs.store.database import FULL, SHORT_LOG, Database, Value, refusal
from blobfs.store.journal import Journal, journals, number_of
from blobfs.store.log import Log
from blobfs.store.readers import Readers
from blobfs.store.replay import mark_of, replay
from blobfs.store.reserve import Reserve
from blobfs.store.spool import Segment, Spool
from blobfs.store.staging import Staging
from blobfs.store.turns import Turns
from blobfs.values.keys import Keys, derive

HEAVY: Final = 256 << 10
"""Bytes of payload from which a transaction commits blobs.db in place of copying them into the journal."""
BATCH_BYTES: Final = 16 << 20
"""Of journal, after which a batch is committed, by a thread of its own."""
OVERDUE: Final = 32 << 20
"""Bytes beyond that, at which whoever adds to it commits the batch himself."""
QUICK_S: Final = 300e-6
"""A flush that takes no longer costs less than to have a thread do it."""
QUICK_BYTES: Final = 64 << 10
"""Of records that were not flushed, up to which a flush can be quick."""
BATCH_AGE_S: Final = 5.0
"""After which `tick` commits a batch."""


class Ledger:
    """Owns the databases' batches and the journal. Re-entrant: transactions join the one they are in."""

    def __init__(self, directory: Path, keys: Keys) -> None:
        """Open the databases in `directory`, making what is missing, and run again what the journals hold.

        Raises:
            StoreTooNew, StoreDamaged: as `Database`; or the two databases are not of one store.
            NoSpace: there is no room for the recovery; nothing is lost.
        """
        self._turns = Turns()
        self.lock = self._turns.lock
        self.changed: list[Callable[[], None]] = []
        """Called after a transaction that left something to send; by the thread that made it."""
        self._directory = directory
        self.reserve = Reserve(directory)
        """Of the disk; before the databases are opened, which takes room, too."""
        self._flushing = threading.Lock()
        self._transaction = _Transaction(self)
        self._committer = Committer(self.commit)
        self._depth = 0
        self._dirty = False
        self._loses = False
        self._behind = False
        """The databases lack something that was acknowledged and is in the journal: a full disk came between."""
        self._since = 0.0
        self._limit = BATCH_BYTES
        self._unflushed = False
        self._flush_s = 1.0
        """How long the last flush of the journal alone took."""
        self._retired: list[Journal | Segment] = []
        self._journal: Journal
        self._sequence = 0
        self._ticked = 0
        """The last record at the last tick."""
        self._loss = 0
        """The last record that deleted rows."""
        self._heavy = 0
        """The last record whose rows are in blobs.db alone."""
        self._safe = 0
        """The record up to which all is on the disk."""
        self.documents = Database(
            directory / "documents.db", 0, keys.documents_db, schema.DOCUMENTS_PAGE, schema.DOCUMENTS, 32 << 10
        )
        self._databases = [self.documents]
        self._opened: list[Database | Log | Readers | Spool] = [self.documents]
        try:
            self.blobs = Database(directory / "blobs.db", 1, keys.blobs_db, schema.BLOBS_PAGE, schema.BLOBS, 32 << 10)
            self._databases.append(self.blobs)
            self._opened.append(self.blobs)
            self.log = Log(self.blobs.path, keys.blobs_db, schema.BLOBS_PAGE)
            self._opened.append(self.log)
            self.readers = Readers(self.blobs.path, keys.blobs_db, schema.BLOBS_PAGE)
            self._opened.append(self.readers)
            self._key = derive(keys.journal, "store", mark_of(self.documents, self.blobs))
            self.spool = Spool(directory, self._key)
            self._opened.append(self.spool)
            self._backlogs = Backlogs(self._databases, self._turns, self._query)
            self.staging = Staging(self.blobs, self.spool, self.reserve)
            self.unclean = bool(journals(directory))
            """Whether the last run ended without `close`."""
            self.recovered = self._recover()
            """Records that had to be run again."""
        except BaseException:
            self._close_databases()
            raise

    def _close_databases(self) -> None:
        for opened in reversed(self._opened):
            opened.close()

    # --- reading --------------------------------------------------------------------------------------

    def one(self, database: Database, sql: str, *parameters: Value) -> Any:
        """The first row of a query, or None."""
        self._backlogs.ease()
        return self._query(database.one, sql, parameters)

    def all(self, database: Database, sql: str, *parameters: Value) -> list[Any]:
        """All rows of a query."""
        self._backlogs.ease()
        rows: list[Any] = self._query(database.all, sql, parameters)
        return rows

    def peek(self, database: Database, sql: str, *parameters: Value) -> Any:
        """As `one`, of the database without its backlog: the caller knows what is in that."""
        return self._query(database.peek, sql, parameters)

    def peek_all(self, database: Database, sql: str, *parameters: Value) -> list[Any]:
        """As `all`, of the database without its backlog."""
        rows: list[Any] = self._query(database.peek_all, sql, parameters)
        return rows

    def slice(self, position: int, offset: int, length: int) -> bytes | None:
        """Bytes within the payload of a row of blobs.db, fewer where it ends; None: there is no such row.

        Of the database without its backlog.
        """
        found: bytes | None = self._query(self.blobs.slice, position, offset, length)
        return found

    def _query(self, query: Callable[..., Any], *arguments: Any) -> Any:
        self._turns.take()
        try:
            if self._behind:
                self._catch_up()
            try:
                return query(*arguments)
            except NoSpace:
                # Even a query can meet a full disk: it needs memory, so SQLite writes changed pages out.
                if self._depth:
                    raise
                self._catch_up()
                self._behind = True  # until it goes well: SQLite may take back the batch a second time
                answer, self._behind = query(*arguments), False
                return answer
        finally:
            self.lock.release()

    # --- transactions -----------------------------------------------------------------------------------

    def transaction(self) -> _Transaction:
        """A context: all statements in it, or none. What is in it survives SIGKILL on leaving the outermost one.

        An error within ends the outermost one: it is not to be caught in between. On leaving, NoSpace is raised when
        nothing of it was kept.
        """
        return self._transaction

    def mark_changed(self) -> None:
        """The current transaction leaves something to send; `changed` is called after it."""
        self._dirty = True

    def mark_loss(self) -> None:
        """The current transaction deletes bytes from blobs.db that documents.db on the disk may refer to."""
        self._loses = True

    def _enter(self) -> None:
        if self._depth and self.lock.acquire(blocking=False):
            if self._depth:  # it is this thread's
                self._depth += 1
                return
            self.lock.release()
        self._backlogs.ease()
        self._turns.take()
        if self._behind:
            try:
                self._catch_up()
            except BaseException:
                self.lock.release()
                raise
        self._turns.begin()
        self._depth = 1

    def _leave(self, failed: bool) -> None:
        if self._depth > 1:
            self._depth -= 1
            self.lock.release()
            return
        notify, heavy = False, self._heavy
        try:
            if failed or self.documents.failed or self.blobs.failed:
                self._undo()
                if not failed:
                    raise NoSpace(FULL)
            else:
                self._acknowledge()
                notify = self._dirty
        finally:
            self._dirty = self._loses = False
            self._depth = 0
            self._turns.end()
        self.spool.hurry()
        if self._heavy > heavy:
            self.log.hurry()
        if notify:
            for callback in self.changed:
                callback()

    def _acknowledge(self) -> None:
        documents, blobs = self.documents, self.blobs
        if not documents.notes and not blobs.notes:
            return
        if blobs.weight and self.reserve.is_spent and self.reserve.refuses(blobs.weight, blobs.spare()):
            self._undo()
            raise NoSpace(FULL)
        previous, sequence = self._sequence, self._sequence + 1
        mark = self._journal.size
        if self._loses:
            self._loss = sequence
        try:
            # A page costs more than a copy of the few bytes that were changed in it: those go the way of small writes.
            if blobs.weight - blobs.patched >= HEAVY:
                self._journal.append(sequence, sequence, documents.notes)
                if self._loss > self._safe or self.spool.unflushed:
                    self._flush_journal()
                blobs.keep()
                blobs.commit(sequence)
                self._heavy, self._unflushed = sequence, True
            else:
                self._journal.append(sequence, previous, documents.notes + blobs.notes)
        except BaseException:
            if self._journal.size != mark:
                self._journal.cut(mark)
            self._undo()
            raise
        self._sequence = sequence
        documents.keep()
        blobs.keep()
        if self._since == 0.0:
            self._since = time.monotonic()
        if self._journal.size >= self._limit:
            if self._journal.size < self._limit + OVERDUE:
                self._committer.wake()
            else:
                self._commit()
        elif sequence % RELIEF == 0 and not self._backlogs.relieve():
            self._behind = True

    def _flush_journal(self) -> None:
        self._flush(self.spool)
        self._flush(self._journal)
        self._loss = 0

    def _undo(self) -> None:
        """Take back the current transaction."""
        if self.documents.failed or self.blobs.failed:
            # SQLite may have taken back the whole batch, with transactions that were acknowledged.
            self._catch_up()
        else:
            self.documents.undo()
            self.blobs.undo()

    def _catch_up(self) -> None:
        """Take back all since the last commit, then run again what the journal has of it."""
        self._behind = True
        for database in self._databases:
            database.drop()
        self._replay()
        self._behind = False

    # --- batches ------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Commit both databases and begin a new journal. Called with the lock held, between transactions.

        On a full disk nothing is done: what was acknowledged is in the journal, and stays there until there is room.
        """
        if self._journal.records == 0:
            return
        try:
            if self._behind or self.documents.failed or self.blobs.failed:
                self._catch_up()  # else what a full disk took back would count as written
            self._flush_journal()
            self.blobs.commit(self._sequence)
            self._unflushed = True
            if self._heavy > self._safe:
                self._flush(self.blobs)
                self._heavy = 0
            self.documents.commit(self._sequence)
            self._since = 0.0
            old: Journal = self._journal
            self._journal = Journal(self._directory, self._key, old.number + 1)
            # Deleted only after the logs are on the disk: what a flush promised may be in here and nowhere else.
            self._retired += [old, *self.staging.retire()]
            self._limit = BATCH_BYTES
        except NoSpace:
            self._limit = self._journal.size + BATCH_BYTES
            self.reserve.spend()  # for the next try: once the batch is in the databases, its journal gives room back
            if self.documents.failed or self.blobs.failed:
                self._behind = True

    def _flush(self, files: Database | Journal | Spool) -> None:
        try:
            files.flush()
        except OSError as error:
            raise refusal(files.path, error) from error

    def tick(self, *, is_busy: bool) -> bool:
        """Empty the backlogs, commit an old batch, see to the log; whether the databases were told of all that waited.

        For a worker, once a second. While others write (`is_busy`), a little may wait until a commit is due: much of
        it is soon changed again, or gone. Raises NoSpace.
        """
        with self.lock:
            is_due = 0 < self._since <= time.monotonic() - BATCH_AGE_S
            is_calm, self._ticked = self._sequence == self._ticked, self._sequence
            self.blobs.bound_log(self.log.bound(self.blobs.growth()))
        if is_told := is_due or not is_busy or not self._backlogs.are_short():
            self._backlogs.empty()
        if is_due:
            self.commit()
        self.log.settle(is_calm=is_calm)
        return is_told

    @property
    def sequence(self) -> int:
        """The number of the last transaction."""
        return self._sequence

    def spare(self) -> int:
        """Bytes of pages that are free within blobs.db."""
        with self.lock:
            return self.blobs.spare()

    def give_back(self, most: int) -> bool:
        """Make blobs.db smaller by up to `most` bytes of free pages; False when something waits to be committed first.

        Raises NoSpace; nothing is lost then.
        """
        with self.lock:
            # Between batches, so that a commit of its own says nothing of records that documents.db lacks.
            if self._depth or self._behind or self._journal.records:
                return False
            try:
                self.blobs.give_back(most)
                self.blobs.commit(self._sequence)
            except NoSpace:
                self._behind = True
                raise
            self._unflushed = True
        return True

    def shrink(self) -> None:
        """Give up the memory of both caches; the next reads go to the disk."""
        with self.lock:
            for database in self._databases:
                database.shrink()

    def commit(self) -> bool:
        """Commit the batch and bring it to the disk; superseded journals go. For a worker thread.

        On a full disk the batch stays in the journal; the answer is False then.

        Raises:
            NoSpace: the disk does not take what was written.
        """
        self.flush()  # without the lock; what is left to flush with it is little
        self._backlogs.ease()
        with self.lock:
            self._commit()
            is_done = self._journal.records == 0
        self.flush()
        return is_done

    def flush(self) -> None:
        """On return everything acknowledged before the call survives power loss. For a worker thread.

        Raises:
            NoSpace: the disk fails; nothing is lost unless the power goes.
        """
        started = time.perf_counter()
        # One at a time: a second caller must not return while the first is still at it.
        with self._flushing:
            with self.lock:
                journal, retired, logs, safe = self._journal, self._retired, self._unflushed, self._sequence
                self._retired, self._unflushed = [], False
                staged = self.spool.unflushed
            try:
                self.spool.flush()
                has_waited = journal.flush()
                if logs:
                    self.blobs.flush()
                    self.documents.flush()
            except OSError as error:
                with self.lock:
                    self._retired, self._unflushed = retired + self._retired, True
                raise refusal(journal.path, error) from error
            self._safe = safe
            if has_waited and not logs and not staged:
                self._flush_s = time.perf_counter() - started
            for old in retired:
                old.close()
                old.path.unlink(missing_ok=True)

    def flushes_quickly(self) -> bool:
        """Whether `flush` has some records to bring to the disk and nothing else, and the disk is quick at that."""
        is_much = self._unflushed or self._retired or self._journal.unflushed > QUICK_BYTES or self.spool.unflushed
        return not is_much and self._flush_s <= QUICK_S and not self._flushing.locked()

    def close(self) -> None:
        """Commit, bring everything to the disk, and close; an orderly end leaves no journal behind.

        Raises:
            NoSpace: the disk fails; the store is closed, and its journals hold what the databases lack.
        """
        complete = False
        self._committer.close()
        try:
            with self.lock:
                self._commit()
            self.flush()
            complete = self._journal.records == 0
        finally:
            for file in (*self._retired, self._journal):
                file.close()
            self._close_databases()
            if complete:
                self._journal.path.unlink(missing_ok=True)

    # --- recovery -------------------------------------------------------------------------------------------

    def _recover(self) -> int:
        old = journals(self._directory)
        done = self._replay()
        if old:
            self._flush(self.spool)
            self.blobs.commit(self._sequence)
            self._flush(self.blobs)
            self.documents.commit(self._sequence)
            self._flush(self.documents)
        self._journal = Journal(self._directory, self._key, number_of(old[-1]) + 1 if old else 1)
        # On the disk before anything else: a journal that is there tells that the last run did not end in order.
        self._flush_journal()
        unused = self.staging.begin()
        for segment in unused:
            segment.close()
        for path in (*old, *(segment.path for segment in unused)):
            path.unlink(missing_ok=True)
        self.documents.bound_log(SHORT_LOG)
        self.blobs.bound_log(self.log.bound(self.blobs.growth()))
        return done

    def _replay(self) -> int:
        """Run again every record that a database lacks; how many there were."""
        known, done = replay(self._directory, self._key, self._databases, self.staging)
        # Never back: a number that is used twice would be taken for one that is applied.
        self._sequence = max(self._sequence, known)
        return done


class _Transaction:
    """What `with ledger.transaction()` enters; one object serves all, since the depth is the ledger's."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __enter__(self) -> None:
        self._ledger._enter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ledger._leave(kind is not None)
