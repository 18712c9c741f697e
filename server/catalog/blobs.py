"""Rows of blobs and of deletions. Must not know where bytes are kept, nor who may ask.

Invariant: an account's `used` and `blobs` change in the transaction that adds or removes the rows they count.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, bindparam, delete, func, insert, select, tuple_, update

from server.catalog.schema import BLOBS, DELETIONS, REFS, RESERVATIONS, USERS
from server.errors import BlobReferred, NotFound, PreconditionFailed

T = TypeVar("T")

FLAG_BITS: Final = {"PENDING": 1, "PROCESSING": 2, "PROCESSED": 4, "FAILED": 8}
"""The bit of each `protocol.Flag` in the column `flags`."""

AT_ONCE: Final = 500
"""Values in one IN: below the bound on variables of every database."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob as the catalog has it."""

    blob_id: str
    size: int
    sha256: bytes
    flags: int


def _one(columns: tuple[Any, ...]) -> Any:
    return select(*columns).where(
        BLOBS.c.user_id == bindparam("user_id"),
        BLOBS.c.namespace == bindparam("namespace"),
        BLOBS.c.blob_id == bindparam("blob_id"),
    )


_FIND = _one((BLOBS.c.blob_id, BLOBS.c.size, BLOBS.c.sha256, BLOBS.c.flags))
_SEVERAL = select(BLOBS.c.blob_id, BLOBS.c.size, BLOBS.c.sha256, BLOBS.c.flags).where(
    BLOBS.c.user_id == bindparam("user_id"),
    BLOBS.c.namespace == bindparam("namespace"),
    BLOBS.c.blob_id.in_(bindparam("ids", expanding=True)),
)


_INSERT = insert(BLOBS)
_UNDELETE = delete(DELETIONS).where(
    DELETIONS.c.user_id == bindparam("account"), DELETIONS.c.namespace == bindparam("room")
)
_UNDELETE_ONE = _UNDELETE.where(DELETIONS.c.blob_id == bindparam("only"))
_UNDELETE_SEVERAL = _UNDELETE.where(DELETIONS.c.blob_id.in_(bindparam("ids", expanding=True)))


def batches(ids: Iterable[T]) -> Iterator[list[T]]:
    """`ids` in lists that fit into one IN."""
    remaining = iter(ids)
    while batch := list(islice(remaining, AT_ONCE)):
        yield batch


def find(connection: Connection, user_id: int, namespace: str, blob_id: str) -> Blob | None:
    """The blob, or None."""
    row = connection.execute(_FIND, {"user_id": user_id, "namespace": namespace, "blob_id": blob_id}).first()
    return None if row is None else Blob(*row)


def find_several(connection: Connection, user_id: int, namespace: str, ids: Iterable[str]) -> dict[str, Blob]:
    """Those of the blobs that exist, by id."""
    found: dict[str, Blob] = {}
    for batch in batches(ids):
        if len(batch) == 1:  # an IN is written out anew each time, which takes longer than the search
            if (only := find(connection, user_id, namespace, batch[0])) is not None:
                found[only.blob_id] = only
            continue
        rows = connection.execute(_SEVERAL, {"user_id": user_id, "namespace": namespace, "ids": batch})
        found.update((row.blob_id, Blob(*row)) for row in rows)
    return found


def flag_names(flags: int) -> list[str]:
    """The names of the flags that are set, in the order of the protocol."""
    return [name for name, bit in FLAG_BITS.items() if flags & bit]


def flag_bits(names: Iterable[str]) -> int:
    """The column's value for these names, all of which are flags."""
    bits = 0
    for name in names:
        bits |= FLAG_BITS[name]
    return bits


def set_flags(
    connection: Connection,
    user_id: int,
    namespace: str,
    blob_id: str,
    flags: int,
    expected: int | None,
    older_s: float = 0.0,
) -> None:
    """Replace the blob's flags.

    Args:
        expected: the flags that it must have now; None for any.
        older_s: for how long they must have been as they are, by this server's clock.
    Raises:
        NotFound: there is no such blob.
        PreconditionFailed: its flags are not `expected`, or were set a shorter time ago.
    """
    blob = find(connection, user_id, namespace, blob_id)
    if blob is None:
        raise NotFound("There is no such blob.")
    match = [BLOBS.c.user_id == user_id, BLOBS.c.namespace == namespace, BLOBS.c.blob_id == blob_id]
    if expected is not None:
        # The comparison is part of the update: of two that expect the same flags, one finds them changed.
        match.append(BLOBS.c.flags == expected)
    now_ns = time.time_ns()
    if older_s:
        match.append(func.coalesce(BLOBS.c.flagged_ns, BLOBS.c.created_ns) <= now_ns - int(older_s * 1e9))
    if connection.execute(update(BLOBS).where(*match).values(flags=flags, flagged_ns=now_ns)).rowcount == 0:
        raise PreconditionFailed("The blob's flags are not those that were expected.")


