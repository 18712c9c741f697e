"""The process that watches a mount made with `--background`, for tests that need to know of it or to be rid of it."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from pathlib import Path


def watch_of(pid: int) -> int | None:
    """The process that waits for the death of `pid`."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    words = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
    return parent if b"blobfs-watch" in words else None


def kill_for_good(pid: int) -> None:
    """On return a process of `--background` and its watch are gone, and its mount is dead and stays so."""
    for number in (watch_of(pid), pid):
        if number is not None:
            with suppress(ProcessLookupError):
                process = os.pidfd_open(number)
                signal.pidfd_send_signal(process, signal.SIGKILL)
                ended = select.select([process], [], [], 60)[0]
                os.close(process)
                assert ended, "a killed process does not end"
