"""Make a fresh checkout runnable: system packages, /dev/fuse, and a locked virtual environment in `.venv`.

Runs under the system's python3 before anything is installed: standard library only, and nothing else of blobfs is
imported; nothing newer than Python 3.8 either, so that an old one is told in a sentence. `mount.py` and `tests/run.py`
are its callers.

    steps.py         what people see of it: progress lines, one-sentence failures, the log
    system.py        what this machine must have, and how each distribution calls it
    environment.py   `.venv`: what is installed in it, by which lock file, and how it heals
    *.lock           every version pinned with its hashes; docs/DEVELOPING.md says how they are refreshed

Invariant: `.venv/setup.json` exists only while everything that it names is completely installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from blobfs.bootstrap.environment import MOUNTING, TESTING, Environment
from blobfs.bootstrap.steps import FuseMissing, PackagesMissing, SetupFailure, say
from blobfs.bootstrap.system import (
    BUILDING,
    PROGRAMS,
    RUNNING,
    TRYING,
    find_fuse_fault,
    find_missing,
    install_missing,
)

OLDEST_PYTHON = (3, 11)

__all__ = ["MOUNTING", "TESTING", "prepare", "prepare_or_exit"]


def prepare(root: Path, parts: tuple[str, ...]) -> Path:
    """Install what the checkout `root` lacks for `parts`, and return the environment's interpreter.

    With nothing to do this reads a few small files and starts no process.

    Raises:
        PackagesMissing: system packages are missing, and this user may not install them.
        FuseMissing: /dev/fuse cannot be used.
        SetupFailure: a step failed; its output is in the log that the message names.
    """
    if sys.version_info < OLDEST_PYTHON:
        raise PackagesMissing("this needs Python 3.11 or newer; run it with such an interpreter.")
    environment = Environment(root)
    running = RUNNING + PROGRAMS + TRYING if "tests" in parts else RUNNING
    if environment.find_outdated(parts) or find_missing(running):
        with environment.locked() as log:
            # Whoever held the lock before us may have done it all.
            outdated = environment.find_outdated(parts)
            install_missing(running + BUILDING if outdated else running, log)
            _require_fuse()
            environment.install(outdated, log)
    _require_fuse()
    return environment.python


def prepare_or_exit(root: Path, parts: tuple[str, ...]) -> Path:
    """`prepare`, with a failure told in one line on stderr and turned into the process's exit code."""
    try:
        return prepare(root, parts)
    except SetupFailure as failure:
        say(str(failure))
        sys.exit(failure.exit_code)
    except KeyboardInterrupt:
        say("the set-up was interrupted; the next run starts it again.")
        sys.exit(130)


def _require_fuse() -> None:
    fault = find_fuse_fault()
    if fault:
        raise FuseMissing(fault)
