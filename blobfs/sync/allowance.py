"""What the account may hold at the server: asked now and then, never waited for.

Invariant: `last` is what the server said last, and None until it has said anything; whoever shows it asks nobody.
"""

from __future__ import annotations

import logging
import math
from typing import Final

import trio

from blobfs.errors import IntegrityError, RemoteError
from blobfs.remote.client import RemoteClient, Usage
from blobfs.sync.status import Health

_log: Final = logging.getLogger(__name__)

_EVERY_S: Final = 300.0
"""Between two questions when this device sends nothing: others may."""
_SOON_S: Final = 2.0
"""Between two questions while it sends."""


class Allowance:
    """The account's usage and quota, as the server last told them."""

    def __init__(self, client: RemoteClient, health: Health, who: str) -> None:
        """`who`: nothing is asked while this direction of `health` is not well."""
        self._client, self._health, self._who = client, health, who
        self._stale = trio.Event()
        self.last: Usage | None = None
        self._sent = 0
        """Bytes of large files that were let in since the last answer."""

    def outdate(self) -> None:
        """Something was sent: the last answer is not true any more."""
        self._stale.set()

    async def shortage(self, size: int, before: int) -> int | None:
        """The bytes that there is room for when a file of `size` does not fit; None: it does, or nobody knows.

        The server is asked unless its last answer leaves enough, whatever was sent since. Raises RemoteError kinds.

        Args:
            before: bytes of files that are on their way, and need room as well.
        """
        known = None if self.last is None else _room(self.last)
        if known is None or (known < math.inf and (self._stale.is_set() or known - self._sent < size + before)):
            await self._ask()
        self._sent += size
        if self.last is None or (room := _room(self.last)) >= size + before:
            return None
        return max(0, int(room))

    async def _ask(self) -> None:
        sent = self._sent
        self.last = await self._client.usage() or self.last
        self._sent = max(0, self._sent - sent)  # another answer may have come meanwhile

    async def run(self) -> None:
        """Ask, for ever."""
        while True:
            while self._health.paused or not self._health.contacted or self._who in self._health.errors:
                await self._health.changed.wait()
            self._stale = trio.Event()
            try:
                await self._ask()
            except (RemoteError, IntegrityError) as error:
                # The feed meets what is wrong with the server as well, and says so.
                _log.info("what the account holds is not known: %s", error)
            await trio.sleep(_SOON_S)
            with trio.move_on_after(_EVERY_S):
                await self._stale.wait()


def _room(usage: Usage) -> float:
    return math.inf if usage.quota is None else usage.quota - usage.used
