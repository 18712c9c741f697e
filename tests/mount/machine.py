"""A mounted blobfs and an ordinary directory side by side: the same calls on both, and the same answers.

The ordinary directory is the model. A daemon that is killed may lose what was written to a file since its last close
or fsync, as a whole or up to any write, and nothing else.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.mount.conftest import Mounted

PATHS = st.sampled_from(["a", "b", "d", "e", "d/a", "d/b", "d/f", "d/f/a", "e/a", "e/d", "long" * 70])
OFFSETS = st.sampled_from([0, 1, 5, 4095, 131_071, 131_072, 400_000, (4 << 20) - 10])
LENGTHS = st.sampled_from([0, 1, 9, 4096, 131_072, 150_000])
BYTES = st.integers(1, 255)
INDEX = st.integers(0, 3)
FLAGS = st.sampled_from([0, os.O_APPEND, os.O_TRUNC, os.O_EXCL, os.O_TRUNC | os.O_APPEND])
MAX_HANDLES = 4


class Pair(NamedTuple):
    """One file, open on both sides."""

    model: int
    mounted: int
    inode: int
    """Of the model."""


def outcome(call: Callable[[], Any]) -> Any:
    """What a call answers, or the name of its error."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


class SideBySide(RuleBasedStateMachine):
    """One run in fresh directories of a mount and of a disk."""

    numbers = count()

    def __init__(self, mount: Mounted, place: Path) -> None:
        super().__init__()
        self.mount = mount
        name = f"run{next(self.numbers)}"
        self.model, self.mounted = place / name, mount.path / name
        self.handles: list[Pair] = []
        self.unsaved: dict[int, list[bytes]] = {}
        """By inode of the model: what the file may be after a crash."""

    def teardown(self) -> None:
        """The last look."""
        try:
            self.compare()
        finally:
            self.close_all()
            shutil.rmtree(self.model)
            shutil.rmtree(self.mounted)

    @initialize()
    def begin(self) -> None:
        """Empty directories."""
        self.model.mkdir()
        self.mounted.mkdir()

    # --- both sides ---------------------------------------------------------------------------------------

    def both(self, call: Callable[[Path], Any]) -> Any:
        """Do it on both sides; the answers have to be the same."""
        wanted, found = outcome(lambda: call(self.model)), outcome(lambda: call(self.mounted))
        assert found == wanted
        return wanted

    def compare(self) -> None:
        """Names, kinds, modes, links, sizes, attributes and bytes are the same."""
        assert describe(self.mounted) == describe(self.model)

    def close_all(self) -> None:
        """Every handle; those of a dead mount say so."""
        for pair in self.handles:
            os.close(pair.model)
            with suppress(OSError):
                os.close(pair.mounted)
        self.handles.clear()

    def save(self, path: str) -> None:
        """What was buffered for a file is stored."""
        with suppress(OSError):
            self.unsaved.pop((self.model / path).stat().st_ino, None)

    # --- files --------------------------------------------------------------------------------------------

    @rule(path=PATHS, offset=OFFSETS, length=LENGTHS, byte=BYTES, flags=FLAGS)
    def write(self, path: str, offset: int, length: int, byte: int, flags: int) -> None:
        """Open or create, write, close."""

        def write(root: Path) -> int:
            descriptor = os.open(root / path, os.O_WRONLY | os.O_CREAT | flags, 0o640)
            try:
                return os.pwrite(descriptor, bytes([byte]) * length, offset)
            finally:
                os.close(descriptor)

        self.both(write)
        self.save(path)

    @rule(path=PATHS, size=OFFSETS)
    def truncate(self, path: str, size: int) -> None:
        """Cut or lengthen."""
        self.both(lambda root: os.truncate(root / path, size))
        self.save(path)

    @rule(path=PATHS)
    def read(self, path: str) -> None:
        """All of it."""
        self.both(lambda root: (root / path).read_bytes())

    @precondition(lambda self: len(self.handles) < MAX_HANDLES)
    @rule(path=PATHS, flags=FLAGS)
    def open(self, path: str, flags: int) -> None:
        """Open and keep open."""
        flags |= os.O_RDWR | os.O_CREAT
        model = outcome(lambda: os.open(self.model / path, flags, 0o600))
        mounted = outcome(lambda: os.open(self.mounted / path, flags, 0o600))
        if isinstance(model, str):
            assert mounted == model
            return
        assert isinstance(mounted, int), mounted
        self.handles.append(Pair(model, mounted, os.fstat(model).st_ino))
        if flags & os.O_TRUNC:
            self.save(path)

    @precondition(lambda self: self.handles)
    @rule(index=INDEX, offset=OFFSETS, length=LENGTHS, byte=BYTES)
    def write_open(self, index: int, offset: int, length: int, byte: int) -> None:
        """Write to an open file."""
        pair = self.handles[index % len(self.handles)]
        history = self.unsaved.setdefault(pair.inode, [content(pair.model)])
        for descriptor in pair[:2]:
            assert os.pwrite(descriptor, bytes([byte]) * length, offset) == length
        history.append(content(pair.model))
        assert os.fstat(pair.mounted).st_size == os.fstat(pair.model).st_size

    @precondition(lambda self: self.handles)
    @rule(index=INDEX, size=OFFSETS)
    def truncate_open(self, index: int, size: int) -> None:
        """Cut or lengthen an open file."""
        pair = self.handles[index % len(self.handles)]
        for descriptor in pair[:2]:
            os.ftruncate(descriptor, size)
        self.unsaved.pop(pair.inode, None)

    @precondition(lambda self: self.handles)
    @rule(index=INDEX)
    def read_open(self, index: int) -> None:
        """All of an open file."""
        pair = self.handles[index % len(self.handles)]
        assert content(pair.mounted) == content(pair.model)

    @precondition(lambda self: self.handles)
    @rule(index=INDEX, keeps_open=st.booleans())
    def save_open(self, index: int, keeps_open: bool) -> None:
        """Fsync or close an open file."""
        pair = self.handles[index % len(self.handles)]
        for descriptor in pair[:2]:
            (os.fsync if keeps_open else os.close)(descriptor)
        if not keeps_open:
            self.handles.remove(pair)
        self.unsaved.pop(pair.inode, None)

    # --- names and attributes -----------------------------------------------------------------------------

    @rule(path=PATHS)
    def mkdir(self, path: str) -> None:
        """A directory."""
        self.both(lambda root: os.mkdir(root / path, 0o751))

    @rule(path=PATHS)
    def remove(self, path: str) -> None:
        """Whatever it is."""
        self.both(lambda root: os.unlink(root / path))
        self.both(lambda root: os.rmdir(root / path))

    @rule(source=PATHS, other=PATHS)
    def rename(self, source: str, other: str) -> None:
        """Move, or replace."""
        self.both(lambda root: os.rename(root / source, root / other))

    @rule(source=PATHS, other=PATHS)
    def link(self, source: str, other: str) -> None:
        """One more name."""
        self.both(lambda root: os.link(root / source, root / other, follow_symlinks=False))

    @rule(path=PATHS, other=PATHS)
    def symlink(self, path: str, other: str) -> None:
        """A symlink, perhaps to nothing or to itself."""
        self.both(lambda root: os.symlink(other, root / path))

    @rule(path=PATHS, mode=st.sampled_from([0o644, 0o4755, 0o600, 0o1777]), owner=st.sampled_from([0, 1000]))
    def change(self, path: str, mode: int, owner: int) -> None:
        """Owner, mode and times."""
        self.both(lambda root: os.chown(root / path, owner, owner))
        self.both(lambda root: os.chmod(root / path, mode))
        self.both(lambda root: os.utime(root / path, ns=(10**18, 10**18 + mode)))
        self.both(lambda root: os.stat(root / path).st_mtime_ns)
        if os.path.isfile(self.model / path):
            self.save(path)  # a time that is set is stored, and all that was written before with it

    @rule(path=PATHS, name=st.sampled_from(["user.a", "user.b"]), length=st.sampled_from([0, 1, 3000]))
    def set_xattr(self, path: str, name: str, length: int) -> None:
        """An extended attribute; ext4 may lack room for two large ones."""
        value = b"v" * length
        if outcome(lambda: os.setxattr(self.model / path, name, value)) != "ENOSPC":
            self.both(lambda root: os.setxattr(root / path, name, value))

    @rule(path=PATHS, name=st.sampled_from(["user.a", "user.b"]))
    def remove_xattr(self, path: str, name: str) -> None:
        """No attribute."""
        self.both(lambda root: os.removexattr(root / path, name))

    # --- the daemon ---------------------------------------------------------------------------------------

    @rule()
    def evict(self) -> None:
        """All bytes are elsewhere."""
        self.mount.evict()

    @rule()
    def remount(self) -> None:
        """In order: nothing is lost."""
        assert self.mount.stop() == 0
        self.mount.start("--allow-other")
        self.close_all()
        self.unsaved.clear()
        self.compare()

    @rule()
    def kill(self) -> None:
        """As a power switch would, but for the disk's cache."""
        self.mount.stop(signal.SIGKILL)
        self.mount.start("--allow-other")
        self.close_all()
        for path in self.model.rglob("*"):
            history = self.unsaved.pop(path.lstat().st_ino, None)
            if history is not None:
                found = (self.mounted / path.relative_to(self.model)).read_bytes()
                assert found in history
                path.write_bytes(found)
        self.unsaved.clear()
        self.compare()


def content(descriptor: int) -> bytes:
    """All bytes of an open file."""
    return os.pread(descriptor, os.fstat(descriptor).st_size + 1, 0)


def describe(root: Path) -> dict[str, object]:
    """All that must be the same of two trees."""
    found: dict[str, object] = {}
    for folder, directories, files in os.walk(root):
        for path in (Path(folder, name) for name in directories + files):
            status = path.lstat()
            told: list[object] = [status.st_mode, status.st_uid, status.st_gid, status.st_nlink]
            if stat.S_ISREG(status.st_mode):
                told += [status.st_size, path.read_bytes()]
            elif stat.S_ISLNK(status.st_mode):
                told += [os.readlink(path)]
            told += [(name, os.getxattr(path, name, follow_symlinks=False)) for name in attributes(path)]
            found[str(path.relative_to(root))] = told
    return found


def attributes(path: Path) -> list[str]:
    """The names of extended attributes that people set."""
    return sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user."))