def held(connection: Connection, user_id: int, namespace: str) -> tuple[int, int]:
    """(blobs, bytes) of one namespace of an account, those on their way in included."""
    counts = [
        connection.execute(
            select(func.count(), func.coalesce(func.sum(size), 0)).where(
                table.c.user_id == user_id, table.c.namespace == namespace
            )
        ).one()
        for table, size in ((BLOBS, BLOBS.c.size), (RESERVATIONS, RESERVATIONS.c.bytes))
    ]
    return sum(int(count[0]) for count in counts), sum(int(count[1]) for count in counts)


# --- lists ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list shows."""

    user_id: int
    namespace: str
    flag: int | None = None
    deleted: bool = False
    """Blobs that were deleted and not created again, instead of those that are."""


def _table(selection: Selection) -> tuple[Any, Any, list[Any]]:
    table = DELETIONS if selection.deleted else BLOBS
    when = DELETIONS.c.deleted_ns if selection.deleted else BLOBS.c.created_ns
    match = [table.c.user_id == selection.user_id, table.c.namespace == selection.namespace]
    if selection.flag is not None and not selection.deleted:
        match.append(BLOBS.c.flags.bitwise_and(selection.flag) != 0)
    return table, when, match


def count(connection: Connection, selection: Selection) -> int:
    """How many blobs the list would show."""
    table, _, match = _table(selection)
    return int(connection.execute(select(func.count()).select_from(table).where(*match)).scalar_one())


def list_by_id(connection: Connection, selection: Selection, after: str, limit: int) -> list[str]:
    """Ids above `after`, ascending."""
    table, _, match = _table(selection)
    query = select(table.c.blob_id).where(*match, table.c.blob_id > after).order_by(table.c.blob_id).limit(limit)
    return list(connection.execute(query).scalars())


def list_by_date(
    connection: Connection, selection: Selection, after: tuple[int, str] | None, descending: bool, limit: int
) -> list[tuple[int, str]]:
    """(time in ns, id) beyond `after`, in the order of both."""
    table, when, match = _table(selection)
    if after is not None:
        here = tuple_(when, table.c.blob_id)
        match.append(here < after if descending else here > after)
    order = (when.desc(), table.c.blob_id.desc()) if descending else (when, table.c.blob_id)
    rows = connection.execute(select(when, table.c.blob_id).where(*match).order_by(*order).limit(limit))
    return [(row[0], row[1]) for row in rows]


# --- creation and deletion -------------------------------------------------------------------------------


def add(connection: Connection, namespace: str, user_id: int, created: Sequence[Blob]) -> None:
    """Insert rows of blobs that are not there; what was deleted under their ids is forgotten."""
    now = time.time_ns()
    common = {"user_id": user_id, "namespace": namespace, "created_ns": now, "idle_ns": now}
    rows = [
        {"blob_id": blob.blob_id, "size": blob.size, "sha256": blob.sha256, "flags": blob.flags} | common
        for blob in created
    ]
    connection.execute(_INSERT, rows)
    place = {"account": user_id, "room": namespace}
    if len(created) == 1:
        connection.execute(_UNDELETE_ONE, place | {"only": created[0].blob_id})
        return
    for batch in batches(blob.blob_id for blob in created):
        connection.execute(_UNDELETE_SEVERAL, place | {"ids": batch})


def remove(connection: Connection, user_id: int, namespace: str, gone: Sequence[Blob]) -> None:
    """Delete the rows of blobs that are there and give their bytes back to the account.

    The backend still holds the bytes; `deletions` says so, and `collect.unlink` frees them afterwards.
    """
    match = (BLOBS.c.user_id == user_id, BLOBS.c.namespace == namespace)
    for batch in batches(blob.blob_id for blob in gone):
        connection.execute(delete(BLOBS).where(*match, BLOBS.c.blob_id.in_(batch)))
    common = {"user_id": user_id, "namespace": namespace, "deleted_ns": time.time_ns(), "stored": True}
    connection.execute(insert(DELETIONS), [{"blob_id": blob.blob_id} | common for blob in gone])
    freed = sum(blob.size for blob in gone)
    values = {"used": USERS.c.used - freed, "blobs": USERS.c.blobs - len(gone)}
    connection.execute(update(USERS).where(USERS.c.id == user_id).values(values))


def delete_one(connection: Connection, user_id: int, namespace: str, blob_id: str, referable: str) -> None:
    """Delete one blob at its owner's wish. The account is locked.

    Args:
        referable: the namespace that documents refer to.
    Raises:
        NotFound: there is no such blob.
        BlobReferred: a document, or a kept revision of one, refers to it.
    """
    blob = find(connection, user_id, namespace, blob_id)
    if blob is None:
        raise NotFound("There is no such blob.")
    if namespace == referable:
        query = select(REFS.c.doc_id).where(REFS.c.user_id == user_id, REFS.c.blob_id == blob_id).limit(1)
        if connection.execute(query).first() is not None:
            raise BlobReferred("A document, or a kept revision of one, refers to this blob.")
    remove(connection, user_id, namespace, [blob])
