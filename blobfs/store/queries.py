"""Documents by what is in their JSON: indexes over its members, and walks over all documents. For the API.

An index is one of SQLite's own, over expressions of the column `json`, so it can never disagree with the documents.
Invariant: what `settings` says about an index and the index itself change in one transaction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from blobfs.errors import IndexExists, IndexNotFound, UsageError
from blobfs.store.hidden import IS_SHOWN
from blobfs.store.ledger import Ledger
from blobfs.store.settings import Settings
from blobfs.values.documents import ROOT, DocId
from blobfs.values.nodes import Inode

Scalar = str | int | float | bool
"""What an index can hold and a query ask for."""

MAX_INDEXES: Final = 64
MAX_PATHS: Final = 16
_SETTING: Final = "indexes"
_PART: Final = re.compile(r"[\w-]{1,100}")
_WATCH: Final = (
    "CREATE TEMP TABLE IF NOT EXISTS news (doc_id TEXT PRIMARY KEY)",
    "CREATE TEMP TRIGGER IF NOT EXISTS news_of_edits AFTER UPDATE OF edit ON main.documents "
    "WHEN NEW.edit != OLD.edit BEGIN INSERT OR IGNORE INTO news VALUES (NEW.doc_id); END",
    "CREATE TEMP TRIGGER IF NOT EXISTS news_of_files AFTER INSERT ON main.documents WHEN NEW.edit > 0 "
    "BEGIN INSERT OR IGNORE INTO news VALUES (NEW.doc_id); END",
)


class Queries:
    """Looks documents up by anything but their id."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._db = ledger.documents
        self._settings = settings

    def ids(self, after: DocId | None, limit: int) -> list[DocId]:
        """Live documents, ascending by id, from the first one after `after`; the root and what is hidden are none."""
        rows = self._ledger.all(
            self._db,
            "SELECT doc_id FROM documents WHERE doc_id > ? AND NOT deleted AND kind != '' AND doc_id != ? "  # noqa: S608
            f"AND {IS_SHOWN} ORDER BY doc_id LIMIT ?",
            after or "",
            ROOT,
            limit,
        )
        return [DocId(row[0]) for row in rows]

    def named(self, parent: Inode, prefix: bytes) -> list[tuple[bytes, DocId]]:
        """(name, document) of everything in a directory whose name begins with `prefix`, which is not empty."""
        rows = self._ledger.all(
            self._db,
            "SELECT name, doc_id FROM names JOIN documents ON documents.inode = names.inode "
            "WHERE names.parent = ? AND name >= ? AND name < ? AND kind != '' ORDER BY name",
            parent,
            prefix,
            prefix + b"\xff" * 255,
        )
        return [(name, DocId(doc_id)) for name, doc_id in rows]

    def named_by_deleted(self, parent: Inode) -> list[DocId]:
        """Names in a directory that are the ids of documents which are deleted, here or on the server."""
        rows = self._ledger.all(
            self._db,
            "SELECT doc_id FROM names JOIN bases ON bases.doc_id = CAST(names.name AS TEXT) WHERE names.parent = ? "
            "AND bases.deleted AND doc_id NOT IN (SELECT doc_id FROM documents WHERE NOT deleted)",
            parent,
        )
        return [DocId(row[0]) for row in rows]

    # --- news -----------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Remember from now on which documents are edited on this device, until `unwatch`."""
        with self._ledger.lock:
            for statement in _WATCH:
                self._db.scratch(statement)

    def news(self) -> list[DocId]:
        """Documents that were edited since the last call; while watching."""
        with self._ledger.lock:
            # Again: a full disk may have taken the triggers back together with the batch in which they were made.
            self.watch()
            found = [DocId(row[0]) for row in self._db.scratch("SELECT doc_id FROM temp.news")]
            if found:
                self._db.scratch("DELETE FROM temp.news")
            return found

    def unwatch(self) -> None:
        """Nobody wants to know any more."""
        with self._ledger.lock:
            for trigger in ("news_of_edits", "news_of_files"):
                self._db.scratch(f"DROP TRIGGER IF EXISTS temp.{trigger}")
            self._db.scratch("DROP TABLE IF EXISTS temp.news")

    # --- indexes ------------------------------------------------------------------------------------------------

    def indexes(self) -> dict[str, tuple[str, ...]]:
        """The paths of each index, by its name."""
        return {name: tuple(entry["paths"]) for name, entry in self._known().items()}

    def create(self, name: str, paths: Sequence[str]) -> None:
        """Make an index over `paths`, each the names of members joined by dots. Making the same again does nothing.

        Raises:
            IndexExists: another one has the name. UsageError: a path or their number is not possible.
        """
        if not name or not 0 < len(paths) <= MAX_PATHS:
            raise UsageError(f"an index needs a name and 1 to {MAX_PATHS} paths")
        expressions = [_expression(path) for path in paths]
        with self._ledger.transaction():
            known = self._known()
            if name in known:
                if tuple(known[name]["paths"]) == tuple(paths):
                    return
                raise IndexExists(f"there is an index {name!r} over other paths; delete it first, or choose a name")
            if len(known) >= MAX_INDEXES:
                raise UsageError(f"a store has {MAX_INDEXES} indexes at most; delete one first")
            number = max((entry["number"] for entry in known.values()), default=0) + 1
            self._db.run(
                f"CREATE INDEX {_sql_name(number)} ON documents ({', '.join(expressions)}, doc_id) "
                f"WHERE {expressions[0]} IS NOT NULL",
                (),
            )
            self._settings.set(_SETTING, {**known, name: {"number": number, "paths": list(paths)}})

    def delete(self, name: str) -> None:
        """Take an index away; the documents stay. Raises IndexNotFound."""
        with self._ledger.transaction():
            known = self._known()
            entry = self._entry(known, name)
            self._db.run(f"DROP INDEX {_sql_name(entry['number'])}", ())
            self._settings.set(_SETTING, {key: value for key, value in known.items() if key != name} or None)

    def find(self, name: str, values: Sequence[Scalar]) -> list[DocId]:
        """Live documents whose members have these values, in the order of the index.

        There is a value for each path. A text that ends in `*` stands for all texts that begin so, and `*` alone for
        any value; behind such a one only `*` may follow. A star at the end that is meant is written as `\\*`.

        Raises:
            IndexNotFound. UsageError: another number of values, or stars in the wrong places.
        """
        entry = self._entry(self._known(), name)
        if len(values) != len(entry["paths"]):
            raise UsageError(f"the index {name!r} has {len(entry['paths'])} paths, so as many values are needed")
        expressions = [_expression(path) for path in entry["paths"]]
        conditions, parameters = [f"{expressions[0]} IS NOT NULL"], list[Scalar]()
        starred = False
        for expression, value in zip(expressions, values, strict=True):
            if starred and value != "*":
                raise UsageError("behind a value with a star only `*` may follow")
            starred = starred or (isinstance(value, str) and value.endswith("*") and not value.endswith("\\*"))
            condition, wanted = _condition(expression, value)
            conditions.append(condition)
            parameters.extend(wanted)
        rows = self._ledger.all(
            self._db,
            f"SELECT doc_id FROM documents INDEXED BY {_sql_name(entry['number'])} "  # noqa: S608 - checked names only
            f"WHERE {' AND '.join(conditions)} AND NOT deleted AND kind != '' AND {IS_SHOWN} "
            f"ORDER BY {', '.join(expressions)}, doc_id",
            *parameters,
        )
        return [DocId(row[0]) for row in rows]

    def keys(self, name: str) -> list[tuple[Any, ...]]:
        """The different values that live documents have in an index, ascending. Raises IndexNotFound."""
        entry = self._entry(self._known(), name)
        expressions = [_expression(path) for path in entry["paths"]]
        return self._ledger.all(
            self._db,
            f"SELECT DISTINCT {', '.join(expressions)} FROM documents "  # noqa: S608 - checked names only
            f"WHERE {expressions[0]} IS NOT NULL AND NOT deleted AND kind != '' AND {IS_SHOWN} "
            f"ORDER BY {', '.join(expressions)}",
        )

    def _known(self) -> Mapping[str, Any]:
        known: Mapping[str, Any] = self._settings.get(_SETTING, {})
        return known

    def _entry(self, known: Mapping[str, Any], name: str) -> Any:
        if name not in known:
            raise IndexNotFound(f"there is no index {name!r}; create_index makes one")
        return known[name]


def _sql_name(number: int) -> str:
    return f"documents_by_program_{int(number)}"


def _expression(path: str) -> str:
    """The SQL of one path. SQLite takes no parameters in an index, so nothing gets in here that was not checked."""
    parts = path.split(".")
    if not all(_PART.fullmatch(part) for part in parts):
        raise UsageError("a path is names of members joined by dots, of letters, digits, `_` and `-`")
    return "json_extract(json, '$." + ".".join(f'"{part}"' for part in parts) + "')"


def _condition(expression: str, value: Scalar) -> tuple[str, list[Scalar]]:
    if not isinstance(value, str):
        return f"{expression} = ?", [value]
    if value == "*":
        return f"{expression} IS NOT NULL", []
    if value.endswith("\\*"):
        return f"{expression} = ?", [value[:-2] + "*"]
    if value.endswith("*"):
        after = _after(value[:-1])
        below = "" if after is None else f" AND {expression} < ?"
        return f"({expression} >= ?{below})", [value[:-1], *([] if after is None else [after])]
    return f"{expression} = ?", [value]


def _after(prefix: str) -> str | None:
    """The first text behind all that begin with `prefix`, as SQLite orders them: by code point. None: there is none."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)
