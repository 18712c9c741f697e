"""Presence: has bytes fetched that an operation needs and the store lacks, and bounds how long that may take.

Knows contents and ranges; not files, names or buffers, nor where bytes come from. Invariant: whoever asks gets an
answer or an error within a few deadlines: no request of the kernel's hangs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

import trio

from blobfs.errors import BytesAbsent, RemoteUnavailable
from blobfs.store.attachments import Attachments
from blobfs.values.extents import ROW
from blobfs.values.nodes import Content

Fetch = Callable[[Content, int, int], Awaitable[None]]
Result = TypeVar("Result")

TRIES: Final = 3
"""A fetched row can be evicted before it is read; three times in a row it is not chance."""


class Arrivals(Protocol):
    """Bytes that came and that the store may not have yet; it answers what the store would, once it had them."""

    async def read(self, content: Content, offset: int, length: int) -> bytes:
        """Exactly these bytes, as soon as they are here."""

    def peek(self, content: Content, offset: int, length: int) -> bytes | None:
        """Exactly these bytes, if they are at hand already."""

    def is_coming(self, content: Content, offset: int, length: int) -> bool:
        """Whether some of them are on their way, and in no store: nothing was written here since they were not."""


class Presence:
    """Bytes of contents, brought here when they are not."""

    def __init__(
        self, attachments: Attachments, fetch: Fetch, deadline_s: float, arrivals: Arrivals | None = None
    ) -> None:
        self._attachments = attachments
        self._fetch = fetch
        self._deadline_s = deadline_s
        self._arrivals = arrivals

    async def perform(self, action: Callable[[], Result], first: Callable[[], Awaitable[None]] | None = None) -> Result:
        """`action()`, with the bytes brought that it finds absent; it must change nothing when it does.

        `first` is awaited before each try; nothing else runs between its return and the action.

        Raises:
            RemoteUnavailable, IntegrityError: they could not be brought. Whatever else `action` raises.
        Checkpoint: only when bytes are fetched.
        """
        for _ in range(TRIES):
            if first is not None:
                await first()
            try:
                return action()
            except BytesAbsent as absent:
                missing = absent
            await self._bring(Content(missing.content), missing.offset, missing.length)
        raise RemoteUnavailable("bytes that were fetched did not stay on this device")

    async def read(self, content: Content, offset: int, length: int) -> bytes:
        """Exactly these bytes, of which some are known to be absent. Raises as `perform`."""
        if self._arrivals is not None:
            with self._deadline():
                return await self._arrivals.read(content, offset, length)
        await self._bring(content, offset, length)
        return await self.perform(lambda: self._attachments.read(content, offset, length))

    async def bring_edges(self, content: Content, size: int, offset: int, end: int) -> None:
        """Bring the rows of a content of `size` bytes that a write covers in part, so that it can be stored later."""
        edges = {offset - offset % ROW} if offset % ROW else set()
        if end % ROW and end < size:
            edges.add(end - end % ROW)
        for start in edges:
            if start < size:
                await self._bring_if_absent(content, start)

    async def _bring_if_absent(self, content: Content, start: int) -> None:
        await self.perform(lambda: self._attachments.read(content, start, 1))

    def peek(self, content: Content, offset: int, length: int) -> bytes | None:
        """Exactly these bytes, if they came of late and are at hand without the store."""
        return None if self._arrivals is None else self._arrivals.peek(content, offset, length)

    def is_coming(self, content: Content, offset: int, length: int) -> bool:
        """Whether some of these bytes are certainly not in the store, since they are on their way."""
        return self._arrivals is not None and self._arrivals.is_coming(content, offset, length)

    async def _bring(self, content: Content, offset: int, length: int) -> None:
        with self._deadline():
            await self._fetch(content, offset, length)

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        try:
            with trio.fail_after(self._deadline_s):
                yield
        except trio.TooSlowError:
            raise RemoteUnavailable(f"bytes not on this device did not come within {self._deadline_s:g} s") from None
