"""What this device sent of late: to know it again when the feed brings it back, or brings what it replaced.

What was sent and not answered is kept in the store, for whoever is killed meanwhile; the rest is in memory only, and
what was forgotten is opened and compared instead.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from blobfs.errors import NoSpace
from blobfs.remote.client import Change, Sealed
from blobfs.store.settings import Settings
from blobfs.values.documents import DocId

_KEPT: Final = 50_000
"""Documents; some 10 MiB."""
_KEPT_UNANSWERED: Final = 4000
"""Revisions: those of several requests whose answers were lost."""
_UNANSWERED: Final = "unanswered"
"""The setting with the digests of what was sent and not answered, oldest first."""


class Echoes:
    """Revisions that the server took from this device, each with its place in the order of being taken."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sent: OrderedDict[DocId, tuple[str, int]] = OrderedDict()
        self._unanswered: dict[str, None] = dict.fromkeys(settings.get(_UNANSWERED) or ())
        self.mark = 0
        """Grows with every revision."""

    def expect(self, changes: Sequence[Change]) -> None:
        """These are about to be sent; whether the server took them is not known if the answer is lost. Blocks."""
        self._unanswered.update(dict.fromkeys(digest_of(change) for change in changes))
        for digest in list(self._unanswered)[:-_KEPT_UNANSWERED]:
            del self._unanswered[digest]
        with suppress(NoSpace):  # a full disk keeps nothing from being sent
            self._settings.set(_UNANSWERED, list(self._unanswered))

    def answered(self, changes: Sequence[Change]) -> None:
        """Of these it is known by now; the store hears of it with the next that are sent."""
        for change in changes:
            self._unanswered.pop(digest_of(change), None)

    def is_ours(self, sealed: Sealed) -> bool:
        """Whether this very store sealed it. A revision tells only which device did, and a copy of its store on another
        machine goes by the same name."""
        return digest_of(sealed) in self._unanswered

    def remember(self, change: Change) -> None:
        """The server took this."""
        self.mark += 1
        self._sent[change.doc_id] = (digest_of(change), self.mark)
        self._sent.move_to_end(change.doc_id)
        if len(self._sent) > _KEPT:
            self._sent.popitem(last=False)

    def is_echo(self, sealed: Sealed) -> bool:
        """Whether this is the last that was sent of its document, byte for byte."""
        known = self._sent.get(sealed.doc_id)
        return known is not None and known[0] == digest_of(sealed)

    def is_later(self, doc_id: DocId, mark: int) -> bool:
        """Whether the document was sent after `mark` was read."""
        known = self._sent.get(doc_id)
        return known is not None and known[1] > mark


def digest_of(revision: Change | Sealed) -> str:
    """What tells a sealed revision from every other: no two payloads are alike, nor is one sealed twice."""
    return hashlib.sha256(revision.revision.encode() + b"\0" + revision.payload).hexdigest()[:32]
