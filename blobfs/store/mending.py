"""What holds between the two databases: `check` says where it does not, `mend` makes it hold after an unclean end.

A heavy commit of blobs.db can be on the disk when the power goes, and the records of the journal up to it not. Then
blobs.db has bytes that no document has heard of: beyond a file's end, in contents that nobody has, in place of older
ones. It never lacks any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from blobfs.store.content import ContentStore
from blobfs.store.ledger import Ledger
from blobfs.store.payloads import LAST, Payloads
from blobfs.store.schema import ROW_BITS
from blobfs.values.extents import EXTENT, ROW, ROWS_PER_EXTENT, extent_length
from blobfs.values.nodes import ROOT_INODE

_ROW_MASK: Final = (1 << ROW_BITS) - 1
_SLICE: Final = 64 << 20
"""Bytes of files whose rows are looked up at once: some 5 ms."""
_ATTACHED = "SELECT content, inode, size, edit > synced, deleted, stored FROM documents WHERE content IS NOT NULL"


def mend(ledger: Ledger, store: ContentStore) -> None:
    """Make the databases agree. Reads the lists of extents and documents, and of what is to be sent the rows' heads."""
    with ledger.transaction():
        attached = {row[0]: row[1:] for row in ledger.all(ledger.documents, _ATTACHED)}
        for (content,) in ledger.all(ledger.blobs, "SELECT content FROM discarded"):
            if content in attached:
                ledger.blobs.run("DELETE FROM discarded WHERE content = ?", (content,))
        contents = "SELECT content, MAX(dirty), MAX(extent) FROM extents GROUP BY content"
        for content, dirty, last in ledger.all(ledger.blobs, contents):
            if content not in attached:
                store.discard(content)
            else:
                inode, size, unsent, _, stored = attached[content]
                if (dirty or last * EXTENT >= size) and (found := store.trim(content, size)) != stored:
                    ledger.documents.run("UPDATE documents SET stored = ? WHERE inode = ?", (found, inode))
                if dirty and not unsent:
                    ledger.documents.run("UPDATE documents SET edit = edit + 1 WHERE inode = ?", (inode,))
                    ledger.mark_changed()
        for (content,) in ledger.all(ledger.blobs, "SELECT content FROM unresolved"):
            if content not in attached:
                store.discard(content)


# --- checking -----------------------------------------------------------------------------------------


