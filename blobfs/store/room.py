"""Whether what a document holds can still be sent: a sealed document has at most 1 MiB.

That room is split, so that no edit has to look at everything: JSON, blob ids, and the rest for names and attributes,
which are counted here as they are encoded. Invariant: what passes here and keeps to the limits of each field fits.
"""

from __future__ import annotations

import json
from typing import Final

from blobfs.errors import DocumentFull
from blobfs.protocol import MAX_DOCUMENT
from blobfs.store.ledger import Ledger
from blobfs.values.documents import MAX_CONTENT, MAX_NAME, MAX_TARGET, MAX_XATTRS, name_to_text
from blobfs.values.extents import INLINE
from blobfs.values.nodes import Inode

_ESCAPED: Final = 6
"""Bytes of JSON that one byte of a name can take: a backslash, u and four digits."""
_NAME: Final = _ESCAPED * MAX_NAME + 128 + 8
"""Bytes of JSON of one name at most: itself, the parent's id, punctuation."""
_ATTRIBUTE: Final = 10
"""Bytes of JSON of one attribute beside its name and value: quotes, punctuation, base64's last group."""
_REST: Final = INLINE * 68 + _ESCAPED * MAX_TARGET + 1024
ROOM: Final = MAX_DOCUMENT - MAX_CONTENT - _REST
"""Bytes of JSON for names and extended attributes."""
FEW: Final = 16
"""Names that there is always room for."""


def check_room(ledger: Ledger, inode: Inode) -> None:
    """Raise DocumentFull when a document's names and extended attributes are more than can be sent."""
    count, keys, values = ledger.one(
        ledger.documents,
        "SELECT COUNT(*), COALESCE(SUM(LENGTH(name)), 0), COALESCE(SUM(LENGTH(value)), 0) FROM xattrs WHERE inode = ?",
        inode,
    )
    (links,) = ledger.one(ledger.documents, "SELECT COUNT(*) FROM names WHERE inode = ?", inode)
    taken = max(FEW, links) * _NAME + _ESCAPED * keys + _base64(values) + count * _ATTRIBUTE
    if keys + values <= MAX_XATTRS and (taken <= ROOM or _count(ledger, inode) <= ROOM):
        return
    raise DocumentFull("the names and extended attributes of one file are at their limit")


def _count(ledger: Ledger, inode: Inode) -> int:
    """Exactly what names and attributes take, one by one."""
    names = ledger.all(
        ledger.documents,
        "SELECT name, LENGTH(doc_id) FROM names JOIN documents ON documents.inode = names.parent WHERE names.inode = ?",
        inode,
    )
    xattrs = ledger.all(ledger.documents, "SELECT name, LENGTH(value) FROM xattrs WHERE inode = ?", inode)
    taken: int = max(FEW * _NAME, sum(_encoded(name) + length + 6 for name, length in names))
    return taken + sum(_encoded(name) + _base64(length) + _ATTRIBUTE for name, length in xattrs)


def _encoded(name: bytes) -> int:
    return len(json.dumps(name_to_text(name)))


def _base64(length: int) -> int:
    return (length + 2) // 3 * 4
