"""Sources that rclone can read (crypt directories, WebDAV servers, what remote it knows), shown as a directory.

Drives the installed rclone: a read-only mount of its own in a private temporary directory, from which `import` copies
as from any other directory. The kernel checks the names that come this way, so none leads out of it. Knows nothing of
copying. Invariants: a password is in no argument, and in no file but the one it was read from; on leaving, the mount,
the process and the directory are gone. When this process is killed rclone ends, too, and the next run clears the rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    MountPointUnusable,
    NotADirectory,
    NotFound,
    RemoteUnavailable,
    UsageError,
)
from blobfs.mountpoint import check_fuse, unmount
from blobfs.wording import printable

SCHEME: Final = "rclone:"
"""Before a remote as rclone itself names it."""
_SECURE: Final = ("https", "davs", "webdavs")
_PLAIN: Final = ("http", "dav", "webdav")
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_NAME: Final = "blobfs"
"""What the remote is called that exists in rclone's environment only."""
_PATIENCE: Final = ("--contimeout=15s", "--timeout=30s", "--low-level-retries=3", "--ask-password=false")
"""A server that hangs holds a read no longer than this."""
_MOUNT: Final = ("--read-only", "--vfs-cache-mode=off", "--dir-cache-time=1000h", "--poll-interval=0")
_PREFIX: Final = "blobfs-import-"
"""Of the temporary directory; then the number of the process that made it."""
_START_S: Final = 30.0
_LOOK_S: Final = 0.02
_NO_DIRECTORY: Final = 3
"""rclone's exit code."""
_REFUSALS: Final[tuple[tuple[str, type[BlobfsError], str], ...]] = (
    ("401 ", AccessDenied, "the server refuses user or password; check both, or make an app password there ({said})"),
    ("403 ", AccessDenied, "the server lets this user not into that folder; check the path ({said})"),
    (
        *("x509: ", RemoteUnavailable),
        "this machine does not trust the server's certificate, so nothing was sent; if it is yours, name its file in "
        "SSL_CERT_FILE and try again ({said})",
    ),
    ("connection refused", RemoteUnavailable, "nothing answers at this address; check it, or start the server"),
    ("no such host", RemoteUnavailable, "there is no host of this name; check the address"),
    ("timeout", RemoteUnavailable, "the server does not answer; check the address, or try again later ({said})"),
)
"""What rclone says, in part, and what that is here."""
_NOISE: Final = re.compile(
    r"^(?:\d{4}/\d\d/\d\d \d\d:\d\d:\d\d )?(?:Failed to .*?last error was: )?(?:error in ListJSON: )?"
)
"""Before what rclone has to say."""
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Source:
    """A place that rclone reads."""

    spec: str
    """As rclone's commands take it."""
    settings: dict[str, str] = field(default_factory=dict, repr=False)
    """Of the remote `blobfs`, if that is the one; passwords are in rclone's own disguise, which hides nothing."""

    def environment(self) -> dict[str, str]:
        """For rclone. A remote of ours depends on nothing that the user set up for others."""
        if not self.settings:
            return dict(os.environ)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
        made = {f"RCLONE_CONFIG_{_NAME.upper()}_{name.upper()}": value for name, value in self.settings.items()}
        return kept | made | {"RCLONE_CONFIG": ""}


# --- what there is to read ------------------------------------------------------------------------------------------


def is_address(text: str) -> bool:
    """Whether `text` is a WebDAV server's address and not a directory's path."""
    return text.partition("://")[0].lower() in (*_SECURE, *_PLAIN) and "://" in text


def webdav(address: str, user: str | None, password: Callable[[], str]) -> Source:
    """A folder of a WebDAV server.

    Args:
        password: asked once, if there is a user.
    Raises:
        UsageError: the address cannot be used, holds a password, or would send one unprotected.
    """
    try:
        parts = urlsplit(address)
        host, given, port = parts.hostname, parts.username, parts.port
    except ValueError:
        raise UsageError("this is no address of a server; it looks like https://HOST/PATH") from None
    if not host or parts.query or parts.fragment:
        raise UsageError("this is no address of a WebDAV folder; it looks like https://HOST/PATH")
    if parts.password is not None:
        raise UsageError("a password in an address can be read by others; give --password-file, or type it when asked")
    user = user or given
    scheme = "https" if parts.scheme.lower() in _SECURE else "http"
    if scheme == "http" and host not in _LOOPBACK:
        raise UsageError("without https everybody on the way can read along; name the server as https://HOST/PATH")
    place = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{place}{f':{port}' if port else ''}{parts.path}"
    settings = {"type": "webdav", "vendor": "other", "url": url}
    if user:
        settings |= {"user": user, "pass": _disguise(password())}
    return Source(f"{_NAME}:", settings)


def crypt(
    directory: Path, password: str, salt: str | None, *, names: str, encoding: str, plain_folders: bool
) -> Source:
    """A directory that rclone wrote as a crypt remote.

    Args:
        salt: rclone's `password2`, if one was set.
        names, encoding: its `filename_encryption` and `filename_encoding`.
        plain_folders: its `directory_name_encryption` was false.
    """
    settings = {
        "type": "crypt",
        "remote": os.fspath(directory),
        "password": _disguise(password),
        "filename_encryption": names,
        "filename_encoding": encoding,
        "directory_name_encryption": "false" if plain_folders else "true",
    }
    if salt:
        settings["password2"] = _disguise(salt)
    return Source(f"{_NAME}:", settings)


