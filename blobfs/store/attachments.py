"""The bytes of nodes: what joins a node of documents.db to its content in blobs.db.

Every method is one transaction over both, so that size, times, bytes stored and rows always agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from blobfs.errors import BytesAbsent, FileTooBig, InvalidArgument
from blobfs.store.content import ContentStore, Extent
from blobfs.store.ledger import Ledger
from blobfs.store.payloads import LAST
from blobfs.store.spool import Bytes
from blobfs.store.tree import Tree
from blobfs.store.uses import Uses
from blobfs.values.documents import Kind
from blobfs.values.extents import EXTENT, MAX_SIZE, ROW, Attachment, BlobId, extent_length
from blobfs.values.nodes import Content, Inode, Node

_SCANNED: Final = 1000
"""Names of a directory that one look for absent files goes over."""


class Place(NamedTuple):
    """Where a file is among its siblings."""

    parent: Inode
    age: int
    """Grows with each name that is made in the directory, which is the order of readdir."""
    name: bytes


class Absent(NamedTuple):
    """A file of one extent of which nothing is here."""

    content: Content
    blob_id: BlobId
    length: int
    """Bytes sealed in the blob."""
    place: Place


class Attachments:
    """Reading, writing and replacing the bytes of nodes."""

    def __init__(self, ledger: Ledger, tree: Tree, content: ContentStore) -> None:
        self._ledger = ledger
        self._tree = tree
        self._content = content
        self.on_stored: Callable[[Inode], None] = lambda inode: None
        """Told of a file of which more or fewer bytes are here than before, and are the same; by any thread."""

    # --- for files ------------------------------------------------------------------------------------------

    def read(self, content: Content, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of a content; the caller has clamped the range to the size. Holes are zeros.

        Raises:
            BytesAbsent: a fetch must come first.
        """
        return self._content.read(content, offset, length) if length > 0 else b""

    def read_beside(self, content: Content, offset: int, length: int) -> bytes:
        """As `read`, for large reads by worker threads: several run at once, and wait for no writer."""
        return self._content.read_beside(content, offset, length) if length > 0 else b""

    def write(
        self,
        inode: Inode,
        pieces: Sequence[tuple[int, bytes | bytearray | memoryview]],
        size: int,
        mtime_ns: int,
        ctime_ns: int,
    ) -> Node:
        """Put `pieces` (offset and bytes; ascending, disjoint, within `size`) into a file, which then has `size` bytes.

        On return all of it survives SIGKILL. A change time that the file has already and that is later stays.

        Raises:
            BytesAbsent: a piece covers half a row that is not here; nothing was changed.
            FileTooBig: beyond 16 TiB. NoSpace: the disk is full. NotFound.
        """
        _check_size(size)
        with self._ledger.transaction():
            node = self._tree.get(inode)
            content = self._content_of(node)
            stored = node.stored
            if size != node.size:
                stored -= self._content.resize(content, node.size, size)
            if pieces and (pieces[0][0] < 0 or pieces[-1][0] + len(pieces[-1][1]) > size):
                raise InvalidArgument("bytes beyond the size of the file")
            if filled := [piece for piece in pieces if len(piece[1])]:
                stored += self._content.write(content, filled, node.size)
            return self._record(node, content, size, stored, mtime_ns, ctime_ns)

    def resize(self, inode: Inode, size: int, now_ns: int) -> Node:
        """Truncate or extend a file with zeros; the node after.

        Raises:
            BytesAbsent: the row where it is cut is not here; nothing was changed. FileTooBig, NoSpace, NotFound.
        """
        _check_size(size)
        with self._ledger.transaction():
            node = self._tree.get(inode)
            if size == 0 and node.content is not None:
                # A fresh content: how long it takes must not depend on how much there was.
                if node.stored <= ROW:
                    self._content.free(node.content)
                else:
                    self._content.discard(node.content)
                return self._record(node, self._content.new(), 0, 0, now_ns, now_ns)
            content = self._content_of(node)
            freed = self._content.resize(content, node.size, size)
            return self._record(node, content, size, node.stored - freed, now_ns, now_ns)

    def _content_of(self, node: Node) -> Content:
        if node.kind is not Kind.FILE:
            raise InvalidArgument("only a file has bytes")
        return self._content.new() if node.content is None else node.content

    def _record(
        self, node: Node, content: Content | None, size: int, stored: int, mtime_ns: int, ctime_ns: int
    ) -> Node:
        ctime_ns = max(ctime_ns, node.ctime_ns)  # names and attributes may have changed since the bytes were written
        changes = {"content": content, "size": size, "stored": stored, "mtime_ns": mtime_ns, "ctime_ns": ctime_ns}
        return self._tree.edit(node.inode, ctime_ns, **changes)

    def is_whole(self, content: Content, size: int) -> bool:
        """Whether all bytes of a content of `size` bytes are here."""
        try:
            if size:
                self._content.require(content, 0, size)
        except BytesAbsent:
            return False
        return True

    # --- for programs ---------------------------------------------------------------------------------------

    def stage(self) -> Content:
        """A content that belongs to no node yet; the next start after a crash finds it an orphan and sweeps it."""
        return self._content.new()

    def fill(self, content: Content, offset: int, data: bytes | bytearray | memoryview) -> int:
        """Put bytes at the end of a staged content, which has `offset` bytes; how many more are stored.

        Raises:
            FileTooBig: beyond 16 TiB. NoSpace.
        """
        _check_size(offset + len(data))
        with self._ledger.transaction():
            return self._content.write(content, [(offset, data)], offset) if len(data) else 0

    def attach(self, inode: Inode, content: Content | None, size: int, stored: int, now_ns: int) -> Node:
        """Make a staged content of `size` bytes, `stored` of them in rows, the bytes of a file; None takes them away.

        What was attached before goes. Raises InvalidArgument: no file; NotFound.
        """
        with self._ledger.transaction():
            node = self._tree.get(inode)
            if node.kind is not Kind.FILE:
                raise InvalidArgument("only a file has bytes")
            if node.content is not None:
                self._content.discard(node.content)
            return self._record(node, content, size, stored, now_ns, now_ns)

    def abandon(self, content: Content) -> None:
        """A staged content will not be attached."""
        with self._ledger.transaction():
            self._content.discard(content)

    # --- for sync -------------------------------------------------------------------------------------------

    def extents(self, content: Content, first: int = 0, last: int = LAST) -> dict[int, Extent]:
        """Every extent of a content that is no hole, ascending; or those from the `first` to the `last`."""
        return self._content.extents(content, first, last)

    def read_extent(self, content: Content, index: int, length: int) -> bytes:
        """The first `length` bytes of an extent: its plaintext, as it is to be sealed. Raises BytesAbsent."""
        return self.read(content, index * EXTENT, length)

    def freeze(self, content: Content) -> None:
        """Until `thaw`, the extents that are dirty now can be read as they are now, whoever writes meanwhile.

        Costs nothing but a copy of each row that is overwritten until then. Raises BytesAbsent: one is not all here.
        """
        with self._ledger.transaction():
            self._content.freeze(content)

    def read_frozen(self, content: Content, index: int, length: int) -> bytes:
        """As `read_extent`, of the moment of `freeze`."""
        return self._content.read_frozen(content, index * EXTENT, length)

    def thaw(self, content: Content) -> None:
        """End of what `freeze` began."""
        with self._ledger.transaction():
            self._content.thaw(content)

    def settle(
        self, inode: Inode, edit: int, sealed: Mapping[int, tuple[BlobId, int]], *, frozen_size: int | None = None
    ) -> bool:
        """These extents are on the server: id and plaintext length of each.

        Returns False when the node was edited since edit number `edit`. Then nothing was done; but of a content that
        was frozen then, with `frozen_size` bytes, those extents are clean that are still the same.
        """
        with self._ledger.transaction():
            row = self._row(inode, "edit", "content", "size")
            if row is None or row[1] is None:
                return False
            if row[0] == edit:
                self._content.settle(Content(row[1]), sealed)
                return True
            if frozen_size is not None:
                lengths = {index: (extent_length(frozen_size, index), extent_length(row[2], index)) for index in sealed}
                lasting = {index: sealed[index] for index, (then, now) in lengths.items() if then == now}
                self._content.settle_unchanged(Content(row[1]), lasting)
            return False

    def keep(self, content: Content, index: int, blob_id: BlobId, first_row: int, plaintext: Bytes) -> None:
        """Store fetched, authenticated bytes of an extent, from the start of its row `first_row` on.

        What is here already stays, and so does an extent that is of another blob by now.
        """
        with self._ledger.transaction():
            stored = self._content.keep(content, index, blob_id, first_row, plaintext)
            self._add_stored(content, stored)
        self._tell(content, stored)

    def let_go(self) -> None:
        """Have the system cache little of what was kept last: of bytes that whoever reads has from elsewhere."""
        self._ledger.spool.let_go()

    def adopt(self, inode: Inode, attachment: Attachment | None) -> int:
        """A remote version becomes the node's bytes; extents that are the same stay here. Returns bytes stored.

        The caller records size and times. Its ids must be inline, or it cannot be read before `resolve`.
        """
        with self._ledger.transaction():
            old = self._tree.get(inode).content
            content, stored = (None, 0) if attachment is None else self.install(attachment, old)
            if old is not None:
                self._content.discard(old)
            self._ledger.documents.run(
                "UPDATE documents SET content = ?, size = ?, stored = ? WHERE inode = ?",
                (content, 0 if attachment is None else attachment.size, stored, inode),
            )
        return stored

    def install(self, attachment: Attachment, old: Content | None) -> tuple[Content, int]:
        """A content for a remote version, and the bytes of `old` that are in it now; it has to become some node's."""
        content = self._content.new()
        if attachment.depth:
            self._content.install_index(content, attachment)
            return content, 0
        blobs = {index: name for index, name in enumerate(attachment.ids) if name is not None}
        return content, self._content.install(content, attachment, blobs, old)

    def unresolved(self, content: Content) -> Attachment | None:
        """The attachment whose index blobs must be fetched before anything of it can be; None for any other."""
        return self._content.unresolved(content)

    def resolve(self, content: Content, blobs: Mapping[int, BlobId]) -> None:
        """The index blobs named these extents."""
        self._content.resolve(content, blobs)

    def place(self, content: Content) -> Place | None:
        """Under which name the file of a content is found; None when it has none (any more)."""
        row = self._ledger.one(
            self._ledger.documents,
            "SELECT parent, id, name FROM documents JOIN names ON names.inode = documents.inode "
            "WHERE content = ? AND parent != 0 LIMIT 1",
            content,
        )
        return None if row is None else Place(Inode(row[0]), row[1], row[2])

    def place_of(self, directory: Inode) -> Place | None:
        """Where a directory is among its siblings; None for the root, and for one that is gone."""
        sql = "SELECT parent, id, name FROM names WHERE inode = ? AND parent != 0 LIMIT 1"
        row = self._ledger.one(self._ledger.documents, sql, directory)
        return None if row is None else Place(Inode(row[0]), row[1], row[2])

    def directories_after(self, place: Place, limit: int, *, by_name: bool) -> list[Inode]:
        """The next directories of a directory."""
        column, low = ("name", place.name) if by_name else ("id", place.age)
        rows = self._ledger.all(
            self._ledger.documents,
            "SELECT found.inode FROM "  # noqa: S608
            f"(SELECT id, name, inode FROM names WHERE parent = ? AND {column} > ? ORDER BY {column} LIMIT {_SCANNED}) "
            f"AS found JOIN documents ON documents.inode = found.inode WHERE kind = ? ORDER BY found.{column} LIMIT ?",
            *(place.parent, low, Kind.DIRECTORY, limit),
        )
        return [Inode(row[0]) for row in rows]

    def steps(self, before: Place, after: Place, most: int, *, by_name: bool) -> int:
        """How many names of their directory come after `before`, up to `after`; `most + 1` when they are more."""
        column, low, high = ("name", before.name, after.name) if by_name else ("id", before.age, after.age)
        sql = f"SELECT 1 FROM names WHERE parent = ? AND {column} > ? AND {column} <= ? LIMIT ?"  # noqa: S608
        rows = self._ledger.all(self._ledger.documents, sql, before.parent, low, high, most + 1)
        return len(rows)

    def absent_after(self, place: Place, limit: int, largest: int, *, by_name: bool) -> list[Absent]:
        """The next files of a directory, of at most `largest` bytes, of which nothing is here."""
        column, low = ("name", place.name) if by_name else ("id", place.age)
        found = self._ledger.all(
            self._ledger.documents,
            "SELECT found.id, name, content FROM "  # noqa: S608
            f"(SELECT id, name, inode FROM names WHERE parent = ? AND {column} > ? ORDER BY {column} LIMIT {_SCANNED}) "
            "AS found JOIN documents ON documents.inode = found.inode "
            f"WHERE content IS NOT NULL AND stored = 0 AND size BETWEEN 1 AND ? ORDER BY found.{column} LIMIT ?",
            *(place.parent, low, largest, limit),
        )
        siblings = ((Content(content), Place(place.parent, age, name)) for age, name, content in found)
        return [absent for content, there in siblings if (absent := self._absent(content, there)) is not None]

    def _absent(self, content: Content, place: Place) -> Absent | None:
        extent = self._content.extent(content, 0)
        if extent is None or extent.blob_id is None or extent.present:
            return None
        return Absent(content, extent.blob_id, extent.length, place)

    def evict(self, content: Content, indices: Iterable[int]) -> int:
        """Drop local bytes of extents that are clean and on the server; how many."""
        with self._ledger.transaction():
            freed = self._content.evict(content, indices)
            self._add_stored(content, -freed)
        self._tell(content, freed)
        return freed

    @property
    def uses(self) -> Uses:
        """Which extents were used last, and which may be evicted."""
        return self._content.uses

    def stored(self) -> int:
        """Bytes of all files that are in the store."""
        row = self._ledger.one(self._ledger.documents, "SELECT COALESCE(SUM(stored), 0) FROM documents")
        return int(row[0])

    def _row(self, inode: Inode, *columns: str) -> Any:
        sql = f"SELECT {', '.join(columns)} FROM documents WHERE inode = ?"  # noqa: S608
        return self._ledger.one(self._ledger.documents, sql, inode)

    def _add_stored(self, content: Content, stored: int) -> None:
        if stored:
            sql = "UPDATE documents SET stored = MAX(0, stored + ?) WHERE content = ?"
            self._ledger.documents.run(sql, (stored, content))

    def _tell(self, content: Content, changed: int) -> None:
        sql = "SELECT inode FROM documents WHERE content = ?"
        row = self._ledger.one(self._ledger.documents, sql, content) if changed else None
        if row is not None:
            self.on_stored(Inode(row[0]))


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise FileTooBig("a file has 16 TiB at most")
