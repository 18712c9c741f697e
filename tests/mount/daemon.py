"""A daemon of the least kind: one store, no server, mounted until SIGTERM. Run as `python -m tests.mount.daemon`.

Prints `ready` when the mount can be used. The store's keys are fixed: what is in it is made up. A line on standard
input plays another device: `NAME HEX` puts a file into the root, `NAME` deletes it. `/evict` plays a server that takes
everything, and drops all bytes here; they come back when they are read. `done` is the answer.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import logging
import os
import signal
import sys
from pathlib import Path

import trio

from blobfs.errors import BlobfsError, BytesAbsent, RemoteUnavailable
from blobfs.fs import handshake
from blobfs.fs.filesystem import FileSystem, Owner
from blobfs.fs.mountpoint import MountOptions
from blobfs.fs.operations import serve
from blobfs.fs.views import ViewedFileSystem
from blobfs.store.documents import Changed
from blobfs.store.store import Store
from blobfs.store.uses import FIRST
from blobfs.values.documents import ROOT, DocId, Document, Name
from blobfs.values.extents import EXTENT, Attachment, BlobId, extent_length
from blobfs.values.keys import AccountId, Keys, derive_keys
from blobfs.values.nodes import Content
from blobfs.values.revisions import DeviceId, Revision

OTHER = DeviceId("f" * 16)


def fixed_keys() -> Keys:
    """The same keys each time."""
    return derive_keys(AccountId("0" * 32), bytes(range(32)))


def open_store(path: Path) -> Store:
    """The store in `path`, made if there is none."""
    if (path / "documents.db").exists():
        return Store.open(path, fixed_keys())
    return Store.create(path, fixed_keys(), device_name="test")


class Shelf:
    """A server that only keeps bytes: a directory beside the store, which outlives the daemon."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path = store.path.with_name("shelf")
        self._path.mkdir(exist_ok=True)

    async def fetch(self, content: Content, offset: int, length: int) -> None:
        """Bring whole extents; there is nothing of those that were never evicted."""
        first, last = offset // EXTENT, (offset + length - 1) // EXTENT
        for index, extent in self._store.attachments.extents(content).items():
            if first <= index <= last and extent.blob_id is not None:
                try:
                    plaintext = (self._path / extent.blob_id).read_bytes()
                except FileNotFoundError:
                    raise RemoteUnavailable("this device is offline") from None
                self._store.attachments.keep(content, index, extent.blob_id, 0, plaintext)

    async def evict(self) -> None:
        """All that changed is on the server now, and no byte of it here."""
        for changed in self._store.documents.changed(1_000_000):
            await self._take(changed)
        for _, content, index in self._store.attachments.uses.oldest(1_000_000, FIRST):
            self._store.attachments.evict(content, [index])

    async def _take(self, changed: Changed) -> None:
        store, local = self._store, self._store.documents.local(changed.doc_id)
        assert local is not None
        node = local.node
        if node.content is not None and not node.deleted:
            sealed = {}
            for index, extent in store.attachments.extents(node.content).items():
                if extent.dirty:
                    length = extent_length(node.size, index)
                    plaintext = await self._read(node.content, index, length)
                    blob_id = BlobId(hashlib.sha256(plaintext).hexdigest())
                    (self._path / blob_id).write_bytes(plaintext)
                    sealed[index] = (blob_id, length)
            assert store.attachments.settle(node.inode, changed.edit, sealed)
            local = store.documents.local(changed.doc_id)
            assert local is not None
        revision = Revision.of({store.device: local.edit})
        store.documents.record_synced(changed.doc_id, changed.edit, revision, local.document, node.deleted)

    async def _read(self, content: Content, index: int, length: int) -> bytes:
        """A dirty extent, of which rows may have been evicted before others of it were written."""
        try:
            return self._store.attachments.read_extent(content, index, length)
        except BytesAbsent:
            await self.fetch(content, index * EXTENT, length)
            return self._store.attachments.read_extent(content, index, length)


async def _run(store: Store, mountpoint: Path, options: MountOptions) -> None:
    owner = Owner(os.getuid(), os.getgid(), os.getuid() == 0)
    shelf = Shelf(store)
    fs = ViewedFileSystem(store, fetch=shelf.fetch, prefetch=None, owner=owner, fetch_deadline_s=5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_wait_for_signal, nursery.cancel_scope)
        nursery.start_soon(_tick, store)
        nursery.start_soon(_play_other_device, store, fs, shelf)
        await serve(fs, mountpoint, options, ready=functools.partial(print, "ready", flush=True))
        nursery.cancel_scope.cancel()


async def _wait_for_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


async def _tick(store: Store) -> None:
    while True:
        await trio.sleep(1)
        await trio.to_thread.run_sync(store.tick)


async def _play_other_device(store: Store, fs: FileSystem, shelf: Shelf) -> None:
    counter = 0
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        if line == "/evict\n":
            await shelf.evict()
            print("done", flush=True)
            continue
        counter += 1
        name, _, body = line.strip().partition(" ")
        blob_id = BlobId(f"{counter:064x}")
        plaintext = bytes.fromhex(body)
        document = Document(
            doc_id=DocId(f"remote-{name}"),
            names=(Name(ROOT, name.encode()),) if body else (),
            mode=0o644,
            mtime_ns=counter,
            attachment=Attachment(len(plaintext), (blob_id,) if body else ()),
        )
        applied = store.documents.apply(document, Revision.of({OTHER: counter}), not body, counter)
        if body:
            content = store.tree.get(applied.inode).content
            assert content is not None
            store.attachments.keep(content, 0, blob_id, 0, plaintext)
        fs.notify(applied)
        print("done", flush=True)


def main() -> None:
    """Mount until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--allow-other", action="store_true")
    parser.add_argument("--user", type=int, help="become this user first, once everything is imported")
    parser.add_argument("--older-kernel", action="store_true", help="take nothing that a kernel before 5.11 has not")
    arguments = parser.parse_args()
    if arguments.older_kernel:
        vars(handshake).update(_HANDLE_KILLPRIV_V2=0, _DIRECT_IO_ALLOW_MMAP=0)
    if arguments.user:
        os.setgroups([])
        os.setgid(arguments.user)
        os.setuid(arguments.user)
    logging.basicConfig(level=logging.INFO)
    reasons: list[str] = []
    try:
        store = open_store(arguments.store)
        try:
            trio.run(_run, store, arguments.mountpoint, MountOptions(allow_other=arguments.allow_other))
        finally:
            store.close()
    except* BlobfsError as group:
        reasons = [str(error) for error in leaves(group)]
    if reasons:
        sys.exit("; ".join(reasons))


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Every error of a group that is no group itself."""
    errors = []
    for error in group.exceptions:
        errors += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return errors


if __name__ == "__main__":
    main()
