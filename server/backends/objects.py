"""Blobs as objects `user/namespace/blob_id` of an object store, through obstore: S3 and what else it speaks.

Must not know who may have which blob. Invariant: an object stands under its key only whole, since it is put with one
request. That its key is created once is the catalog's to see to, so no conditional request is needed of the store.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from blobfs.protocol import is_id
from server.backends.interface import BlobKey, Staged

SPOOL: Final = 64 << 10
"""Bytes of an item on its way in that stay in memory; beyond, it waits in a file without a name."""

PUTS: Final = 8
"""Objects put at the same time. Each is in memory for that time, so this bounds memory to this times `MAX_BLOB`."""

_RETRY: Final = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}
_TIMEOUT: Final = "30s"
"""Of one request. With its repetitions it must stay below what the catalog lets a transaction wait."""


def open_store(url: str, options: Mapping[str, str]) -> ObjectStore:
    """The store at `s3://BUCKET/PREFIX`, `gs://`, `az://`, or `file:///DIRECTORY`; nothing has been asked of it yet.

    Args:
        options: what obstore calls the store's config: `endpoint`, `access_key_id`, `secret_access_key`, `region` ...
    Raises:
        OSError: a URL or an option that obstore does not know.
    """
    parts = urlsplit(url)
    try:
        if parts.scheme == "file":
            return LocalStore(unquote(parts.path), mkdir=True)
        client: Any = {"timeout": _TIMEOUT, "connect_timeout": "10s"}
        if options.get("endpoint", "").startswith("http://"):
            client["allow_http"] = True
        config: Any = dict(options)
        return from_url(url, config=config, client_options=client, retry_config=cast(Any, _RETRY))
    except (BaseError, ValueError) as error:
        raise OSError(errno.EINVAL, f"its URL or its options are wrong ({_reason(error)})") from error


class SpooledItem:
    """An item that waits for its key: in memory while it is small."""

    def __init__(self, directory: Path) -> None:
        self._file: tempfile.SpooledTemporaryFile[bytes]
        self._file = tempfile.SpooledTemporaryFile(max_size=SPOOL, dir=str(directory))  # noqa: SIM115 - see discard

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def take(self) -> bytes:
        """All of its bytes."""
        self._file.seek(0)
        return self._file.read()

    def discard(self) -> None:
        self._file.close()


class ObjectReader:
    """A blob as it was when it was opened. When another one took its place, or none, reads fail."""

    def __init__(self, store: ObjectStore, path: str, meta: Any) -> None:
        self._store = store
        self._path = path
        self._version = _version(meta)
        self.size = int(meta["size"])

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        with _translated():
            found = obstore.get(self._store, self._path, options={"range": (offset, end)})
            # Compared here, since not every store that calls itself S3 honours If-Match.
            if _version(found.meta) != self._version:
                raise FileNotFoundError(errno.ENOENT, "another blob took this one's place")
            return bytes(found.bytes())

    def close(self) -> None:
        """Nothing is held."""


class ObjectBlobsBackend:
    """Blobs in one object store. Staged items wait in a local directory, which is this process's own."""

    def __init__(self, store: ObjectStore, spool: Path) -> None:
        """Try the store: put, read and delete one object.

        Raises:
            OSError: it does not do as it should.
        """
        self._store = store
        self._spool = spool
        self._threads = ThreadPoolExecutor(PUTS, "put")
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = f".probe-{secrets.token_hex(8)}"
        with _translated():
            obstore.put(store, probe, b"blobfs", use_multipart=False)
            try:
                if bytes(obstore.get(store, probe, options={"range": (4, 6)}).bytes()) != b"fs":
                    raise OSError(errno.EIO, "it does not honour ranges")
            finally:
                obstore.delete(store, probe)

    def stage(self) -> SpooledItem:
        return SpooledItem(self._spool)

    def sync(self, items: Sequence[Staged]) -> None:
        """Nothing: an item that is lost with the machine had no key, and `publish` ends only when the store has it."""

    def publish(self, items: Sequence[tuple[BlobKey, Staged]]) -> None:
        failures: list[OSError] = []

        def put(item: tuple[BlobKey, Staged]) -> None:
            key, staged = item
            try:
                with _translated():
                    # One request, never a multipart upload: so an object is whole or absent.
                    obstore.put(self._store, str(key), cast(SpooledItem, staged).take(), use_multipart=False)
            except OSError as error:
                failures.append(error)

        if len(items) == 1:
            put(items[0])
        else:
            list(self._threads.map(put, items))
        if failures:
            raise OSError(errno.EIO, "the object store did not take a blob") from failures[0]
        for _, staged in items:
            staged.discard()

    def open(self, key: BlobKey) -> ObjectReader | None:
        meta = self._head(key)
        return None if meta is None else ObjectReader(self._store, str(key), meta)

    def stat(self, key: BlobKey) -> int | None:
        meta = self._head(key)
        return None if meta is None else int(meta["size"])

    def _head(self, key: BlobKey) -> Any:
        try:
            with _translated():
                return obstore.head(self._store, str(key))
        except FileNotFoundError:
            return None

    def delete(self, keys: Iterable[BlobKey]) -> None:
        paths = [str(key) for key in keys]
        if not paths:
            return
        try:
            with _translated():
                obstore.delete(self._store, paths)
        except FileNotFoundError:  # some stores mind; then one after the other
            for path in paths:
                with contextlib.suppress(FileNotFoundError), _translated():
                    obstore.delete(self._store, path)

    def list(self) -> Iterator[tuple[BlobKey, int]]:
        with _translated():
            for batch in obstore.list(self._store):
                for meta in batch:
                    parts = meta["path"].split("/")
                    if len(parts) == 3 and all(is_id(part) for part in parts):
                        yield BlobKey(*parts), int(meta["size"])

    def sweep(self) -> int:
        return 0


def _version(meta: Any) -> tuple[Any, ...]:
    return meta["size"], meta["e_tag"] or meta["last_modified"]


def _reason(error: Exception) -> str:
    """The first line of what obstore says; the others are a dump of its inside, with URLs."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Every failure is an `OSError`; that there is no such object, a `FileNotFoundError`."""
    try:
        yield
    except BaseError as error:
        raise OSError(errno.EIO, _reason(error)) from error
