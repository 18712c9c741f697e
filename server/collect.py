"""Freeing what nothing needs: bytes of deleted blobs, revisions past their time, blobs without references.

Must not know HTTP. Invariant: a blob goes only in a transaction that saw no reference to it, on a locked account, so no
push can slip one in; its bytes go in a later transaction that saw it still deleted.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, and_, bindparam, delete, exists, select, update

from blobfs.protocol import DEFAULT_NAMESPACE
from server.backends.interface import BlobKey, BlobsBackend
from server.catalog import blobs
from server.catalog.accounts import forget_account, lock_account
from server.catalog.blobs import Blob
from server.catalog.engine import Catalog
from server.catalog.schema import BLOBS, DELETIONS, REFS, REVISIONS, USERS
from server.errors import AccountMissing

BATCH: Final = 500
"""Rows in one transaction: the write lock is held for some milliseconds, not for the whole of a collection."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection freed, or would free."""

    blobs: int = 0
    blob_bytes: int = 0
    revisions: int = 0
    revision_bytes: int = 0


def unlink(connection: Connection, backend: BlobsBackend) -> int:
    """Free the bytes of a batch of deleted blobs; answers how many. Call again until that is 0.

    Runs in a transaction of its own after the deletion's: whoever creates the id again in between takes the row away.
    """
    query = (
        select(USERS.c.name, DELETIONS.c.namespace, DELETIONS.c.blob_id, DELETIONS.c.user_id)
        .join(USERS, USERS.c.id == DELETIONS.c.user_id)
        .where(DELETIONS.c.stored.is_(True))
        .limit(BATCH)
        # Two processes that free at the same time take different rows and never wait for each other.
        .with_for_update(of=DELETIONS, skip_locked=True)
    )
    rows = connection.execute(query).all()
    if not rows:
        return 0
    backend.delete([BlobKey(row.name, row.namespace, row.blob_id) for row in rows])
    done = [{"of_user": row.user_id, "of_namespace": row.namespace, "of_blob": row.blob_id} for row in rows]
    connection.execute(_UNLINKED, done)
    return len(rows)


_UNLINKED = (
    update(DELETIONS)
    .where(
        DELETIONS.c.user_id == bindparam("of_user"),
        DELETIONS.c.namespace == bindparam("of_namespace"),
        DELETIONS.c.blob_id == bindparam("of_blob"),
    )
    .values(stored=False)
)


def collect(
    catalog: Catalog, backend: BlobsBackend, grace_s: float, retention_s: float, dry_run: bool = False
) -> Collected:
    """Prune revisions kept for longer than `retention_s`, then blobs that nothing referred to for `grace_s`."""
    now = time.time_ns()
    kept_ns, idle_ns = now - int(retention_s * 1e9), now - int(grace_s * 1e9)
    with catalog.reading() as connection:
        accounts = list(connection.execute(select(USERS.c.id).where(USERS.c.removed.is_(False))).scalars())
    freed = Counter[str]()
    for user_id in accounts:
        revisions, revision_bytes = _prune(catalog, user_id, kept_ns, dry_run)
        gone, blob_bytes = _sweep(catalog, user_id, idle_ns, dry_run)
        freed.update(blobs=gone, blob_bytes=blob_bytes, revisions=revisions, revision_bytes=revision_bytes)
    if not dry_run:
        with catalog.writing() as connection:
            old = and_(DELETIONS.c.stored.is_(False), DELETIONS.c.deleted_ns < kept_ns)
            connection.execute(delete(DELETIONS).where(old))
        unlink_all(catalog, backend)
    return Collected(**freed)


def unlink_all(catalog: Catalog, backend: BlobsBackend) -> None:
    """Free the bytes of every deleted blob."""
    done = BATCH
    while done:
        with catalog.writing(durable=False) as connection:
            done = unlink(connection, backend)


# --- earlier revisions ------------------------------------------------------------------------------------


def _prune(catalog: Catalog, user_id: int, before_ns: int, dry_run: bool) -> tuple[int, int]:
    columns = (REVISIONS.c.doc_id, REVISIONS.c.seq, REVISIONS.c.payload)
    query = select(*columns).where(REVISIONS.c.user_id == user_id, REVISIONS.c.replaced_ns < before_ns)
    if dry_run:
        with catalog.reading() as connection:
            kept = connection.execute(query, execution_options={"yield_per": 100})
            sizes = [len(row.payload) for row in kept]
        return len(sizes), sum(sizes)
    number = size = 0
    while True:
        with catalog.writing() as connection:
            if not _is_open(connection, user_id):
                return number, size
            rows = connection.execute(query.limit(BATCH)).all()
            if not rows:
                return number, size
            freed = sum(len(row.payload) for row in rows)
            _drop_revisions(connection, user_id, [(row.doc_id, row.seq) for row in rows], freed)
        number += len(rows)
        size += freed


