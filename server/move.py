"""Copying an installation: the catalog to another database, the blobs to another backend.

Must not know HTTP or arguments. Invariant: the source is only read; a blob counts as copied when its digest was that of
its row and the target has made it durable. Repeating it goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from sqlalchemy import Table, func, insert, select

from server.backends.interface import BlobKey, BlobsBackend
from server.catalog.accounts import list_accounts
from server.catalog.blobs import Blob
from server.catalog.engine import Catalog
from server.catalog.schema import METADATA, RESERVATIONS, SCHEMA, USERS
from server.check import list_rows
from server.errors import AccountNotEmpty, DataInUse

BATCH: Final = 500
PIECE: Final = 1 << 20
"""Bytes of a blob read at a time."""


def copy_catalog(source: Catalog, target: Catalog) -> int:
    """Copy every row but those of uploads under way, in one transaction; answers how many. No server may run.

    Raises:
        DataInUse: a server runs on one of them.
        AccountNotEmpty: the target has accounts.
    """
    for catalog in (source, target):
        if (catalog.owners() or {catalog.owner}) != {catalog.owner}:
            raise DataInUse("A blobfs-server runs on one of the two catalogs; stop it first.")
    number = 0
    with source.reading() as old, target.writing() as new:
        if new.execute(select(func.count()).select_from(USERS)).scalar_one():
            raise AccountNotEmpty("The target's catalog has accounts already; an empty one is needed.")
        for table in METADATA.sorted_tables:
            if table in (SCHEMA, RESERVATIONS):
                continue
            rows = old.execute(select(table), execution_options={"yield_per": BATCH})
            for part in rows.mappings().partitions(BATCH):
                new.execute(insert(table), [_row(table, row) for row in part])
                number += len(part)
        target.renumber(new)
    return number


def _row(table: Table, row: Any) -> dict[str, Any]:
    values = dict(row)
    if table is USERS:
        values["reserved"] = 0
    return values


def copy_blobs(catalog: Catalog, source: BlobsBackend, target: BlobsBackend) -> dict[str, Any]:
    """Copy what the target lacks of the blobs that the catalog has; a server may run meanwhile.

    Returns how many were copied and how many were there; the names of those missing or damaged at the source.
    """
    done: dict[str, Any] = {"copied": 0, "present": 0, "missing": []}
    with catalog.reading() as connection:
        accounts = list_accounts(connection)
    for account in accounts:
        for namespace, blob in list_rows(catalog, account.user_id):
            key = BlobKey(account.name, namespace, blob.blob_id)
            if target.stat(key) == blob.size:
                done["present"] += 1
            elif _copy(key, blob, source, target):
                done["copied"] += 1
            else:
                done["missing"].append(str(key))
    return done


def _copy(key: BlobKey, blob: Blob, source: BlobsBackend, target: BlobsBackend) -> bool:
    reader = source.open(key)
    if reader is None:
        return False
    staged, hasher, offset = target.stage(), hashlib.sha256(), 0
    try:
        while piece := reader.read(offset, PIECE):
            staged.write(piece)
            hasher.update(piece)
            offset += len(piece)
        if hasher.digest() != blob.sha256:
            return False
        target.sync([staged])
        target.publish([(key, staged)])
        return True
    finally:
        staged.discard()
        reader.close()
