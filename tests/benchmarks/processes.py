"""Other programs and their mounts: started, watched, always ended. By id or mount point, never by name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

START_S: Final = 60.0
END_S: Final = 120.0
"""How long a daemon may take to store what it still holds (some write back for a while)."""
LOOK_S: Final = 0.02

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class ProcessFailed(Exception):
    """A program could not be started or ended in time; the text says which and what it said."""


def family(pid: int) -> dict[int, list[str]]:
    """The fields of /proc/PID/stat after the name, of a process and of all its descendants."""
    fields: dict[int, list[str]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):  # it may just have ended
                fields[int(entry)] = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
    members = {pid} & set(fields)
    while more := {child for child in fields if int(fields[child][1]) in members} - members:
        members |= more
    return {member: fields[member] for member in members}


def cpu_s(pid: int | None) -> float:
    """Seconds of processor time, user and system, of a process and its descendants until now."""
    if pid is None:
        return 0.0
    return sum(int(ticks) for fields in family(pid).values() for ticks in fields[11:15]) / _TICKS


def memory(pid: int) -> dict[str, int]:
    """KiB of memory, now and at most, of a process and its descendants together."""
    sums = {"VmRSS": 0, "VmHWM": 0}
    for member in family(pid):
        with contextlib.suppress(OSError):
            for line in Path("/proc", str(member), "status").read_text().splitlines():
                key, _, value = line.partition(":")
                if key in sums:
                    sums[key] += int(value.split()[0])
    return {"rss_kib": sums["VmRSS"], "peak_kib": sums["VmHWM"]}


def wait_until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Look until `condition` holds; False when it does not within `limit_s`."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(LOOK_S)
    return True


@contextlib.contextmanager
def mounted(
    argv: Sequence[str | Path], mountpoint: Path, log: Path, environment: Mapping[str, str], text: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that stays in the foreground and mounts; on return it has ended and nothing is mounted.

    Args:
        text: what the program reads from its standard input.
    Raises:
        ProcessFailed: it ended, or did not mount in time.
    """
    with open(log, "wb") as output:
        process = _start(argv, output, environment, text)
    try:
        is_up = wait_until(lambda: process.poll() is not None or os.path.ismount(mountpoint), START_S)
        if process.poll() is not None or not is_up:
            said = log.read_text(errors="replace").strip().splitlines() or ["no message"]
            raise ProcessFailed(f"it did not mount: {said[-1]}")  # no more than the reason: before it stand secrets
        yield process
    finally:
        _unmount(process, mountpoint)


def _start(
    argv: Sequence[str | Path], output: IO[bytes], environment: Mapping[str, str], text: str
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=output, stderr=output, env={**os.environ, **environment}
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(text.encode())
    return process


def _unmount(process: subprocess.Popen[bytes], mountpoint: Path) -> None:
    def is_unmounted() -> bool:
        if _is_mounted(mountpoint):
            subprocess.run(["fusermount3", "-u", "-q", mountpoint], check=False, stderr=subprocess.DEVNULL)
        return not _is_mounted(mountpoint)

    if process.poll() is None:
        wait_until(lambda: process.poll() is not None or is_unmounted(), START_S)
    end(process)
    if _is_mounted(mountpoint):  # its daemon is dead, or the mount was busy to the end
        subprocess.run(["fusermount3", "-u", "-z", "-q", mountpoint], check=False)


def end(process: subprocess.Popen[bytes], limit_s: float = END_S) -> None:
    """Wait for a process that is ending by itself; SIGTERM and SIGKILL when it does not."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(limit_s)
            return


def _is_mounted(mountpoint: Path) -> bool:
    escaped = str(mountpoint).replace(" ", "\\040")
    return any(line.split()[1] == escaped for line in Path("/proc/self/mounts").read_text().splitlines())
