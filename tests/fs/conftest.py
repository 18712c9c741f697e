"""A FileSystem over a real store, without a mount, and a server that is a dictionary of extents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from blobfs.errors import RemoteUnavailable
from blobfs.fs.filesystem import FileSystem, Owner
from blobfs.store.documents import Applied
from blobfs.store.store import Store
from blobfs.values.documents import ROOT, DocId, Document, Kind, Name
from blobfs.values.extents import EXTENT, ROW, Attachment, BlobId, extent_count, extent_length
from blobfs.values.keys import AccountId, derive_keys
from blobfs.values.nodes import Content, Inode
from blobfs.values.revisions import DeviceId, Revision

OTHER = DeviceId("f" * 16)
KEYS = derive_keys(AccountId("0" * 32), bytes(range(32)))


class Remote:
    """Files of another device, whose bytes come when they are fetched."""

    def __init__(self) -> None:
        self.store: Store
        self.bodies: dict[BlobId, bytes] = {}
        self.fetches: list[tuple[int, int]] = []
        self.prefetches: list[tuple[int, int]] = []
        self.is_online = True
        self.hangs = False
        self._counter = 0

    def put(
        self, name: bytes, body: bytes, *, doc_id: str = "remote", deleted: bool = False, name_stays: bool = False
    ) -> Applied:
        """Another device made, changed or deleted a file; `name_stays`: its tombstone says where it was."""
        self._counter += 1
        ids = []
        for index in range(extent_count(len(body))):
            blob_id = BlobId(f"{self._counter:032x}{index:032x}")
            self.bodies[blob_id] = body[index * EXTENT :][: extent_length(len(body), index)]
            ids.append(blob_id)
        document = Document(
            doc_id=DocId(doc_id),
            kind=Kind.FILE,
            names=() if deleted and not name_stays else (Name(ROOT, name),),
            mtime_ns=self._counter,
            attachment=Attachment(len(body), tuple(ids)),
        )
        revision = Revision.of({OTHER: self._counter})
        return self.store.documents.apply(document, revision, deleted, self._counter)

    async def fetch(self, content: Content, offset: int, length: int) -> None:
        """Bring whole rows, as the sync engine does."""
        self.fetches.append((offset, length))
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        if not self.is_online:
            raise RemoteUnavailable("this device is offline")
        for index, extent in self.store.attachments.extents(content).items():
            start, end = max(offset, index * EXTENT), min(offset + length, (index + 1) * EXTENT)
            if start < end and extent.blob_id is not None:
                first, last = (start - index * EXTENT) // ROW, -(-(end - index * EXTENT) // ROW)
                plaintext = self.bodies[extent.blob_id][first * ROW : last * ROW]
                self.store.attachments.keep(content, index, extent.blob_id, first, plaintext)

    def prefetch(self, content: Content, offset: int, length: int) -> None:
        """Note the hint."""
        self.prefetches.append((offset, length))


@pytest.fixture
def remote() -> Remote:
    """The other device."""
    return Remote()


@pytest.fixture
def store(tmp_path: Path, remote: Remote) -> Iterator[Store]:
    """An empty store."""
    opened = Store.create(tmp_path / "store", KEYS, device_name="test")
    remote.store = opened
    yield opened
    opened.close()


@pytest.fixture
def fs(store: Store, remote: Remote) -> FileSystem:
    """A filesystem over it, whose deadline is for tests of the deadline: however slow the machine is just now."""
    owner = Owner(0, 0, is_root=True)
    return FileSystem(store, fetch=remote.fetch, prefetch=remote.prefetch, owner=owner, fetch_deadline_s=600)


def reopened(store: Store) -> dict[bytes, bytes]:
    """What the store itself has in its root by now, buffers not counted: names and bytes."""
    bodies = {}
    for entry in store.tree.entries(Inode(1), 0, 1000):
        node = entry.node
        bodies[entry.name] = b"" if node.content is None else store.attachments.read(node.content, 0, node.size)
    return bodies
