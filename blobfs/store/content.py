"""Rows and extents of blobs.db: which bytes of a content are here, which are dirty, which are holes.

Knows contents by number and nothing of documents; `attachments.py` joins the two. Every method that writes is called
within a transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NamedTuple

from blobfs.errors import BytesAbsent
from blobfs.store.ledger import Ledger
from blobfs.store.payloads import LAST, Part, Payloads
from blobfs.store.places import Places
from blobfs.store.rows import extents_at, position_of, range_of, rows_at, rows_of
from blobfs.store.schema import ROW_BITS
from blobfs.store.small import DISCARD, PUT_EXTENT, SmallContents
from blobfs.store.spool import Bytes, Unreadable
from blobfs.store.uses import Uses
from blobfs.values.extents import (
    ALL_ROWS,
    EXTENT,
    ROW,
    ROWS_PER_EXTENT,
    Attachment,
    BlobId,
    extent_length,
    spans,
)
from blobfs.values.nodes import Content

_PRESENCE: Final = "SELECT extent, present FROM extents WHERE content = ? AND extent BETWEEN ? AND ?"
_EXTENT: Final = "SELECT blob_id, length, present, dirty FROM extents WHERE content = ? AND extent = ?"
_ANY_ROW: Final = "SELECT 1 FROM rows WHERE position BETWEEN ? AND ? LIMIT 1"
_ANY_EXTENT: Final = "SELECT 1 FROM extents WHERE content = ? LIMIT 1"
_ROW_MASK: Final = (1 << ROW_BITS) - 1
_NAMED: Final = 2000
"""Extents of a very large file made known in one transaction: some 10 ms, in which nobody else gets at the store."""
_SLICE: Final = 256
"""Rows, and contents, that one sweep deletes."""


class Extent(NamedTuple):
    """What is known of one extent."""

    blob_id: BlobId | None
    length: int
    """Bytes sealed in that blob, its padding included."""
    present: int
    """Bitmap of the rows that are here."""
    dirty: bool


class ContentStore:
    """The bytes of contents, by row."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._db = ledger.blobs
        newest = max(
            int(ledger.one(self._db, "SELECT COALESCE(MAX(position), 0) FROM rows")[0]) >> ROW_BITS,
            int(ledger.one(self._db, "SELECT COALESCE(MAX(content), 0) FROM extents")[0]),
            int(ledger.one(self._db, "SELECT COALESCE(MAX(content), 0) FROM unresolved")[0]),
            int(ledger.one(self._db, "SELECT COALESCE(MAX(content), 0) FROM discarded")[0]),
            int(ledger.one(ledger.documents, "SELECT COALESCE(MAX(content), 0) FROM documents")[0]),
        )
        self._newest = newest
        self._payloads = Payloads(ledger)
        self._places = Places(ledger)
        self.uses = Uses(ledger)
        self._small = SmallContents(self._db)
        self._frozen: dict[Content, Content] = {}
        """Contents that are read as they were at one moment, and where their rows of that moment go."""
        self._touched: tuple[int, set[Content]] = (0, set())
        """After how many commits these contents were changed: until the next, only the ledger sees how they are."""
        self._unresolved = {row[0] for row in ledger.all(self._db, "SELECT content FROM unresolved")}

    def new(self) -> Content:
        """A number for an empty content; it exists once something is in it."""
        self._newest += 1
        return Content(self._newest)

    # --- reading ----------------------------------------------------------------------------------------

    def extent(self, content: Content, index: int) -> Extent | None:
        """One extent; None for a hole."""
        row = self._ledger.one(self._db, _EXTENT, content, index)
        return None if row is None else _extent(row)

    def extents(self, content: Content, first: int = 0, last: int = LAST) -> dict[int, Extent]:
        """All extents but the holes, ascending; or those from the `first` to the `last`."""
        sql = "SELECT extent, blob_id, length, present, dirty FROM extents WHERE content = ? AND extent BETWEEN ? AND ?"
        rows = self._ledger.all(self._db, f"{sql} ORDER BY extent", content, first, last)
        return {row[0]: _extent(row[1:]) for row in rows}

    def require(self, content: Content, offset: int, length: int) -> None:
        """Raise `BytesAbsent` unless every row that the range touches is here."""
        if self._small.holds(content):
            return
        presence = self._ledger.peek_all(self._db, _PRESENCE, *extents_at(content, offset, length))
        self._check(content, offset, length, presence)

    def _check(self, content: Content, offset: int, length: int, presence: Iterable[tuple[int, int]]) -> None:
        first_row, last_row = offset // ROW, (offset + length - 1) // ROW
        absent = [
            extent * ROWS_PER_EXTENT + bit
            for extent, present in presence
            if present != ALL_ROWS
            for bit in range(ROWS_PER_EXTENT)
            if not present >> bit & 1 and first_row <= extent * ROWS_PER_EXTENT + bit <= last_row
        ]
        if absent:
            raise BytesAbsent(content, absent[0] * ROW, (absent[-1] + 1 - absent[0]) * ROW)
        if content in self._unresolved:
            raise BytesAbsent(content, offset, length)

    def read(self, content: Content, offset: int, length: int) -> bytes:
        """Exactly `length` bytes; holes and what a row lacks are zeros.

        Raises:
            BytesAbsent: a row is not here.
        """
        with self._ledger.lock:
            if self._small.holds(content):
                return self._small.get(content)[offset : offset + length].ljust(length, b"\0")
            row, start = divmod(offset, ROW)
            if start + length <= ROW and content not in self._unresolved:  # the usual case: one row
                position = position_of(content, row)
                over = self._places.over(position, start, length)
                if over is not None:
                    return self._payloads.read_within(position, start, length, over)
            self.require(content, offset, length)
            found = self._payloads.find(content, offset, length)
        try:
            # Without the lock: what is in the spool stays as it is.
            return self._payloads.lay(content, offset, length, found)
        except Unreadable:
            with self._ledger.lock:
                self.require(content, offset, length)
                return self._payloads.lay(content, offset, length, self._payloads.find(content, offset, length))

    def read_beside(self, content: Content, offset: int, length: int) -> bytes:
        """As `read`, for a worker thread: it waits for no writer, unless the content was changed just now."""
        commits, touched = self._touched
        if (commits != self._db.commits or content not in touched) and content not in self._unresolved:
            query = (_PRESENCE, extents_at(content, offset, length))
            answer = self._payloads.read_beside(content, offset, length, query)
            if answer is not None:
                data, presence = answer
                self._check(content, offset, length, presence)
                return data
        return self.read(content, offset, length)

    def _touch(self, content: Content) -> None:
        if self._touched[0] != self._db.commits:
            self._touched = (self._db.commits, set())
        self._touched[1].add(content)

    # --- writing ----------------------------------------------------------------------------------------

    def write(self, content: Content, pieces: Sequence[tuple[int, Bytes]], old_size: int) -> int:
        """Put bytes (offset and what goes there, not empty) into rows; how many bytes more are stored.

        Their extents are dirty then. There is no row and no extent that begins at or after `old_size`.

        Raises:
            BytesAbsent: a row that keeps bytes of the old size beside the new ones is not here; nothing was changed.
        """
        offset, data = pieces[0]
        if content in self._unresolved:
            raise BytesAbsent(content, offset, len(data))
        self._touch(content)
        if len(pieces) == 1 and old_size == offset == 0 and len(data) <= ROW and content not in self._frozen:
            self._small.put(content, bytes(data))
            return len(data)
        parts: list[Part] = []
        written: dict[int, int] = {}
        kept: dict[int, int] = {}
        for offset, data in pieces:
            view = memoryview(data)
            for row, start, length in spans(offset, len(view), ROW):
                at, (extent, bit) = row * ROW, divmod(row, ROWS_PER_EXTENT)
                if (start and at < old_size) or at + start + length < min(old_size, at + ROW):
                    kept[extent] = kept.get(extent, 0) | 1 << bit
                is_new = at >= old_size and not written.get(extent, 0) >> bit & 1
                done = at + start - offset
                parts.append(Part(position_of(content, row), start, view[done : done + length], is_new))
                written[extent] = written.get(extent, 0) | 1 << bit
        self._require_rows(content, kept)
        if content in self._frozen:
            for part in parts:
                self._preserve(content, part.position & _ROW_MASK)
        stored = self._payloads.write(parts)
        for extent, rows in written.items():
            self._soil(content, extent, rows, is_new=extent * EXTENT >= old_size)
        return stored

    def _require_rows(self, content: Content, rows: Mapping[int, int]) -> None:
        """Raise `BytesAbsent` unless these rows (a bitmap for each extent) are here."""
        if self._small.holds(content):
            return
        for extent, wanted in rows.items():
            found = self._ledger.peek_all(self._db, _PRESENCE, content, extent, extent)
            absent = wanted & ~found[0][1] if found else 0
            if absent:
                row = extent * ROWS_PER_EXTENT + (absent & -absent).bit_length() - 1
                raise BytesAbsent(content, row * ROW, ROW)

    def _soil(self, content: Content, extent: int, rows: int, *, is_new: bool = False) -> None:
        """These rows of an extent were written: it is dirty."""
        known = None if is_new else self.extent(content, extent)
        if known is None:
            self._db.run(PUT_EXTENT, (content, extent, None, 0, ALL_ROWS, 1, 0))
        elif not known.dirty or known.present | rows != known.present:
            self._db.run(
                "UPDATE extents SET dirty = 1, present = ? WHERE content = ? AND extent = ?",
                (known.present | rows, content, extent),
            )

    def resize(self, content: Content, old: int, new: int) -> int:
        """The attachment shrinks or grows from `old` to `new` bytes; how many bytes fewer are stored.

        What it grows by is zeros. An extent whose length changes is dirty: it will be sealed anew.

        Raises:
            BytesAbsent: the row that is cut is not here; nothing was changed.
        """
        freed = 0
        if content in self._unresolved:
            raise BytesAbsent(content, 0, max(1, old))
        self._touch(content)
        if new < old:
            if new % ROW:
                self.require(content, new - new % ROW, 1)
            freed = self._cut(content, new)
        edge = min(old, new)
        if edge % EXTENT and extent_length(old, edge // EXTENT) != extent_length(new, edge // EXTENT):
            known = self.extent(content, edge // EXTENT)
            if known is not None:
                # Rows beyond the old end are here: they are zeros.
                beyond = ALL_ROWS & ~((1 << -(-(edge % EXTENT) // ROW)) - 1)
                self._soil(content, edge // EXTENT, beyond)
        return freed

    def _cut(self, content: Content, size: int) -> int:
        row, start = divmod(size, ROW)
        freed = 0
        if start:
            self._preserve(content, row)
            found = self._payloads.row(position_of(content, row))
            if found is not None and len(found) > start:
                self._payloads.put(position_of(content, row), found[:start])
                freed = len(found) - start
        beyond = (position_of(content, row + (start > 0)), position_of(content + 1, 0) - 1)
        freed += self._payloads.stored(*beyond)
        self._ledger.mark_loss()
        if content in self._frozen:
            for position in self._payloads.staged(*beyond):
                self._preserve(content, position & _ROW_MASK)
        if (copy := self._frozen.get(content)) is not None:
            shift = position_of(copy, 0) - position_of(content, 0)
            # Ignored are rows that were preserved before.
            move = "UPDATE OR IGNORE rows SET position = position + ? WHERE position BETWEEN ? AND ?"
            self._db.run(move, (shift, *beyond))
        self._payloads.delete(*beyond)
        self._db.run("DELETE FROM extents WHERE content = ? AND extent >= ?", (content, -(-size // EXTENT)))
        return freed

    def discard(self, content: Content) -> None:
        """The content is no longer needed. `sweep` frees it, later and in slices: freeing a row reads all its pages."""
        is_known = self._small.holds(content) or content in self._unresolved
        if is_known or self._ledger.peek(self._db, _ANY_EXTENT, content) is not None:
            self._small.discard(content)

    def free(self, *contents: Content) -> None:
        """These contents are no longer needed and small: they go now."""
        staged = self._payloads.covered(contents)
        for content in contents:
            if content in staged or content in self._unresolved or content in self._frozen:
                self.discard(content)
            else:
                self._ledger.mark_loss()
                self._small.free(content)

    def sweep(self) -> bool:
        """Delete one slice of what was discarded; whether there may be more."""
        with self._ledger.transaction():
            held = {*self._frozen, *self._frozen.values()}
            found = self._ledger.all(self._db, "SELECT content FROM discarded LIMIT ?", _SLICE + len(held))
            left = _SLICE
            found = [row for row in found if row[0] not in held][:_SLICE]
            for (content,) in found:
                self._ledger.mark_loss()
                left -= self._payloads.delete_some(*range_of(content), left)
                if left == 0:
                    break
                for table in ("extents", "unresolved", "discarded"):
                    self._db.run(f"DELETE FROM {table} WHERE content = ?", (content,))  # noqa: S608
        return left == 0 or len(found) == _SLICE

    def trim(self, content: Content, size: int) -> int:
        """Delete what lies beyond `size`, which no document has been told of; bytes stored then. For `mend`."""
        last = self._payloads.last(*range_of(content))
        extent = self._ledger.one(self._db, "SELECT MAX(extent) FROM extents WHERE content = ?", content)[0]
        end = 0 if last is None else (last[0] & _ROW_MASK) * ROW + last[1]
        if end > size or (extent is not None and extent * EXTENT >= size):
            with suppress(Unreadable):  # it stays as long as it is, and nobody reads it
                self._cut(content, size)
        return self._payloads.stored(*range_of(content))

    # --- one moment of a content that goes on changing ----------------------------------------------------

    def freeze(self, content: Content) -> None:
        """Until `thaw`, `read_frozen` reads the content as it is now; what is overwritten is put by, a row at a time.

        Raises:
            BytesAbsent: a dirty extent is not all here; nothing was done.
        """
        for index, extent in self.extents(content).items():
            if extent.dirty and extent.present != ALL_ROWS:
                self.require(content, index * EXTENT, EXTENT)
        copy = self._frozen[content] = self.new()
        # From the beginning: whatever ends this process, the copy goes with it.
        self._db.run(DISCARD, (copy,))

    def _preserve(self, content: Content, row: int) -> None:
        """The row is about to change: its bytes of the frozen moment are put by, unless they are already."""
        copy = self._frozen.get(content)
        if copy is not None and self._payloads.row(position_of(copy, row)) is None:
            self._payloads.put(position_of(copy, row), self._payloads.row(position_of(content, row)) or b"")

    def read_frozen(self, content: Content, offset: int, length: int) -> bytes:
        """As `read`, of the moment of `freeze`, from extents that were dirty then."""
        with self._ledger.lock:
            copy = self._frozen[content]
            if self._payloads.last(*rows_at(copy, offset, length)) is not None:
                return self._read_put_by(content, copy, offset, length)
            found = self._payloads.find(content, offset, length)
        try:
            # Without the lock, as in `read`.
            return self._payloads.lay(content, offset, length, found)
        except Unreadable:
            with self._ledger.lock:
                return self._read_put_by(content, copy, offset, length)

    def _read_put_by(self, content: Content, copy: Content, offset: int, length: int) -> bytes:
        pieces = []
        for row, start, wanted in spans(offset, length, ROW):
            found = self._payloads.row(position_of(copy, row))
            if found is None:
                found = self._payloads.row(position_of(content, row)) or b""
            piece = found[start : start + wanted]
            pieces.append(piece if len(piece) == wanted else piece.ljust(wanted, b"\0"))
        return b"".join(pieces)

    def settle_unchanged(self, content: Content, sealed: Mapping[int, tuple[BlobId, int]]) -> None:
        """As `settle`, for those extents of a frozen content of which no row has changed since."""
        copy = self._frozen.get(content)
        if copy is not None:
            changed = {index for index in sealed if self._db.one(_ANY_ROW, rows_of(copy, index)) is not None}
            self.settle(content, {index: blob for index, blob in sealed.items() if index not in changed})

    def thaw(self, content: Content) -> None:
        """The frozen moment is not needed any more; without one, nothing happens."""
        copy = self._frozen.pop(content, None)
        if copy is not None:
            # Once more: the transaction in which it was frozen may have failed.
            self._db.run(DISCARD, (copy,))

    # --- what sync knows ----------------------------------------------------------------------------------

    def settle(self, content: Content, sealed: Mapping[int, tuple[BlobId, int]]) -> None:
        """These extents are on the server under these ids, with these lengths: they are clean."""
        for extent, (blob_id, length) in sealed.items():
            self._db.run(
                "UPDATE extents SET blob_id = ?, length = ?, dirty = 0, used = ? WHERE content = ? AND extent = ?",
                (bytes.fromhex(blob_id), length, self.uses.next(), content, extent),
            )

    def keep(self, content: Content, index: int, blob_id: BlobId, first_row: int, plaintext: Bytes) -> int:
        """Store fetched rows of an extent, beginning with its row `first_row`; bytes that are new here.

        Rows that are here already are left alone, and so is an extent that is of another blob by now.
        """
        known = self.extent(content, index)
        if known is None or known.blob_id != blob_id:
            return 0
        self._touch(content)
        parts, present, view = [], known.present, memoryview(plaintext)
        for at in range(0, len(view), ROW):
            row = first_row + at // ROW
            if not present >> row & 1:
                payload: Bytes = view[at : at + ROW]
                if not payload[-1]:
                    # What it ends with is zeros, padding too: they need no room here.
                    payload = bytes(payload).rstrip(b"\0")
                if payload:
                    position = position_of(content, index * ROWS_PER_EXTENT + row)
                    parts.append(Part(position, 0, payload, is_new=True))
                present |= 1 << row
        if first_row * ROW + len(view) >= known.length:
            present |= ALL_ROWS & ~((1 << -(-known.length // ROW)) - 1)
        self._db.run(
            "UPDATE extents SET present = ?, used = ? WHERE content = ? AND extent = ?",
            (present, self.uses.next(), content, index),
        )
        return self._payloads.write(parts)

    def install(
        self, content: Content, attachment: Attachment, blobs: Mapping[int, BlobId], old: Content | None
    ) -> int:
        """Fill the new content with the extents of a remote version; rows of equal blobs move here from `old`.

        Returns the bytes that moved. What remains of `old` is the caller's to discard.
        """
        former = {} if old is None else self.extents(old)
        self._touch(content)
        moved = 0
        for index, blob_id in blobs.items():
            length, have = attachment.blob_length(index), former.get(index)
            present = used = 0
            if old is not None and have is not None and have.blob_id == blob_id and not have.dirty and have.present:
                present, used = have.present, self.uses.of(Content(old), index)
                moved += self._move(old, content, index)
            self._db.run(PUT_EXTENT, (content, index, bytes.fromhex(blob_id), length, present, 0, used))
        return moved

    def install_index(self, content: Content, attachment: Attachment) -> None:
        """The new content is a remote version whose ids are in index blobs; `resolve` must come before any reading."""
        body = json.dumps([attachment.size, attachment.ids, attachment.depth, attachment.padded])
        self._unresolved.add(content)
        self._db.run("INSERT INTO unresolved VALUES (?, ?)", (content, body))

    def unresolved(self, content: Content) -> Attachment | None:
        """What is known of a content whose index blobs have not been fetched; None for any other."""
        if content not in self._unresolved:
            return None
        row = self._ledger.one(self._db, "SELECT attachment FROM unresolved WHERE content = ?", content)
        if row is None:
            return None
        size, ids, depth, padded = json.loads(row[0])
        return Attachment(size, tuple(ids), depth, padded)

    def resolve(self, content: Content, blobs: Mapping[int, BlobId]) -> None:
        """The index blobs named these extents. Not to be joined to another transaction.

        Some of them at a time: there can be millions, and the mark that keeps everybody away lasts until the last.
        """
        names = iter(blobs.items())
        part: dict[int, BlobId] | None = None
        while part or part is None:
            part = dict(islice(names, _NAMED))
            with self._ledger.transaction():
                if (attachment := self.unresolved(content)) is None:
                    return  # known by now, or swept
                self.install(content, attachment, part, None)
                if not part:
                    self._db.run("DELETE FROM unresolved WHERE content = ?", (content,))
        # Not before it is certain: a reader must never take what is not here for a hole.
        self._unresolved.discard(content)

    def _move(self, old: Content, new: Content, index: int) -> int:
        self._touch(old)
        first, last = rows_of(old, index)
        shift = position_of(new, 0) - position_of(old, 0)
        moved = self._payloads.stored(first, last)
        self._ledger.mark_loss()
        self._payloads.move(first, last, shift)
        self._db.run("UPDATE extents SET present = 0 WHERE content = ? AND extent = ?", (old, index))
        return moved

    def evict(self, content: Content, indices: Iterable[int]) -> int:
        """Drop the rows of extents that are clean and on the server; bytes freed."""
        freed = 0
        for index in indices:
            known = self.extent(content, index)
            if known is None or known.dirty or known.blob_id is None or not known.present:
                continue
            freed += self.stored_in(content, index)
            self._ledger.mark_loss()
            self._payloads.delete(*rows_of(content, index))
            self._db.run("UPDATE extents SET present = 0 WHERE content = ? AND extent = ?", (content, index))
        return freed

    def stored_in(self, content: Content, index: int) -> int:
        """Bytes of an extent that are here."""
        return self._payloads.stored(*rows_of(content, index))


def _extent(row: Sequence[Any]) -> Extent:
    blob_id, length, present, dirty = row
    return Extent(None if blob_id is None else BlobId(blob_id.hex()), length, present, bool(dirty))
