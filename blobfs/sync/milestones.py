"""Milestones: documents that the feed was read past, to find out whether its numbers still mean what they did.

A server that was restored from a backup gives numbers out again, to other documents. Knows numbers and digests,
applies nothing. Invariant: a milestone is what a page of the feed said. An honest server that never forgot has the same
document under that number, or none since the document got a later one; and where it is the same, so is all before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from blobfs.remote.client import RemoteClient, Sealed
from blobfs.store.settings import Settings
from blobfs.sync.echoes import digest_of
from blobfs.values.documents import DocId

_SETTING: Final = "milestones"


class _Milestone(NamedTuple):
    """One document as it came."""

    seq: int
    doc_id: str
    digest: str


class Finding(NamedTuple):
    """How far the feed is as it was read."""

    seq: int
    """Up to this number it is; 0 when nothing tells."""
    moved: list[DocId]
    """Documents that are not where they were any more, the newest first; none when all is as it was read."""
    is_anew: bool
    """Whether a number after it is another document's, or nobody's yet: so it is with no server that never forgot."""


class Milestones:
    """Those of a store: many of what was read of late, few of what was read long ago."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._passed = [_Milestone(*entry) for entry in settings.get(_SETTING) or ()]

    def add(self, documents: Sequence[Sealed]) -> None:
        """These were read, ascending, after all that stands under smaller numbers."""
        if not documents:
            return
        first, last = documents[0].seq, documents[-1].seq
        # A document has one place: of one that came again, the former is nobody's any more.
        again = {sealed.doc_id for sealed in documents}
        before = [entry for entry in self._passed if entry.seq < first and entry.doc_id not in again]
        ages: dict[int, list[_Milestone | Sealed]] = {}
        came: list[_Milestone | Sealed] = [*before, *documents]
        for entry in came:
            ages.setdefault((last - entry.seq).bit_length(), []).append(entry)
        # Two of each age, which doubles: what grows old is at the end of one until it is at the beginning of the next.
        kept = {entry.seq: entry for same in ages.values() for entry in (same[0], same[-1])}
        self._passed = [_milestone(kept[seq]) for seq in sorted(kept)]

    def cut(self, seq: int) -> None:
        """The feed is read again from here on."""
        self._passed = [entry for entry in self._passed if entry.seq <= seq]

    def save(self) -> None:
        """Keep them with the cursor. Within the transaction that records it."""
        self._settings.set(_SETTING, self._passed or None)

    async def look(self, client: RemoteClient) -> Finding:
        """Ask the server: mostly one small request, and one more for each that is not there any more.

        Raises:
            RemoteError.
        """
        moved, is_anew = list[DocId](), False
        for entry in reversed(self._passed):
            page = await client.feed(str(max(0, entry.seq - 1)), limit=1)
            found = page.documents[0] if page.documents else None
            if found is not None and _milestone(found) == entry:
                return Finding(entry.seq, moved, is_anew)
            moved.append(DocId(entry.doc_id))
            # If it was changed since, it has a later number, and under its own there is nothing.
            is_anew = is_anew or found is None or found.seq <= entry.seq
        return Finding(0, moved, is_anew)


def _milestone(entry: _Milestone | Sealed) -> _Milestone:
    if isinstance(entry, _Milestone):
        return entry
    return _Milestone(entry.seq, entry.doc_id, digest_of(entry))
