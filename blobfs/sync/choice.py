"""Which changed documents stay on this device, and which of the others go first.

Pure: looks at what it is given. Invariant: what the server has once had never stays here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from blobfs.store.blobs import MEDIUM
from blobfs.sync.parcel import Outgoing
from blobfs.values.documents import DocId

LOCAL_ONLY: Final = re.compile(rb"\.~lock\..*#|.*\.swp|\..*\.sw[a-px]|\.goutputstream-.*|\.nfs.*|\.fuse_hidden.*", re.S)
"""Lock and swap files: they mean something on this machine only."""


def stays_here(outgoing: Outgoing, staying: Collection[DocId]) -> bool:
    """Whether a document is for this device only.

    Args:
        staying: directories that are, with what is in them.
    """
    names = outgoing.local.document.names
    if outgoing.base is not None or not names:
        return False
    if outgoing.doc_id in staying or all(name.parent in staying for name in names):
        return True
    return all(LOCAL_ONLY.fullmatch(name.name) for name in names)


def levels(files: Sequence[Outgoing], priorities: Mapping[DocId, int]) -> Iterable[list[Outgoing]]:
    """Files of one priority together, the highest first, else in the order in which they came."""
    found: dict[int, list[Outgoing]] = {}
    for outgoing in files:
        found.setdefault(priorities.get(outgoing.doc_id, MEDIUM), []).append(outgoing)
    return [found[priority] for priority in sorted(found, reverse=True)]
