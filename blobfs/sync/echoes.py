"""What this device sent of late: to know it again when the feed brings it back, or brings what it replaced.

In memory only; whoever was forgotten is opened and compared instead.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from blobfs.remote.client import Change, Sealed
from blobfs.values.documents import DocId

_KEPT: Final = 50_000
"""Documents; some 10 MiB."""


class Echoes:
    """Revisions that the server took from this device, each with its place in the order of being taken."""

    def __init__(self) -> None:
        self._sent: OrderedDict[DocId, tuple[bytes, int]] = OrderedDict()
        self._tried: OrderedDict[DocId, set[bytes]] = OrderedDict()
        self.mark = 0
        """Grows with every revision."""

    def expect(self, change: Change) -> None:
        """This is about to be sent; whether the server took it is not known if the answer is lost."""
        self._tried.setdefault(change.doc_id, set()).add(_digest(change.revision, change.payload))
        self._tried.move_to_end(change.doc_id)
        if len(self._tried) > _KEPT:
            self._tried.popitem(last=False)

    def is_ours(self, sealed: Sealed) -> bool:
        """Whether this run of this device sealed it. A revision tells only which device did, and a copy of its store
        on another machine goes by the same name."""
        return _digest(sealed.revision, sealed.payload) in self._tried.get(sealed.doc_id, ())

    def remember(self, change: Change) -> None:
        """The server took this."""
        self.mark += 1
        self._tried.pop(change.doc_id, None)
        self._sent[change.doc_id] = (_digest(change.revision, change.payload), self.mark)
        self._sent.move_to_end(change.doc_id)
        if len(self._sent) > _KEPT:
            self._sent.popitem(last=False)

    def is_echo(self, sealed: Sealed) -> bool:
        """Whether this is the last that was sent of its document, byte for byte."""
        known = self._sent.get(sealed.doc_id)
        return known is not None and known[0] == _digest(sealed.revision, sealed.payload)

    def is_later(self, doc_id: DocId, mark: int) -> bool:
        """Whether the document was sent after `mark` was read."""
        known = self._sent.get(doc_id)
        return known is not None and known[1] > mark


def _digest(revision: str, payload: bytes) -> bytes:
    return hashlib.sha256(revision.encode() + b"\0" + payload).digest()
