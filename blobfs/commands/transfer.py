"""`export` and `import`: whole trees out of a mount in plain, and into one, with all that ordinary files have.

Works on files only, through the mount, whose process is asked for bytes that are not here before they are read: a wait
for it ends with Ctrl-C, one in the kernel does not. What is imported from elsewhere is a directory, too, that rclone
shows. Invariants: nothing that is there already is overwritten; a copied file is whole or not there; one that fails is
named and does not stop the others; nothing is written where a mount has ended.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from blobfs import config, rclone
from blobfs.asking import ask_hidden
from blobfs.commands.bringing import Absent
from blobfs.commands.places import Place, mounted, place
from blobfs.errors import BlobfsError, FileError, NoSpace, NotADirectory, NotMounted, UsageError, WrongPassphrase
from blobfs.outside import look
from blobfs.screen import FilesBar, passing
from blobfs.wording import counted, format_bytes, printable

_PIECE: Final = 1 << 20
_END_S: Final = 5
"""Seconds in which an interrupted copy takes away what it had begun."""
_ENDED: Final = "the mount at {} ended meanwhile; mount it again, then run this again with --again"
_RIGHTS: Final = stat.S_ISUID | stat.S_ISGID
_PART: Final = ".blobfs-part"
"""Behind the name of a file that is not whole yet; an interrupted one is taken away by the next `--again`."""


def export(options: argparse.Namespace) -> int:
    """`export`."""
    source, target = place(options.dir), Path(os.path.abspath(options.target))
    _check_mounted(options.dir)
    if source.mount.mountpoint in (target, *target.parents):
        raise UsageError("the target lies in the mount; name a directory outside of it")
    copying = _Copying(source.mount.mountpoint, target, again=options.again, harmless=not options.keep_setuid)
    copying.absent = Absent(source)
    return _run("exporting", source.path, target, copying)


def load(options: argparse.Namespace) -> int:
    """`import`."""
    text, target = options.source, place(options.dir)
    _check_mounted(options.dir)
    if options.rclone_crypt:
        return _load_crypt(options, _outside(text, target), target)
    if options.password2_file is not None or options.password2_fd is not None:
        raise UsageError("a second password is for --rclone-crypt only; leave it out")
    if rclone.is_address(text):
        asked = partial(_password, options.password_file, options.password_fd, "password of the server")
        return _load_shown(rclone.webdav(text, options.user, asked), target, again=options.again)
    if options.user or options.password_file is not None or options.password_fd is not None:
        raise UsageError("a user and a password are for a server's address or --rclone-crypt; leave them out")
    if text.startswith(rclone.SCHEME):
        return _load_shown(rclone.configured(text), target, again=options.again)
    copying = _Copying(target.mount.mountpoint, target.path, again=options.again)
    return _run("importing", _outside(text, target), target.path, copying)


def _outside(text: str, target: Place) -> Path:
    """The directory `text`, which shares nothing with the mount."""
    source = Path(os.path.abspath(text))
    if not source.is_dir():
        raise NotADirectory(f"{source} is no directory; name the one that holds the files")
    if source in (target.path, *target.path.parents) or target.mount.mountpoint in (source, *source.parents):
        raise UsageError("source and target lie in each other; inside a mount use `blobfs cp`")
    return source


def _load_crypt(options: argparse.Namespace, directory: Path, target: Place) -> int:
    password = _password(options.password_file, options.password_fd, "password of the crypt remote")
    salt = None
    if options.password2_file is not None or options.password2_fd is not None:
        salt = _password(options.password2_file, options.password2_fd, "second password")
    elif options.password_file is None and options.password_fd is None:
        salt = ask_hidden("Its second password, if it has one: ") or None
    source = rclone.crypt(
        directory,
        password,
        salt,
        names=options.crypt_names,
        encoding=options.crypt_encoding,
        plain_folders=options.crypt_plain_folders,
    )
    lost = 0

    def compare(here: Path) -> None:
        # rclone leaves out, without a word, what does not open.
        nonlocal lost
        with passing("reading the names"):
            lost = rclone.count(directory) - (found := rclone.count(here))
        if lost and not found:
            raise WrongPassphrase("the password opens no name in that directory; check it, and --crypt-names")

    code = _load_shown(source, target, again=options.again, look=compare)
    if lost:
        raise FileError(f"{lost} names in that directory are no file or folder of this password, and were left out")
    return code


def _load_shown(
    source: rclone.Source, target: Place, *, again: bool, look: Callable[[Path], None] = lambda here: None
) -> int:
    """Import what rclone reads; `look` sees it before."""
    stop, done = threading.Event(), Future[int]()
    copying = _Copying(target.mount.mountpoint, target.path, again=again, afar=stop)

    def work(here: Path) -> None:
        try:
            done.set_result(_run("importing", here, target.path, copying))
        except BaseException as error:
            done.set_exception(error)

    with ExitStack() as ending, _showing(source) as shown:
        look(shown.path)
        # The kernel lets no thread go that waits for rclone, not even to be killed. This one waits for that one only.
        thread = threading.Thread(target=work, args=(shown.path,), daemon=True)
        # Once rclone is gone nothing is waited for, and what was begun is taken away.
        ending.callback(thread.join, _END_S)
        thread.start()
        try:
            return done.result()
        except FileError:
            if said := shown.complaint():
                print(f"blobfs: rclone says: {said}", file=sys.stderr)
            raise
        finally:
            stop.set()


@contextmanager
def _showing(source: rclone.Source) -> Iterator[rclone.Shown]:
    with ExitStack() as showing:
        with passing("asking the source what it has"):
            shown = showing.enter_context(rclone.shown(source))
        yield shown


def _password(file: Path | None, descriptor: int | None, what: str) -> str:
    """Of another service; from where an option says, or from the terminal."""
    from blobfs.unlock import has_terminal, read_source  # brings the store with it

    if file is not None or descriptor is not None:
        return read_source(config.Source(file=file, fd=descriptor), what)
    if not has_terminal():
        raise UsageError(f"there is no terminal to ask for the {what} on; give --password-file FILE")
    return ask_hidden(f"{what.capitalize()}: ")


def _check_mounted(path: Path) -> None:
    if look(mounted(path)).pid is None:
        raise NotMounted(f"{path} is not mounted; mount it with `blobfs mount`")


def _run(what: str, source: Path, target: Path, copying: _Copying) -> int:
    if not copying.again and target.is_dir() and any(target.iterdir()):
        raise UsageError(f"{target} is not empty; give --again to go on with an earlier copy, or name another place")
    with passing("counting what there is to copy"):
        count, total = copying.measure(source)
    with FilesBar(what, count, total) as copying.bar:
        copying.all(source, target)
    same = f", {copying.equal} were there already" if copying.equal else ""
    print(f"{counted(copying.files, 'file')}, {format_bytes(copying.size)}{same}.")
    if copying.failed:
        raise FileError(f"{counted(copying.failed, 'file')} could not be copied; see above, then run it with --again")
    return 0


class _Copying:
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

    def measure(self, source: Path) -> tuple[int, int]:
        """How many files, links and other things there are, and the bytes of all files, each once."""
        seen, total, count = set[tuple[int, int]](), 0, 0
        for info in _infos(source):
            count += not stat.S_ISDIR(info.st_mode)
            if stat.S_ISREG(info.st_mode) and (info.st_dev, info.st_ino) not in seen:
                total += info.st_size
                if info.st_nlink > 1:
                    seen.add((info.st_dev, info.st_ino))
        return count, total

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
