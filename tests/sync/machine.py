"""Devices that work, part, fail and die as they are told, on one server, and what must be true whatever they did.

Between two steps nothing runs: a device syncs when a step says so, and the step says what befalls it on the way. So a
story can be told again, and shortened. What happens at the same time is for `test_disorder` to find.
"""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from blobfs.errors import BytesAbsent, FileError
from blobfs.remote.client import RemoteClient
from blobfs.store.store import Store
from blobfs.sync.engine import SyncEngine, SyncOptions
from blobfs.sync.evict import CacheLimits, evict
from blobfs.values import crypto
from blobfs.values.documents import Kind, dump
from blobfs.values.extents import BlobId
from blobfs.values.revisions import Revision
from tests.sync.kit import ACCOUNT, KEYS, Device, Server
from tests.sync.proxy import Proxy, proxying

LIMIT_S: Final = 300.0
PATIENCE_S: Final = 3.0
"""For a device to notice that its line is broken; it may as well not have."""
AT_ONCE: Final = SyncOptions(quiet_s=0, max_wait_s=0.5, debounce_s=0, fetch_deadline_s=60, reopen_s=0.02)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a device on its way through a sync."""

    breaks_after: int | None = None
    """So many pieces of answers pass, then the line is broken: what was asked last may have been done."""
    dies: bool = False
    """The process is killed at that moment; else it only loses the line."""
    failures: int = 0
    """So many requests are answered with 503."""
    delay_s: float = 0.0
    """Before each piece of an answer."""


@dataclass
class Bearer:
    """A device: a store on the disk, open, and the files that somebody holds open."""

    name: str
    path: Path
    store: Store
    held: set[str] = field(default_factory=set)


class World:
    """The server, the devices, and the bytes that somebody still counts on."""

    def __init__(self, directory: Path, server: Server, user: str, names: Sequence[str]) -> None:
        self.directory, self.server, self.user = directory, server, user
        self.token = server.add_user(user)
        self.bearers = {name: self._make(name) for name in names}
        self.kept: set[bytes] = set()
        """Bytes that were acknowledged and that nobody who saw them gave up."""
        self.sent: set[BlobId] = set()
        """Bytes that the server has confirmed: they are in some revision for the retention time."""
        self._bodies: dict[BlobId, bytes] = {}
        self._numbers = itertools.count(1)
        self._images = itertools.count(1)

    def _make(self, name: str) -> Bearer:
        path = self.directory / name
        return Bearer(name, path, Store.create(path, KEYS, device_name=name))

    def close(self) -> None:
        """Close the stores."""
        for bearer in self.bearers.values():
            bearer.store.close()

    # --- what a user does; whether it could be done --------------------------------------------------------

    def paths(self, name: str, kind: Kind | None = None) -> list[str]:
        """What a user sees there, in order."""
        found = self._calls(name).paths()
        return sorted(path for path, node in found.items() if kind in (None, node.kind))

    def _calls(self, name: str) -> Device:
        """The calls of a small mount, without sync."""
        device = Device.__new__(Device)
        device.store, device.open = self.bearers[name].store, set()
        return device

    def write(self, name: str, path: str, size: int) -> bool:
        """A new version of a file, with bytes that no other has."""
        former = self._bytes_of(name, path)
        data = b"bytes %d of %s " % (next(self._numbers), name.encode())
        data = data.ljust(size, b".")
        if not self._do(lambda device: device.write(path, data), name):
            return False
        self.kept.discard(former)
        self.kept.add(data)
        self._bodies[crypto.blob_id(KEYS, data)] = data
        return True

    def save(self, name: str, path: str) -> bool:
        """What an editor does: a new file is written beside the old one and takes its place."""
        beside = path + ".new"
        return self.write(name, beside, 20) and self.rename(name, beside, path)

    def mkdir(self, name: str, path: str) -> bool:
        return self._do(lambda device: device.mkdir(path), name)

    def rename(self, name: str, old: str, new: str) -> bool:
        if f"{new}/".startswith(f"{old}/"):
            return False
        former = self._bytes_of(name, new)
        if not self._do(lambda device: device.rename(old, new), name):
            return False
        self.kept.discard(former)
        return True

    def remove(self, name: str, path: str) -> bool:
        former = self._bytes_of(name, path)
        if not self._do(lambda device: device.remove(path), name):
            return False
        self.kept.discard(former)
        return True

    def _do(self, call: Callable[[Device], object], name: str) -> bool:
        try:
            call(self._calls(name))
        except FileError:
            return False
        return True

    def _bytes_of(self, name: str, path: str) -> bytes:
        """What a reader there would get, by its id where it is not on the device."""
        device = self._calls(name)
        if not device.exists(path):
            return b""
        node = device.node(path)
        if node.kind is not Kind.FILE or node.content is None:
            return b""
        try:
            return bytes(device.store.attachments.read(node.content, 0, node.size))
        except BytesAbsent:
            blob_id = device.store.attachments.extents(node.content)[0].blob_id
            assert blob_id is not None
            return self._bodies[blob_id]

    # --- what happens to a device ----------------------------------------------------------------------------

    def evict(self, name: str) -> None:
        """Everything that the server has confirmed goes."""
        evict(self.bearers[name].store, CacheLimits(most=0), lambda content: False)

    def restart(self, name: str) -> None:
        """The daemon ends in order, and starts again."""
        bearer = self.bearers[name]
        bearer.store.close()
        bearer.store = Store.open(bearer.path, KEYS)

    def crash(self, name: str) -> None:
        """The daemon is killed between two calls, and starts again."""
        self._revive(name, self._image(name))

    def _image(self, name: str) -> Path:
        """What SIGKILL would leave now: the page cache holds all that was written."""
        bearer = self.bearers[name]
        path = self.directory / f"image-{next(self._images)}"
        # Within a transaction of ours no other thread writes: it is the state of one moment.
        with bearer.store.transaction():
            shutil.copytree(bearer.path, path)
        return path

    def _revive(self, name: str, image: Path) -> None:
        bearer = self.bearers[name]
        bearer.store.close()
        shutil.rmtree(bearer.path)
        image.rename(bearer.path)
        bearer.store = Store.open(bearer.path, KEYS)

    def kill_server(self) -> None:
        """The server is killed, and starts again."""
        self.server.stop(signal.SIGKILL)
        self.server.start()

    # --- sync ------------------------------------------------------------------------------------------------

    def sync(self, names: Sequence[str], fault: Fault) -> None:
        """These devices sync at the same time; what `fault` says happens to the first."""
        images: list[Path] = []

        async def run() -> None:
            with trio.fail_after(LIMIT_S):
                async with proxying(self.server.url) as proxy, AsyncExitStack() as stack:
                    first = await stack.enter_async_context(self._running(names[0], proxy.url))
                    others = [
                        await stack.enter_async_context(self._running(name, self.server.url)) for name in names[1:]
                    ]
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._pass_through, first, proxy, fault, images)
                        for device in others:
                            nursery.start_soon(self._settle, device)

        trio.run(run)
        if images:
            self._revive(names[0], images[0])

    async def _pass_through(self, device: Device, proxy: Proxy, fault: Fault, images: list[Path]) -> None:
        proxy.failures, proxy.delay_s = fault.failures, fault.delay_s
        proxy.pieces_left = fault.breaks_after
        async with trio.open_nursery() as nursery:

            async def until_broken() -> None:
                await proxy.broken.wait()
                if fault.dies:
                    images.append(self._image(self._name_of(device)))
                else:
                    with trio.move_on_after(PATIENCE_S):
                        while device.engine.health.worst is None:
                            await device.engine.health.changed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_broken)
            await self._settle(device)
            nursery.cancel_scope.cancel()

    async def _settle(self, device: Device) -> None:
        """Until the server has all of it, however often it takes."""
        async with trio.open_nursery() as nursery:

            async def urge() -> None:
                while True:
                    await device.engine.health.changed.wait()
                    device.engine.retry()

            nursery.start_soon(urge)
            await device.engine.settle()
            nursery.cancel_scope.cancel()
        self._note_sent(device)

    def _note_sent(self, device: Device) -> None:
        for node in device.paths().values():
            if node.kind is Kind.FILE and node.content is not None:
                extents = device.store.attachments.extents(node.content).values()
                self.sent.update(extent.blob_id for extent in extents if extent.blob_id and not extent.dirty)

    def _name_of(self, device: Device) -> str:
        return next(name for name, bearer in self.bearers.items() if bearer.store is device.store)

    def _running(self, name: str, url: str) -> _Running:
        return _Running(self.bearers[name], RemoteClient(url, self.user, self.token))

    # --- the truth ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Let all devices come to rest; one tree, every byte that somebody counts on, nothing put aside."""
        trio.run(self._check)

    async def _check(self) -> None:
        with trio.fail_after(LIMIT_S):
            async with AsyncExitStack() as stack:
                devices = [
                    await stack.enter_async_context(self._running(name, self.server.url)) for name in self.bearers
                ]
                for _ in range(3):
                    for device in devices:
                        await self._settle(device)
                trees = [await device.tree() for device in devices]
                assert all(tree == trees[0] for tree in trees), f"the trees differ: {_difference(trees)}"
                lost = self.kept - {data for _, _, data in trees[0].values()}
                assert not lost, f"lost: {[data[:20] for data in lost]}"
                for device in devices:
                    assert [entry.reason for entry in device.engine.status().parked] == []
                assert self.sent <= await self._in_revisions(devices[0]), "a revision that was confirmed is gone"

    async def _in_revisions(self, device: Device) -> set[BlobId]:
        """The blobs of all revisions that the server has, of documents that live and of deleted ones."""
        found: set[BlobId] = set()
        after, documents = None, device.store.documents
        while page := documents.known_ids(after or "", 1000):  # type: ignore[arg-type]
            for doc_id in page:
                for sealed in await device.client.revisions(doc_id):
                    revision = Revision.parse(sealed.revision)
                    document = crypto.open_document(KEYS, doc_id, revision, sealed.deleted, sealed.payload)
                    if document.attachment is not None:
                        found.update(filter(None, document.attachment.ids))
            after = page[-1]
        return found


class _Running:
    """A device whose engine runs."""

    def __init__(self, bearer: Bearer, client: RemoteClient) -> None:
        self._bearer, self._client = bearer, client
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Device:
        client = await self._stack.enter_async_context(self._client)
        own = dump({"version": 1, "account": ACCOUNT})
        engine = SyncEngine(self._bearer.store, client, options=AT_ONCE, secret=lambda: own)
        device = Device(self._bearer.store, engine, client)
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        await self._nursery.start(engine.run)
        return device

    async def __aexit__(self, *error: object) -> None:
        self._nursery.cancel_scope.cancel()
        await self._stack.__aexit__(*error)  # type: ignore[arg-type]


def _difference(trees: Sequence[dict[str, tuple[Kind, int, bytes]]]) -> list[object]:
    """What is not the same in all, short."""
    paths = {path for tree in trees for path in tree}
    views = {path: [tree.get(path) for tree in trees] for path in sorted(paths)}
    return [
        (path, [view and (view[0].value, view[2][:20]) for view in views])
        for path, views in views.items()
        if any(view != views[0] for view in views)
    ]
