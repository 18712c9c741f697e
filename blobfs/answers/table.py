"""The questions about files that a mount's process answers, by their names on the local socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from blobfs.answers.files import Files
from blobfs.answers.health import Health
from blobfs.answers.keeping import Keeping
from blobfs.answers.listing import Listing
from blobfs.answers.options import Options
from blobfs.answers.past import Past
from blobfs.answers.resolving import Resolving
from blobfs.control import Command
from blobfs.errors import ReadOnly
from blobfs.fs.filesystem import FileSystem
from blobfs.remote.client import RemoteClient
from blobfs.store.store import Store
from blobfs.sync.engine import SyncEngine
from blobfs.values.documents import Json

CHANGES: Final = ("resolve", "restore", "undelete", "copy")
"""The questions that change a file or the tree."""
LOOKS: Final = frozenset(("status", "umount", "file", "conflicts", "pair", "list", "search", "aside", "pins", "browse"))
"""The questions that the store alone answers, and that change nothing."""


def refusing(reason: str) -> Command:
    """What answers a question that may not be asked of this mount."""

    async def refuse(question: Json) -> Json:
        raise ReadOnly(reason)

    return refuse


def commands(
    store: Store, engine: SyncEngine, client: RemoteClient, fs: FileSystem, options: Options, secrets: Path
) -> dict[str, Command]:
    """Every question about files, with what answers it."""
    files = Files(store, engine, fs.is_open)
    # By way of the engine: what programs have open through the API counts, too, and they are told as well.
    keeping = Keeping(store, engine)
    listing = Listing(store, engine, files)
    resolving = Resolving(store, engine.is_busy, engine.on_applied)
    health = Health(store, engine, client, secrets)
    past = Past(store, client, engine.is_busy, engine.on_applied)

    def in_thread(answer: Callable[[Json], Json]) -> Command:
        async def run(question: Json) -> Json:
            # What open files have in their buffers counts, too.
            await fs.flush_all()
            return await trio.to_thread.run_sync(answer, question)

        return run

    def flushed(answer: Command) -> Command:
        async def run(question: Json) -> Json:
            await fs.flush_all()
            return await answer(question)

        return run

    async def pin(question: Json) -> Json:
        answer = await in_thread(keeping.pin)(question)
        engine.keeper.wake()
        return answer

    return {
        "file": in_thread(files.show),
        "bring": files.bring,
        "conflicts": in_thread(files.conflicts),
        "pair": in_thread(resolving.pair),
        "resolve": flushed(resolving.resolve),
        "absent": in_thread(listing.absent),
        "list": in_thread(listing.list),
        "search": in_thread(listing.search),
        "aside": in_thread(listing.aside),
        "pin": pin,
        "unpin": in_thread(keeping.unpin),
        "pins": in_thread(keeping.pins),
        "evict": in_thread(keeping.evict),
        "versions": past.versions,
        "read-version": past.read,
        "restore": flushed(past.restore),
        "trash": past.trash,
        "undelete": past.undelete,
        "copy": flushed(past.copy),
        "doctor": flushed(health.answer),
        "doctor-stage": health.stage,
        "config": options.answer,
    }