def _drop_revisions(connection: Connection, user_id: int, gone: list[tuple[str, int]], freed: int) -> None:
    one = and_(REVISIONS.c.user_id == user_id, REVISIONS.c.doc_id == bindparam("d"), REVISIONS.c.seq == bindparam("s"))
    connection.execute(delete(REVISIONS).where(one), [{"d": doc_id, "s": seq} for doc_id, seq in gone])
    connection.execute(update(USERS).where(USERS.c.id == user_id).values(used=USERS.c.used - freed))
    for batch in blobs.batches(dict.fromkeys(doc_id for doc_id, _ in gone)):
        _drop_references(connection, user_id, batch)


def _drop_references(connection: Connection, user_id: int, doc_ids: list[str]) -> None:
    """Delete the closed references of these documents that no kept revision lies within."""
    kept = exists().where(
        REVISIONS.c.user_id == REFS.c.user_id,
        REVISIONS.c.doc_id == REFS.c.doc_id,
        REVISIONS.c.seq >= REFS.c.since_seq,
        REVISIONS.c.seq < REFS.c.until_seq,
    )
    closed = (REFS.c.user_id == user_id, REFS.c.doc_id.in_(doc_ids), REFS.c.until_seq.is_not(None))
    freed = list(connection.execute(select(REFS.c.blob_id).where(*closed, ~kept).distinct()).scalars())
    connection.execute(delete(REFS).where(*closed, ~kept))
    for batch in blobs.batches(freed):
        match = (BLOBS.c.user_id == user_id, BLOBS.c.namespace == DEFAULT_NAMESPACE, BLOBS.c.blob_id.in_(batch))
        # The grace time counts from now on, not from when the blob came.
        connection.execute(update(BLOBS).where(*match).values(idle_ns=time.time_ns()))


# --- blobs without references -----------------------------------------------------------------------------


def _sweep(catalog: Catalog, user_id: int, before_ns: int, dry_run: bool) -> tuple[int, int]:
    referred = exists().where(REFS.c.user_id == BLOBS.c.user_id, REFS.c.blob_id == BLOBS.c.blob_id)
    idle = select(BLOBS.c.blob_id, BLOBS.c.size, BLOBS.c.sha256, BLOBS.c.flags).where(
        BLOBS.c.user_id == user_id,
        BLOBS.c.namespace == DEFAULT_NAMESPACE,  # documents refer to no other, so elsewhere only the owner deletes
        BLOBS.c.idle_ns < before_ns,
        ~referred,
    )
    if dry_run:
        with catalog.reading() as connection:
            sizes = [row.size for row in connection.execute(idle)]
        return len(sizes), sum(sizes)
    number = size = 0
    while True:
        with catalog.writing() as connection:
            if not _is_open(connection, user_id):
                return number, size
            gone = [Blob(*row) for row in connection.execute(idle.limit(BATCH))]
            if not gone:
                return number, size
            blobs.remove(connection, user_id, DEFAULT_NAMESPACE, gone)
        number += len(gone)
        size += sum(blob.size for blob in gone)


def _is_open(connection: Connection, user_id: int) -> bool:
    """Lock the account; whether it is still there."""
    try:
        lock_account(connection, user_id)
    except AccountMissing:
        return False
    return True


# --- whole accounts ---------------------------------------------------------------------------------------


def remove_account(catalog: Catalog, backend: BlobsBackend, user_id: int, user: str) -> None:
    """Free all that a closed account holds, then its name. Repeating it after a crash completes it."""
    done = BATCH
    while done:
        with catalog.writing(durable=False) as connection:
            columns = (BLOBS.c.namespace, BLOBS.c.blob_id)
            rows = connection.execute(select(*columns).where(BLOBS.c.user_id == user_id).limit(BATCH)).all()
            done = len(rows)
            backend.delete([BlobKey(user, row.namespace, row.blob_id) for row in rows])
            one = and_(
                BLOBS.c.user_id == user_id, BLOBS.c.namespace == bindparam("n"), BLOBS.c.blob_id == bindparam("b")
            )
            if rows:
                connection.execute(delete(BLOBS).where(one), [{"n": row.namespace, "b": row.blob_id} for row in rows])
    unlink_all(catalog, backend)
    with catalog.writing() as connection:
        forget_account(connection, user_id)
