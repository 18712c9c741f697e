"""Candidates: documents that were edited here, and which of them may go to the server now.

Knows the store and the clock; sends nothing. Invariant: whatever waits to be sent is a candidate each time it is
looked for, unless it was put aside (with a reason that people are shown), is not quiet yet, or is of this device alone.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from blobfs.errors import BlobfsError, QuotaExceeded
from blobfs.store.documents import Changed
from blobfs.store.store import Store
from blobfs.sync import choice, parcel
from blobfs.sync.order import left
from blobfs.sync.parcel import Outgoing
from blobfs.sync.status import Parked
from blobfs.values.documents import DocId, Kind, Name
from blobfs.values.nodes import Inode

_log: Final = logging.getLogger(__name__)

LOOK: Final = 4000
"""Documents looked at in one round: some seconds of sending, a few MiB of memory."""
_PARK_S: Final = 300.0
"""After which a parked document is tried again, though nothing changed."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When a file with new bytes is sent, in seconds."""

    quiet_s: float
    max_wait_s: float


@dataclass(slots=True)
class Look:
    """What came of one look at what waits."""

    ready: list[Outgoing] = field(default_factory=list)
    next_s: float | None = None
    """When the first document that was not ready will be; None when none is waiting for its time."""
    leaving: Mapping[DocId, Collection[Name]] = field(default_factory=dict)
    """Those that were not ready, with the names that they leave."""
    more: bool = False
    """There are others, which nobody looked at."""
    took_s: float = 0.0


