"""What a store remembers besides documents: small JSON values by name, in documents.db."""

from __future__ import annotations

import json
from typing import Any

from blobfs.store.ledger import Ledger


class Settings:
    """Values survive SIGKILL once `set` returns."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a setting, or `default` when it was never set."""
        row = self._ledger.one(self._ledger.documents, "SELECT value FROM settings WHERE name = ?", name)
        return default if row is None else json.loads(row[0])

    def under(self, prefix: str) -> dict[str, Any]:
        """Every setting whose name begins with `prefix`, ASCII that ends in a space."""
        sql = "SELECT name, value FROM settings WHERE name >= ? AND name < ?"
        rows = self._ledger.all(self._ledger.documents, sql, prefix, prefix[:-1] + "!")
        return {name: json.loads(value) for name, value in rows}

    def set(self, name: str, value: Any) -> None:
        """Set or replace a value; None removes it."""
        with self._ledger.transaction():
            if value is None:
                self._ledger.documents.run("DELETE FROM settings WHERE name = ?", (name,))
            else:
                self._ledger.documents.run("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, json.dumps(value)))
