"""Opening the catalog and its transactions. All that is special to one database product is here and only here.

Invariant: a `writing` transaction is alone among writers (per account on a server database, altogether on SQLite) and,
unless asked otherwise, durable when it returns.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from server.catalog.schema import METADATA, MIGRATIONS, SCHEMA, VERSION
from server.errors import CatalogTooNew, DataUnusable, DiskFull, Unavailable

POOL: Final = 12
"""Connections: the readers' worker threads, the writer and some spare; a thread never holds two."""

LOCK_WAIT_S: Final = 30
"""How long a writer waits for another process, such as a command, to finish its transaction."""


class Catalog:
    """The database at one URL, with the newest schema."""

    def __init__(self, url: str) -> None:
        """Open, and create or migrate as needed.

        Raises:
            CatalogTooNew: a newer server wrote it.
            DataUnusable: it cannot be opened.
        """
        try:
            self._engine = _open(url)
            with self.writing() as connection:
                _migrate(connection)
        except (SQLAlchemyError, DiskFull, Unavailable) as error:
            raise DataUnusable("The catalog cannot be opened; see that its database exists and is writable.") from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view; takes no lock that a writer would wait for."""
        with _translated(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, durable: bool = True) -> Iterator[Connection]:
        """One transaction: commits on return, rolls back on an exception.

        Args:
            durable: whether it must survive power loss; one that need not costs no disk flush.
        Raises:
            DiskFull, Unavailable: nothing was committed.
        """
        with _translated(), self._engine.connect() as connection:
            connection.execution_options(blobfs_write="FULL" if durable else "NORMAL")
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close every connection; no transaction may be open."""
        self._engine.dispose()


def _migrate(connection: Connection) -> None:
    if not inspect(connection).has_table(SCHEMA.name):
        METADATA.create_all(connection)
        connection.execute(SCHEMA.insert(), {"version": VERSION})
        return
    version = connection.execute(select(SCHEMA.c.version)).scalar_one()
    if version > VERSION:
        raise CatalogTooNew("A newer blobfs-server wrote this catalog; run that one, or upgrade this one.")
    for migration in MIGRATIONS[version - 1 :]:
        migration(connection)
    if version < VERSION:
        connection.execute(SCHEMA.update(), {"version": VERSION})


# --- what is special to one database product ------------------------------------------------------------


def _open(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_size=POOL, max_overflow=0, pool_pre_ping=True, hide_parameters=True)
    arguments = {"timeout": LOCK_WAIT_S, "check_same_thread": False, "cached_statements": 256}
    # Parameters are payloads and hashes, which an error's text, and so the log, must not hold.
    engine = create_engine(url, pool_size=POOL, max_overflow=0, connect_args=arguments, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves: the driver would only do so before the first write
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "temp_store = MEMORY", "cache_size = -16000", "trusted_schema = OFF"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    level = connection.get_execution_options().get("blobfs_write")
    if level is None:
        connection.exec_driver_sql("BEGIN")
        return
    # FULL flushes the log at each commit; NORMAL leaves that to the next one that does.
    connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
    # IMMEDIATE takes the write lock now, so no transaction fails half-way because its view is stale.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


_FULL: Final = ("disk is full", "could not extend file", "no space left")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        text = str(error.orig).lower()
        if any(part in text for part in _FULL):
            raise DiskFull("The server's disk is full; nothing was stored.") from error
        if error.connection_invalidated or "OperationalError" in type(error.orig).__name__:
            raise Unavailable("The server's catalog does not answer; try again.") from error
        raise
    except OSError as error:
        raise storage_error(error) from error


def storage_error(error: OSError) -> DiskFull | Unavailable:
    """What a failing disk means to whoever asked."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("The server's disk is full; nothing was stored.")
    return Unavailable("The server's disk does not answer as it should; try again later.")
