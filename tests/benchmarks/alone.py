"""blobfs without its sync and without a server: a new store, the filesystem, the mount. What the local half costs.

`python -m tests.benchmarks.alone --store DIR MOUNTPOINT` mounts it in the foreground, with keys of the moment.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Final

import trio

from blobfs.errors import RemoteUnavailable
from blobfs.fs.filesystem import FileSystem, Owner
from blobfs.fs.mountpoint import MountOptions
from blobfs.fs.operations import serve
from blobfs.process import answer_promptly, settle_memory
from blobfs.store.store import Store
from blobfs.values.keys import AccountId, derive_keys
from blobfs.values.nodes import Content

TICK_S: Final = 1.0


async def fetch(content: Content, offset: int, length: int) -> None:
    """There is nowhere to fetch from, and nothing that was ever evicted."""
    raise RemoteUnavailable("this store has no server")


async def tick(store: Store) -> None:
    """What the daemon does once a second."""
    while True:
        await trio.sleep(TICK_S)
        await trio.to_thread.run_sync(store.tick)


async def run(store: Store, mountpoint: Path) -> None:
    """Mount until somebody unmounts."""
    owner = Owner(os.geteuid(), os.getegid(), os.geteuid() == 0)
    fs = FileSystem(store, fetch=fetch, prefetch=None, owner=owner, fetch_deadline_s=1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick, store)
        await serve(fs, mountpoint, MountOptions(), ready=lambda: None)
        nursery.cancel_scope.cancel()


def main() -> int:
    """Mount a new store on MOUNTPOINT until it is unmounted."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("mountpoint", type=Path)
    options = parser.parse_args()
    settle_memory()
    answer_promptly()
    keys = derive_keys(AccountId(os.urandom(16).hex()), os.urandom(32))
    with contextlib.closing(Store.create(options.store, keys, device_name="benchmark")) as store:
        trio.run(run, store, options.mountpoint)
    return 0


if __name__ == "__main__":
    sys.exit(main())
