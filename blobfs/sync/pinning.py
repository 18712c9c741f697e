"""Pinned files come here unasked: behind every reader, beside uploads, a few extents at a time.

Keeps no list: what is to be fetched is what is pinned and not here, each time it looks. Invariant: one file whose bytes
cannot be had holds up no other.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from blobfs.errors import IntegrityError, RemoteError
from blobfs.remote.retry import Backoff
from blobfs.store.store import Store
from blobfs.store.survey import absent_bytes
from blobfs.sync.download import Download
from blobfs.values.nodes import Content

_log: Final = logging.getLogger(__name__)

_AT_ONCE: Final = 2
"""Extents on their way: a third of the connections that uploads have, too."""
_LOOK_S: Final = 60.0
"""Between two looks when nothing wakes it: a pinned file may have been moved here."""


class Keeper:
    """Brings what is pinned."""

    def __init__(self, store: Store, download: Download, unpaused: Callable[[], Awaitable[None]]) -> None:
        self._store, self._download, self._unpaused = store, download, unpaused
        self._wake = trio.Event()

    def wake(self) -> None:
        """Something was pinned, or came from another device."""
        self._wake.set()

    async def run(self) -> None:
        """Bring what is pinned, for ever."""
        backoff = Backoff()
        while True:
            self._wake = trio.Event()
            wait_s = _LOOK_S
            await self._unpaused()
            try:
                await self._pass_over()
                backoff.succeed()
            except RemoteError as error:
                wait_s = backoff.fail(error)
            with trio.move_on_after(wait_s):
                await self._wake.wait()

    async def _pass_over(self) -> None:
        for content, _ in await trio.to_thread.run_sync(self._store.pins.files):
            try:
                await self._bring(content)
            except IntegrityError as error:
                _log.warning("a pinned file cannot be brought here: %s", error)

    async def _bring(self, content: Content) -> None:
        await self._download.resolve(content)
        extents = await trio.to_thread.run_sync(self._store.attachments.extents, content)
        wanted = [
            index
            for index, extent in extents.items()
            if extent.blob_id is not None and absent_bytes(extent.length, extent.present)
        ]
        for at in range(0, len(wanted), _AT_ONCE):
            await self._unpaused()
            errors: list[RemoteError | IntegrityError] = []
            async with trio.open_nursery() as nursery:
                for index in wanted[at : at + _AT_ONCE]:
                    nursery.start_soon(self._bring_one, content, index, errors)
            if errors:
                raise errors[0]

    async def _bring_one(self, content: Content, index: int, errors: list[RemoteError | IntegrityError]) -> None:
        try:
            await self._download.fetch_extent(content, index)
        except (RemoteError, IntegrityError) as error:
            errors.append(error)
