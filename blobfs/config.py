"""From arguments to a frozen `Config`, and which store belongs to which mount point.

Owns default paths and the small records under the user's data directory that let `status DIR` find the store which
`mount DIR --store DIR` was given once. Knows nothing of keys, of the network or of running processes. Invariant: every
path in a Config or a record is absolute, with its symbolic links resolved.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blobfs.errors import UsageError
from blobfs.values.documents import dump, load

SECRETS: Final = "secrets.json"
NEWER: Final = "secrets.newer.json"
PASSPHRASE: Final = "passphrase"  # noqa: S105 - the name of a file
SERVER: Final = "server"
LOG: Final = "log"
SERVER_LOG: Final = "server.log"
SOCKET: Final = "control"
PENDING: Final = "pending.json"
UNFINISHED: Final = "unfinished"
"""Names in a store's directory; the databases are the store room's own."""
GUESS_S: Final = 0.7
"""Processor seconds that a guess at a passphrase takes where it is set, unless a person says otherwise."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a secret text is from: a file, a descriptor, a keyring, a program; never an argument or the environment."""

    file: Path | None = None
    fd: int | None = None
    text: str | None = field(default=None, repr=False)
    """What a keyring or a program gave, or a person typed who wants it kept there."""

    def __bool__(self) -> bool:
        return self.file is not None or self.fd is not None or self.text is not None


@dataclass(frozen=True, slots=True)
class Config:
    """All that `mount` was told."""

    mountpoint: Path
    store: Path
    passphrase: Source = field(default_factory=Source)
    recovery: Source = field(default_factory=Source)
    connect: str | None = None
    """An invite, or `@FILE` that holds one."""
    pin: str | None = None
    """Of the server's key, in place of the one in the invite."""
    device_name: str | None = None
    """Of this device, on a first run; by default the machine's."""
    background: bool = False
    allow_other: bool = False
    read_only: bool = False
    """Programs on this machine can change nothing; what other devices did goes on to arrive."""
    keyring: bool = False
    """Whether the passphrase is looked for in the desktop's keyring, and kept there."""
    words_check: bool = True
    """Whether a person at a terminal is asked for some of the recovery words of a new account."""
    passphrase_at_server: bool = True
    """On a first run: whether the server keeps the slot of the passphrase, too, or that of the recovery words alone."""
    lock_after: str | None = None
    """What the option of that name is set to, before it is mounted."""
    guess_s: float = GUESS_S
    """Processor seconds that a guess at a new passphrase is to take."""
    handover: int | None = None
    """Set in the process that `--background` starts: the descriptor over which it gets the keys and reports."""
    heal: str | None = None
    """Set in what becomes of the process that watched a mount whose process died: what `healing.parse` reads."""
    is_healing: bool = False
    """Whether this mount takes the place of a dead one, and may be nowhere else."""

    @property
    def secrets(self) -> Path:
        return self.store / SECRETS

    @property
    def server(self) -> Path:
        return self.store / SERVER


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount point and its store, as they were last mounted together."""

    mountpoint: Path
    store: Path


def choose_store(mountpoint: Path, given: Path | None) -> Path:
    """The store for a mount point: the one given, else the one remembered, else a new place of its own.

    Raises:
        UsageError: one would lie in the other, and so encrypt itself or hide its own store.
    """
    known = recall(mountpoint)
    store = resolve(given) if given is not None else known.store if known is not None else default_store(mountpoint)
    if store == mountpoint or mountpoint in store.parents or store in mountpoint.parents:
        raise UsageError(f"the store {store} and the mount point {mountpoint} overlap; give --store another place")
    return store


def default_store(mountpoint: Path) -> Path:
    """Where the store of `mountpoint` is made when no `--store` says otherwise."""
    return _data_directory() / "stores" / f"{mountpoint.name or 'root'}-{_short_hash(mountpoint)}"


def resolve(path: Path) -> Path:
    """`path`, absolute and without symbolic links; it need not exist, and may be a dead mount."""
    return Path(os.path.realpath(path))


def is_new(store: Path) -> bool:
    """Whether `store` is still to be made: nothing there, an empty directory, or a first run that did not finish.

    Raises:
        UsageError: a directory with other things in it, a file, or another user's.
    """
    try:
        if store.stat().st_uid not in (os.geteuid(), 0):
            raise UsageError(f"{store} belongs to another user; give --store a directory of yours")
        names = set(os.listdir(store))
    except FileNotFoundError:
        return True
    except OSError as error:
        raise UsageError(f"{store} cannot be used as a store ({error.strerror}); give --store another place") from None
    if not names or UNFINISHED in names:
        return True
    if not any(name.startswith(SECRETS) for name in names):
        raise UsageError(f"{store} holds other things than a store; give --store an empty or a new directory")
    return False


# --- which store belongs to which mount point ----------------------------------------------------------------


def remember(mount: Mount) -> None:
    """Let later commands find `mount` by its mount point, and `status` list it."""
    directory = _records()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    body = {"mountpoint": os.fsdecode(mount.mountpoint), "store": os.fsdecode(mount.store)}
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".")
    try:
        with open(descriptor, "wb") as file:
            file.write(dump(body))
        os.replace(temporary, _record(mount.mountpoint))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def recall(path: Path) -> Mount | None:
    """What was last mounted at exactly `path`."""
    return _read_record(_record(path))


def recall_around(path: Path) -> Mount | None:
    """What was last mounted at `path` or at the nearest directory above it."""
    found = (recall(candidate) for candidate in (path, *path.parents))
    return next((mount for mount in found if mount is not None), None)


def recall_all() -> Iterator[Mount]:
    """Everything that was ever mounted by this user and whose store is still there, by mount point."""
    try:
        records = sorted(_records().glob("*.json"))
    except OSError:
        return
    mounts = (_read_record(record) for record in records)
    yield from sorted((m for m in mounts if m is not None and m.store.is_dir()), key=lambda mount: mount.mountpoint)


def _read_record(record: Path) -> Mount | None:
    try:
        body = load(record.read_bytes())
        return Mount(Path(body["mountpoint"]), Path(body["store"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _record(mountpoint: Path) -> Path:
    return _records() / f"{_short_hash(mountpoint)}.json"


def _records() -> Path:
    return _data_directory() / "mounts"


def _data_directory() -> Path:
    from platformdirs import user_data_path  # not needed by --help

    return user_data_path("blobfs", appauthor=False)


def _short_hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