def check(ledger: Ledger, report: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """Every broken invariant as a sentence that names inodes and contents by number. Nobody else has the store then.

    Args:
        report: told how far it is: bytes of files whose rows were looked at, and of all.
    """
    with ledger.lock:
        return [*_check_tree(ledger), *_check_contents(ledger), *_check_rows(ledger, report)]


def _check_tree(ledger: Ledger) -> Iterator[str]:
    sql = "SELECT inode, kind, deleted, nlink, content FROM documents"
    documents = {row[0]: row[1:] for row in ledger.all(ledger.documents, sql)}
    names: Counter[int] = Counter()
    subdirectories: Counter[int] = Counter()
    parents: dict[int, int] = {}
    for parent, inode in ledger.all(ledger.documents, "SELECT parent, inode FROM names"):
        names[inode] += 1
        if inode not in documents or parent not in documents:
            yield f"a name of inode {inode} in {parent} leads nowhere"
        elif documents[inode][1] or documents[parent][1]:
            yield f"inode {inode} has a name in {parent}, and one of them is deleted"
        elif documents[parent][0] not in ("directory", ""):
            yield f"inode {inode} has a name in {parent}, which is no directory"
        elif documents[inode][0] == "directory":
            subdirectories[parent] += 1
            parents[inode] = parent
    for inode, (kind, deleted, nlink, content) in documents.items():
        wanted = 0 if deleted else 2 + subdirectories[inode] if kind in ("directory", "") else names[inode]
        if nlink != wanted:
            yield f"inode {inode} counts {nlink} links in place of {wanted}"
        is_odd = names[inode] != 1 if kind == "directory" else not names[inode]
        if is_odd and not deleted and kind and inode != ROOT_INODE:
            yield f"inode {inode} has {names[inode]} names"
        if content is not None and kind != "file":
            yield f"inode {inode} has bytes and is no file"
    yield from _check_rings(parents, documents)
    for (inode,) in ledger.all(ledger.documents, "SELECT DISTINCT inode FROM xattrs"):
        if inode not in documents:
            yield f"attributes of inode {inode}, which is not there"


def _check_rings(parents: dict[int, int], documents: dict[int, Any]) -> Iterator[str]:
    fine = {int(ROOT_INODE)} | {inode for inode, row in documents.items() if not row[0]}
    for inode in parents:
        path: list[int] = []
        while inode in parents and inode not in fine and inode not in path:
            path.append(inode)
            inode = parents[inode]
        if inode in path:
            yield f"directory {inode} is within itself"
        fine.update(path)


def _check_contents(ledger: Ledger) -> Iterator[str]:
    rows = ledger.all(ledger.documents, _ATTACHED)
    attached = {row[0]: row[1:] for row in rows}
    if len(attached) != len(rows):
        yield "two documents share their bytes"
    discarded = {row[0] for row in ledger.all(ledger.blobs, "SELECT content FROM discarded")}
    yield from (f"content {content} is in use and discarded" for content in discarded & attached.keys())
    sql = "SELECT content, extent, blob_id, length, dirty FROM extents"
    for content, extent, blob_id, length, dirty in ledger.all(ledger.blobs, sql):
        if content in discarded:
            continue
        if content not in attached:
            yield f"extent {extent} of content {content}, which nobody has"
            continue
        inode, size, unsent, deleted, _ = attached[content]
        if extent * EXTENT >= size:
            yield f"extent {extent} of inode {inode} is beyond its end"
        if not dirty and (blob_id is None or length < extent_length(size, extent)):  # longer: it is padded
            yield f"extent {extent} of inode {inode} is clean and no blob"
        if dirty and not unsent and not deleted:
            yield f"inode {inode} has bytes to send and no edit"


def _check_rows(ledger: Ledger, report: Callable[[int, int], None]) -> Iterator[str]:
    attached = {row[0]: row[1:] for row in ledger.all(ledger.documents, _ATTACHED)}
    gone = {row[0] for row in ledger.all(ledger.blobs, "SELECT content FROM discarded")}
    present = {row[:2]: row[2] for row in ledger.all(ledger.blobs, "SELECT content, extent, present FROM extents")}
    stored: Counter[int] = Counter()
    payloads = Payloads(ledger)
    total = sum(row[-1] for row in attached.values())
    for first, last, done in _slices(attached):
        for position, length in payloads.lengths(first, last):
            content, row = position >> ROW_BITS, position & _ROW_MASK
            extent, bit = divmod(row, ROWS_PER_EXTENT)
            stored[content] += length
            if content in gone:
                continue
            if not present.get((content, extent), 0) >> bit & 1:
                yield f"row {row} of content {content} is in no extent"
            # Up to as much again is kept for what will be appended: zeros.
            if content not in attached or length > min(ROW, 2 * (attached[content][1] - row * ROW)):
                yield f"row {row} of content {content} is too long"
        report(done, total)
    for content, (inode, *_, size) in attached.items():
        if stored[content] != size:
            yield f"inode {inode} counts {size} bytes stored in place of {stored[content]}"
    for position in payloads.unreadable():
        yield f"row {position & _ROW_MASK} of content {position >> ROW_BITS} cannot be read from the spool"


def _slices(attached: Mapping[int, Any]) -> Iterator[tuple[int, int, int]]:
    """(first position, last one, bytes of files up to there) of ranges that are all positions together."""
    first = before = done = 0
    for content in sorted(attached):
        done += attached[content][-1]
        if done - before >= _SLICE:
            last = content << ROW_BITS | _ROW_MASK
            yield first, last, done
            first, before = last + 1, done
    yield first, LAST, done
