"""Inodes and names: the tree as the kernel sees it, with POSIX's rules and errors.

Every method that changes something is one transaction. An edit of a document is counted where it happens, so that
sync can see what the server lacks. What a directory's own times change by through its children is no edit: it stays
on this device until somebody changes the directory itself.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Final

from blobfs.errors import (
    DocumentFull,
    Exists,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NoAttribute,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    TooManyLinks,
)
from blobfs.store.cache import TreeCache
from blobfs.store.content import ContentStore
from blobfs.store.ledger import Ledger
from blobfs.store.record import Record
from blobfs.store.room import FEW, check_room
from blobfs.values.documents import MAX_LINKS, MAX_NAME, DocId, Kind
from blobfs.values.extents import ROW
from blobfs.values.nodes import ROOT_INODE, Content, Entry, Inode, Node

EDITED: Final = (
    "edit = edit + (inode != 1), touched_ns = ?, changed_ns = CASE WHEN edit > synced THEN changed_ns ELSE ? END"
)
"""What every edit of a document does to its row; two parameters, both the present. The root's are not counted."""

_ID: Final = 16
"""Random bytes of a document's id."""
_DRAWN: Final = 64

_ALL_KNOWN: Final = "SELECT doc_id FROM bases WHERE doc_id IN (SELECT value FROM json_each(?)) AND NOT deleted"
_WITH_XATTRS: Final = "SELECT DISTINCT inode FROM xattrs WHERE inode IN (SELECT value FROM json_each(?))"
_KNOWN: Final = "SELECT 1 FROM bases WHERE doc_id = ? AND NOT deleted"


