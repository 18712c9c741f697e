"""`.venv`: what is installed in it, by which lock file, and how it heals.

Owns every file in `.venv`, the lock that serialises set-ups, and the stamp that says what is installed. Knows nothing
of system packages.

The stamp names the parts that are completely installed. It is removed before anything changes and written when pip has
ended, well or not: pip undoes what it began when it fails, as without a network. So an environment without a stamp is
either new or was left half-way by a kill; both are emptied and built from scratch.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from blobfs.bootstrap.steps import Log, SetupFailure, run_step, say


class Part(NamedTuple):
    """Something that pip installs into the environment."""

    doing: str
    source: str
    """The file, relative to the checkout, whose digest tells whether the part is up to date."""
    arguments: tuple[str, ...]
    """For `pip install`, run in the checkout."""


_LOCKS = "blobfs/bootstrap"


def _locked_part(doing: str, name: str) -> Part:
    source = f"{_LOCKS}/{name}.lock"
    # Without build isolation, what is built from source is built by the locked tools of build.lock.
    return Part(doing, source, ("--require-hashes", "--no-build-isolation", "-r", source))


# In the order in which they are installed.
PARTS = {
    "build": _locked_part("installing the build tools", "build"),
    "runtime": _locked_part("installing what blobfs runs on (this compiles pyfuse3)", "runtime"),
    "blobfs": Part(
        "installing blobfs itself",
        "pyproject.toml",
        # Editable, so that `git pull` takes effect at once.
        ("--no-index", "--no-deps", "--no-build-isolation", "--editable", "."),
    ),
    "tests": _locked_part("installing what the tests run on", "tests"),
}
MOUNTING = ("build", "runtime", "blobfs")
TESTING = tuple(PARTS)


class Environment:
    """The virtual environment of one checkout.

    Args:
        root: the checkout; absolute, with symlinks resolved.
        interpreter: what a new environment is made with; by default the one that runs this.
    """

    def __init__(self, root: Path, interpreter: str | None = None) -> None:
        self.root = root
        # Never the interpreter of an environment: it may be the very one that is about to be emptied.
        self.interpreter = interpreter or str(getattr(sys, "_base_executable", sys.executable))
        self.directory = root / ".venv"
        self.python = self.directory / "bin" / "python"
        self._stamp = self.directory / "setup.json"
        self._lock = self.directory / "setup.lock"
        self._log = self.directory / "setup.log"

    def find_outdated(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `parts` that are not installed as their sources say, in the order of installation."""
        stamp = self._read_stamp()
        return tuple(part for part in PARTS if part in parts and stamp.get(part) != self._digest(part))

    @contextlib.contextmanager
    def locked(self) -> Iterator[Log]:
        """Keep every other set-up of this checkout waiting, and give the log of this one.

        Raises:
            SetupFailure: `.venv` cannot be written, or is something of the user's that we must not empty.
        """
        try:
            if not self._lock.exists() and self._is_foreign():
                raise SetupFailure(f"{self.directory} is no virtual environment; move it away, then run this again.")
            self.directory.mkdir(exist_ok=True)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SetupFailure(f"{self.directory} cannot be written: {error.strerror}.") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another set-up of this checkout is at work; waiting for it ...")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._log.write_bytes(b"")
            yield Log(self._log, descriptor)
        finally:
            os.close(descriptor)

    def install(self, parts: tuple[str, ...], log: Log) -> None:
        """Install `parts`; on return the stamp names them. The caller is inside `locked()`.

        Raises:
            SetupFailure: a step failed. The stamp names what was there before, and the next set-up goes on from it.
        """
        if not parts:
            return
        stamp = self._read_stamp()
        self._stamp.unlink(missing_ok=True)
        if not stamp:
            self._create(log)
        stamp.update(self._identity())
        try:
            for part in parts:
                step = PARTS[part]
                stamp.pop(part, None)
                run_step(step.doing, self._pip(*step.arguments), log, holds_lock=True)
                stamp[part] = self._digest(part)
        except SetupFailure:
            self._write_stamp(stamp)
            raise
        self._write_stamp(stamp)
        say("the set-up is complete.")

    def _create(self, log: Log) -> None:
        self._empty()
        command = (self.interpreter, "-I", "-m", "venv", str(self.directory))
        run_step("creating the virtual environment", command, log, holds_lock=True)

    def _empty(self) -> None:
        for entry in self.directory.iterdir():
            if entry in (self._lock, self._log):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _is_foreign(self) -> bool:
        try:
            names = {entry.name for entry in self.directory.iterdir()}
        except FileNotFoundError:
            return False
        return bool(names) and "pyvenv.cfg" not in names

    def _pip(self, *arguments: str) -> tuple[str, ...]:
        # Isolated from the user's site-packages and PYTHON* variables, while pip's own settings stay in force: they may
        # say how this machine reaches its registry. Only --user would install elsewhere.
        pip = (str(self.python), "-I", "-m", "pip", "--no-input", "--disable-pip-version-check")
        return ("env", "-C", str(self.root), "PIP_USER=0", *pip, "install", *arguments)

    def _digest(self, part: str) -> str:
        return hashlib.sha256((self.root / PARTS[part].source).read_bytes()).hexdigest()

    def _identity(self) -> dict[str, str]:
        """What an environment is bound to: scripts name the checkout, packages belong to one Python."""
        return {"root": str(self.root), "python": os.path.realpath(self.python)}

    def _read_stamp(self) -> dict[str, str]:
        """The stamp, or nothing when it is not there, not readable, or of another place or Python."""
        try:
            stamp = json.loads(self._stamp.read_bytes())
        except (OSError, ValueError):
            return {}
        is_ours = isinstance(stamp, dict) and self._identity().items() <= stamp.items()
        return stamp if is_ours and self.python.exists() else {}

    def _write_stamp(self, stamp: dict[str, str]) -> None:
        # Renamed into place: a stamp is whole or absent.
        unfinished = self._stamp.with_suffix(".new")
        unfinished.write_text(json.dumps(stamp, indent=1) + "\n")
        unfinished.replace(self._stamp)
