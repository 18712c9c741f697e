"""One SQLCipher connection: used by one thread at a time, and always inside the ledger's lock.

The room knows how to open a database and how to run a statement; what a transaction is worth is the ledger's.
Each statement that writes is also noted, so that the ledger can put it into the journal and run it again. Some are
only noted: what they do is kept in memory, in a backlog, and reaches the database later and many at a time. Invariant:
whoever looks at the database or changes it finds the backlog empty, but for `peek`, `peek_all` and `slice`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import sqlcipher3

from blobfs.errors import NoSpace, StoreDamaged, StoreError, StoreTooNew
from blobfs.store import schema

Value = int | float | str | bytes | None
Note = tuple[int, str, Sequence[Value]]
"""(number of the database, SQL or a name in place of it, parameters): a statement as the journal keeps it."""

PATCH: Final = "PATCH"
"""Stands in place of SQL for `patch`: parameters are (position, offset, bytes)."""

SHORT_LOG: Final = 32 << 20
"""Bytes of a log that stay when its pages are in the database; they are written anew."""
IntegrityError: Final = sqlcipher3.IntegrityError
_FULL: Final = ("full", "disk I/O error")
_FAILURES: Final = (sqlcipher3.DatabaseError, MemoryError)
"""SQLCipher answers all that follows a page that failed authentication with "out of memory"."""
FULL: Final = "the disk that holds the store is full or failing; make some room there, what was stored before is safe"
TOO_NEW: Final = (
    "a newer blobfs wrote this store, and nothing in it was changed; update blobfs, or read the account's files with "
    "`blobfs mount OTHER --store NEW --connect INVITE --read-only`"
)


class Backlog:
    """What a database has been told and has not been made to do yet. This one is always empty."""

    @property
    def waiting(self) -> int:
        """How much waits."""
        return 0

    def settle(self, most: int | None = None) -> None:
        """Have the database do what waits, or `most` of it, the longest waiting first. No transaction is under way."""

    def undo(self) -> None:
        """Take back what the current transaction added."""

    def keep(self) -> None:
        """What the current transaction added stays."""

    def forget(self) -> None:
        """What is known here may not be true any more: all goes, what waits too (the journal has it)."""

    def shed(self) -> None:
        """Give up the memory of all that does not wait."""


class Database:
    """A connection with an open batch: statements since the last commit are visible to it alone."""

    def __init__(self, path: Path, number: int, key: bytes, page_size: int, ddl: str, cache_kib: int) -> None:
        """Open the database at `path`, making it with `ddl` when it is empty or not there.

        Raises:
            StoreTooNew: a newer blobfs wrote it.
            StoreDamaged: it is no database of this key.
        """
        self.path = path
        self.number = number
        self.notes: list[Note] = []
        """What the current transaction did here so far."""
        self.weight = 0
        """Bytes of payload in `notes`."""
        self.patched = 0
        """Of these, bytes of patches that are smaller than a page."""
        self.in_step = False
        """Whether the current transaction has run something here; it is marked, and so can be undone."""
        self.backlog = Backlog()
        self.special: dict[str, Callable[[Sequence[Any]], None]] = {PATCH: self._replay_patch}
        """What a name in place of SQL stands for. It fails before it has changed anything, or as the disk is full."""
        self.failed = False
        """A full or failing disk came between: SQLite may have taken back the whole batch."""
        self.commits = 0
        """How often a batch was committed."""
        self.changes = 0
        """Grows with whatever changes what a query would find, but for bytes within a payload (`overwrite`)."""
        self._tight = False
        """Changed pages stay in memory, since the disk is full."""
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise refusal(path, error) from error
        self._connection = sqlcipher3.connect(
            os.fspath(path), isolation_level=None, check_same_thread=False, cached_statements=512
        )
        self._configure(key, page_size, cache_kib)
        self._page_size = page_size
        self._migrate(ddl)

    def _configure(self, key: bytes, page_size: int, cache_kib: int) -> None:
        unlock(self._connection, key, page_size)
        for pragma in (
            # Until `bound_log` no commit moves the log: what room a full disk has left is for what was acknowledged.
            "wal_autocheckpoint = 0",
            # Not before the cipher is set up. A row's pages are then found without reading those before them, and
            # freed without reading any. Only a new database heeds it.
            "auto_vacuum = INCREMENTAL",
            # What was deleted stays sealed in pages that are free: to overwrite them is to write everything twice.
            "secure_delete = FAST",
            "journal_mode = WAL",
            "temp_store = MEMORY",
            "synchronous = NORMAL",
            f"journal_size_limit = {SHORT_LOG}",
            f"cache_size = -{cache_kib}",
            "trusted_schema = OFF",
        ):
            try:
                self._connection.execute(f"PRAGMA {pragma}")
            except sqlcipher3.DatabaseError as error:
                self._connection.close()
                if is_full(error):
                    raise NoSpace(FULL) from error
                raise StoreDamaged(f"{self.path.name} cannot be read with this store's key") from error

    def _migrate(self, ddl: str) -> None:
        version = self.one("PRAGMA user_version", ())[0]
        if version > schema.VERSION:
            self._connection.close()
            raise StoreTooNew(TOO_NEW)
        if version == 0:
            try:
                self._connection.executescript(f"BEGIN; {ddl}; {schema.stamp()} COMMIT;")
            except sqlcipher3.DatabaseError as error:
                self._connection.close()
                raise self._failure(error) from error

    # --- statements -----------------------------------------------------------------------------------

    def one(self, sql: str, parameters: Sequence[Value]) -> Any:
        """The first row of a query; None when there is none. Raises NoSpace, StoreDamaged."""
        if self.backlog.waiting:
            self._catch_up()
        return self.peek(sql, parameters)

    def all(self, sql: str, parameters: Sequence[Value]) -> list[Any]:
        """All rows of a query. Raises NoSpace, StoreDamaged."""
        if self.backlog.waiting:
            self._catch_up()
        return self.peek_all(sql, parameters)

    def peek(self, sql: str, parameters: Sequence[Value]) -> Any:
        """As `one`, of the database without the backlog: the caller knows what is in that."""
        try:
            return self._connection.execute(sql, parameters).fetchone()
        except _FAILURES as error:
            raise self._failure(error) from error

    def peek_all(self, sql: str, parameters: Sequence[Value]) -> list[Any]:
        """As `all`, of the database without the backlog."""
        try:
            rows: list[Any] = self._connection.execute(sql, parameters).fetchall()
        except _FAILURES as error:
            raise self._failure(error) from error
        return rows

    def slice(self, position: int, offset: int, length: int) -> bytes | None:
        """Bytes within the payload of a row of `rows`, fewer where it ends; None: there is no such row.

        Only the pages that they lie on are read, and nothing of the backlog. Raises NoSpace, StoreDamaged.
        """
        try:
            with self._connection.open_blob("rows", "payload", position, readonly=True) as payload:
                payload.seek(min(offset, len(payload)))
                found: bytes = payload.read(length)
        except sqlcipher3.OperationalError as error:
            if "no such rowid" in str(error):
                return None
            raise self._failure(error) from error
        except _FAILURES as error:
            raise self._failure(error) from error
        return found

    def run(self, sql: str, parameters: Sequence[Value], weight: int = 0) -> int:
        """Run a statement that writes, and note it; the number of rows that it changed.

        `weight` is the bytes of payload among the parameters. The statement must do the same when it is run
        again on the same database: no clock, no random numbers, no other source than its parameters.

        Raises:
            NoSpace, StoreDamaged; IntegrityError: a constraint forbids it.
        """
        if not self.in_step:
            self.begin()
        self.backlog.forget()
        count = self._execute(sql, parameters)
        self.notes.append((self.number, sql, parameters))
        self.weight += weight
        return count

    def tell(self, sql: str, parameters: Sequence[Value], weight: int = 0) -> None:
        """Note a statement of the backlog's own; it is run here only if the current transaction has run others."""
        if self.in_step:
            self._execute(sql, parameters)
        self.notes.append((self.number, sql, parameters))
        self.weight += weight

    def many(self, sql: str, parameters: Sequence[Sequence[Value]]) -> int:
        """Run a statement of the backlog's that was noted before, once for each; the number of rows that it changed.

        Raises:
            NoSpace, StoreDamaged.
        """
        if not parameters:
            return 0
        self.changes += 1
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            count: int = self._connection.executemany(sql, parameters).rowcount
        except _FAILURES as error:
            raise self._failure(error) from error
        return count

    def do(self, name: str, parameters: Sequence[Value]) -> None:
        """Run one of `special`, and note it. Raises NoSpace, StoreDamaged; whatever it raises by itself."""
        if not self.in_step:
            self.begin()
        self.special[name](parameters)
        self.notes.append((self.number, name, parameters))

    def _execute(self, sql: str, parameters: Sequence[Value]) -> int:
        self.changes += 1
        try:
            count: int = self._connection.execute(sql, parameters).rowcount
        except IntegrityError:
            raise
        except _FAILURES as error:
            raise self._failure(error) from error
        return count

    def _catch_up(self) -> None:
        """Empty the backlog. What the current transaction has there is run here."""
        if self.notes and not self.in_step:
            self.begin()
        else:
            self.backlog.settle()

    def scratch(self, sql: str) -> list[Any]:
        """Run a statement on temporary tables; its rows. It is not noted: what is in them ends with the process."""
        if self.backlog.waiting:
            self._catch_up()
        rows: list[Any] = self._connection.execute(sql).fetchall()
        return rows

    def patch(self, position: int, offset: int, data: bytes) -> None:
        """Overwrite bytes within the payload of a row of `rows`: only the pages that they lie on are written again."""
        if not self.in_step:
            self.begin()
        self.overwrite(position, offset, data)
        self.notes.append((self.number, PATCH, (position, offset, data)))
        self.weight += len(data)
        if len(data) < self._page_size:
            self.patched += len(data)

    def overwrite(self, position: int, offset: int, data: bytes) -> None:
        """As `patch`, within what is noted by another name."""
        try:
            with self._connection.open_blob("rows", "payload", position) as payload:
                payload.seek(offset)
                payload.write(data)
        except _FAILURES as error:
            raise self._failure(error) from error

    def _replay_patch(self, parameters: Sequence[Any]) -> None:
        self.overwrite(*parameters)

    def _failure(self, error: Exception) -> Exception:
        if is_full(error):
            self.failed = True
            return NoSpace(FULL)
        misused: bool = isinstance(error, (sqlcipher3.OperationalError, sqlcipher3.ProgrammingError))
        return error if misused else StoreDamaged(f"{self.path.name} is damaged")

    def replay(self, sql: str, parameters: Sequence[Any]) -> None:
        """Do again what a note says."""
        if sql in self.special:
            self.do(sql, parameters)
        else:
            self.run(sql, parameters)

    # --- the batch --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open a batch if there is none, and mark where the current transaction starts here.

        From here on it runs what it says. What it has in the backlog is run now, behind the mark.

        Raises:
            NoSpace: a statement of this transaction failed already.
        """
        if self.failed:
            raise NoSpace(FULL)
        self.backlog.undo()
        self.backlog.settle()
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("SAVEPOINT step")
        except _FAILURES as error:
            raise self._failure(error) from error
        self.in_step = True
        self.backlog.forget()
        for _, sql, parameters in self.notes:
            self._execute(sql, parameters)

    def keep(self) -> None:
        """What the current transaction did here is now part of the batch."""
        if self.in_step:
            self._connection.execute("RELEASE step")
        elif not self.notes:
            return
        self.backlog.keep()
        self._forget()

    def undo(self) -> None:
        """Take back what the current transaction did here. The database must not have `failed`."""
        if self.in_step:
            self.changes += 1
            self._connection.execute("ROLLBACK TO step")
            self._connection.execute("RELEASE step")
            self.backlog.forget()
        else:
            self.backlog.undo()
        self._forget()

    def drop(self) -> None:
        """Take back the whole batch; the database works again after a failure."""
        self.changes += 1
        self._forget()
        self.backlog.forget()
        if self.failed:
            # What is run again now stays in memory until it is committed: even a query would meet the full disk.
            self._connection.execute("PRAGMA cache_spill = OFF")
            self._tight = True
        if self._connection.in_transaction:
            with suppress(sqlcipher3.OperationalError):  # SQLite did so itself
                self._connection.execute("ROLLBACK")
        self.failed = False

    def _forget(self) -> None:
        self.in_step = False
        self.weight = self.patched = 0
        if self.notes:
            self.notes = []

    def commit(self, sequence: int) -> None:
        """Write the batch to the log, complete up to journal record `sequence`: it survives SIGKILL on return.

        Raises:
            NoSpace: the disk is full; the batch is lost.
        """
        self.backlog.settle()
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("UPDATE applied SET sequence = ? WHERE id = 1", (sequence,))
            self._connection.execute("COMMIT")
            self.commits += 1
            if self._tight:
                self._connection.execute("PRAGMA cache_spill = ON")
                self._tight = False
        except _FAILURES as error:
            raise self._failure(error) from error

    def bound_log(self, size: int) -> None:
        """At which size, in bytes, a commit moves the log into the database, which takes room there; 0: at none."""
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {size // self._page_size}").fetchall()

    def growth(self) -> int:
        """Bytes that the file becomes longer by when the log is moved into it."""
        count, size = (int(self.peek(f"PRAGMA {name}", ())[0]) for name in ("page_count", "page_size"))
        return max(0, count * size - self.path.stat().st_size)

    def shrink(self) -> None:
        """Give the memory of the page cache, and of what is known beside it, back to the allocator."""
        self.backlog.shed()
        self._connection.execute("PRAGMA shrink_memory").fetchall()

    def spare(self) -> int:
        """Bytes of pages that are free within the database."""
        count, size = (self.peek(f"PRAGMA {name}", ())[0] for name in ("freelist_count", "page_size"))
        return int(count) * int(size)

    def give_back(self, most: int) -> None:
        """Fill free pages with the last ones, up to `most` bytes of them; the commit of the batch cuts those off.

        Raises:
            NoSpace: the disk is full; the batch is lost.
        """
        try:
            (size,) = self._connection.execute("PRAGMA page_size").fetchone()
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(f"PRAGMA incremental_vacuum({most // int(size)})").fetchall()
        except _FAILURES as error:
            raise self._failure(error) from error

    def applied(self) -> int:
        """Up to which journal record this database is complete."""
        return int(self.one("SELECT sequence FROM applied WHERE id = 1", ())[0])

    def flush(self) -> None:
        """On return what was committed survives power loss. Needs no lock: it touches the file of the log alone."""
        # Closing a descriptor drops a process's POSIX locks on that file; SQLite keeps none on its log.
        try:
            fd = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the connection; SQLite moves the log into the database."""
        self._connection.close()


def unlock(connection: Any, key: bytes, page_size: int) -> None:
    """Tell a connection how its database is sealed. Nothing is read yet, so nothing can be wrong yet."""
    # SQLCipher would tell its own errors on standard error, past whoever says them in a sentence.
    connection.execute("PRAGMA cipher_log_level = NONE")
    # A raw key in x'..' quotes: no PBKDF2 at every open.
    connection.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
    for pragma in (
        "cipher_log_level = NONE",
        f"cipher_page_size = {page_size}",
        "cipher_hmac_algorithm = HMAC_SHA256",
    ):
        connection.execute(f"PRAGMA {pragma}")


def refusal(path: Path, error: OSError) -> StoreError:
    """What it means that a file of the store could not be opened or written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
        return NoSpace(FULL)
    return StoreDamaged(f"{path.name} cannot be opened: {os.strerror(error.errno or 0)}")


def is_full(error: Exception) -> bool:
    """Whether an error of SQLite's says that the disk is full or failing."""
    return any(text in str(error) for text in _FULL)
