"""A checkout and an interpreter to set up, without a registry and in milliseconds."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.bootstrap.environment import MOUNTING, PARTS, Environment

ROOT = Path(__file__).resolve().parents[2]

INTERPRETER = """#!/bin/sh
# Stands in for python: makes an "environment", notes what pip is asked, and shows what a mount is handed.
case "$*" in
*"-m venv "*)
    for directory; do :; done
    mkdir -p "$directory/bin"
    : >"$directory/pyvenv.cfg"
    cp "$0" "$directory/bin/python"
    echo venv >>"$JOURNAL"
    ;;
*"-m pip "*)
    echo "${*##* install }" >>"$JOURNAL"
    if [ -p "$GATE" ]; then read -r _ <"$GATE"; fi
    if [ -e "$BROKEN" ]; then echo "no such version" >&2; exit 1; fi
    ;;
*"-m blobfs.cli "*)
    printf '%s\\n' "$@"
    cat "/dev/fd/$SECRET_FD"
    ;;
esac
"""


INSTALL = """
import sys
from pathlib import Path
from blobfs.bootstrap.environment import MOUNTING, Environment
environment = Environment(Path(sys.argv[1]), sys.argv[2])
with environment.locked() as log:
    environment.install(environment.find_outdated(MOUNTING), log)
"""


class Workshop:
    """A checkout in a temporary directory; the environment variables of the interpreter point beside it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = directory / "check out"
        self.journal = directory / "journal"
        self.gate = directory / "gate"
        self._open_gate: int | None = None
        self.broken = directory / "broken"
        self.interpreter = directory / "interpreter"
        self.interpreter.write_text(INTERPRETER)
        self.interpreter.chmod(0o755)
        for name in ("journal", "gate", "broken"):
            monkeypatch.setenv(name.upper(), str(directory / name))
        sources = {"mount.py", "blobfs/__init__.py", *(part.source for part in PARTS.values())}
        for source in (*sources, *(path.relative_to(ROOT) for path in (ROOT / "blobfs/bootstrap").glob("*.py"))):
            copy = self.root / source
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, copy)

    def take_journal(self) -> list[str]:
        """What the interpreter was asked since the last time."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        self.journal.unlink(missing_ok=True)
        return lines

    def install(self, parts: tuple[str, ...] = MOUNTING) -> Environment:
        """Set the checkout up in this process."""
        environment = Environment(self.root, str(self.interpreter))
        with environment.locked() as log:
            environment.install(environment.find_outdated(parts), log)
        return environment

    @contextlib.contextmanager
    def installing(self) -> Iterator[subprocess.Popen[str]]:
        """Set the checkout up in a process of its own, which is gone afterwards."""
        command = [sys.executable, "-c", INSTALL, self.root, self.interpreter]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def hold_pip(self, process: subprocess.Popen[str]) -> None:
        """Wait until the first pip of `process` runs, and keep it from ending; a later pip is not held."""
        assert process.stderr is not None
        while "build tools" not in (line := process.stderr.readline()):
            assert line, "the set-up ended early"
        # Opening the gate for writing waits until pip stands at it.
        self._open_gate = os.open(self.gate, os.O_WRONLY)
        self.gate.unlink()

    def release_pip(self) -> None:
        """Let the held pip, if there is one, go on."""
        if self._open_gate is not None:
            os.close(self._open_gate)
            self._open_gate = None
