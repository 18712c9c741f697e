"""Whether the server tells all devices the same: what others say they have seen, against what was seen here.

Every sealed document says how many edits of each device its sealer had seen. Who has read the feed to the end and has
seen fewer was shown another history, by a server that was set back or that lies. Invariant: an honest server causes no
doubt, since what a device had seen came before what it sealed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Final

from blobfs.protocol import MAX_CHANGES
from blobfs.store.settings import Settings
from blobfs.store.store import Store
from blobfs.sync.status import Parked
from blobfs.values.documents import MAX_COUNT, DocId, Document
from blobfs.values.revisions import MAX_DEVICES, DeviceId

_log: Final = logging.getLogger(__name__)

_SETTING: Final = "claims"
_DOUBT: Final = (
    "another device has seen {} that the server does not show here: it tells devices different stories, or was "
    "restored from a backup; run `blobfs recover DIR` here and on that device, and ask the server's operator"
)


class Story:
    """What other devices have seen, by their own account."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._claims: dict[DeviceId, int] = {
            DeviceId(device): count for device, count in (store.settings.get(_SETTING) or {}).items()
        }
        self._last: dict[DeviceId, tuple[int, set[DocId]]] = {}
        """Of each device its highest count of its own edits, and the documents that came with it."""
        self.doubt: Parked | None = None
        """For status, for as long as the server owes what others have seen."""

    def listen(self, documents: Iterable[Document]) -> Mapping[DeviceId, int]:
        """Note what the sealers of these had seen, and return it. They are authentic."""
        heard: dict[DeviceId, int] = {}
        for document in documents:
            _join(heard, document.heads)
            if document.sealer is not None:
                _join(heard, {document.sealer: self._count(document, document.sealer)})
        _join(self._claims, heard)
        return heard

    def forget(self) -> None:
        """The feed is read from its beginning: what still stands in it is heard again, the rest is owed no more."""
        self._claims.clear()
        self._last.clear()
        self._store.settings.set(_SETTING, None)
        self.doubt = None

    def _count(self, document: Document, sealer: DeviceId) -> int:
        """Edits of the sealer that there are: what it had counted, and each document that it sealed at that count."""
        counted = document.heads.get(sealer, 0)
        last, beside = self._last.get(sealer, (-1, set()))
        if counted > last:
            last, beside = self._last[sealer] = (counted, set())
        if counted == last and len(beside) < MAX_CHANGES:
            beside.add(document.doc_id)
        return min(last + len(beside), MAX_COUNT)

    def claims(self) -> Mapping[DeviceId, int]:
        """What is known now; the feed has to bring it if it is asked after this."""
        return dict(self._claims)

    def judge(self, asked: Mapping[DeviceId, int], came: Mapping[DeviceId, int]) -> None:
        """The feed was read to its end. In a worker thread.

        Args:
            asked: the claims that were known when the last page was asked for.
            came: those that the page itself brought; what they tell of has a place before them.
        """
        claims = dict(asked)
        _join(claims, came)
        seen = self._store.documents.heads()
        owed = {device: count for device, count in claims.items() if count > seen.get(device, 0)}
        self._claims = {device: count for device, count in self._claims.items() if count > seen.get(device, 0)}
        if owed != (self._store.settings.get(_SETTING) or {}):
            self._store.settings.set(_SETTING, owed or None)
        missing = sum(count - seen.get(device, 0) for device, count in owed.items())
        if not missing:
            self.doubt = None
        elif self.doubt is None:
            reason = _DOUBT.format("a change" if missing == 1 else f"{missing} changes")
            _log.warning("%s", reason)
            self.doubt = Parked(DocId(""), reason, time.time())


def expect_seen(settings: Settings, seen: Mapping[str, int]) -> None:
    """The server owes a new store what the invite tells that another device has seen."""
    settings.set(_SETTING, dict(seen) or None)


def told(seen: Mapping[DeviceId, int], device: DeviceId) -> Mapping[DeviceId, int]:
    """What a document that `device` seals may say of all that it has seen: itself, and those with the most edits.

    There is no end to the devices that one with the account's keys can count for; of more than fit, some are left out.
    """
    if len(seen) <= MAX_DEVICES:
        return seen
    first = sorted(seen, key=lambda one: (one != device, -seen[one], one))[:MAX_DEVICES]
    return {one: seen[one] for one in first}


def _join(claims: dict[DeviceId, int], more: Mapping[DeviceId, int]) -> None:
    for device, count in more.items():
        if device in claims or len(claims) < MAX_DEVICES:
            claims[device] = max(count, claims.get(device, 0))
