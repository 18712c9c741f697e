"""Comparing the catalog with the blobs, and mending. Works while a server runs.

Must not know HTTP. Invariant: without `repair` nothing changes; with it no sound blob goes. Whatever looks wrong is
looked at again in a transaction of its own, where nothing moves, before it is reported or mended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, and_, bindparam, func, select, update

from blobfs.protocol import DEFAULT_NAMESPACE
from server.backends.interface import BlobKey, BlobsBackend
from server.catalog import blobs
from server.catalog.accounts import lock_accounts
from server.catalog.blobs import Blob
from server.catalog.engine import Catalog
from server.catalog.schema import BLOBS, DELETIONS, DOCUMENTS, REFS, RESERVATIONS, REVISIONS, SECRETS, USERS

BATCH: Final = 500
PIECE: Final = 1 << 20
"""Bytes of a blob read at a time."""


def check(catalog: Catalog, backend: BlobsBackend, digests: bool, repair: bool) -> dict[str, Any]:
    """What is wrong, by kind; `clean` when nothing is.

    Kinds:
        missing: rows whose bytes are not there.
        damaged: rows whose bytes have another size or, with `digests`, another SHA-256. Repair of both removes the
            row, so that a device that has the blob can send it again.
        stray: bytes without a row. Repair frees them.
        usage: accounts whose counters are not the sums of what they hold. Repair sets them.
        dangling: references to blobs that have no row. Only a device that has the blob can mend that.
    """
    return _Check(catalog, backend, digests, repair).run()


def list_rows(catalog: Catalog, user_id: int) -> Iterator[tuple[str, Blob]]:
    """Every blob of the account, in batches, so that no transaction stays open while disks are read."""
    after = ("", "")
    columns = (BLOBS.c.namespace, BLOBS.c.blob_id, BLOBS.c.size, BLOBS.c.sha256, BLOBS.c.flags)
    while True:
        beyond = (BLOBS.c.namespace > after[0]) | and_(BLOBS.c.namespace == after[0], BLOBS.c.blob_id > after[1])
        query = select(*columns).where(BLOBS.c.user_id == user_id, beyond)
        with catalog.reading() as connection:
            rows = connection.execute(query.order_by(BLOBS.c.namespace, BLOBS.c.blob_id).limit(BATCH)).all()
        if not rows:
            return
        yield from ((row[0], Blob(*row[1:])) for row in rows)
        after = (rows[-1].namespace, rows[-1].blob_id)


class _Check:
    """One run."""

    def __init__(self, catalog: Catalog, backend: BlobsBackend, digests: bool, repair: bool) -> None:
        self._catalog, self._backend, self._digests, self._repair = catalog, backend, digests, repair
        self._found: dict[str, list[str]] = {
            "missing": [],
            "damaged": [],
            "stray": [],
            "usage": [],
            "dangling": [],
        }

    def run(self) -> dict[str, Any]:
        with self._catalog.reading() as connection:
            users = dict(connection.execute(select(USERS.c.id, USERS.c.name).where(USERS.c.removed.is_(False))).all())
        number = 0
        for user_id, user in users.items():
            for namespace, blob in list_rows(self._catalog, user_id):
                number += 1
                key = BlobKey(user, namespace, blob.blob_id)
                if self._compare(key, blob) is not None:
                    self._report(user_id, key)
            self._check_account(user_id, user)
        numbers = {name: user_id for user_id, name in users.items()}
        for key, _ in self._backend.list():
            self._check_stray(numbers.get(key.user), key)
        return {"clean": not any(self._found.values()), "blobs": number, "repaired": self._repair, **self._found}

    def _compare(self, key: BlobKey, blob: Blob) -> str | None:
        """What is wrong with the blob's bytes: missing, damaged or nothing."""
        reader = self._backend.open(key)
        if reader is None:
            return "missing"
        try:
            if reader.size != blob.size:
                return "damaged"
            if not self._digests:
                return None
            hasher, offset = hashlib.sha256(), 0
            while piece := reader.read(offset, PIECE):
                hasher.update(piece)
                offset += len(piece)
            return None if hasher.digest() == blob.sha256 else "damaged"
        finally:
            reader.close()

    def _report(self, user_id: int, key: BlobKey) -> None:
        with self._catalog.writing() as connection:
            lock_accounts(connection, [user_id])
            blob = blobs.find(connection, user_id, key.namespace, key.blob_id)
            kind = None if blob is None else self._compare(key, blob)
            if kind is None:
                return
            if self._repair and blob is not None:
                blobs.remove(connection, user_id, key.namespace, [blob])
                self._backend.delete([key])
        self._found[kind].append(str(key))

    def _check_stray(self, user_id: int | None, key: BlobKey) -> None:
        if user_id is not None:
            with self._catalog.reading() as connection:
                if blobs.find(connection, user_id, key.namespace, key.blob_id) is not None:
                    return
        with self._catalog.writing() as connection:
            lock_accounts(connection, [] if user_id is None else [user_id])
            if user_id is not None and _is_accounted_for(connection, user_id, key):
                return
            if self._backend.stat(key) is None:
                return
            if self._repair:
                self._backend.delete([key])
        self._found["stray"].append(str(key))

    def _check_account(self, user_id: int, user: str) -> None:
        with self._catalog.writing() as connection:
            if user_id not in lock_accounts(connection, [user_id]):
                return  # removed meanwhile
            columns = (USERS.c.used, USERS.c.blobs, USERS.c.reserved)
            has = tuple(connection.execute(select(*columns).where(USERS.c.id == user_id)).one())
            holds = _sums(connection, user_id)
            if has != holds:
                self._found["usage"].append(user)
                if self._repair:
                    values = dict(zip(("used", "blobs", "reserved"), holds, strict=True))
                    connection.execute(update(USERS).where(USERS.c.id == user_id).values(values))
            dangling = connection.execute(_DANGLING, {"user_id": user_id})
            self._found["dangling"] += [f"{user}/{row.doc_id}/{row.blob_id}" for row in dangling]


