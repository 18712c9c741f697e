"""News: which documents changed, for whoever listens.

Invariant: a change after `listen` is told to that listener once at least, and a listener that is slow costs one entry
for each document, not one for each change.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Self


class Changes(Iterator[str]):
    """The ids of changed documents as they come. Ends when it or the account is closed."""

    def __init__(self, listeners: Listeners) -> None:
        """Use `Account.changes`."""
        self._listeners = listeners
        self._waiting: dict[str, None] = {}
        self._news = threading.Condition()
        self._closed = False
        self._pokes = 0

    def __next__(self) -> str:
        """Wait for the next one. One that changed often before it was asked for comes once."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._closed)
            doc_id = self.take()
        if doc_id is None:
            raise StopIteration
        return doc_id

    def take(self) -> str | None:
        """The next one if there is one already."""
        with self._news:
            doc_id = next(iter(self._waiting), None)
            if doc_id is not None:
                del self._waiting[doc_id]
            return doc_id

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until there is something to `take`, somebody pokes, or the time is over; False at the end."""
        with self._news:
            pokes = self._pokes
            self._news.wait_for(lambda: self._waiting or self._closed or self._pokes != pokes, timeout_s)
            return bool(self._waiting) or not self._closed

    def poke(self) -> None:
        """Whoever is in `wait` comes back."""
        with self._news:
            self._pokes += 1
            self._news.notify_all()

    def tell(self, doc_id: str) -> None:
        """A document changed. From any thread."""
        with self._news:
            self._waiting[doc_id] = None
            self._news.notify()

    def close(self) -> None:
        """Listen no more; whoever waits gets what is there already, then the end."""
        self._listeners.forget(self)
        with self._news:
            self._closed = True
            self._news.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Listeners:
    """All who listen to one account."""

    def __init__(self) -> None:
        self._all: set[Changes] = set()
        self._lock = threading.Lock()
        self._closed = self._over = False

    def listen(self) -> Changes:
        """Begin to listen."""
        changes = Changes(self)
        with self._lock:
            over = self._over
            self._all.add(changes)
        if over:
            changes.close()
        return changes

    @property
    def are_there(self) -> bool:
        """Whether anybody listens. Whoever begins to later is owed nothing of what happened before."""
        return bool(self._all)

    def forget(self, changes: Changes) -> None:
        """It listens no more."""
        with self._lock:
            self._all.discard(changes)

    def tell(self, doc_id: str) -> None:
        """A document changed."""
        with self._lock:
            listening = list(self._all)
        for changes in listening:
            changes.tell(doc_id)

    def hang_up(self) -> None:
        """Where news came from is gone: whoever listens, now or later, is told the end."""
        with self._lock:
            self._over = True
            listening = list(self._all)
        for changes in listening:
            changes.close()

    @property
    def closed(self) -> bool:
        """Whether the account was closed."""
        return self._closed

    def close(self) -> bool:
        """The account is closed. False when that was said before."""
        with self._lock:
            first, self._closed = not self._closed, True
        self.hang_up()
        return first