class Tree:
    """The documents of a store, by inode and by name."""

    def __init__(self, ledger: Ledger, content: ContentStore) -> None:
        self._ledger = ledger
        self._db = ledger.documents
        self._content = content
        self._newest = int(ledger.one(self._db, "SELECT COALESCE(MAX(inode), 1) FROM documents")[0])
        self._cache = TreeCache(ledger)
        self._doc_ids = _draw_doc_ids()

    # --- looking ----------------------------------------------------------------------------------------

    def get(self, inode: Inode) -> Node:
        """The node of an inode. Raises NotFound."""
        with self._ledger.lock:
            return self._find(inode).node

    def _find(self, inode: Inode) -> Record:
        record = self._cache.find(inode)
        if record is None:
            raise NotFound("no such inode")
        return record

    def lookup(self, parent: Inode, name: bytes) -> Node:
        """The node of a name. Raises NotFound, NameTooLong."""
        with self._ledger.lock:
            return self._named(parent, name)

    def _named(self, parent: Inode, name: bytes) -> Node:
        node = self._child(parent, name)
        if node is None:
            _check_name(name)
            raise NotFound("no such name")
        return node

    def _child(self, parent: Inode, name: bytes) -> Node | None:
        link = self._cache.child(parent, name)
        return None if link is None else self._find(link.inode).node

    def entries(self, parent: Inode, after: int, limit: int) -> list[Entry]:
        """Up to `limit` names of a directory whose cookie is greater than `after`, ascending by cookie.

        A name that is there all the time while a directory is read is returned once, whatever else changes in it.
        """
        with self._ledger.lock:
            return self._cache.entries(parent, after, limit)

    def newest_cookie(self) -> int:
        """The cookie of the name that was made last, in any directory."""
        return self._cache.newest

    def parent(self, inode: Inode) -> Inode:
        """The directory that holds a directory; the root's is the root. Raises NotFound."""
        if inode == ROOT_INODE:
            return ROOT_INODE
        with self._ledger.lock:
            parent = self._cache.directory_of(inode)
        if parent is None:
            raise NotFound("the directory has no name")
        return parent

    def names(self, inode: Inode) -> list[tuple[Inode, bytes]]:
        """Every (parent, name) of a node."""
        rows = self._ledger.all(self._db, "SELECT parent, name FROM names WHERE inode = ? ORDER BY id", inode)
        return [(Inode(parent), name) for parent, name in rows]

    def count(self) -> int:
        """How many live nodes there are."""
        return int(self._ledger.one(self._db, "SELECT COUNT(*) FROM documents WHERE NOT deleted AND kind != ''")[0])

    def count_roughly(self) -> int:
        """About how many live nodes there are: by their names, but for what the database has not been told; quickly."""
        return 1 + int(self._ledger.peek(self._db, "SELECT COUNT(*) FROM names")[0])

    # --- making -----------------------------------------------------------------------------------------

    def create(
        self,
        parent: Inode,
        name: bytes,
        kind: Kind,
        *,
        mode: int,
        uid: int,
        gid: int,
        now_ns: int,
        rdev: int = 0,
        target: bytes = b"",
        doc_id: DocId | None = None,
    ) -> Node:
        """A new document under a name that is free; a file has an empty attachment.

        Raises:
            Exists, NameTooLong; NotFound, NotADirectory: the parent is gone, or none.
        """
        with self._ledger.transaction():
            inode = self.new_inode()
            directory = kind is Kind.DIRECTORY
            self.add_name(parent, name, inode)
            self._touch(parent, now_ns, links=int(directory))
            content = self._content.new() if kind is Kind.FILE else None
            is_new, doc_id = doc_id is None, doc_id or next(self._doc_ids)
            nlink = 2 if directory else 1
            times = (now_ns, now_ns, now_ns, now_ns)
            fields = (inode, doc_id, kind, mode, uid, gid, rdev, 0, 0, nlink, *times, target, content, False)
            node = tuple.__new__(Node, fields)  # as `Node(*fields)`, in a third of the time
            self._cache.insert(Record(node, 1, 0, now_ns, now_ns, is_new), (parent, name))
            self._ledger.mark_changed()
        return node

    def new_inode(self) -> Inode:
        """A number that no document has had in this run."""
        self._newest += 1
        return Inode(self._newest)

    def add_name(self, parent: Inode, name: bytes, inode: Inode) -> None:
        """Put a name into a directory. Raises Exists, NameTooLong."""
        _check_name(name)
        with self._ledger.lock:
            if self._cache.child(parent, name) is not None:
                raise Exists("the name is taken")
            self._cache.add_name(parent, name, inode)

    def _touch(self, directory: Inode, now_ns: int, links: int = 0) -> None:
        """An entry of this directory changes. Raises NotFound, NotADirectory."""
        record = self._find(directory)
        node = record.node
        if node.kind is not Kind.DIRECTORY:
            raise NotADirectory("the parent is not a directory")
        if node.deleted:
            raise NotFound("the directory is gone")
        self._cache.touch(record.with_node(node.touched(now_ns, links)))

    def link(self, inode: Inode, parent: Inode, name: bytes, now_ns: int) -> Node:
        """One more name for a file.

        Raises:
            Exists, NameTooLong, NotFound, TooManyLinks; NotPermitted: a directory.
        """
        with self._ledger.transaction():
            node = self.get(inode)
            if node.kind is Kind.DIRECTORY:
                raise NotPermitted("a directory has one name")
            if node.deleted:
                raise NotFound("the file has been deleted")
            if node.nlink >= MAX_LINKS:
                raise TooManyLinks("the file has too many names")
            self.add_name(parent, name, inode)
            if node.nlink >= FEW:
                try:
                    check_room(self._ledger, inode)
                except DocumentFull:
                    raise TooManyLinks("the file has too many long names") from None
            self._touch(parent, now_ns)
            return self.edit(inode, now_ns, nlink=node.nlink + 1, ctime_ns=now_ns)

    # --- removing ---------------------------------------------------------------------------------------

    def unlink(self, parent: Inode, name: bytes, now_ns: int) -> Node:
        """Remove a name of anything but a directory; the node after. It is `deleted` when that was its last one.

        Raises:
            NotFound, IsADirectory.
        """
        with self._ledger.transaction():
            node = self._named(parent, name)
            if node.kind is Kind.DIRECTORY:
                raise IsADirectory("a directory; use rmdir")
            return self._remove(parent, name, node, now_ns)

    def rmdir(self, parent: Inode, name: bytes, now_ns: int) -> Node:
        """Remove an empty directory; the node after.

        Raises:
            NotFound, NotADirectory, NotEmpty.
        """
        with self._ledger.transaction():
            node = self.lookup(parent, name)
            if node.kind is not Kind.DIRECTORY:
                raise NotADirectory("not a directory")
            self.check_empty(node.inode)
            return self._remove(parent, name, node, now_ns)

    def check_empty(self, inode: Inode) -> None:
        """Raise NotEmpty when the directory has an entry."""
        with self._ledger.lock:
            if not self._cache.is_empty(inode):
                raise NotEmpty("the directory has entries")

    def _remove(self, parent: Inode, name: bytes, node: Node, now_ns: int) -> Node:
        directory = node.kind is Kind.DIRECTORY
        self._cache.delete_name(parent, name)
        self._touch(parent, now_ns, links=-int(directory))
        return self._lose_name(node, now_ns)

    def _lose_name(self, node: Node, now_ns: int) -> Node:
        left = 0 if node.kind is Kind.DIRECTORY else node.nlink - 1
        return self.edit(node.inode, now_ns, nlink=left, deleted=left == 0, ctime_ns=now_ns)

    def purge(self, *inodes: Inode) -> None:
        """Nobody holds these deleted nodes any more: their bytes go. A row stays while the server has to be told.

        Live nodes are left alone.
        """
        with self._ledger.transaction():
            found = [record for inode in inodes if (record := self._cache.find(inode)) and record.node.deleted]
            older = [record.node for record in found if not record.is_new]
            known = self._among("bases", _ALL_KNOWN, [node.doc_id for node in older])
            small: list[Content] = []
            for record in found:
                node = record.node
                if node.content is not None and node.stored <= ROW:
                    small.append(node.content)
                elif node.content is not None:
                    self._content.discard(node.content)
                if node.doc_id in known:
                    self._cache.change(record.with_node(node.but(content=None, stored=0)))
                else:
                    self._cache.delete(node.inode)
            self._content.free(*small)
            for inode in self._among("xattrs", _WITH_XATTRS, [node.inode for node in older]):
                self._db.run("DELETE FROM xattrs WHERE inode = ?", (inode,))

    def _among(self, table: str, query: str, values: Sequence[DocId | Inode]) -> set[Any]:
        """Which of these the query finds in a table: one for all, since most of a query's time is its own."""
        if not values or not self._cache.is_any_in(table):
            return set()
        return {row[0] for row in self._ledger.peek_all(self._db, query, json.dumps(values))}

    def orphans(self) -> list[Inode]:
        """Deleted nodes that nobody can hold after a start, for `purge`."""
        return [Inode(row[0]) for row in self._ledger.all(self._db, "SELECT inode FROM documents WHERE deleted")]

    # --- moving -----------------------------------------------------------------------------------------

    def rename(
        self,
        parent: Inode,
        name: bytes,
        new_parent: Inode,
        new_name: bytes,
        now_ns: int,
        *,
        exchange: bool = False,
        no_replace: bool = False,
    ) -> Node | None:
        """Move a name, over what has the new one; what was replaced, as it is after, or None.

        A file that was never sent and replaces one that was (an editor's save) takes over its document: it is one
        more revision of it, not a deletion and something new.

        Raises:
            NotFound, Exists, NameTooLong, NotADirectory, IsADirectory, NotEmpty; InvalidArgument: into itself.
            DocumentFull: one of many names of a file became too long.
        """
        with self._ledger.transaction():
            node = self._named(parent, name)
            _check_name(new_name)
            other = self._child(new_parent, new_name)
            if other is not None and no_replace:
                raise Exists("the name is taken")
            if exchange:
                self._exchange((parent, name, node), (new_parent, new_name, other), now_ns)
                return None
            if other is not None and other.inode == node.inode:
                return None  # POSIX: two names of one file, nothing happens
            if node.kind is Kind.DIRECTORY:
                self._check_descent(node.inode, new_parent)
            if other is None:
                self._cache.move_name((parent, name), (new_parent, new_name))
            else:
                self._replace((parent, name, node), (new_parent, new_name, other), now_ns)
            if node.nlink > FEW and node.kind is not Kind.DIRECTORY:
                check_room(self._ledger, node.inode)
            moved = int(node.kind is Kind.DIRECTORY)
            if parent != new_parent:
                self._touch(parent, now_ns, links=-moved)
            self._touch(new_parent, now_ns, links=moved * (parent != new_parent))
            self.edit(node.inode, now_ns, ctime_ns=now_ns)
            return None if other is None else self.get(other.inode)

    def _replace(self, left: tuple[Inode, bytes, Node], right: tuple[Inode, bytes, Node], now_ns: int) -> None:
        (old_parent, old_name, node), (parent, name, other) = left, right
        directory = other.kind is Kind.DIRECTORY
        if directory:
            if node.kind is not Kind.DIRECTORY:
                raise IsADirectory("a directory has the new name")
            self.check_empty(other.inode)
        elif node.kind is Kind.DIRECTORY:
            raise NotADirectory("something other than a directory has the new name")
        # The name keeps its cookie: whoever reads the directory must meet it once.
        self._cache.delete_name(old_parent, old_name)
        self._cache.repoint(parent, name, node.inode)
        self._touch(parent, now_ns, links=-int(directory))
        after = self._lose_name(other, now_ns)
        if after.deleted and node.kind is Kind.FILE and other.kind is Kind.FILE and node.nlink == 1:
            self._inherit(node, other)

    def _inherit(self, node: Node, former: Node) -> None:
        """`node` becomes the document that `former` was, if the server knows that one and not this one."""
        if self._is_known(node) or not self._is_known(former):
            return
        sql = "SELECT json, edit FROM documents WHERE inode = ?"
        json, edit = self._ledger.one(self._db, sql, former.inode)
        # Either may be on its way to the server: what that send confirms must not pass for an edit of the other.
        edit = 1 + max(edit, self._ledger.one(self._db, sql, node.inode)[1])
        change = "UPDATE documents SET doc_id = ?, edit = ? WHERE inode = ?"
        self._db.run(change, ("", edit, former.inode))
        self._db.run(change, (former.doc_id, edit, node.inode))
        self._db.run(change, (node.doc_id, edit, former.inode))
        self._db.run("UPDATE documents SET json = ? WHERE inode = ? AND json = '{}'", (json, node.inode))

    def _is_known(self, node: Node) -> bool:
        return not self._find(node.inode).is_new and bool(self._ledger.peek(self._db, _KNOWN, node.doc_id))

    def _exchange(self, left: tuple[Inode, bytes, Node], right: tuple[Inode, bytes, Node | None], now_ns: int) -> None:
        (parent, name, node), (new_parent, new_name, other) = left, right
        if other is None:
            raise NotFound("no such name")
        for moved, into in ((node, new_parent), (other, parent)):
            if moved.kind is Kind.DIRECTORY:
                self._check_descent(moved.inode, into)
        self._cache.repoint(parent, name, other.inode)
        self._cache.repoint(new_parent, new_name, node.inode)
        shift = int(other.kind is Kind.DIRECTORY) - int(node.kind is Kind.DIRECTORY)
        self._touch(parent, now_ns, links=shift)
        self._touch(new_parent, now_ns, links=-shift)
        for moved in (node, other):
            self.edit(moved.inode, now_ns, ctime_ns=now_ns)

    def _check_descent(self, directory: Inode, into: Inode) -> None:
        passed: set[Inode] = set()
        while into != ROOT_INODE:
            if into == directory or into in passed:  # other devices' moves can make a ring, until sync breaks it
                raise InvalidArgument("a directory cannot be moved into itself")
            passed.add(into)
            into = self.parent(into)

    # --- attributes -------------------------------------------------------------------------------------

    def update(
        self,
        inode: Inode,
        now_ns: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> Node:
        """Change attributes; the node after. ctime becomes `now_ns`. Raises NotFound."""
        changes = {"mode": mode, "uid": uid, "gid": gid, "atime_ns": atime_ns, "mtime_ns": mtime_ns}
        given = {column: value for column, value in changes.items() if value is not None}
        with self._ledger.transaction():
            return self.edit(inode, now_ns, ctime_ns=now_ns, **given)

    def edit(self, inode: Inode, now_ns: int, **changes: Any) -> Node:
        """Change fields of a node: an edit that the server has to learn of; the node after. Within a transaction.

        Raises NotFound.
        """
        record = self._find(inode)
        node = record.node.but(**changes)
        self._cache.change(record.edited(node, now_ns))
        self._ledger.mark_changed()
        return node

    # --- extended attributes ------------------------------------------------------------------------------

    def get_xattr(self, inode: Inode, name: bytes) -> bytes:
        """The value of an extended attribute. Raises NoAttribute."""
        row = self._ledger.peek(self._db, "SELECT value FROM xattrs WHERE inode = ? AND name = ?", inode, name)
        if row is None:
            raise NoAttribute("no such attribute")
        return bytes(row[0])

    def list_xattrs(self, inode: Inode) -> list[bytes]:
        """The names of a node's extended attributes."""
        rows = self._ledger.peek_all(self._db, "SELECT name FROM xattrs WHERE inode = ? ORDER BY name", inode)
        return [row[0] for row in rows]

    def set_xattr(
        self, inode: Inode, name: bytes, value: bytes, now_ns: int, *, create: bool = False, replace: bool = False
    ) -> None:
        """Set an extended attribute.

        Raises:
            DocumentFull: all of them together are too large. Exists: with `create`. NoAttribute: with `replace`.
        """
        with self._ledger.transaction():
            there = self._ledger.one(self._db, "SELECT 1 FROM xattrs WHERE inode = ? AND name = ?", inode, name)
            if create and there:
                raise Exists("the attribute exists")
            if replace and not there:
                raise NoAttribute("no such attribute")
            self._db.run("INSERT OR REPLACE INTO xattrs VALUES (?, ?, ?)", (inode, name, value), len(value))
            check_room(self._ledger, inode)
            self.edit(inode, now_ns, ctime_ns=now_ns)

    def remove_xattr(self, inode: Inode, name: bytes, now_ns: int) -> None:
        """Remove an extended attribute. Raises NoAttribute."""
        with self._ledger.transaction():
            if not self._db.run("DELETE FROM xattrs WHERE inode = ? AND name = ?", (inode, name)):
                raise NoAttribute("no such attribute")
            self.edit(inode, now_ns, ctime_ns=now_ns)


def new_doc_id() -> DocId:
    """A document id that nobody has drawn before."""
    return DocId(secrets.token_hex(_ID))


def _draw_doc_ids() -> Iterator[DocId]:
    """The same for one thread at a time: to ask the system for many takes as long as for one."""
    while True:
        drawn = secrets.token_hex(_DRAWN * _ID)
        for at in range(0, len(drawn), 2 * _ID):
            yield DocId(drawn[at : at + 2 * _ID])


def _check_name(name: bytes) -> None:
    if len(name) > MAX_NAME:
        raise NameTooLong("a name is 255 bytes at most")
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise InvalidArgument("not a name")
