"""What each request costs inside the daemon: a store and the filesystem in one process, and no kernel in between.

`python -m tests.benchmarks.inside` prints processor microseconds, of all threads. The last line is what the databases
are told after the requests were answered, for each file that was made, renamed, changed and removed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from blobfs.errors import NotFound
from blobfs.fs.filesystem import FileSystem, Owner
from blobfs.store.store import Store
from blobfs.values.documents import Kind
from blobfs.values.keys import AccountId, derive_keys
from blobfs.values.nodes import ROOT_INODE, Inode
from tests.benchmarks.alone import fetch


async def measure(store: Store, count: int) -> None:
    """A life of `count` small files in 20 directories."""
    fs = FileSystem(store, fetch=fetch, prefetch=None, owner=Owner(0, 0, True), fetch_deadline_s=1.0)
    folders = [fs.make(ROOT_INODE, b"d%d" % number, Kind.DIRECTORY, 0o755, 0, 0).inode for number in range(20)]
    files: list[Inode] = []
    data = os.urandom(4096)

    async def make(number: int) -> None:
        folder, name = folders[number % 20], b"f%d" % number
        with contextlib.suppress(NotFound):
            fs.lookup(folder, name)
        files.append(fs.create(folder, name, 0o644, 0, 0).inode)

    async def write(number: int) -> None:
        await fs.write(files[number], 0, data)
        fs.getattr(files[number])
        await fs.flush(files[number])
        await fs.release(files[number])

    async def read(number: int) -> None:
        await fs.read(files[number], 0, len(data))

    async def change(number: int) -> None:
        await fs.setattr(files[number], mode=0o600)

    async def rename(number: int) -> None:
        fs.rename(folders[number % 20], b"f%d" % number, folders[number % 20], b"g%d" % number)

    async def remove(number: int) -> None:
        fs.unlink(folders[number % 20], b"g%d" % number)
        fs.forget(files[number], 1)

    async def settle(_: int) -> None:
        store.tick()
        store._ledger.commit()

    async def run(name: str, action: Callable[[int], Awaitable[None]], times: int) -> None:
        started = time.process_time()
        for number in range(times):
            await action(number)
        print(f"{name:28} {(time.process_time() - started) / count * 1e6:6.1f}")

    await run("lookup of no file, create", make, count)
    await run("write, getattr, flush 4 KiB", write, count)
    await run("read 4 KiB", read, count)
    await run("setattr", change, count)
    await run("rename", rename, count)
    await run("unlink, forget", remove, count)
    await run("the databases, afterwards", settle, 1)


def main() -> None:
    """Measure in a new store."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=2000, help="files (2000)")
    options = parser.parse_args()
    keys = derive_keys(AccountId(os.urandom(16).hex()), os.urandom(32))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store"
        with contextlib.closing(Store.create(path, keys, device_name="benchmark")) as store:
            trio.run(measure, store, options.count)


if __name__ == "__main__":
    main()
