"""Several things at once, with one plain error out of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

from blobfs.errors import BlobfsError


async def run_all(jobs: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run all jobs at once and to their end; then raise the first `BlobfsError` of any.

    The others are not cancelled by it: what they send has arrived then, and need not be sent again.
    """
    errors: list[BlobfsError] = []

    async def run(job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except BlobfsError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(run, job)
    if errors:
        raise errors[0]
