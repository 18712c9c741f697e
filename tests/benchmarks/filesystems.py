"""The filesystems that are compared: how each is made, mounted in the foreground and fed its passphrase.

One record a filesystem, nothing else; local.py drives them all alike. Each uses its own defaults, as somebody who
installs it does, but for the cost of deriving a key, which no figure contains.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.benchmarks import ceiling
from tests.benchmarks.processes import ProcessFailed, mounted
from tests.benchmarks.trial import Result

ROOT: Final = Path(__file__).resolve().parents[2]
PASSPHRASE: Final = "correct horse battery staple"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one filesystem lives during one pass. `data` is on the disk that counts, the rest is not."""

    data: Path
    scratch: Path

    @property
    def mountpoint(self) -> Path:
        return self.scratch / "mount"

    @property
    def secret(self) -> Path:
        return self.scratch / "secret"

    @property
    def store(self) -> Path:
        return self.data / "store"

    @property
    def cache(self) -> Path:
        return self.data / "cache"

    def prepare(self) -> None:
        """On return all of it is there."""
        for directory in (self.mountpoint, self.store, self.cache):
            directory.mkdir()
        self.secret.write_text(PASSPHRASE + "\n")
        self.secret.chmod(0o600)


Argv = list[str | Path]


@dataclass(frozen=True, slots=True)
class Filesystem:
    """How to make and mount one. `mount` must stay in the foreground; without it, it is the disk itself."""

    name: str
    programs: tuple[str, ...] = ()
    module: str | None = None
    make: Callable[[Place], Argv] | None = None
    mount: Callable[[Place], Argv] | None = None
    prepare: Callable[[Place], None] | None = None
    input: str = ""
    """What both commands read: a passphrase, with its repetition."""
    environment: Callable[[Place], Mapping[str, str]] = field(default=lambda place: {})
    remark: str = ""
    measure: Callable[[Path, float, int], dict[str, Result]] | None = None
    """In place of mounting: figures for a directory, at a scale, with a seed."""

    def why_not(self) -> str:
        """What is missing here; empty when it can be used."""
        missing = [program for program in self.programs if shutil.which(program) is None]
        if missing:
            return f"{', '.join(missing)} not installed"
        if self.module is not None and not _has_module(self.module):
            return f"{self.module} is not in this environment"
        return ""

    def tell_version(self) -> str:
        """Of the package that its program came with; empty where that cannot be told."""
        if not self.programs or shutil.which("dpkg-query") is None:
            return ""
        argv = ["dpkg-query", "-W", "-f", "${Version}", self.name]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    @contextlib.contextmanager
    def mounted(self, place: Place) -> Iterator[tuple[Path, int | None]]:
        """A fresh one, mounted: where, and its daemon's process id. Ended and unmounted afterwards.

        Raises:
            ProcessFailed: it could not be made or mounted.
        """
        place.prepare()
        environment = dict(self.environment(place))
        if self.prepare is not None:
            self.prepare(place)
        if self.make is not None:
            _make(self.make(place), environment, self.input)
        if self.mount is None:
            yield place.store, None
            return
        log = place.scratch / "log"
        with mounted(self.mount(place), place.mountpoint, log, environment, self.input) as process:
            yield place.mountpoint, process.pid


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _make(argv: Argv, environment: Mapping[str, str], text: str) -> None:
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip().splitlines()[-2:]
        raise ProcessFailed(f"{argv[0]} ended with {done.returncode}: {' / '.join(said)}")


def _write_rclone_config(place: Place) -> None:
    obscured = subprocess.run(["rclone", "obscure", PASSPHRASE], capture_output=True, text=True, check=True).stdout
    (place.scratch / "rclone.conf").write_text(
        f"[crypt]\ntype = crypt\nremote = {place.store}\npassword = {obscured.strip()}\n"
    )


def _write_s3ql_authentication(place: Place) -> None:
    authentication = place.scratch / "authinfo2"
    authentication.write_text(f"[bench]\nstorage-url: local://\nfs-passphrase: {PASSPHRASE}\n")
    authentication.chmod(0o600)


def _gocryptfs_mount(place: Place) -> Argv:
    argv: Argv = ["gocryptfs", "-fg", "-q", "-nosyslog", "-passfile", place.secret]
    return [*argv, place.store, place.mountpoint]


