"""What is known of documents.db in memory: its nodes and names, and what became of them and is not in it yet.

Changes of a tree come in bursts that touch the same few rows again and again, and many rows do not live long. So a
change is noted for the journal, which makes it last, and kept here; the database is told later what each row has
come to. Knows rows, not POSIX. Invariant: a row that is in `_changed` or `_moved` is as it says here, whatever the
database says; any other is as the database says. Every access holds the ledger's lock.
"""

from __future__ import annotations

from collections.abc import Container
from itertools import islice
from typing import Any, Final, NamedTuple

from blobfs.store.database import Backlog
from blobfs.store.ledger import Ledger
from blobfs.store.listing import ALL, Listing
from blobfs.store.record import ROW, Record, changes_of, record_of, row_of
from blobfs.values.documents import Kind
from blobfs.values.nodes import Entry, Inode

MAX_KNOWN: Final = 32768
"""Nodes and names that are remembered beside those that wait: some half a kilobyte each, until nobody writes."""

_NAMES: Final = "SELECT id, name, inode FROM names WHERE parent = ? AND id > ? ORDER BY id LIMIT ?"
_ENTRIES: Final = (
    f"SELECT names.id, name, {ROW} FROM names JOIN documents ON documents.inode = names.inode "  # noqa: S608
    "WHERE names.parent = ? AND names.id > ? ORDER BY names.id LIMIT ?"
)
_NODE: Final = f"SELECT {ROW} FROM documents WHERE inode = ?"  # noqa: S608
_CHILD: Final = (
    f"SELECT names.id, {ROW} FROM names JOIN documents ON documents.inode = names.inode "  # noqa: S608
    "WHERE parent = ? AND name = ?"
)
_PLACE: Final = "SELECT id, parent, name FROM names WHERE inode = ?"
_ONE_MORE: Final = "SELECT 1 FROM names WHERE parent = ? LIMIT 1 OFFSET ?"
_INSERT: Final = "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '{}', ?, ?, ?, ?)"
_UPDATE: Final = (
    "UPDATE documents SET mode = ?, uid = ?, gid = ?, size = ?, stored = ?, nlink = ?, atime_ns = ?, mtime_ns = ?, "
    "ctime_ns = ?, content = ?, deleted = ?, edit = ?, changed_ns = ?, touched_ns = ? WHERE inode = ?"
)
_TOUCH: Final = "UPDATE documents SET nlink = ?, mtime_ns = ?, ctime_ns = ? WHERE inode = ?"
_DELETE: Final = "DELETE FROM documents WHERE inode = ?"
_ADD_NAME: Final = "INSERT INTO names VALUES (?, ?, ?, ?)"
_PUT_NAME: Final = "INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)"
_CHANGE_NAME: Final = "UPDATE names SET parent = ?, name = ?, inode = ? WHERE id = ?"
_MOVE_NAME: Final = "UPDATE OR REPLACE names SET parent = ?, name = ? WHERE id = ?"
_DELETE_NAME: Final = "DELETE FROM names WHERE id = ?"

_UNKNOWN: Final[Any] = object()
_new: Final = tuple.__new__


class Link(NamedTuple):
    """A row of `names`, but for the name."""

    cookie: int
    inode: Inode


class _Move(NamedTuple):
    """What became of a row of `names`."""

    was: tuple[int, bytes, Inode] | None
    """As the database has the row; None: not at all."""
    now: tuple[int, bytes, Inode] | None


_NOTHING: Final = _Move(None, None)


