"""Several things at once, with one plain error out of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import trio

from blobfs.errors import BlobfsError

Job = Callable[[], Awaitable[None]]


class Jobs:
    """What runs at once."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.error: BlobfsError | None = None
        """The first of any of them."""

    def start(self, job: Job) -> None:
        """One more, from now on."""
        self._nursery.start_soon(self._run, job)

    async def _run(self, job: Job) -> None:
        try:
            await job()
        except BlobfsError as error:
            self.error = self.error or error


@asynccontextmanager
async def several() -> AsyncIterator[Jobs]:
    """Run jobs, also such as other jobs start, to their end; then raise the first `BlobfsError` of any.

    The others are not cancelled by it: what they send has arrived then, and need not be sent again.
    """
    async with trio.open_nursery() as nursery:
        jobs = Jobs(nursery)
        yield jobs
    if jobs.error is not None:
        raise jobs.error


async def run_all(jobs: Iterable[Job]) -> None:
    """Run all of these at once, as `several` does."""
    async with several() as running:
        for job in jobs:
            running.start(job)
