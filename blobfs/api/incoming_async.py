"""The incoming box for async programs; see `blobfs.api.threads` for what holds. Holds nothing of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from blobfs.api.incoming import Failure, Incoming, Item
from blobfs.api.threads import in_thread, waiting

Result = TypeVar("Result")


class AsyncIncoming:
    """See `Incoming`; the consumer's functions are awaited."""

    def __init__(self, incoming: Incoming) -> None:
        """Use `AsyncAccount.incoming`."""
        self.plain = incoming
        """The same for plain calls."""

    async def address(self, *, days: int | None = None) -> str:
        """See `Incoming.address`."""
        return await waiting(partial(self.plain.address, days=days))

    async def consume(
        self,
        process: Callable[[Item], Awaitable[Result]],
        save: Callable[[Item, Result], Awaitable[object]] | None = None,
        *,
        version: int = 1,
    ) -> int:
        """See `Incoming.consume`. Cancelled, it leaves the item that it works on to whoever asks next."""
        done = 0
        while (item := await waiting(self.plain.take, version)) is not None:
            try:
                try:
                    result = await process(item)
                    if save is not None:
                        await save(item, result)
                except Exception as error:
                    await waiting(self.plain.fail, item, error, version)
                else:
                    await in_thread(self.plain.done, item, shielded=True)
                    done += 1
            finally:
                await in_thread(self.plain.drop, item, shielded=True)
        return done

    async def failures(self) -> list[Failure]:
        """See `Incoming.failures`."""
        return await in_thread(self.plain.failures)
