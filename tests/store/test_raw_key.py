"""The databases as another program opens them: with the raw key that docs/FORMAT.md gives, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlcipher3

from blobfs.store import schema
from blobfs.store.store import Store
from tests.store.conftest import KEYS, Bench, make


def tables(path: Path, key: str, page_size: int) -> list[str]:
    """What another program sees."""
    connection = sqlcipher3.connect(path)
    try:
        connection.execute("PRAGMA cipher_log_level = NONE")
        connection.execute(f'PRAGMA key = "{key}"')
        connection.execute(f"PRAGMA cipher_page_size = {page_size}")
        connection.execute("PRAGMA cipher_hmac_algorithm = HMAC_SHA256")
        return [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    finally:
        connection.close()


def test_the_databases_open_with_their_raw_key_and_with_no_passphrase_of_that_text(bench: Bench, store: Store) -> None:
    make(store, b"file", data=b"bytes")
    bench.close(store)
    path, key = store.path / "blobs.db", KEYS.blobs_db.hex()
    assert tables(path, f"x'{key}'", schema.BLOBS_PAGE)
    for passphrase in (key, f"x'{key}", f"x''{key}''"):
        with pytest.raises(sqlcipher3.DatabaseError):
            tables(path, passphrase, schema.BLOBS_PAGE)
