"""`export` and `import`: what is copied from where, and in plain to where.

What is imported from elsewhere is a directory, too, that rclone shows; the copying itself is `copying.py`'s. Invariant:
source and target never lie in each other.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from blobfs import config, rclone
from blobfs.asking import ask_hidden
from blobfs.commands.bringing import Absent
from blobfs.commands.copying import Copying, measure
from blobfs.commands.places import Place, mounted, place
from blobfs.errors import FileError, NotADirectory, NotMounted, UsageError, WrongPassphrase
from blobfs.outside import look
from blobfs.screen import FilesBar, passing
from blobfs.wording import counted, format_bytes

_END_S: Final = 5
"""Seconds in which an interrupted copy takes away what it had begun."""


def export(options: argparse.Namespace) -> int:
    """`export`."""
    source, target = place(options.dir), Path(os.path.abspath(options.target))
    _check_mounted(options.dir)
    if source.mount.mountpoint in (target, *target.parents):
        raise UsageError("the target lies in the mount; name a directory outside of it")
    copying = Copying(source.mount.mountpoint, target, again=options.again, harmless=not options.keep_setuid)
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
    copying = Copying(target.mount.mountpoint, target.path, again=options.again)
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
    copying = Copying(target.mount.mountpoint, target.path, again=again, afar=stop)

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


def _run(what: str, source: Path, target: Path, copying: Copying) -> int:
    if not copying.again and target.is_dir() and any(target.iterdir()):
        raise UsageError(f"{target} is not empty; give --again to go on with an earlier copy, or name another place")
    with passing("counting what there is to copy"):
        count, total = measure(source)
    with FilesBar(what, count, total) as copying.bar:
        copying.all(source, target)
    same = f", {copying.equal} were there already" if copying.equal else ""
    print(f"{counted(copying.files, 'file')}, {format_bytes(copying.size)}{same}.")
    if copying.failed:
        raise FileError(f"{counted(copying.failed, 'file')} could not be copied; see above, then run it with --again")
    return 0
