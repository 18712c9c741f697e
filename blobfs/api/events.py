"""What happens in an account, as it happens: changes, conflicts, how far transfers are, how it stands with the server.

Built on what every account can be asked, so it is the same whether this process or a daemon owns the store. Invariant:
nothing runs but within the call of whoever waits for the next event.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from blobfs.api.changes import Changes

if TYPE_CHECKING:
    from blobfs.api.account import Account, AccountStatus

LOOK_S: Final = 0.5
"""Seconds between two looks at transfers: often enough for a person who watches a bar."""


class EventKind(enum.StrEnum):
    """What happened."""

    CHANGE = "change"
    """A document was made, changed or deleted, here or on another device."""
    CONFLICT = "conflict"
    """The document is what a conflicting edit of another was kept as; told once. See `Account.get_doc_conflicts`."""
    PROGRESS = "progress"
    """Something waits for the server, or went to it."""
    STATE = "state"
    """It stands otherwise with the server than before."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    kind: EventKind
    doc_id: str | None = None
    """Of a change or a conflict."""
    status: AccountStatus | None = None
    """Of progress or another state."""


class Events(Iterator[Event]):
    """Events as they come. Ends when it or the account is closed."""

    def __init__(self, account: Account, changes: Changes) -> None:
        """Use `Account.events`."""
        self._account, self._changes = account, changes
        self._waiting: deque[Event] = deque()
        self._conflicts: set[str] = set()
        self._status = account.status()
        self._look_at = time.monotonic() + LOOK_S

    def __next__(self) -> Event:
        """Wait for the next one."""
        while True:
            if (event := self.next_within(LOOK_S)) is not None:
                return event

    def next_within(self, timeout_s: float) -> Event | None:
        """The next one, or None when there is none in time. Raises StopIteration: there will be no more."""
        if not self._waiting:
            more = self._changes.wait(min(timeout_s, max(0.0, self._look_at - time.monotonic())))
            while (doc_id := self._changes.take()) is not None:
                self._tell(doc_id)
            if not more and not self._waiting:
                raise StopIteration
            if time.monotonic() >= self._look_at:
                self._look()
        return self._waiting.popleft() if self._waiting else None

    def _tell(self, doc_id: str) -> None:
        copies = [copy for copy in self._account.desk.conflicts(doc_id) if copy not in self._conflicts]
        self._conflicts.update(copies)
        self._waiting.append(Event(EventKind.CHANGE, doc_id))
        self._waiting.extend(Event(EventKind.CONFLICT, copy) for copy in copies)

    def _look(self) -> None:
        before, self._status = self._status, self._account.status()
        now, self._look_at = self._status, time.monotonic() + LOOK_S
        if (before.state, before.reason) != (now.state, now.reason):
            self._waiting.append(Event(EventKind.STATE, status=now))
        if _progress(before) != _progress(now):
            self._waiting.append(Event(EventKind.PROGRESS, status=now))

    def close(self) -> None:
        """Listen no more; whoever waits is told the end."""
        self._changes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _progress(status: AccountStatus) -> tuple[object, ...]:
    return status.pending_documents, status.pending_bytes, status.transfers, status.parked
