"""The incoming box: what senders left is taken by one device, made a document, and deleted once the server has that.

An item is reserved by its flag at the server (PENDING becomes PROCESSING, compared and set), and a reservation expires.
Keeps no list of what is done: the documents are that. Invariant: an item is deleted at the server only when what
became of it is on the server, and no item becomes two documents, whoever is killed when.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from blobfs.errors import BlobfsError, BlobNotFound, BlobTooLarge, CorruptItem
from blobfs.protocol import Flag
from blobfs.remote.box import Box
from blobfs.remote.retry import Backoff
from blobfs.store.documents import Applied
from blobfs.store.store import Store
from blobfs.values import drops
from blobfs.values.nodes import Content

_log: Final = logging.getLogger(__name__)

VERSION: Final = 1
"""Of the consumer that makes files. One of a higher version tries again what failed under a lower one."""
RESERVED_S: Final = 900.0
"""After which an item that another device took and did not finish is anybody's: twice the slowest download."""
EVERY_S: Final = 30.0
"""Between two looks at what senders left."""
SOON_S: Final = 1.0
"""The same while something is half done."""


@dataclass(frozen=True, slots=True)
class Taken:
    """An item that this device reserved, opened, and has in its store; no document has its bytes yet."""

    item_id: str
    head: drops.Head
    content: Content
    stored: int


class Inbox:
    """The incoming box of one account, on this device."""

    def __init__(self, store: Store, box: Box, *, reserved_s: float = RESERVED_S) -> None:
        self._store, self._box, self._reserved_s = store, box, reserved_s
        self._mine: dict[str, float] = {}
        """Items that this device has reserved since it was started, and when."""

        self._wake = trio.Event()

    # --- one item -------------------------------------------------------------------------------------------------

    async def take(self, version: int) -> Taken | None:
        """Reserve the oldest item that nobody works on, and bring it here; None: there is none.

        Items that are known already are deleted at the server on the way, or will be; those that cannot be opened are
        put aside as failed.

        Args:
            version: of the consumer: what failed under a lower one is tried again.
        Raises:
            RemoteError, StoreError.
        """
        for flag in (Flag.PENDING, Flag.PROCESSING, Flag.FAILED):
            for item_id in await self._box.items(flag):
                known = await trio.to_thread.run_sync(self._store.arrivals.look, item_id)
                if known.is_sent:
                    await self._box.delete(item_id)
                if known.is_taken or not await self._reserve(item_id, flag, known.failure, version):
                    continue
                taken = await self._bring(item_id, version)
                if taken is not None:
                    return taken
        return None

    async def _reserve(self, item_id: str, flag: Flag, failure: object, version: int) -> bool:
        older_s = 0.0
        if flag is Flag.FAILED:
            last = failure.get("version") if isinstance(failure, dict) else None
            # Without a record of it, who failed at it is not known; nor is it worth another try by the same.
            if not isinstance(last, int) or last >= version:
                return False
        elif flag is Flag.PROCESSING and not self._holds(item_id):
            older_s = self._reserved_s
        if not await self._box.flag(item_id, Flag.PROCESSING, flag, older_s):
            return False
        self._mine[item_id] = trio.current_time()
        return True

    def _holds(self, item_id: str) -> bool:
        """Whether this device's reservation is certain to be good still."""
        return trio.current_time() - self._mine.get(item_id, -math.inf) < self._reserved_s / 2

    async def _bring(self, item_id: str, version: int) -> Taken | None:
        attachments = self._store.attachments
        content = await trio.to_thread.run_sync(attachments.stage)
        opener, size, stored = drops.Opener(self._store.keys.epochs, item_id), 0, 0
        try:
            async with self._box.open(item_id) as chunks:
                async for chunk in chunks:
                    plain = b"".join(opener.feed(chunk))
                    stored += await trio.to_thread.run_sync(attachments.fill, content, size, plain)
                    size += len(plain)
            return Taken(item_id, opener.end(), content, stored)
        except BlobNotFound:
            await self._abandon(content)
        except (CorruptItem, BlobTooLarge) as error:
            await self._abandon(content)
            await self.fail(item_id, str(error), version)
        except BaseException:
            await self._abandon(content)
            raise
        return None

    async def _abandon(self, content: Content) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._store.attachments.abandon, content)

    async def fail(self, item_id: str, reason: str, version: int) -> None:
        """The item cannot be taken by a consumer of this version; it stays at the server."""
        _log.warning("an item of the incoming box failed: %s", reason)
        # The reason first: without it nobody would try again what is flagged.
        await trio.to_thread.run_sync(self._store.arrivals.fail, item_id, reason, version)
        await self._box.flag(item_id, Flag.FAILED, Flag.PROCESSING)
        self._mine.pop(item_id, None)

    async def finish(self, item_id: str) -> bool:
        """Delete an item at the server if that has what became of it; whether it did."""
        known = await trio.to_thread.run_sync(self._store.arrivals.look, item_id)
        if known.is_sent:
            await self._box.delete(item_id)
            self._mine.pop(item_id, None)
        return known.is_sent

    # --- files ----------------------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], Awaitable[None]], on_applied: Callable[[Applied], None]) -> None:
        """Make files of what comes, for ever.

        Args:
            ready: returns when this device knows what the others did, and may make files.
            on_applied: told of every file.
        """
        backoff = Backoff()
        while True:
            wait_s = EVERY_S
            await ready()
            try:
                if await self.take_files(on_applied):
                    wait_s = SOON_S
                backoff.succeed()
            except BlobfsError as error:
                # Not only what a server does: another device may have put a file where a folder is needed.
                wait_s = max(SOON_S, backoff.fail(error))
            with trio.move_on_after(wait_s):
                await self._wake.wait()
            self._wake = trio.Event()

    def wake(self) -> None:
        """Look now. From the loop's thread."""
        self._wake.set()

    async def take_files(self, on_applied: Callable[[Applied], None]) -> bool:
        """Make a file of every item that can be had now; whether something is left to be finished."""
        while (taken := await self.take(VERSION)) is not None:
            await self.deliver(taken, on_applied)
        done = [item_id for item_id in sorted(self._mine) if await self.finish(item_id)]
        return len(done) > 0 or bool(self._mine)

    async def deliver(self, taken: Taken, on_applied: Callable[[Applied], None]) -> None:
        """Make a file of an item."""
        name, arrivals = drops.file_name(taken.head.name), self._store.arrivals
        deliver = partial(arrivals.deliver, taken.item_id, name, taken.content, taken.head.size, taken.stored)
        try:
            nodes = await trio.to_thread.run_sync(deliver)
        except BaseException:
            await self._abandon(taken.content)
            raise
        for node in nodes:
            on_applied(Applied(node.inode, None, (), tuple(self._store.tree.names(node.inode)), True))
