"""Blobs as files: `ROOT/user/namespace/bl/blob_id`, as they come. The default backend.

Owns everything below ROOT. Must not know what the bytes are. Invariant: a file under its final name is complete and was
on stable storage before it got that name. Ids cannot start with a dot, so `ROOT/.staged` is no user's directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, cast

from server.backends.interface import BlobKey, Staged

MANY: Final = 16
"""From so many files or directories on, one `syncfs` is cheaper than a flush of each, and promises no less."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def _flush_filesystem(path: str) -> None:
    """On return everything written so far to the filesystem that holds `path` is on stable storage."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)


def _flush_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class StagedFile:
    """A temporary file. The descriptor is opened for the first bytes and closed by `sync`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor: int | None = None

    def write(self, data: bytes) -> None:
        descriptor = self._opened()
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def _opened(self) -> int:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o600)
        return self._descriptor

    def finish(self, flush: bool) -> None:
        """Close the file, which exists then even when empty; `flush` it first."""
        descriptor = self._opened()
        if flush:
            os.fsync(descriptor)
        self.close()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def discard(self) -> None:
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


class FileReader:
    """An open file; reads carry their own offset, so nothing is shared between them."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor: int | None = descriptor
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        if self._descriptor is None:
            raise ValueError("the blob is closed")
        return os.pread(self._descriptor, length, offset)

    def fileno(self) -> int:
        """For who can send files without reading them."""
        if self._descriptor is None:
            raise ValueError("the blob is closed")
        return self._descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class FilesystemBlobsBackend:
    """Blobs below one directory of a local filesystem that has hard promises: ext4, xfs, btrfs, zfs."""

    def __init__(self, root: Path) -> None:
        """Create `root` when it is not there.

        Raises:
            OSError: it cannot be created or is not a directory.
        """
        self._root = os.path.abspath(root)
        self._staging = os.path.join(self._root, ".staged")
        os.makedirs(self._staging, mode=0o700, exist_ok=True)

    def _path(self, key: BlobKey) -> str:
        name = key.blob_id
        # Fixed depth: the first three levels are always directories and the last always a file, so no two keys clash.
        # One level of two characters: docs/OPERATIONS.md has the figures of deeper ones.
        return "/".join((self._root, key.user, key.namespace, name[:2], name))

    def stage(self) -> StagedFile:
        return StagedFile(os.path.join(self._staging, secrets.token_hex(16)))

    def sync(self, items: Sequence[Staged]) -> None:
        each = len(items) < MANY
        for item in items:
            cast(StagedFile, item).finish(flush=each)
        if not each:
            _flush_filesystem(self._root)

    def publish(self, items: Sequence[tuple[BlobKey, Staged]]) -> None:
        changed: set[str] = set()
        for key, item in items:
            path = self._path(key)
            self._move(cast(StagedFile, item).path, path, changed)
        if len(changed) < MANY:
            for directory in changed:
                _flush_directory(directory)
        else:
            _flush_filesystem(self._root)

    def _move(self, source: str, target: str, changed: set[str]) -> None:
        """Rename, making the directories above `target`; adds each directory that got a new entry to `changed`."""
        parent = os.path.dirname(target)
        while True:
            try:
                os.rename(source, target)
            except FileNotFoundError:
                if not os.path.lexists(source):
                    raise
                # A deletion may prune a directory between our mkdir and rename; then we make it once more.
                self._make(parent, changed)
            else:
                changed.add(parent)
                return

    def _make(self, directory: str, changed: set[str]) -> None:
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            return
        except FileNotFoundError:
            self._make(os.path.dirname(directory), changed)
            # Made by somebody else meanwhile, or pruned again: the caller tries once more.
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.mkdir(directory, 0o700)
        changed.add(os.path.dirname(directory))

    def open(self, key: BlobKey) -> FileReader | None:
        try:
            descriptor = os.open(self._path(key), _READ)
        except (FileNotFoundError, NotADirectoryError):
            return None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise OSError(errno.EIO, "what stands in a blob's place is not a file")
        return FileReader(descriptor, status.st_size)

    def stat(self, key: BlobKey) -> int | None:
        try:
            status = os.lstat(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def delete(self, keys: Iterable[BlobKey]) -> None:
        for key in keys:
            path = self._path(key)
            try:
                os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            self._prune(os.path.dirname(path))

    def _prune(self, directory: str) -> None:
        """Remove `directory` and those above it that are empty now, up to the root."""
        while directory != self._root:
            try:
                os.rmdir(directory)
            except OSError:
                return
            directory = os.path.dirname(directory)

    def list(self) -> Iterator[tuple[BlobKey, int]]:
        for user in _directories(self._root):
            if user.name == ".staged":
                continue
            for namespace in _directories(user.path):
                for directory in _directories(namespace.path):
                    for file in _files(directory.path):
                        key = BlobKey(user.name, namespace.name, file.name)
                        if file.path != self._path(key):
                            continue  # somebody else's file: no blob is ever looked for there
                        with contextlib.suppress(FileNotFoundError):
                            yield key, file.stat(follow_symlinks=False).st_size

    def sweep(self) -> int:
        left = list(os.scandir(self._staging))
        for entry in left:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)
        return len(left)


def _directories(path: str) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(path) if entry.is_dir(follow_symlinks=False)]


def _files(path: str) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(path) if entry.is_file(follow_symlinks=False)]


def _entries(path: str) -> list[os.DirEntry[str]]:
    """What is in a directory; nothing when it is gone."""
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