class TreeCache(Backlog):
    """Rows of `documents` and `names`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._db = ledger.documents
        self._db.backlog = self
        self._nodes: dict[int, Record | None] = {}
        """None: its row is to be deleted."""
        self._names: dict[tuple[int, bytes], Link | None] = {}
        """None: there is no such name."""
        self._whole: set[int] = set()
        """Directories of which each name is in `_names`: what is not there need not be asked for."""
        self._listings: dict[int, Listing] = {}
        """Of directories that were read, or made in this run."""
        self._above: dict[int, tuple[Inode, bytes]] = {}
        """Names that directories had; they have them still if `_names` says so."""
        self._changed: dict[int, bool] = {}
        """Nodes that the database has not been told of, and whether it has the row at all."""
        self._moved: dict[int, _Move] = {}
        """Names that the database has not been told of, by cookie."""
        self._stirred: dict[int, set[int]] = {}
        """Directories that these names are in, or were."""
        self._log: list[tuple[dict[Any, Any], Any, Any]] = []
        """What the current transaction overwrote here: table, key, former value."""
        self._filled: dict[str, bool] = {}
        """Tables of which it is known whether they have any row: until a statement is run that is no backlog's."""
        self._lists_known = False
        """Whether all that was listed last was known: then it is by names alone that the database is asked first."""
        self.newest = int(ledger.one(self._db, "SELECT COALESCE(MAX(id), 0) FROM names")[0])

    # --- looking ----------------------------------------------------------------------------------------

    def find(self, inode: int) -> Record | None:
        """The row of a node; None when there is none, or its own document has not come yet."""
        record = self._nodes.get(inode, _UNKNOWN)
        if record is _UNKNOWN:
            self._make_room()
            row = self._ledger.peek(self._db, _NODE, inode)
            record = None if row is None or not row[2] else self._learn(row)
        found: Record | None = record
        return found

    def child(self, parent: int, name: bytes) -> Link | None:
        """What has a name; None when it is free."""
        link = self._names.get((parent, name), _UNKNOWN)
        if link is _UNKNOWN:
            if parent in self._whole:
                return None
            self._make_room()
            row = self._ledger.peek(self._db, _CHILD, parent, name)
            link = None if row is None else Link(row[0], row[1])
            if row is not None and row[1] not in self._nodes:
                self._learn(row[1:])
            self._names[parent, name] = link
        found: Link | None = link
        return found

    def _learn(self, row: Any) -> Record:
        record = record_of(row)
        self._nodes[row[0]] = record
        return record

    def _make_room(self) -> None:
        if len(self._nodes) + len(self._names) > MAX_KNOWN + 2 * self.waiting:
            self.shed()

    def entries(self, parent: int, after: int, limit: int) -> list[Entry]:
        """Up to `limit` names of a directory whose cookies are above `after`, ascending."""
        self._make_room()
        nodes, listing = self._nodes, self._listings.get(parent)
        if listing is not None and (known := listing.after(after, limit)) is not None:
            found = [
                _new(Entry, (cookie, name, record.node))
                for cookie, name, inode in known
                if (record := nodes.get(inode)) is not None
            ]
            if len(found) == len(known):
                return found
        if listing is None and after == 0:
            listing = self._listings[parent] = Listing()
        end, found = self._merged_entries(parent, after, limit)
        if listing is not None and self._listings.get(parent) is listing:  # not all was forgotten meanwhile
            listing.learn(after, [(entry.cookie, entry.name, entry.node.inode) for entry in found], end)
            if listing.is_whole:
                self._whole.add(parent)
        return found

    def _merged_entries(self, parent: int, after: int, limit: int) -> tuple[int, list[Entry]]:
        """The same of the database and of what waits; and the cookie up to which there are no others."""
        waiting = self._waiting_in(parent, after)
        last, found = self._settled_entries(parent, after, limit, waiting)
        if waiting:
            while last is not None and len(found) < limit:
                last, more = self._settled_entries(parent, last, limit, waiting)
                found += more
            # Beyond the last row that was looked at, the database may have names that come before others that wait.
            end = self.newest if last is None else last
            for cookie, now in waiting.items():
                if now is not None and now[0] == parent and cookie <= end and (record := self.find(now[2])) is not None:
                    found.append(Entry(cookie, now[1], record.node))
            found.sort(key=_cookie_of)
            if len(found) > limit:
                last, found = found[limit - 1].cookie, found[:limit]
        return (ALL if last is None else last), found

    def _settled_entries(
        self, parent: int, after: int, limit: int, waiting: Container[int]
    ) -> tuple[int | None, list[Entry]]:
        """Of so many names that the database has, those that do not wait; and the last one's cookie, if it has more.

        Whoever lists a directory mostly uses what is in it: then it need not be asked for again.
        """
        nodes, names, found = self._nodes, self._names, []
        if not self._lists_known:
            rows = self._ledger.peek_all(self._db, _ENTRIES, parent, after, limit)
            self._lists_known = all(row[2] in nodes for row in rows)
        else:
            rows = self._ledger.peek_all(self._db, _NAMES, parent, after, limit)
            if not all(row[2] in nodes for row in rows):
                self._lists_known = False
                rows = self._ledger.peek_all(self._db, _ENTRIES, parent, after, limit)
        for row in rows:
            cookie, name, inode = row[:3]
            record = nodes[inode] if inode in nodes else self._learn(row[2:])
            if record is not None and cookie not in waiting:
                if (parent, name) not in names:
                    names[parent, name] = _new(Link, (cookie, inode))
                found.append(_new(Entry, (cookie, name, record.node)))
        return (rows[-1][0] if len(rows) == limit else None), found

    def is_empty(self, parent: int) -> bool:
        """Whether a directory has no name in it."""
        listing = self._listings.get(parent)
        if listing is not None and listing.is_whole:
            return listing.is_empty
        gone = 0  # names that the database still has there
        for cookie in self._stirred.get(parent, ()):
            was, now = self._moved.get(cookie, _NOTHING)
            if now is not None and now[0] == parent:
                return False
            gone += was is not None and was[0] == parent
        return self._ledger.peek(self._db, _ONE_MORE, parent, gone) is None

    def _waiting_in(self, parent: int, after: int) -> dict[int, tuple[int, bytes, Inode] | None]:
        """What became of names that are in a directory, or were, and that the database has otherwise or not at all."""
        moved = self._moved
        cookies = self._stirred.get(parent, ())
        return {cookie: moved[cookie].now for cookie in cookies if cookie > after and cookie in moved}

    def directory_of(self, inode: int) -> Inode | None:
        """The parent of a directory; None when it has no name."""
        place = self._above.get(inode)
        if place is None or (link := self._names.get(place)) is None or link.inode != inode:
            place = self._look_for_place(inode)
            if place is None:
                return None
            self._above[inode] = place
        return place[0]

    def _look_for_place(self, inode: int) -> tuple[Inode, bytes] | None:
        for cookie, parent, name in self._ledger.peek_all(self._db, _PLACE, inode):
            if cookie not in self._moved:
                self._names[parent, name] = Link(cookie, Inode(inode))
                return Inode(parent), name
        moves = (move.now for move in self._moved.values())
        return next(((Inode(now[0]), now[1]) for now in moves if now is not None and now[2] == inode), None)

    def is_any_in(self, table: str) -> bool:
        """Whether a table that is changed by statements alone has any row."""
        found = self._filled.get(table)
        if found is None:
            row = self._ledger.peek(self._db, f"SELECT EXISTS (SELECT 1 FROM {table})")  # noqa: S608
            found = self._filled[table] = bool(row[0])
        return found

    # --- changing ---------------------------------------------------------------------------------------

    def insert(self, record: Record, place: tuple[Inode, bytes]) -> None:
        """One more row of `documents`, which has got this name."""
        node = record.node
        self._db.tell(_INSERT, row_of(record))
        if node.kind is Kind.DIRECTORY and record.is_new:
            self._whole.add(node.inode)
            self._listings[node.inode] = Listing(ALL)
            self._above[node.inode] = place
        if not self._db.in_step:
            self._set(self._changed, node.inode, False)
        self._set(self._nodes, node.inode, record)

    def change(self, record: Record) -> None:
        """A row of `documents` has other attributes."""
        self._db.tell(_UPDATE, changes_of(record))
        self._renew(record)

    def touch(self, record: Record) -> None:
        """A directory has other entries: the number of its links and its times are new."""
        node = record.node
        self._db.tell(_TOUCH, (node.nlink, node.mtime_ns, node.ctime_ns, node.inode))
        self._renew(record)

    def _renew(self, record: Record) -> None:
        inode = record.node.inode
        if not self._db.in_step and inode not in self._changed:
            self._set(self._changed, inode, True)
        self._set(self._nodes, inode, record)

    def delete(self, inode: int) -> None:
        """A row of `documents` goes."""
        self._listings.pop(inode, None)
        self._above.pop(inode, None)
        self._db.tell(_DELETE, (inode,))
        if self._db.in_step or self._changed.get(inode) is False:
            self._unset(self._changed, inode)
            self._unset(self._nodes, inode)
        else:
            self._set(self._changed, inode, True)
            self._set(self._nodes, inode, None)

    def add_name(self, parent: Inode, name: bytes, inode: Inode) -> None:
        """A free name gets a node."""
        self.newest += 1
        self._db.tell(_ADD_NAME, (self.newest, parent, name, inode))
        self._set(self._names, (parent, name), _new(Link, (self.newest, inode)))
        if (listing := self._listings.get(parent)) is not None:
            listing.put(self.newest, name, inode)
        self._move(self.newest, None, (parent, name, inode))

    def delete_name(self, parent: Inode, name: bytes) -> None:
        """A name that there is becomes free."""
        cookie, inode = self._link(parent, name)
        self._db.tell(_DELETE_NAME, (cookie,))
        self._set(self._names, (parent, name), None)
        if (listing := self._listings.get(parent)) is not None:
            listing.drop(cookie)
        self._move(cookie, (parent, name, inode), None)

    def move_name(self, old: tuple[Inode, bytes], new: tuple[Inode, bytes]) -> None:
        """A name becomes another one, which is free."""
        cookie, inode = self._link(*old)
        self._db.tell(_CHANGE_NAME, (*new, inode, cookie))
        self._set(self._names, old, None)
        self._set(self._names, new, Link(cookie, inode))
        if (listing := self._listings.get(old[0])) is not None:
            listing.drop(cookie)
        if (listing := self._listings.get(new[0])) is not None:
            listing.put(cookie, new[1], inode)
        self._move(cookie, (*old, inode), (*new, inode))

    def repoint(self, parent: Inode, name: bytes, inode: Inode) -> None:
        """A name that there is gets another node."""
        cookie, former = self._link(parent, name)
        self._db.tell(_CHANGE_NAME, (parent, name, inode, cookie))
        self._set(self._names, (parent, name), Link(cookie, inode))
        if (listing := self._listings.get(parent)) is not None:
            listing.put(cookie, name, inode)
        self._move(cookie, (parent, name, former), (parent, name, inode))

    def _link(self, parent: Inode, name: bytes) -> Link:
        link = self.child(parent, name)
        assert link is not None
        return link

    def _move(self, cookie: int, was: tuple[int, bytes, Inode] | None, now: tuple[int, bytes, Inode] | None) -> None:
        if self._db.in_step:
            return
        if was is not None:
            self._stir(was[0], cookie)
        if now is not None:
            self._stir(now[0], cookie)
        former = self._moved.get(cookie)
        if former is not None:
            was = former.was
        if was is None and now is None:
            self._unset(self._moved, cookie)
        else:
            self._set(self._moved, cookie, _new(_Move, (was, now)))

    def _stir(self, parent: int, cookie: int) -> None:
        stirred = self._stirred.get(parent)
        if stirred is None:
            self._stirred[parent] = {cookie}
        else:
            stirred.add(cookie)

    def _set(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._log.append((table, key, table.get(key, _UNKNOWN)))
        table[key] = value

    def _unset(self, table: dict[Any, Any], key: Any) -> None:
        if key in table:
            self._log.append((table, key, table.pop(key)))

    # --- as a backlog -----------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Rows that the database has to be told of."""
        return len(self._changed) + len(self._moved)

    def undo(self) -> None:
        """Take back what the current transaction changed."""
        if self._log:
            self._listings.clear()
        for table, key, former in reversed(self._log):
            if former is _UNKNOWN:
                table.pop(key, None)
            else:
                table[key] = former
        self._log.clear()

    def keep(self) -> None:
        """What the current transaction changed stays."""
        self._log.clear()

    def forget(self) -> None:
        """The database may know better, or is told again by the journal."""
        if self._nodes or self._names or self._listings:
            for table in (self._nodes, self._names, self._whole, self._changed, self._moved, self._stirred):
                table.clear()
            self._listings.clear()
            self._above.clear()
        self._filled.clear()
        self._log.clear()

    def shed(self) -> None:
        """Remember only what waits."""
        self._listings.clear()
        self._above.clear()
        places = {place[:2] for move in self._moved.values() for place in move if place is not None}
        for inode in [inode for inode in self._nodes if inode not in self._changed]:
            del self._nodes[inode]
        for place in [place for place in self._names if place not in places]:
            if self._names.pop(place) is not None:
                self._whole.discard(place[0])

    def settle(self, most: int | None = None) -> None:
        """Tell the database of all rows that wait, or of the `most` of each table that wait longest."""
        if self._changed:
            self._settle_nodes(list(islice(self._changed, most)))
        if self._moved:
            self._settle_names(list(islice(self._moved, most)))

    def _settle_nodes(self, inodes: list[int]) -> None:
        inserts, updates, deletes = [], [], []
        for inode in inodes:
            record = self._nodes[inode]
            if record is None:
                deletes.append((inode,))
            elif self._changed[inode]:
                updates.append(changes_of(record))
            else:
                inserts.append(row_of(record))
        self._db.many(_DELETE, deletes)
        self._db.many(_UPDATE, updates)
        self._db.many(_INSERT, inserts)
        for inode in inodes:
            del self._changed[inode]
            if self._nodes[inode] is None:
                del self._nodes[inode]

    def _settle_names(self, cookies: list[int]) -> None:
        moves = [(cookie, self._moved[cookie]) for cookie in cookies]
        # A name that the database has must lead to a node there: it is looked for with both together.
        named = {move.now[2]: None for _, move in moves if move.now is not None}
        self._settle_nodes([inode for inode in named if self._changed.get(inode) is False])
        deletes, inserts, changes = [], [], []
        for cookie, (was, now) in moves:
            if now is None:
                deletes.append((cookie,))
            elif was is not None and was[2] == now[2]:
                changes.append((*now[:2], cookie))
            else:
                inserts.append((cookie, *now))
        self._db.many(_DELETE_NAME, deletes)
        # Or replace: the name may still be that of another row, which waits too and has given it up.
        if self._db.many(_MOVE_NAME, changes) < len(changes):
            inserts.extend((cookie, *now) for cookie, (was, now) in moves if was is not None and now is not None)
        self._db.many(_PUT_NAME, inserts)
        for cookie in cookies:
            del self._moved[cookie]
        if not self._moved:
            self._stirred.clear()


def _cookie_of(entry: Entry) -> int:
    return entry.cookie
