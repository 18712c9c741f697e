"""Who waits for changes of which account, and waking them. Knows nothing of documents beyond their sequence number.

Invariant: a change that commits after `listen` was called ends the wait that follows, at once when it came through
this process, within `POLL_S` when it came through another on the same catalog. So does the end of the token that waits.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import anyio

from server.errors import ServerError, TooManyRequests, Unauthorized

POLL_S: Final = 1.0
"""How often the catalog is asked for changes that other processes made, while anybody waits."""

MAX_WAITING: Final = 128
"""Long polls and event streams of one account: several for each device, and a bound for one that leaks them."""


class News:
    """The waiting requests of this process."""

    def __init__(self) -> None:
        self._changed: dict[int, anyio.Event] = {}
        self._waiting: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._tokens: dict[int, Counter[int]] = {}
        """Of each account, how many of its requests wait with which token."""
        self._revoked: set[int] = set()
        self.closing = False
        """Set when the process ends; waits end at once from then on."""

    @property
    def waiting(self) -> int:
        """Waiting requests of all accounts."""
        return sum(self._waiting.values())

    def require_room(self, user_id: int) -> None:
        """Refuse one more waiting request than an account may have.

        Raises:
            TooManyRequests: it has `MAX_WAITING` already.
        """
        if self._waiting.get(user_id, 0) >= MAX_WAITING:
            raise TooManyRequests("The account has too many requests waiting; close some.")

    @contextlib.contextmanager
    def listening(self, user_id: int, token_id: int) -> Iterator[None]:
        """Count one waiting request of the account, with this token."""
        self._waiting[user_id] = self._waiting.get(user_id, 0) + 1
        tokens = self._tokens.setdefault(user_id, Counter())
        tokens[token_id] += 1
        try:
            yield
        finally:
            self._waiting[user_id] -= 1
            tokens[token_id] -= 1
            if not tokens[token_id]:
                del tokens[token_id]
                self._revoked.discard(token_id)
            if not self._waiting[user_id]:
                for table in (self._waiting, self._changed, self._seen, self._tokens):
                    table.pop(user_id, None)

    def listen(self, user_id: int) -> anyio.Event:
        """The event of the account's next change. Take it before looking, so that nothing falls in between."""
        if self.closing:
            event = anyio.Event()
            event.set()
            return event
        return self._changed.setdefault(user_id, anyio.Event())

    def tell(self, user_id: int) -> None:
        """The account has changed: wake whoever listens."""
        event = self._changed.pop(user_id, None)
        if event is not None:
            event.set()

    def revoke(self, user_id: int, token_id: int) -> None:
        """The token is good no more: what waits with it ends now."""
        if token_id in self._tokens.get(user_id, ()):
            self._revoked.add(token_id)
            self.tell(user_id)

    def is_revoked(self, token_id: int) -> bool:
        """Whether a token that waits is known to be good no more."""
        return token_id in self._revoked

    def require_token(self, token_id: int) -> None:
        """Refuse to wait on.

        Raises:
            Unauthorized: the token was revoked meanwhile.
        """
        if self.is_revoked(token_id):
            raise Unauthorized("The token is unknown, expired or revoked.")

    def close(self) -> None:
        """Wake everybody, for good."""
        self.closing = True
        for user_id in list(self._changed):
            self.tell(user_id)

    async def watch(
        self,
        last_seqs: Callable[[Sequence[int]], Awaitable[dict[int, int]]],
        living: Callable[[Sequence[int]], Awaitable[set[int]]],
    ) -> None:
        """Tell of changes that other processes made, and of tokens that ended; runs until cancelled.

        Args:
            last_seqs: the newest sequence number of each of these accounts.
            living: those of these tokens that are good.
        """
        while True:
            await anyio.sleep(POLL_S)
            if not self._waiting:
                continue
            try:
                tokens = [(user_id, token) for user_id, held in self._tokens.items() for token in held]
                seqs = await last_seqs(list(self._waiting))
                good = await living([token for _, token in tokens])
            except ServerError:
                continue  # the catalog is busy or its disk is full: those who wait find out by themselves
            for user_id, token in tokens:
                if token not in good:
                    self.revoke(user_id, token)
            for user_id, seq in seqs.items():
                # The first look has nothing to compare with, and the change may have been just before it.
                if self._seen.get(user_id) != seq and user_id in self._waiting:
                    self._seen[user_id] = seq
                    self.tell(user_id)