def _rclone_mount(place: Place) -> Argv:
    argv: Argv = ["rclone", "mount", "--config", place.scratch / "rclone.conf", "--cache-dir", place.cache]
    return [*argv, "--vfs-cache-mode", "full", "crypt:", place.mountpoint]


def _s3ql(program: str, place: Place, *options: str) -> Argv:
    argv: Argv = [program, "--cachedir", place.cache, "--authfile", place.scratch / "authinfo2"]
    return [*argv, *options, f"local://{place.store}"]


def _blobfs_mount(place: Place) -> Argv:
    argv: Argv = [sys.executable, "-m", "blobfs.cli", "mount", place.mountpoint, "--store", place.data / "blobfs"]
    return [*argv, "--passphrase-file", place.secret]


def _python_environment(place: Place) -> Mapping[str, str]:
    return {"PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(place.scratch / "home")}


def _alone_mount(place: Place) -> Argv:
    return [sys.executable, "-m", "tests.benchmarks.alone", "--store", place.data / "blobfs", place.mountpoint]


_EMPTY: Final[Argv] = [sys.executable, "-m", "tests.benchmarks.empty"]

FILESYSTEMS: Final = (
    Filesystem("native", remark="the disk itself, nothing encrypted"),
    Filesystem(
        "sqlcipher",
        module="sqlcipher3",
        measure=ceiling.measure,
        remark="no filesystem: rows as blobfs has them, written and read by SQLCipher in one thread",
    ),
    Filesystem(
        "blobfs",
        module="blobfs.cli",
        mount=_blobfs_mount,
        environment=_python_environment,
        remark="with its own server on this machine, which it syncs to meanwhile",
    ),
    Filesystem(
        "blobfs-alone",
        module="blobfs.fs.operations",
        mount=_alone_mount,
        environment=_python_environment,
        remark="the same store and mount without sync and server, like the peers",
    ),
    Filesystem(
        "securefs",
        programs=("securefs",),
        make=lambda place: ["securefs", "create", "--pass", PASSPHRASE, "-r", "1", place.store],
        mount=lambda place: ["securefs", "mount", "--pass", PASSPHRASE, place.store, place.mountpoint],
    ),
    Filesystem(
        "gocryptfs",
        programs=("gocryptfs",),
        make=lambda place: ["gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", place.secret, place.store],
        mount=_gocryptfs_mount,
    ),
    Filesystem(
        "encfs",
        programs=("encfs",),
        mount=lambda place: ["encfs", "-f", "-S", "--standard", place.store, place.mountpoint],
        input=f"{PASSPHRASE}\n",
    ),
    Filesystem(
        "cryfs",
        programs=("cryfs",),
        mount=lambda place: ["cryfs", "-f", place.store, place.mountpoint],
        input=f"{PASSPHRASE}\n",
        environment=lambda place: {
            "CRYFS_FRONTEND": "noninteractive",
            "CRYFS_NO_UPDATE_CHECK": "true",
            "CRYFS_LOCAL_STATE_DIR": str(place.cache),
        },
        remark="does not pass fsync on",
    ),
    Filesystem(
        "rclone",
        programs=("rclone",),
        prepare=_write_rclone_config,
        mount=_rclone_mount,
        remark="crypt on a local directory; keeps its cache in plain, does not pass fsync on",
    ),
    Filesystem(
        "s3ql",
        programs=("mkfs.s3ql", "mount.s3ql"),
        prepare=_write_s3ql_authentication,
        make=lambda place: _s3ql("mkfs.s3ql", place),
        mount=lambda place: [*_s3ql("mount.s3ql", place, "--fg", "--log", "none"), place.mountpoint],
        input=f"{PASSPHRASE}\n{PASSPHRASE}\n",
        remark="keeps its cache in plain, does not pass fsync on",
    ),
    Filesystem(
        "empty",
        module="pyfuse3",
        mount=lambda place: [*_EMPTY, place.mountpoint],
        environment=_python_environment,
        remark="a dictionary in memory behind pyfuse3 as it comes: the ceiling of this binding",
    ),
    Filesystem(
        "empty-polling",
        module="blobfs.fs.polling",
        mount=lambda place: [*_EMPTY, "--polling", place.mountpoint],
        environment=_python_environment,
        remark="the same, with blobfs's wait for the FUSE descriptor",
    ),
)