_DANGLING: Final = (
    select(REFS.c.doc_id, REFS.c.blob_id)
    .outerjoin(
        BLOBS,
        and_(
            BLOBS.c.user_id == REFS.c.user_id,
            BLOBS.c.namespace == DEFAULT_NAMESPACE,
            BLOBS.c.blob_id == REFS.c.blob_id,
        ),
    )
    .where(REFS.c.user_id == bindparam("user_id"), BLOBS.c.blob_id.is_(None))
)


def _is_accounted_for(connection: Connection, user_id: int, key: BlobKey) -> bool:
    """Whether the blob is there, is on its way in, or is on its way out."""
    for table in (BLOBS, RESERVATIONS, DELETIONS):
        match = [table.c.user_id == user_id, table.c.namespace == key.namespace, table.c.blob_id == key.blob_id]
        if table is DELETIONS:
            match.append(DELETIONS.c.stored.is_(True))
        if connection.execute(select(table.c.user_id).where(*match).limit(1)).first() is not None:
            return True
    return False


def _sums(connection: Connection, user_id: int) -> tuple[int, int, int]:
    """(used, blobs, reserved) as the rows add up."""

    def total(table: Any, column: Any) -> int:
        return int(connection.execute(select(func.sum(column)).where(table.c.user_id == user_id)).scalar() or 0)

    used = total(BLOBS, BLOBS.c.size)
    for table in (DOCUMENTS, REVISIONS, SECRETS):
        used += total(table, func.length(table.c.payload))
    number = connection.execute(select(func.count()).select_from(BLOBS).where(BLOBS.c.user_id == user_id)).scalar_one()
    return used, int(number), total(RESERVATIONS, RESERVATIONS.c.bytes)
