"""The commands of a server's operator, run in this process: starting one more for each would only cost time."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from typing import Any

from server.cli import COMMANDS, main


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """One of `server.cli.COMMANDS`, to its end, with what it printed."""
    texts = [str(argument) for argument in arguments]
    assert texts[0] in COMMANDS, "anything else is a server, and needs a process"
    out, err, umask = io.StringIO(), io.StringIO(), os.umask(0o022)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(texts)
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os.umask(umask)
    return subprocess.CompletedProcess(texts, code, out.getvalue(), err.getvalue())


def answer(*arguments: object) -> Any:
    """What a command answers that succeeds. Raises CalledProcessError."""
    done = run(*arguments, "--json")
    done.check_returncode()
    return json.loads(done.stdout)
