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
from blobfs.values.documents import ROOT, DocId, is_text
from blobfs.values.nodes import Inode

Scalar = str | int | float | bool
"""What an index can hold and a query ask for."""

MAX_INDEXES: Final = 64
MAX_PATHS: Final = 16
_SETTING: Final = "indexes"
_PART: Final = re.compile(r"[\w-]{1,100}")
_LIVE: Final = f"NOT deleted AND kind != '' AND {IS_SHOWN}"
_IS_SCALAR: Final = "type NOT IN ('array', 'object', 'null')"
"""Of a row of SQLite's `json_each`."""
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
                    self._index_lists(known[name]["number"], paths[0])
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
            self._index_lists(number, paths[0])
            self._settings.set(_SETTING, {**known, name: {"number": number, "paths": list(paths)}})

    def delete(self, name: str) -> None:
        """Take an index away; the documents stay. Raises IndexNotFound."""
        with self._ledger.transaction():
            known = self._known()
            entry = self._entry(known, name)
            for index in (_sql_name(entry["number"]), _lists_name(entry["number"])):
                self._db.run(f"DROP INDEX IF EXISTS {index}", ())
            self._settings.set(_SETTING, {key: value for key, value in known.items() if key != name} or None)

    def _index_lists(self, number: int, path: str) -> None:
        """Let the documents that have a list at the first path be found by themselves. Older stores lack that index."""
        self._db.run(
            f"CREATE INDEX IF NOT EXISTS {_lists_name(number)} ON documents (doc_id) WHERE {_is_list(path)}", ()
        )

    def find(self, name: str, values: Sequence[Scalar]) -> list[DocId]:
        """Live documents whose members have these values, in the order of the index.

        There is a value for each path. A text that ends in `*` stands for all texts that begin so, and `*` alone for
        any value; behind such a one only `*` may follow. A star at the end that is meant is written as `\\*`. A
        document with a list at the first path is there once, under the least value of the list that is asked for.

        Raises:
            IndexNotFound. UsageError: another number of values, none of `Scalar`, or stars in the wrong places.
        """
        entry = self._entry(self._known(), name)
        paths, number = entry["paths"], entry["number"]
        _check(name, paths, values)
        first, *others = [_expression(path) for path in paths]
        condition, parameters = _condition(first, values[0])
        element, _ = _condition("value", values[0])
        rest, more = [f"AND {_is_plain(path)}" for path in paths[1:]], list[Scalar]()
        for expression, value in zip(others, values[1:], strict=True):
            wanted, parameter = _condition(expression, value)
            rest.append(f"AND {wanted}")
            more.extend(parameter)
        keys = "".join(f", {expression} AS k{place}" for place, expression in enumerate(others, 1))
        # `documents.json`, for the rows of json_each have a `json` of their own.
        elements = f"json_each(documents.json, {_sql_path(paths[0])})"
        least = f"(SELECT min(value) FROM {elements} WHERE {_IS_SCALAR} AND {element})"  # noqa: S608 - checked names only
        rows = self._ledger.all(
            self._db,
            f"SELECT doc_id FROM (SELECT doc_id, {first} AS k0{keys} FROM documents INDEXED BY {_sql_name(number)} "  # noqa: S608 - as above
            f"WHERE {first} IS NOT NULL AND {_is_plain(paths[0])} AND {condition} {' '.join(rest)} AND {_LIVE} "
            f"UNION ALL SELECT doc_id, {least} AS k0{keys} FROM documents "
            f"WHERE {_is_list(paths[0])} {' '.join(rest)} AND {_LIVE}) "
            f"WHERE k0 IS NOT NULL ORDER BY {', '.join(f'k{place}' for place in range(len(paths)))}, doc_id",
            *parameters,
            *more,
            *parameters,
            *more,
        )
        return [DocId(row[0]) for row in rows]

    def keys(self, name: str) -> list[tuple[Any, ...]]:
        """The different values that live documents have in an index, ascending. Raises IndexNotFound."""
        paths = self._entry(self._known(), name)["paths"]
        first = _expression(paths[0])
        plain = [f"CASE WHEN {_is_plain(path)} THEN {_expression(path)} END" for path in paths[1:]]
        others = "".join(f", {expression}" for expression in plain)
        named = "".join(f", {expression} AS k{place}" for place, expression in enumerate(plain, 1))
        return self._ledger.all(
            self._db,
            f"SELECT {first}{others} FROM documents WHERE {first} IS NOT NULL AND {_is_plain(paths[0])} AND {_LIVE} "  # noqa: S608 - checked names only
            f"UNION SELECT value{''.join(f', k{place}' for place in range(1, len(paths)))} FROM "
            f"(SELECT json AS content{named} FROM documents WHERE {_is_list(paths[0])} AND {_LIVE}), "
            f"json_each(content, {_sql_path(paths[0])}) WHERE {_IS_SCALAR} "
            f"ORDER BY {', '.join(str(place) for place in range(1, len(paths) + 1))}",
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


def _lists_name(number: int) -> str:
    return f"{_sql_name(number)}_lists"


def _sql_path(path: str) -> str:
    """One path in SQL. SQLite takes no parameters in an index, so nothing gets in here that was not checked."""
    parts = path.split(".") if isinstance(path, str) else [""]
    if not all(_PART.fullmatch(part) for part in parts):
        raise UsageError("a path is names of members joined by dots, of letters, digits, `_` and `-`")
    return "'$." + ".".join(f'"{part}"' for part in parts) + "'"


def _expression(path: str) -> str:
    return f"json_extract(json, {_sql_path(path)})"


def _is_list(path: str) -> str:
    return f"json_type(json, {_sql_path(path)}) = 'array'"


def _is_plain(path: str) -> str:
    """Neither a list nor an object, which json_extract gives as their text."""
    return f"json_type(json, {_sql_path(path)}) NOT IN ('array', 'object')"


def _check(name: str, paths: Sequence[str], values: Sequence[object]) -> None:
    """Raises UsageError."""
    if len(values) != len(paths):
        raise UsageError(f"the index {name!r} is over {len(paths)} member(s), so as many values are needed")
    starred = False
    for value in values:
        is_number = isinstance(value, int | float) and -(2**63) <= value < 2**63
        if not is_number and not is_text(value):
            raise UsageError("an index is asked for text, booleans, finite numbers and integers of 64 bits")
        if starred and value != "*":
            raise UsageError("behind a value with a star only `*` may follow")
        starred = starred or (isinstance(value, str) and value.endswith("*") and not value.endswith("\\*"))


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
