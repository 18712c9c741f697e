"""What is special to one database product: SQLite, for one server process, and PostgreSQL, for several.

Must not know the tables. Invariant: SQL outside of this file runs on both; `FOR UPDATE`, which SQLite does without
because it has one writer at a time, is how PostgreSQL has one writer for each account.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from sqlalchemy import BigInteger, Connection, Engine, create_engine, event, func, literal_column, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError

from server.errors import DataUnusable

POOL: Final = 12
"""Connections: the readers' worker threads, the writers and some spare; a thread never holds two."""

LOCK_WAIT_S: Final = 30
"""How long a writer waits for another process, such as a command, to finish its transaction."""


class Product(Protocol):
    """What `Catalog` needs of a database product."""

    engine: Engine
    writers: int
    owner: int
    reading: Mapping[str, Any]
    """Execution options of transactions that only read."""

    def lock_schema(self, connection: Connection) -> None:
        """Until the transaction ends no other process creates or migrates tables."""

    def appear(self) -> set[int] | None:
        """As `Catalog.owners`."""

    def renumber(self, connection: Connection, tables: Sequence[str]) -> None:
        """The column `id` of these tables counts on from the highest that is there."""

    def close(self) -> None:
        """Close every connection."""


def open_product(url: str) -> Product:
    """The product at an SQLAlchemy URL; nothing has been connected to yet.

    Raises:
        DataUnusable: it is neither of the two, or the package that speaks to it is missing.
    """
    parsed = make_url(url)
    kind = parsed.drivername.partition("+")[0]
    if kind == "sqlite":
        return Sqlite(parsed)
    if kind not in ("postgresql", "postgres"):
        raise DataUnusable("A catalog is at sqlite:///PATH or postgresql://USER@HOST/DATABASE.")
    try:
        return Postgresql(parsed.set(drivername="postgresql+psycopg"))
    except ImportError as error:
        raise DataUnusable("PostgreSQL needs the package psycopg: install blobfs[postgresql].") from error


# --- SQLite -----------------------------------------------------------------------------------------------


class Sqlite:
    """A file. Its one writer at a time is queued for in the process, since SQLite's own lock would be polled for."""

    writers = 1
    owner = 0
    reading: Mapping[str, Any] = {}

    def __init__(self, url: URL) -> None:
        arguments = {"timeout": LOCK_WAIT_S, "check_same_thread": False, "cached_statements": 256}
        # Parameters are payloads and hashes, which an error's text, and so the log, must not hold.
        self.engine = create_engine(url, pool_size=POOL, max_overflow=0, connect_args=arguments, hide_parameters=True)
        event.listen(self.engine, "connect", _prepare_sqlite)
        event.listen(self.engine, "begin", _begin_sqlite)

    def lock_schema(self, connection: Connection) -> None:
        """The transaction has the write lock already."""

    def appear(self) -> None:
        """There is no other process: the data directory's lock sees to that."""

    def renumber(self, connection: Connection, tables: Sequence[str]) -> None:
        """SQLite always does."""

    def close(self) -> None:
        self.engine.dispose()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves: the driver would only do so before the first write
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "temp_store = MEMORY", "cache_size = -16000", "trusted_schema = OFF"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("blobfs_write")
    if write is None:
        connection.exec_driver_sql("BEGIN")
        return
    # FULL flushes the log at each commit; NORMAL leaves that to the next one that does.
    connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if write == 'durable' else 'NORMAL'}")
    # IMMEDIATE takes the write lock now, so no transaction fails half-way because its view is stale.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


# --- PostgreSQL -------------------------------------------------------------------------------------------

_SESSION: Final = {
    "lock_timeout": f"{LOCK_WAIT_S}s",
    # A process that stops, or whose machine vanishes, half-way through a transaction: its locks go.
    "idle_in_transaction_session_timeout": "120s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    # Each statement of a writer sees what was committed before it, so what it reads after a lock is true.
    "default_transaction_isolation": r"read\ committed",
}
_SCHEMA_LOCK: Final = 0x626C6F626673
"""An advisory lock's number: "blobfs"."""

_PRESENT: Final = text(
    "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
    " AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class Postgresql:
    """A server database. Each process shows that it lives by an advisory lock that ends with its connection."""

    writers = 4
    reading: Mapping[str, Any] = {
        "isolation_level": "REPEATABLE READ",
        "postgresql_readonly": True,
    }

    def __init__(self, url: URL) -> None:
        self.owner = secrets.randbits(62) | 1
        options = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
        self.engine = create_engine(
            url,
            pool_size=POOL + 1,  # one shows that we live
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={"connect_timeout": 10, "options": options},
        )
        event.listen(self.engine, "begin", _begin_postgresql)
        self._presence: Connection | None = None

    def lock_schema(self, connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _SCHEMA_LOCK})

    def appear(self) -> set[int]:
        if self._presence is not None:
            try:
                return self._look(self._presence)
            except DBAPIError:
                self._presence.invalidate()
                self._presence.close()
                self._presence = None
        # Shared, since the database may not have noticed yet that the connection before this one is gone.
        presence = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        presence.execute(text("SELECT pg_advisory_lock_shared(:number)"), {"number": self.owner})
        self._presence = presence
        return self._look(presence)

    def _look(self, presence: Connection) -> set[int]:
        return set(presence.execute(_PRESENT).scalars())

    def renumber(self, connection: Connection, tables: Sequence[str]) -> None:
        highest = func.max(literal_column("id", BigInteger()))
        for table in tables:
            sequence = func.pg_get_serial_sequence(table, "id")
            top = select(func.setval(sequence, func.coalesce(highest, 1), highest.is_not(None)))
            connection.execute(top.select_from(text(table)))

    def close(self) -> None:
        if self._presence is not None:
            self._presence.invalidate()  # not back to the pool: the lock goes with the connection
            self._presence.close()
        self.engine.dispose()


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get("blobfs_write") == "soon":
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