def configured(text: str) -> Source:
    """`rclone:REMOTE:PATH`: what the user's own rclone knows."""
    return Source(text.removeprefix(SCHEME))


def _program() -> str:
    found = shutil.which("rclone")
    if found is None:
        raise UsageError("this needs rclone, which is not installed; install it (`apt-get install rclone`), try again")
    return found


def _disguise(password: str) -> str:
    """As rclone wants a password in its settings."""
    if "\n" in password:
        raise UsageError("the password has more than one line; check the file or the descriptor")
    done = subprocess.run(  # noqa: S603 - what the PATH names
        [_program(), "obscure", "-"], input=password, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise UsageError("rclone does not take this password; check the file or the descriptor")
    return done.stdout.strip()


# --- showing it -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """A source while it is there as a directory."""

    path: Path
    log: Path

    def complaint(self) -> str:
        """What rclone said last, without its date; empty if it had nothing to say."""
        return _last_line(self.log.read_text(encoding="utf-8", errors="replace"))


@contextlib.contextmanager
def shown(source: Source) -> Iterator[Shown]:
    """The directory with all that is at `source`, until the end of the context.

    Raises:
        UsageError: there is no rclone. FuseMissing: nothing can be mounted here.
        AccessDenied, NotFound, RemoteUnavailable: it cannot be read; with what rclone said.
    """
    program = _program()
    check_fuse()
    _probe(program, source)
    _clear()
    top = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        made = Shown(top / "source", top / "log")
        made.path.mkdir()
        process = _start(program, source, made)
        try:
            _await_mount(process, made)
            yield made
        finally:
            _stop(process, made.path)
    finally:
        with contextlib.suppress(OSError):
            _remove(top)


def _remove(top: Path) -> None:
    # What is mounted is never walked into to be removed: this takes an empty directory only.
    (top / "source").rmdir()
    (top / "log").unlink(missing_ok=True)
    top.rmdir()


def _clear() -> None:
    """Take away what runs that were killed have left: rclone cannot unmount what is being read."""
    for top in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        number = top.name.split("-")[2]
        # Whether it is alive is not asked of the mount, which may be another run's that waits for its server.
        if number.isdecimal() and top.lstat().st_uid == os.geteuid() and not Path("/proc", number).exists():
            with contextlib.suppress(OSError, MountPointUnusable):
                unmount(top / "source", lazy=True)
                _remove(top)


def _probe(program: str, source: Source) -> None:
    """See that the top is a folder and can be listed: a mount would come up all the same, and be empty."""
    done = _ask(program, source, "lsf", "--max-depth=1")
    if done.returncode != 0:
        raise _refusal(done.returncode, _last_line(done.stderr))
    if _is_file(program, source, done.stdout.splitlines()):
        raise NotADirectory("at this address there is a file; name the folder that it is in")


def _is_file(program: str, source: Source, names: list[str]) -> bool:
    """Whether a file was named: rclone lists it as a folder with itself in it, at a WebDAV address as an empty one."""
    address = source.settings.get("url")
    above, _, name = (address or source.spec).rstrip("/").rpartition("/")
    if address is not None:
        source = Source(f"{_NAME}:{unquote(name)}", source.settings | {"url": above})
    if names != ([] if address is not None else [name]):
        return False
    done = _ask(program, source, "lsjson", "--stat")
    return done.returncode == 0 and not json.loads(done.stdout).get("IsDir", True)


def _ask(program: str, source: Source, command: str, option: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - what the PATH names
        [program, command, *_PATIENCE, "--retries=1", option, "--", source.spec],
        env=source.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _refusal(code: int, said: str) -> BlobfsError:
    """What rclone's words mean to a person, and these for who knows more."""
    for word, kind, sentence in _REFUSALS:
        if word in said:
            return kind(sentence.format(said=said))
    if code == _NO_DIRECTORY:
        return NotFound("there is no such folder at the source; check the path")
    return RemoteUnavailable(f"the source cannot be read; rclone says: {said}")


def _start(program: str, source: Source, made: Shown) -> subprocess.Popen[bytes]:
    libc = ctypes.CDLL(None)
    with made.log.open("xb") as output:
        return subprocess.Popen(  # noqa: S603 - what the PATH names
            [program, "mount", *_MOUNT, *_PATIENCE, "--", source.spec, os.fspath(made.path)],
            env=source.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C is for us, who then end it in order; when we are killed, it takes its mount away and ends.
            start_new_session=True,
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
        )


def _await_mount(process: subprocess.Popen[bytes], made: Shown) -> None:
    deadline = time.monotonic() + _START_S
    while not os.path.ismount(made.path):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RemoteUnavailable(f"rclone does not show the source; it says: {made.complaint()}")
        time.sleep(_LOOK_S)


def _stop(process: subprocess.Popen[bytes], point: Path) -> None:
    # Killed, since it only reads: then whatever waits for it goes on, and the mount can be taken away.
    process.kill()
    process.wait()
    unmount(point, lazy=True)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    # "2026/01/01 00:00:00 ERROR : " says nothing to a person.
    last = _NOISE.sub("", lines[-1].partition(" : ")[2] or lines[-1]) if lines else ""
    return printable(last)[:300].strip().rstrip(".")


def count(top: Path) -> int:
    """Names below `top`, of whatever kind."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(top))
