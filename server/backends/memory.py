"""Blobs in memory: for tests, and the shortest example of a `BlobsBackend`. Nothing survives the process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from server.backends.interface import BlobKey, Staged


class MemoryStaged:
    """Bytes that are not yet under a key."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data

    def discard(self) -> None:
        self.data = bytearray()


class MemoryReader:
    """A blob, held by reference, so deleting it does not disturb the reader."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def close(self) -> None:
        self._data = b""


class MemoryBlobsBackend:
    """A dict of blobs behind a lock."""

    def __init__(self) -> None:
        self._blobs: dict[BlobKey, bytes] = {}
        self._lock = threading.Lock()

    def stage(self) -> MemoryStaged:
        return MemoryStaged()

    def sync(self, items: Sequence[Staged]) -> None:
        """Memory has nothing to flush."""

    def publish(self, items: Sequence[tuple[BlobKey, Staged]]) -> None:
        with self._lock:
            for key, staged in items:
                self._blobs[key] = bytes(cast(MemoryStaged, staged).data)

    def open(self, key: BlobKey) -> MemoryReader | None:
        with self._lock:
            data = self._blobs.get(key)
        return None if data is None else MemoryReader(data)

    def stat(self, key: BlobKey) -> int | None:
        with self._lock:
            data = self._blobs.get(key)
        return None if data is None else len(data)

    def delete(self, keys: Iterable[BlobKey]) -> None:
        with self._lock:
            for key in keys:
                self._blobs.pop(key, None)

    def list(self) -> Iterator[tuple[BlobKey, int]]:
        with self._lock:
            present = [(key, len(data)) for key, data in self._blobs.items()]
        yield from present

    def sweep(self) -> int:
        return 0
