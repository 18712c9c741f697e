"""Milestones: documents that the feed was read past, to find out whether its numbers still mean what they did.

A server that was restored from a backup gives numbers out again. Where another device has sent again what was lost,
nothing is missed here, and yet there is something else under numbers that were read. Knows digests and numbers, applies
nothing. Invariant: where a milestone is as it was, all before it is, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from blobfs.remote.client import RemoteClient, Sealed
from blobfs.store.settings import Settings
from blobfs.sync.echoes import digest_of
from blobfs.values.documents import DocId
from blobfs.values.revisions import Revision

_SETTING: Final = "milestones"


class _Milestone(NamedTuple):
    """One document as it came."""

    seq: int
    doc_id: str
    digest: str


class Milestones:
    """Those of a store: many of what was read of late, few of what was read long ago."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._passed = [_Milestone(*entry) for entry in settings.get(_SETTING) or ()]

    def add(self, documents: Sequence[Sealed]) -> None:
        """These were read, after all that was read before and stands under smaller numbers."""
        if not documents:
            return
        first, last = documents[0].seq, documents[-1].seq
        # A document has one place: of one that came again, the former is nobody's any more.
        again = {sealed.doc_id for sealed in documents}
        passed = [entry for entry in self._passed if entry.seq < first and entry.doc_id not in again]
        ages: dict[int, list[_Milestone | Sealed]] = {}
        came: list[_Milestone | Sealed] = [*passed, *documents]
        for entry in came:
            ages.setdefault((last - entry.seq).bit_length(), []).append(entry)
        # Two of each age, which doubles: what grows old is at the end of one until it is at the beginning of the next.
        kept = {entry.seq: entry for same in ages.values() for entry in (same[0], same[-1])}
        self._passed = [_milestone(kept[seq]) for seq in sorted(kept)]

    def save(self) -> None:
        """Keep them with the cursor. Within the transaction that records it."""
        self._settings.set(_SETTING, self._passed)

    async def find_lasting(self, client: RemoteClient) -> tuple[str | None, list[DocId]]:
        """(the cursor up to which all is as it was read, documents that were read after it). Raises RemoteError.

        Mostly one small request; one more for each milestone that is another document's by now.
        """
        passed, after = list(self._passed), list[DocId]()
        for entry in reversed(passed):
            page = await client.feed(str(max(0, entry.seq - 1)), limit=1)
            if page.documents and _milestone(page.documents[0]) == entry:
                return str(entry.seq), after
            after.append(DocId(entry.doc_id))
        return None, after


def _milestone(entry: _Milestone | Sealed) -> _Milestone:
    if isinstance(entry, _Milestone):
        return entry
    return _Milestone(entry.seq, entry.doc_id, digest_of(entry))


def is_no_older(sealed: Sealed, known: Revision) -> bool:
    """By what the server says, which is enough to tell a backup; what does not follow is refused when it is applied."""
    try:
        revision = Revision.parse(sealed.revision)
    except ValueError:
        return True
    return revision == known or not known.contains(revision)
