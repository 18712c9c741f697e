"""Somebody at one device: ordinary system calls on a few names, each entered in the account as it returns.

Whoever removes or overwrites looks first, with the file held open, so that no newer version comes in between.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blobfs.control import ask
from blobfs.errors import NotFound
from tests.e2e.devices import Device
from tests.e2e.witness import CELL, Mark, View, Witness, digest

NAMES: Final = ("a", "b", "c.txt", "d", "e")
EXPECTED: Final = {
    errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.EPERM,
    errno.ENETUNREACH, errno.ESTALE, errno.EBUSY, errno.ELOOP, errno.ENAMETOOLONG,
}  # fmt: skip
"""What a call may answer when another device was there first."""
_EXCHANGE: Final = 2
_FAR: Final = 300_000 // CELL * CELL
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass
class Handle:
    """A file that stays open."""

    path: Path
    descriptor: int
    inode: int
    doc_id: str
    is_log: bool
    pending: list[Mark] = field(default_factory=list)
    """Written, and not acknowledged as safe yet."""
    is_orphan: bool = False
    """Its last name was removed on this device."""


class Hands:
    """Those at one device."""

    def __init__(self, device: Device, witness: Witness, dice: random.Random) -> None:
        self.name, self.root, self.store = device.mount.name, device.mount, device.store
        self.witness, self.dice = witness, dice
        self.handles: list[Handle] = []
        self.is_away = False
        """The server is out of reach: what is not here is not asked for, since each question takes half a minute."""

    # --- what is there --------------------------------------------------------------------------------------

    def paths(self) -> list[Path]:
        """All that is below the top, in order."""
        found: list[Path] = []
        for folder, directories, files in os.walk(self.root):
            found += [Path(folder, name) for name in directories + files]
        return sorted(found)

    def folders(self) -> list[Path]:
        """All directories, the top too."""
        return [self.root, *(path for path in self.paths() if path.is_dir() and not path.is_symlink())]

    def place(self) -> Path:
        """A name in some directory, there or not, not deep."""
        folders = [path for path in self.folders() if len(path.relative_to(self.root).parts) < 3]
        return self.dice.choice(folders) / self.dice.choice(NAMES)

    def some(self) -> Path:
        """Something that is there, or a name."""
        return self.dice.choice([*self.paths(), self.place()])

    def file(self) -> Path:
        """A file that is there, or a name."""
        files = [path for path in self.paths() if path.is_file() and not path.is_symlink()]
        return self.dice.choice(files) if files and self.dice.random() < 0.85 else self.place()

    def short(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def tell(self, text: str) -> None:
        self.witness.tell(f"{self.name}: {text}")

    # --- looking ----------------------------------------------------------------------------------------------

    def look(self, path: Path) -> View | None:
        """What this device shows there; None for what has no bytes. Raises OSError: ENETUNREACH also."""
        info = path.lstat()
        doc_id = self.doc_id(path)
        self._check_here(path)
        told = list(self.document(doc_id).values())
        if path.is_symlink():
            data = os.readlink(path).encode() + b"\n"
        elif path.is_dir():
            data = b""
        else:
            data = path.read_bytes()
        marks = [*self.witness.marks_of(data), *told]
        self.witness.places.update(dict.fromkeys(marks, doc_id))
        return View(doc_id, frozenset(marks), digest(data), info.st_nlink if not path.is_dir() else 1)

    def _check_here(self, path: Path) -> None:
        if self.is_away and path.is_file() and not path.is_symlink():
            words = os.getxattr(path, "user.blobfs.state").split()
            if b"LOCAL" not in words and b"NONE" not in words and path.lstat().st_size:
                raise OSError(errno.ENETUNREACH, "its bytes are elsewhere")

    def doc_id(self, path: Path) -> str:
        """The document of what is there. Raises OSError."""
        if path.is_symlink():  # which has no attributes of a user's
            try:
                return str(ask(self.store, "file", path=self.short(path))["doc_id"])
            except NotFound:
                raise FileNotFoundError(errno.ENOENT, "gone meanwhile") from None
        return os.getxattr(path, "user.blobfs.doc_id").decode()

    def document(self, doc_id: str) -> dict[str, Mark]:
        """The marks in a document's text, by key."""
        text = (self.root / ".blobfs" / "documents" / f"{doc_id}.json").read_bytes()
        return {key: value.encode() for key, value in json.loads(text).items() if key.startswith("mark")}

    @contextmanager
    def _held(self, path: Path) -> Iterator[View | None]:
        """The view of what is to go, which no newer version replaces meanwhile; given up when the block succeeds."""
        descriptor = None
        is_sure = self.dice.random() < 0.75
        try:
            if path.is_file() and not path.is_symlink() and (is_sure or path.lstat().st_nlink > 1):
                descriptor = os.open(path, os.O_RDONLY)
            view = self._try_look(path)
            was = path.lstat() if view is not None else None
            yield view
            if view is None or was is None:
                return
            # Its other names may have gone meanwhile, elsewhere.
            if view.names == 1 or (descriptor is not None and not os.fstat(descriptor).st_nlink):
                self.witness.give_up(view.marks)
                self.tell(f"  gives up {sorted(view.marks)} of {view.doc_id}")
                for handle in self.handles:
                    if handle.inode == was.st_ino:
                        handle.is_orphan = True
                if "?" in view.digest:
                    self.witness.change_unseen(self.name, view.doc_id)
                if not is_sure:
                    self.witness.unsure.add(view.doc_id)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _try_look(self, path: Path) -> View | None:
        try:
            return self.look(path)
        except OSError as error:
            if error.errno == errno.ENETUNREACH:
                # Its bytes are elsewhere: whoever removes it now has not read it.
                doc_id = self.doc_id(path)
                return View(doc_id, frozenset(), "?", path.lstat().st_nlink)
            if error.errno in EXPECTED:
                return None
            raise

    # --- writing ------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """A file anew, in place."""
        path = self.file()
        count = self.dice.choice((1, 1, 2, 5))
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        self._on_file(path, flags, lambda descriptor: self._put(descriptor, 0, count))

    def append(self) -> None:
        path = self.file()
        flags = os.O_WRONLY | os.O_APPEND | (os.O_CREAT if self.dice.random() < 0.5 else 0)
        self._on_file(path, flags, lambda descriptor: self._put(descriptor, None))

    def poke(self) -> None:
        """One cell is overwritten, or one far behind the end."""

        def act(descriptor: int) -> list[Mark]:
            size = os.fstat(descriptor).st_size
            offset = _FAR if self.dice.random() < 0.15 else self.dice.randrange(size // CELL + 1) * CELL
            old = os.pread(descriptor, CELL, offset)
            marks = self._put(descriptor, offset)
            self.witness.give_up([old])
            return marks

        self._on_file(self.file(), os.O_RDWR, act)

    def cut(self) -> None:
        """A file is cut, or made longer by a hole."""

        def act(descriptor: int) -> list[Mark]:
            size = os.fstat(descriptor).st_size
            length = self.dice.randrange(size // CELL + 2) * CELL
            gone = self.witness.marks_of(os.pread(descriptor, size, length)) if length < size else []
            os.ftruncate(descriptor, length)
            self.witness.give_up(gone)
            self.tell(f"  to {length} of {size}, gives up {gone}")
            return []

        self._on_file(self.file(), os.O_RDWR, act)

    def map(self) -> None:
        """A write through a mapping."""

        def act(descriptor: int) -> list[Mark]:
            size = os.fstat(descriptor).st_size
            if not size:
                return []
            os.pread(descriptor, size, 0)  # what does not come is an error here, and a fatal signal through a mapping
            offset = self.dice.randrange(size // CELL) * CELL
            mark = self.witness.issue(self.name)
            with mmap.mmap(descriptor, size) as mapping:
                old = mapping[offset : offset + CELL]
                mapping[offset : offset + CELL] = mark
                self.tell(f"  maps {mark!r} over {old!r}")
                if self.dice.random() < 0.5:
                    mapping.flush()
            self.witness.give_up([old])
            return [mark]

        self._on_file(self.file(), os.O_RDWR, act)

    def _put(self, descriptor: int, offset: int | None, count: int = 1) -> list[Mark]:
        marks = [self.witness.issue(self.name) for _ in range(count)]
        self.tell(f"  puts {marks} at {offset}")
        data = b"".join(marks)
        done = os.write(descriptor, data) if offset is None else os.pwrite(descriptor, data, offset)
        assert done == len(data)
        return marks

    def _on_file(self, path: Path, flags: int, act: Callable[[int], list[Mark]]) -> None:
        """Open, act, close, and enter what was acknowledged."""
        holder = None
        if flags & os.O_TRUNC:
            # Looked at with the file held, and emptied by the open.
            with suppress(FileNotFoundError):
                holder = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            descriptor = os.open(path, ((flags & ~os.O_TRUNC) if holder is not None else flags) | os.O_NOFOLLOW, 0o644)
            marks: list[Mark] = []
            try:
                view = self._try_look(path)
                doc_id = view.doc_id if view is not None else ""
                info = os.fstat(descriptor)
                self.tell(f"  {self.short(path)} is {view and (view.doc_id, view.digest, sorted(view.marks))}")
                is_same = view is not None and path.lstat().st_ino == info.st_ino
                if flags & os.O_TRUNC and holder is not None:
                    seen: list[Mark] = []
                    try:
                        self._check_here(path)
                        seen = self.witness.marks_of(os.pread(holder, 1 << 20, 0))
                    except OSError as error:
                        if error.errno != errno.ENETUNREACH:
                            raise
                        self.witness.change_unseen(self.name, doc_id)
                    os.ftruncate(descriptor, 0)
                    self.witness.give_up(seen)
                if not flags & os.O_TRUNC:
                    self._check_here(path)
                marks = act(descriptor)
                if self.dice.random() < 0.1:
                    os.fsync(descriptor)
                if not info.st_nlink or not is_same:
                    marks = []  # it was removed before anything was written
            finally:
                os.close(descriptor)
            self.witness.acknowledge(marks, doc_id)
        finally:
            if holder is not None:
                os.close(holder)

    def save(self) -> None:
        """As an editor does: a file beside, moved over the old one."""
        path = self.file()
        beside = path.with_name(f".{path.name}-{self.dice.randrange(1000)}.new")
        descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            marks = self._put(descriptor, 0, self.dice.choice((1, 1, 2, 5)))
            if self.dice.random() < 0.5:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        doc_id = self.doc_id(beside)
        self.witness.acknowledge(marks, doc_id)
        try:
            with self._held(path):
                beside.rename(path)
        except OSError:
            self._drop(beside)
            raise

    def _drop(self, path: Path) -> None:
        """Remove a file of one's own."""
        with suppress(FileNotFoundError), self._held(path):
            path.unlink()

    def describe(self) -> None:
        """Write a key of a document's text."""
        path = self.some()
        doc_id = self.doc_id(path)
        text = self.root / ".blobfs" / "documents" / f"{doc_id}.json"
        body = json.loads(text.read_bytes())
        key, mark = f"mark{self.dice.randrange(2)}", self.witness.issue(self.name)
        old = body.get(key)
        body[key] = mark.decode()
        self.tell(f"  {key} of {self.short(path)} {doc_id} is {mark!r}, was {old!r}")
        text.write_text(json.dumps(body))
        if old is not None:
            self.witness.give_up([old.encode()])
        if path.lstat().st_nlink:
            self.witness.acknowledge([mark], doc_id)

    # --- names ----------------------------------------------------------------------------------------------------

    def mkdir(self) -> None:
        path = self.place()
        self.tell(f"  {self.short(path)}")
        path.mkdir()

    def symlink(self) -> None:
        path, mark = self.place(), self.witness.issue(self.name)
        self.tell(f"  {self.short(path)} to {mark!r}")
        os.symlink(mark.decode().strip(), path)
        doc_id = self.doc_id(path)
        self.witness.acknowledge([mark], doc_id)

    def link(self) -> None:
        path, new = self.file(), self.place()
        self.tell(f"  {self.short(path)} as {self.short(new)}")
        os.link(path, new)

    def rename(self) -> None:
        path, new = self.some(), self.place()
        self.tell(f"  {self.short(path)} to {self.short(new)}")
        if self._is_same(path, new):
            path.rename(new)
            return
        with self._held(new) as view:
            self.tell(f"  there was {view}")
            path.rename(new)

    def _is_same(self, path: Path, other: Path) -> bool:
        return path.lstat().st_ino == other.lstat().st_ino if other.exists() or other.is_symlink() else False

    def exchange(self) -> None:
        path, other = self.some(), self.some()
        self.tell(f"  {self.short(path)} and {self.short(other)}")
        if _LIBC.renameat2(-100, os.fsencode(path), -100, os.fsencode(other), _EXCHANGE):
            raise OSError(ctypes.get_errno(), "exchange")

    def remove(self) -> None:
        """A file, or a directory with all in it."""
        path = self.some()
        self.tell(f"  {self.short(path)}")
        self._remove(path)

    def _remove(self, path: Path) -> None:
        if path.is_symlink() or not path.is_dir():
            with self._held(path) as view:
                self.tell(f"  removes {self.short(path)}: {view}")
                path.unlink()
            return
        for inside in sorted(path.iterdir()):
            with suppress(FileNotFoundError):
                self._remove(inside)
        with self._held(path):
            path.rmdir()

    def chmod(self) -> None:
        path = self.some()
        if not path.is_symlink():
            path.chmod(self.dice.choice((0o600, 0o640, 0o644) if not path.is_dir() else (0o700, 0o750, 0o755)))

    def attribute(self) -> None:
        path = self.some()
        if not path.is_symlink():
            os.setxattr(path, f"user.x{self.dice.randrange(3)}", self.witness.issue(self.name))

    # --- files that stay open --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open one more, for a log or to write anywhere."""
        if len(self.handles) >= 3:
            self.close()
        path, is_log = self.file(), self.dice.random() < 0.5
        flags = os.O_RDWR | (os.O_APPEND | os.O_CREAT if is_log else 0)
        descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o644)
        doc_id = self.doc_id(path)
        self.tell(f"  {self.short(path)} {doc_id}")
        self.handles.append(Handle(path, descriptor, os.fstat(descriptor).st_ino, doc_id, is_log))

    def use(self) -> None:
        """Write through an open one."""
        if not self.handles:
            return
        handle = self.dice.choice(self.handles)
        if self.is_away:
            return
        data = os.pread(handle.descriptor, 1 << 20, 0)
        self.witness.marks_of(data)
        offset = None if handle.is_log else self.dice.randrange(len(data) // CELL + 1) * CELL
        old = b"" if offset is None else data[offset : offset + CELL]
        self.tell(f"  {self.short(handle.path)} {handle.doc_id} over {old!r}, orphan: {handle.is_orphan}")
        marks = self._put(handle.descriptor, offset)
        self.witness.give_up([old])
        handle.pending = [mark for mark in handle.pending if mark != old] + marks
        if self.dice.random() < 0.4:
            os.fsync(handle.descriptor)
            self._settle(handle)

    def _settle(self, handle: Handle) -> None:
        pending, handle.pending = handle.pending, []
        if not handle.is_orphan:
            self.witness.acknowledge(pending, handle.doc_id)

    def close(self) -> None:
        """Close one."""
        if not self.handles:
            return
        handle = self.handles.pop(self.dice.randrange(len(self.handles)))
        self.tell(f"  {self.short(handle.path)} {handle.doc_id}, {handle.pending}, orphan: {handle.is_orphan}")
        os.close(handle.descriptor)
        self._settle(handle)

    def close_all(self) -> None:
        while self.handles:
            self.close()

    def lose_all(self) -> None:
        """The daemon died: what was not acknowledged by then may be gone."""
        for handle in self.handles:
            with suppress(OSError):
                os.close(handle.descriptor)
        self.handles.clear()
