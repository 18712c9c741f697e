"""A store in a temporary directory, and what a crash leaves of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.store import settling, staging
from blobfs.store import store as module
from blobfs.store.store import Store
from blobfs.values.documents import Kind
from blobfs.values.keys import AccountId, Keys, derive_keys
from blobfs.values.nodes import ROOT_INODE, Inode, Node

KEYS: Keys = derive_keys(AccountId("ab" * 16), b"k" * 32)


class Bench:
    """Opens stores and closes what a test left open."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stores: list[Store] = []
        self._copies = 0

    def create(self, name: str = "store") -> Store:
        """A new store."""
        return self._own(Store.create(self.directory / name, KEYS, device_name="bench"))

    def open(self, path: Path) -> Store:
        """The store in `path`."""
        return self._own(Store.open(path, KEYS))

    def _own(self, store: Store) -> Store:
        self._stores.append(store)
        return store

    def close(self, store: Store) -> None:
        """End a store in order."""
        self._stores.remove(store)
        store.close()

    def image(self, store: Store) -> Path:
        """What SIGKILL would leave now: the page cache holds all that was written."""
        self._copies += 1
        return Path(shutil.copytree(store.path, self.directory / f"image-{self._copies}"))

    def crash(self, store: Store) -> Store:
        """The store as the next start finds it after SIGKILL."""
        path = self.image(store)
        self.close(store)
        return self.open(path)

    def end(self) -> None:
        """Close all."""
        for store in list(self._stores):
            self.close(store)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Makes stores."""
    bench = Bench(tmp_path)
    yield bench
    bench.end()


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick does all that it may do, however slow the machine is just now: its bounds in time are for daemons."""
    monkeypatch.setattr(settling, "SPAN_S", 60.0)
    monkeypatch.setattr(module, "_GIVING_S", 60.0)


@pytest.fixture
def store(bench: Bench) -> Store:
    """An empty store."""
    return bench.create()


@pytest.fixture
def unstaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes to the spool, as when it is full: writers tell blobs.db themselves."""
    monkeypatch.setattr(staging, "LEAST", 1 << 60)


def make(store: Store, name: bytes, kind: Kind = Kind.FILE, parent: Inode = ROOT_INODE, data: bytes = b"") -> Node:
    """A new node with these bytes."""
    target = b"elsewhere" if kind is Kind.SYMLINK else b""
    node = store.tree.create(parent, name, kind, mode=0o600, uid=1, gid=2, now_ns=10, target=target)
    return write(store, node.inode, 0, data) if data else node


def write(store: Store, inode: Inode, offset: int, data: bytes) -> Node:
    """Put bytes into a file, which grows as needed."""
    size = max(store.tree.get(inode).size, offset + len(data))
    return store.attachments.write(inode, [(offset, data)], size, 20, 20)


def content(store: Store, inode: Inode) -> bytes:
    """All bytes of a file, by both ways of reading."""
    node = store.tree.get(inode)
    if node.content is None:
        return b""
    data = store.attachments.read(node.content, 0, node.size)
    assert store.attachments.read_beside(node.content, 0, node.size) == data
    return data
