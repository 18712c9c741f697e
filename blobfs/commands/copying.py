"""Copying a tree with all that ordinary files have: out of a mount, or into one.

Works on files only, through the mount, whose process is asked for bytes that are not here before they are read: a wait
for it ends with Ctrl-C, one in the kernel does not. Invariants: nothing that is there already is overwritten; a copied
file is whole or not there; one that fails is named and does not stop the others; nothing is written where a mount has
ended.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from blobfs.commands.bringing import Absent
from blobfs.errors import BlobfsError, NoSpace, NotMounted
from blobfs.screen import FilesBar
from blobfs.wording import counted, printable

_PIECE: Final = 1 << 20
_ENDED: Final = "the mount at {} ended meanwhile; mount it again, then run this again with --again"
_RIGHTS: Final = stat.S_ISUID | stat.S_ISGID
_PART: Final = ".blobfs-part"
"""Behind the name of a file that is not whole yet; an interrupted one is taken away by the next `--again`."""


def measure(source: Path) -> tuple[int, int]:
    """How many files, links and other things there are, and the bytes of all files, each once."""
    seen, total, count = set[tuple[int, int]](), 0, 0
    for info in _infos(source):
        count += not stat.S_ISDIR(info.st_mode)
        if stat.S_ISREG(info.st_mode) and (info.st_dev, info.st_ino) not in seen:
            total += info.st_size
            if info.st_nlink > 1:
                seen.add((info.st_dev, info.st_ino))
    return count, total


class Copying:
    """One run."""

    def __init__(
        self,
        mountpoint: Path,
        target: Path,
        *,
        again: bool,
        afar: threading.Event | None = None,
        harmless: bool = False,
    ) -> None:
        """`afar`: from what rclone shows, until that is set; `harmless`: without what gives programs rights."""
        self.again = again
        self.absent: Absent | None = None
        """What is not here of the source."""
        self._mountpoint, self._top = mountpoint, target
        # Below a mount all is of one device, and the directory under it is of another.
        self._device = mountpoint.stat().st_dev if mountpoint in (target, *target.parents) else None
        self._stop = afar or threading.Event()
        # What rclone shows has modes and times, and an error where others have extended attributes.
        self._copy_stat: Callable[[Path, Path], None] = (
            _copy_bare_stat if afar else _copy_harmless_stat if harmless else shutil.copystat
        )
        self._left_out = _RIGHTS if harmless else 0
        self.bar = FilesBar("", 0, 0)
        self.files = self.size = self.equal = self.failed = 0
        self._links: dict[tuple[int, int], Path] = {}
        """Where the first name of a file with several was copied to."""

    def all(self, source: Path, target: Path) -> None:
        """A directory with all in it, or one file into a directory. Raises NoSpace, NotMounted: the rest is not there.

        What else is wrong with a file is told, and counted.
        """
        try:
            self._all(source, target)
        except OSError as error:
            self._check_ends(error)
            raise
        # The directory under a mount that ended is empty, and nothing is wrong with copying that.
        self._check_mount()

    def _all(self, source: Path, target: Path) -> None:
        if source.is_dir() and not source.is_symlink():
            self._folder(source, target)
        else:
            target.mkdir(parents=True, exist_ok=True)
            self._check_device(target.stat())
            if self.absent is not None:
                self.absent.expect(source)
            self._guarded(self._one, source, target / source.name)

    def _folder(self, source: Path, target: Path) -> None:
        """A directory and all in it; its own times come last, since what is put into it changes them."""
        target.mkdir(parents=True, exist_ok=True)
        self._check_device(target.stat())
        with os.scandir(source) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        if self.absent is not None:
            self.absent.look(source)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                self._guarded(self._inner, Path(entry.path), target / entry.name)
            else:
                self._guarded(self._one, Path(entry.path), target / entry.name)
        self._copy_stat(source, target)

    def _inner(self, source: Path, target: Path) -> None:
        # A link of an earlier copy, where a folder is now, would lead out of the target.
        if target.is_symlink():
            raise FileExistsError(errno.EEXIST, "a link of that name is there, and is not followed")
        self._folder(source, target)

    def _guarded(self, act: Callable[[Path, Path], None], source: Path, target: Path) -> None:
        if self._stop.is_set():
            return
        try:
            act(source, target)
        except (NoSpace, NotMounted):
            raise
        except (BlobfsError, OSError) as error:
            if self._stop.is_set():
                return
            self._check_ends(error)
            self.failed += 1
            # What to do is the same for all of them, and said at the end.
            told = (error.strerror if isinstance(error, OSError) else None) or str(error).partition(";")[0]
            self.bar.say(f"blobfs: {printable(os.fspath(source))}: {printable(told)}")

    def _check_ends(self, error: Exception) -> None:
        """Raise what stops the others, too."""
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            disk = self._top if self._device is None else f"the store of {self._mountpoint}"
            raise NoSpace(
                f"the disk of {disk} is full, with {counted(self.files, 'file')} copied; make some room, then run it "
                "again with --again"
            ) from None
        self._check_mount()

    def _check_mount(self) -> None:
        if not os.path.ismount(self._mountpoint):
            raise NotMounted(_ENDED.format(self._mountpoint)) from None

    def _check_device(self, info: os.stat_result) -> None:
        """See that what was just made is in the mount: when that ends, its path is one in the directory under it."""
        if self._device is not None and info.st_dev != self._device:
            raise NotMounted(_ENDED.format(self._mountpoint))

    def _one(self, source: Path, target: Path) -> None:
        """Anything but a directory. Raises OSError."""
        info = source.lstat()
        known = self._links.get((info.st_dev, info.st_ino)) if info.st_nlink > 1 else None
        is_there = self._is_there(info, target)
        if is_there:
            self.equal += 1
            self.bar.skip(info.st_size if known is None and stat.S_ISREG(info.st_mode) else 0)
        elif stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(source), target)
            shutil.copystat(source, target, follow_symlinks=False)
        elif known is not None:
            os.link(known, target)
        elif stat.S_ISREG(info.st_mode):
            self._file(source, target, info)
        else:
            raise OSError(errno.ENOTSUP, "only files, folders and links are copied")
        (self.bar.skip if is_there else self.bar.advance)(0, files=1)
        if info.st_nlink > 1:
            self._links.setdefault((info.st_dev, info.st_ino), target)

    def _is_there(self, info: os.stat_result, target: Path) -> bool:
        try:
            there = target.lstat()
        except FileNotFoundError:
            return False
        if not self.again:
            raise FileExistsError(errno.EEXIST, "there is a file of that name already")
        same = (there.st_mode, there.st_mtime_ns) == (info.st_mode & ~self._left_out, info.st_mtime_ns) and (
            not stat.S_ISREG(info.st_mode) or there.st_size == info.st_size
        )
        if same or (stat.S_ISLNK(info.st_mode) and stat.S_ISLNK(there.st_mode)):
            return True
        raise FileExistsError(errno.EEXIST, "another file of that name is there, and is left alone")

    def _file(self, source: Path, target: Path, info: os.stat_result) -> None:
        part = _part(source, target)
        part.unlink(missing_ok=True)
        try:
            with open(source, "rb", buffering=0) as reader, open(part, "xb", buffering=0) as writer:
                self._check_device(os.fstat(writer.fileno()))
                self._bytes(source, reader.fileno(), writer.fileno())
                # rclone tells of bytes that do not open by ending early, and then calls that the size.
                if os.fstat(writer.fileno()).st_size < info.st_size:
                    raise OSError(errno.EIO, "it ended before its size")
            self._copy_stat(source, part)
            os.rename(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self.files += 1
        self.size += info.st_size

    def _bytes(self, path: Path, source: int, target: int) -> None:
        """Copy, leaving holes where there are none but zeros."""
        at = 0
        while not self._stop.is_set():
            if self.absent is not None:
                self.absent.bring(path, at)
            if not (piece := os.read(source, _PIECE)):
                break
            # A disk that is nearly full takes a part of it, and only then says no.
            written = len(piece) if piece.count(0) == len(piece) else 0
            while written < len(piece):
                written += os.pwrite(target, piece[written:], at + written)
            at += len(piece)
            self.bar.advance(len(piece))
        if self._stop.is_set():
            raise InterruptedError(errno.EINTR, "it was interrupted")
        os.ftruncate(target, at)
        if self.absent is not None:
            self.absent.forget(path)


def _part(source: Path, target: Path) -> Path:
    """What a file is called until it is whole; no name of a file that is copied, too."""
    number = ""
    # A name has 255 bytes at most, and a character up to four.
    while os.path.lexists(source.with_name(part := f"{target.name[:60]}{_PART}{number}")):
        number = str(int(number or 1) + 1)
    return target.with_name(part)


def _copy_bare_stat(source: Path, target: Path) -> None:
    info = source.stat()
    target.chmod(stat.S_IMODE(info.st_mode))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _copy_harmless_stat(source: Path, target: Path) -> None:
    """As `shutil.copystat`, and never, not for a moment, with what another device could give a program rights by."""
    for name in os.listxattr(source):
        if not name.startswith("security."):
            with suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))
    info = source.stat()
    target.chmod(stat.S_IMODE(info.st_mode) & ~_RIGHTS)
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _infos(top: Path) -> Iterator[os.stat_result]:
    if not top.is_dir() or top.is_symlink():
        yield top.lstat()
        return
    for folder, directories, files in os.walk(top):
        for name in (*directories, *files):
            try:
                yield os.lstat(os.path.join(folder, name))
            except OSError:
                continue  # it went meanwhile, or cannot be read: copying will say so
