"""The tables, their columns, and the migrations between versions. Every sentinel is explained here and only here.

Times are nanoseconds since the epoch. Accounts have numbers that are never used twice, so whoever gets a freed name
inherits nothing. No foreign keys: the functions of this package keep the tables true to each other in transactions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA: Final = MetaData()

# SQLite counts up by itself only in a column declared INTEGER.
_NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")

# By bytes everywhere: an order that depends on the machine's language would break an index when that changes.
_ID: Final = String(128).with_variant(String(128, collation="C"), "postgresql")

SCHEMA: Final = Table(
    "schema_version",
    METADATA,
    Column("version", Integer, primary_key=True),
)

USERS: Final = Table(
    "users",
    METADATA,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("name", _ID, nullable=False, unique=True),
    Column("quota", BigInteger),  # bytes; NULL: without limit
    Column("used", BigInteger, nullable=False),  # bytes of blobs, documents, kept revisions and secrets
    Column("reserved", BigInteger, nullable=False),  # bytes of uploads under way: the sum over reservations
    Column("blobs", BigInteger, nullable=False),  # how many there are in all namespaces
    Column("seq", BigInteger, nullable=False),  # of the newest accepted change; 0: none yet
    Column("created_ns", BigInteger, nullable=False),
    Column("removed", Boolean, nullable=False),  # being removed: no token works, the name is not free yet
    sqlite_autoincrement=True,
)

TOKENS: Final = Table(
    "tokens",
    METADATA,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("user_id", BigInteger, nullable=False, index=True),
    Column("hash", LargeBinary(32), nullable=False, unique=True),  # SHA-256 of the token's text
    Column("scopes", Text, nullable=False),  # names of auth.Scope, ascending, joined by spaces
    Column("label", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger),  # NULL: never
    Column("seen_ns", BigInteger),  # last used, as far as written down; NULL: never
    Column("made_by", BigInteger),  # the token that asked for it; NULL: the server's keeper made it
    sqlite_autoincrement=True,
)

BLOBS: Final = Table(
    "blobs",
    METADATA,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("namespace", _ID, primary_key=True),
    Column("blob_id", _ID, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("sha256", LargeBinary(32), nullable=False),
    Column("flags", Integer, nullable=False),  # one bit each, see FLAG_BITS in blobs.py
    Column("created_ns", BigInteger, nullable=False),
    Column("idle_ns", BigInteger, nullable=False),  # since when at the earliest nothing refers to it
    Column("flagged_ns", BigInteger),  # when the flags were last set; NULL: never since its creation
    Index("blobs_by_date", "user_id", "namespace", "created_ns", "blob_id"),
    sqlite_with_rowid=False,
)

RESERVATIONS: Final = Table(
    "reservations",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),  # drawn at random
    Column("user_id", BigInteger, nullable=False),
    Column("namespace", _ID, nullable=False),
    Column("blob_id", _ID, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("owner", BigInteger, nullable=False, server_default="0"),  # Catalog.owner of the process that uploads
)

DELETIONS: Final = Table(
    "deletions",
    METADATA,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("namespace", _ID, primary_key=True),
    Column("blob_id", _ID, primary_key=True),
    Column("deleted_ns", BigInteger, nullable=False),
    Column("stored", Boolean, nullable=False),  # the backend may still hold the bytes
    Index("deletions_stored", "stored"),
    sqlite_with_rowid=False,
)

DOCUMENTS: Final = Table(
    "documents",
    METADATA,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("doc_id", _ID, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("revision", Text, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("changed_ns", BigInteger, nullable=False),
    UniqueConstraint("user_id", "seq", name="documents_by_seq"),
)

# Earlier revisions; the newest one stands in `documents`.
REVISIONS: Final = Table(
    "revisions",
    METADATA,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("doc_id", _ID, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("revision", Text, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("replaced_ns", BigInteger, nullable=False),
    Index("revisions_by_age", "replaced_ns"),
)

# "The revisions of doc_id from since_seq on, and before until_seq, refer to the blob." A row stays exactly as long as
# some revision that is kept lies in its range, so a blob may go when it has no row.
REFS: Final = Table(
    "refs",
    METADATA,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("blob_id", _ID, primary_key=True),
    Column("doc_id", _ID, primary_key=True),
    Column("since_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("until_seq", BigInteger),  # NULL: the newest revision refers to it
    Index("refs_by_document", "user_id", "doc_id", "until_seq"),
    sqlite_with_rowid=False,
)

SECRETS: Final = Table(
    "secrets",
    METADATA,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("payload", LargeBinary, nullable=False),
)


def _add_owner(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE reservations ADD COLUMN owner BIGINT NOT NULL DEFAULT 0")


def _add_seen(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE tokens ADD COLUMN seen_ns BIGINT")


def _add_maker(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE tokens ADD COLUMN made_by BIGINT")


def _add_flagging(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE blobs ADD COLUMN flagged_ns BIGINT")


MIGRATIONS: Final[tuple[Callable[[Connection], None], ...]] = (
    _add_owner,
    _add_seen,
    _add_maker,
    _add_flagging,
)
"""The first takes a catalog of version 1 to version 2, and so on. A new catalog gets the tables above at once."""

VERSION: Final = 1 + len(MIGRATIONS)
