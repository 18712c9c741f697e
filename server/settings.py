"""What a server process is told, and its data directory. Must not know HTTP.

DATA/catalog.db     the catalog, unless its URL says otherwise; 0600
DATA/blobs/         the filesystem backend's root
DATA/server.toml    the configuration, when there is one here and no other is named (config.py)
DATA/spool/         uploads on their way to an object store, as files without names
DATA/address        the URL that the server listens on, for the invites of `user add`
DATA/pin            the pin of its key, for the same, when no authority vouches for its certificate
DATA/server.lock    held (flock) by the one server process that runs on this directory
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blobfs.protocol import is_pin, is_server_url
from server.errors import DataInUse, DataUnusable

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8090
DAY_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class Settings:
    """How one server process runs. Durations are seconds, sizes bytes."""

    data: Path
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    """0 lets the system choose."""
    catalog_url: str | None = None
    """An SQLAlchemy URL; None for SQLite in the data directory."""
    blobs_url: str | None = None
    """Of an object store (`server.backends.objects`); None for files in the data directory."""
    blobs_options: Mapping[str, str] = field(default_factory=dict)
    """What the object store needs beside its URL: keys, endpoint, region."""
    public_url: str | None = None
    """What clients are to use, when it is not what the server listens on."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    exit_with: int | None = None
    """Process id of the parent whose end is ours."""
    grace_s: float = 7 * DAY_S
    """How long a blob that nothing refers to is kept."""
    retention_s: float = 30 * DAY_S
    """How long earlier revisions, and the record of deleted blobs, are kept."""
    upkeep_s: float = 600
    """Between two runs of the collector."""
    floor: int = 16 << 20
    """Bytes of the disk that uploads leave free: without them the catalog could not even record a deletion."""
    idle_s: float = 60
    """How long a request may go without sending a byte of its body."""
    requests_per_s: float = 500
    """Requests that one account may send to this process in the long run."""
    burst: int = 5000
    """Requests that an account which was quiet may send at once."""
    json_bytes: int = 128 << 20
    """Of JSON bodies that are held in memory at one time."""
    connections: int = 2000
    """Above it the answer is 503: what one process can hold open without swapping."""
    metrics_loopback: bool = True
    """Whether `/metrics` needs no token when it is asked for from this machine, and not through a proxy."""

    @property
    def url_of_catalog(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.catalog_url or f"sqlite:///{self.data.absolute() / 'catalog.db'}"

    @property
    def blobs(self) -> Path:
        """The root of the filesystem backend."""
        return self.data.absolute() / "blobs"

    @property
    def spool(self) -> Path:
        """Where uploads to an object store wait."""
        return self.data.absolute() / "spool"


def prepare_data(data: Path) -> None:
    """On return the directory is there, is ours, and is closed to other users.

    Raises:
        DataUnusable: it cannot be made so.
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = data.stat()
        if status.st_uid != os.geteuid():
            raise DataUnusable(f"The data directory {data} belongs to another user.")
        if stat.S_IMODE(status.st_mode) & 0o077:
            data.chmod(0o700)
        probe = os.open(data / "server.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.close(probe)
    except OSError as error:
        raise DataUnusable(f"The data directory {data} cannot be used: {error.strerror}.") from error


def lock_data(data: Path) -> int:
    """Own the data directory until the descriptor returned is closed or the process ends.

    Raises:
        DataInUse: another server process owns it.
    """
    descriptor = os.open(data / "server.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DataInUse(
            f"Another blobfs-server runs on {data}; stop it first, or give this one its own --data."
        ) from error
    return descriptor


def remember_address(data: Path, url: str) -> None:
    """Keep the URL for later commands; a crash leaves the old one or the new one."""
    _keep(data / "address", url)


def remember_pin(data: Path, pin: str | None) -> None:
    """Keep the pin that invites need, for later commands; None: they need none."""
    if pin is None:
        (data / "pin").unlink(missing_ok=True)
    else:
        _keep(data / "pin", pin)


def recall_pin(data: Path) -> str | None:
    """The pin that invites of this server need; None: none, or it never ran."""
    pin = _kept(data / "pin")
    return pin if is_pin(pin) else None


def recall_address(data: Path) -> str:
    """The URL of the server that runs, or ran last, on this directory; the default one before the first."""
    url = _kept(data / "address")
    return url if is_server_url(url) else f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"


def _keep(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text + "\n", encoding="ascii")
    temporary.replace(path)


def _kept(path: Path) -> str:
    """What was kept there; empty when there is nothing that can be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="ascii").strip()
    return ""
