"""What people see of the set-up: progress lines, failures of one sentence, and the log that holds the rest.

Owns the exit codes of the set-up (docs/CLI.md lists them with the others). Knows nothing of what a step does.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple


class SetupFailure(Exception):
    """The set-up cannot go on. `str()` is one sentence for a person."""

    exit_code: ClassVar[int] = 11


class PackagesMissing(SetupFailure):
    """System packages are missing, and this user may not install them."""

    exit_code = 10


class FuseMissing(SetupFailure):
    """/dev/fuse is not there or cannot be used."""

    exit_code = 12


class Log(NamedTuple):
    """The file that takes the output of every step, and the descriptor whose lock covers the whole set-up."""

    path: Path
    lock: int


def say(sentence: str) -> None:
    """Print a line for people; stdout stays free for what was asked for."""
    print(f"blobfs: {sentence}", file=sys.stderr, flush=True)


def run_step(doing: str, command: Sequence[str], log: Log, *, holds_lock: bool = False) -> None:
    """Say what is being done and do it, all output going to the log.

    Args:
        doing: "installing x"; becomes the progress line and the subject of the failure.
        holds_lock: the command keeps the set-up's lock until it ends, even if we are killed before.
    Raises:
        SetupFailure: the command could not be started, or ended with another code than 0.
    """
    say(f"{doing} ...")
    if not try_command(command, log, holds_lock=holds_lock):
        raise SetupFailure(f"{doing} failed; {log.path} has the full log, and running this again goes on from here.")


def try_command(command: Sequence[str], log: Log, *, holds_lock: bool = False) -> bool:
    """Run a command with its output going to the log, and tell whether it ended well."""
    with log.path.open("ab") as output:
        output.write(f"$ {shlex.join(command)}\n".encode())
        output.flush()
        try:
            process = subprocess.Popen(
                command,
                # Standard input may be the passphrase's; it is not ours to read.
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(log.lock,) if holds_lock else (),
            )
        except OSError as error:
            output.write(f"{error}\n".encode())
            return False
        try:
            return process.wait() == 0
        except KeyboardInterrupt:
            # Ctrl-C reached the command as well. Killing a package manager half-way would be worse than waiting.
            process.wait()
            raise
