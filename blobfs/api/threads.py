"""Plain calls in worker threads, for async programs under trio and under asyncio.

Invariant: a call that only touches the local store is finished before a cancellation of its caller takes effect; one
that waits for the server is given up at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from blobfs.api.loop import WAITER, Waiter
from blobfs.api.staging import Filler, Staged, Staging

Result = TypeVar("Result")


async def in_thread(call: Callable[..., Result], *arguments: Any, shielded: bool = False) -> Result:
    """Run `call` in a worker thread, to its end."""
    with anyio.CancelScope(shield=shielded):
        return await to_thread.run_sync(partial(call, *arguments))
    raise AssertionError("a scope that is not cancelled does not swallow")


async def waiting(call: Callable[..., Result], *arguments: Any) -> Result:
    """Run `call`, which waits for the engine's thread, in a worker thread; cancelled, it ends at once."""
    waiter = Waiter()

    def run() -> Result:
        WAITER.set(waiter)
        return call(*arguments)

    try:
        return await to_thread.run_sync(run, abandon_on_cancel=True)
    except BaseException:
        waiter.cancel()
        raise


async def stage(staging: Staging, filler: Filler, source: AsyncIterable[bytes]) -> Staged:
    """See `Staging.take`, for pieces that come one after the other."""
    try:
        async for piece in source:
            await in_thread(filler.add, piece)
        return await in_thread(filler.end)
    except BaseException:
        await in_thread(staging.drop, filler.staged, shielded=True)
        raise