class Candidates:
    """What may be sent. `look` is for worker threads, one at a time, while nobody else uses this."""

    def __init__(self, store: Store, timing: Timing, is_busy: Callable[[Inode], bool]) -> None:
        self._store, self._timing, self._is_busy = store, timing, is_busy
        self.parked: dict[DocId, Parked] = {}
        self.kept_here: dict[DocId, int] = {}
        """Lock and swap files, and what programs keep on this device, by their edit: they wait for nobody."""
        self.held = 0
        """How many were ready at the last look, and had to wait for others."""
        self._unripe: dict[DocId, tuple[int, Collection[Name]]] = {}
        """Files with new bytes that were not quiet yet when they were looked at: their edit, and names they leave."""

    def limit(self) -> int:
        """How many changed documents to ask for, so that those that stay do not hide those that may go."""
        return LOOK + len(self.parked) + len(self.kept_here) + self.held

    def park(self, outgoing: Outgoing, error: Exception) -> None:
        """Put a document aside until it is edited, or for some minutes."""
        reason = str(error) if isinstance(error, BlobfsError) else "an error of blobfs itself; the log has the details"
        # Thousands may wait for room, and the engine says so once.
        level = logging.INFO if isinstance(error, QuotaExceeded) else logging.WARNING
        _log.log(level, "document %s stays here for now: %s", outgoing.doc_id, reason)
        now_s = time.time()
        self.parked[outgoing.doc_id] = Parked(
            outgoing.doc_id, reason, now_s, outgoing.changed.edit, now_s + _PARK_S, error
        )

    @property
    def refusal(self) -> QuotaExceeded | None:
        """Why what waits for room at the server does; None: nothing does."""
        return next((entry.error for entry in self.parked.values() if isinstance(entry.error, QuotaExceeded)), None)

    def look(self, priorities: Collection[DocId], *, hurry: bool) -> Look:
        """Those whose time has come; with `hurry`, files that are not quiet yet too."""
        started, limit = time.monotonic(), self.limit()
        changed = self._store.documents.changed(limit)
        look = Look(more=len(changed) == limit)
        if look.more and priorities:
            seen = {entry.doc_id for entry in changed}
            asked = self._store.documents.changed_of(priorities)
            changed += [entry for entry in asked if entry.doc_id not in seen]
        self._sort(changed, look, hurry=hurry)
        look.took_s = time.monotonic() - started
        return look

    def _sort(self, changed: Sequence[Changed], look: Look, *, hurry: bool) -> None:
        waiting = {entry.doc_id for entry in changed}
        self.kept_here = {doc_id: edit for doc_id, edit in self.kept_here.items() if doc_id in waiting}
        if not look.more:
            # What was deleted before it was ever sent waits no more. By a copy: the loop may clear it meanwhile.
            for doc_id in self.parked.keys() - waiting:
                self.parked.pop(doc_id, None)
        staying, now_ns = self._store.hidden.staying(), time.time_ns()
        unripe, self._unripe = self._unripe, {}
        for entry in changed:
            if (rest_s := self._rest(entry)) > 0:
                look.next_s = rest_s if look.next_s is None else min(look.next_s, rest_s)
                continue
            wait_s, names = 0.0, unripe.get(entry.doc_id, (-1, ()))
            # Of thousands of new files, each is looked at once before it is quiet, and once when it is.
            if names[0] != entry.edit or hurry or (wait_s := self._wait(entry, now_ns)) <= 0:
                outgoing = self._find(entry, staying)
                if outgoing is None:
                    continue
                # A file that is open and has no bytes yet is about to get some.
                if not hurry and (outgoing.local.content_dirty or (outgoing.is_blank and self._is_busy(entry.inode))):
                    wait_s = self._wait(outgoing.changed, now_ns)
                if wait_s <= 0:
                    look.ready.append(outgoing)
                    continue
                names = (outgoing.changed.edit, left(outgoing))
            self._unripe[entry.doc_id] = names
            look.next_s = wait_s if look.next_s is None else min(look.next_s, wait_s)
        look.leaving = {doc_id: names for doc_id, (_, names) in self._unripe.items()}

    def _rest(self, entry: Changed) -> float:
        """Seconds for which a document stays aside, 0 if it may be tried."""
        parked = self.parked.get(entry.doc_id)
        if parked is None:
            return 0.0
        # Longer than it was put aside for is the time of a clock that was set back.
        if parked.edit == entry.edit and 0 < (rest_s := parked.retry_at_s - time.time()) <= _PARK_S:
            return rest_s
        self.parked.pop(entry.doc_id, None)
        return 0.0

    def _find(self, entry: Changed, staying: Collection[DocId]) -> Outgoing | None:
        """A document as it is now; None when there is nothing to send of it."""
        outgoing = parcel.look(self._store, entry)
        if outgoing is not None and outgoing.deleted and outgoing.local.node.kind is Kind.FILE:
            outgoing = parcel.look(self._store, self._take_over(entry))
        if outgoing is None:
            return None
        if choice.stays_here(outgoing, staying):
            self.kept_here[outgoing.doc_id] = outgoing.changed.edit
            return None
        self.kept_here.pop(outgoing.doc_id, None)
        return outgoing

    def _wait(self, entry: Changed, now_ns: int) -> float:
        """Seconds until a file with new bytes may go."""
        timing = self._timing
        longest = timing.max_wait_s - self._elapsed_s(entry.since_ns, now_ns)
        quiet = timing.quiet_s - self._elapsed_s(entry.touched_ns, now_ns)
        if self._is_busy(entry.inode):
            quiet = max(quiet, timing.quiet_s)
        return min(longest, quiet)

    def _elapsed_s(self, then_ns: int, now_ns: int) -> float:
        """For ever, where the clock was set back: what was written before must not wait until it is as late again."""
        elapsed_s = (now_ns - then_ns) / 1e9
        return elapsed_s if elapsed_s >= -self._timing.max_wait_s else math.inf

    def _take_over(self, entry: Changed) -> Changed:
        """A new file in the place of a deleted one is its next version: what editors do when they save."""
        documents = self._store.documents
        with self._store.transaction():
            local, base = documents.local(entry.doc_id), documents.base(entry.doc_id)
            if local is None or not local.node.deleted or local.node.kind is not Kind.FILE:
                return entry
            if base is None or base.deleted:
                return entry
            for name in base.document.names:
                heir = documents.at(name.parent, name.name)
                new = None if heir is None else documents.local(heir)
                if heir and new and new.node.kind is Kind.FILE and documents.base(heir) is None:
                    now_ns = time.time_ns()
                    documents.reidentify(entry.doc_id, DocId(secrets.token_hex(16)), now_ns)
                    documents.reidentify(heir, entry.doc_id, now_ns)
                    return entry._replace(inode=new.node.inode, touched_ns=now_ns)
        return entry
