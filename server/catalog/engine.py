"""Opening the catalog and its transactions. What is special to SQLite or PostgreSQL is in products.py.

Invariant: a `writing` transaction is alone among writers (per account on PostgreSQL, altogether on SQLite) and, unless
asked otherwise, durable when it returns.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, inspect, select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from server.catalog.products import Product, open_product
from server.catalog.schema import METADATA, MIGRATIONS, SCHEMA, TOKENS, USERS, VERSION
from server.errors import CatalogTooNew, DataUnusable, DiskFull, Unavailable


class Catalog:
    """The database at one URL, with the newest schema."""

    def __init__(self, url: str) -> None:
        """Open, and create or migrate as needed.

        Raises:
            CatalogTooNew: a newer server wrote it.
            DataUnusable: it cannot be opened.
        """
        advice = "The catalog cannot be opened; see that its database exists and is writable."
        try:
            self._product: Product = open_product(url)
        except SQLAlchemyError as error:
            raise DataUnusable(advice) from error
        try:
            with self.writing() as connection:
                self._product.lock_schema(connection)
                _migrate(connection)
        except BaseException as error:
            self.close()
            if isinstance(error, SQLAlchemyError | DiskFull | Unavailable):
                raise DataUnusable(advice) from error
            raise

    @property
    def writers(self) -> int:
        """How many transactions may write at once without getting into each other's way."""
        return self._product.writers

    @property
    def owner(self) -> int:
        """This process, among several on the catalog; 0 where there is only one."""
        return self._product.owner

    def owners(self) -> set[int] | None:
        """The processes that serve from the catalog now, this one among them; None where there is only one.

        Blocks. Called at the start and then now and then: it also shows this one to the others.
        """
        with _translated():
            return self._product.appear()

    def renumber(self, connection: Connection) -> None:
        """Accounts and tokens made from now on get numbers above those that rows were inserted with."""
        self._product.renumber(connection, [table.name for table in (USERS, TOKENS)])

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view; takes no lock that a writer would wait for."""
        with _translated(), self._product.engine.connect() as connection:
            yield connection.execution_options(**self._product.reading)

    @contextlib.contextmanager
    def writing(self, durable: bool = True) -> Iterator[Connection]:
        """One transaction: commits on return, rolls back on an exception.

        Args:
            durable: whether it must survive power loss; one that need not costs no disk flush.
        Raises:
            DiskFull, Unavailable: nothing was committed.
        """
        with _translated(), self._product.engine.connect() as connection:
            connection.execution_options(blobfs_write="durable" if durable else "soon")
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close every connection; no transaction may be open."""
        self._product.close()


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


# --- errors -----------------------------------------------------------------------------------------------

_FULL: Final = ("disk is full", "could not extend file", "no space left")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("The server's catalog is busy; try again.") from error
    except DBAPIError as error:
        text = str(error.orig).lower()
        if any(part in text for part in _FULL):
            raise DiskFull("The server's disk is full; nothing was stored.") from error
        # Among them on PostgreSQL: a lock not granted in time, a deadlock, a connection that broke.
        if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
            raise Unavailable("The server's catalog does not answer; try again.") from error
        raise
    except OSError as error:
        raise storage_error(error) from error


def storage_error(error: OSError) -> DiskFull | Unavailable:
    """What a failing disk means to whoever asked."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("The server's disk is full; nothing was stored.")
    return Unavailable("The server's disk does not answer as it should; try again later.")
