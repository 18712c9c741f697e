"""Whether a large file fits into what the account may still hold, before anything of it is sent.

Blobs of a file that does not fit would fill the account for days, named by no document, and keep out what is smaller.
Knows sizes, not files. Invariant: a file is turned away only by what the server says at that moment, and what the
server has of it already does not count.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from blobfs.errors import FileOverQuota
from blobfs.sync.allowance import Allowance
from blobfs.sync.sending import Sender
from blobfs.values.crypto import Plain


class Fitting:
    """Asks before a file is sent."""

    def __init__(self, allowance: Allowance, sender: Sender) -> None:
        self._allowance, self._sender = allowance, sender
        self._entered = 0
        """Bytes of all files that are being sent, or asked for."""

    @asynccontextmanager
    async def entering(
        self, wanted: Sequence[tuple[int, int]], read: Callable[[Sequence[tuple[int, int]]], Awaitable[list[Plain]]]
    ) -> AsyncIterator[bool]:
        """Within this a file with these extents is sent; or it is not, as it may not fit beside those that came before.

        Raises:
            FileOverQuota: it does not fit, though it is alone.
        """
        size, before = sum(length for _, length in wanted), self._entered
        self._entered += size
        try:
            room = await self._allowance.shortage(size, before)
            if room is not None and not before:
                lacking = await self._sender.count_lacking(wanted, read, room)
                if lacking > room:
                    raise FileOverQuota(_sentence(size, room))
            yield room is None or not before
        finally:
            self._entered -= size


def _sentence(size: int, room: int) -> str:
    return (
        f"a file with {size / 2**20:.1f} MiB to send does not fit into the {room / 2**20:.1f} MiB that the account "
        "on the server has left; delete something there or ask for more room"
    )
