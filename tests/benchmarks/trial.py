"""A trial: what a workload is given, its stop-watch, and how one after the other is run in one fresh directory.

Knows no workload and no filesystem: `root` is any directory. Invariant: only what happens inside `timed` counts, and a
figure whose check failed stands beside its error.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypedDict

from tests.benchmarks.processes import cpu_s

MIB: Final = 1 << 20
PAGE: Final = 4096
LARGE: Final = 256  # MiB of the large file


class CheckFailed(Exception):
    """What was read back is not what was written."""


class Workload(NamedTuple):
    """One thing to time. `act` returns how many units of work its timed part did (1 where the unit is seconds)."""

    name: str
    title: str
    unit: str
    act: Callable[[Trial], float]
    needs: str | None
    is_cold: bool
    is_extra: bool
    """Only run when named."""


class Result(TypedDict, total=False):
    """What a workload came to. Without `error`, everything read back was right."""

    value: float
    unit: str
    elapsed_s: float
    daemon_cpu_s: float
    error: str
    note: str


class Registry(dict[str, Workload]):
    """Workloads in the order in which they run."""

    def add(
        self, title: str, unit: str, *, needs: str | None = None, is_cold: bool = False, is_extra: bool = False
    ) -> Callable[[Callable[[Trial], float]], Callable[[Trial], float]]:
        """Register a function under its own name."""

        def register(act: Callable[[Trial], float]) -> Callable[[Trial], float]:
            name = act.__name__
            self[name] = Workload(name, title, unit, act, needs, is_cold, is_extra)
            return act

        return register

    def select(self, wanted: Sequence[str]) -> list[Workload]:
        """The named ones, or all but the extra ones, and what they need; in running order."""
        names = set(wanted) or {name for name, workload in self.items() if not workload.is_extra}
        for workload in reversed(self.values()):
            if workload.name in names and workload.needs is not None:
                names.add(workload.needs)
        return [workload for name, workload in self.items() if name in names]


@dataclass
class Trial:
    """What a workload works with, and what it leaves for those that need it."""

    root: Path
    tarball: Path
    scale: float
    seed: int
    daemon: int | None
    data: bytearray = field(default_factory=bytearray)
    """What the large file holds; the small ones are slices of it."""
    folders: list[Path] = field(default_factory=list)
    small: list[Path] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    elapsed_s: float | None = None
    cpu_s: float | None = None

    def __post_init__(self) -> None:
        # Without repetition and other bytes in each run: neither compression nor deduplication can help.
        self.random = random.Random(self.seed)
        for _ in range(self.count(LARGE)):
            self.data += self.random.randbytes(MIB)

    def count(self, number: int) -> int:
        """`number` at the scale of this trial, at least 1."""
        return max(1, round(number * self.scale))

    def page(self, number: int) -> bytes:
        """A page of incompressible bytes."""
        start = number * PAGE % len(self.data)
        return bytes(self.data[start : start + PAGE])

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """The part that counts; once in a workload."""
        cpu = cpu_s(self.daemon)
        start = time.perf_counter()
        yield
        self.elapsed_s = time.perf_counter() - start
        self.cpu_s = cpu_s(self.daemon) - cpu


def check(is_good: bool, complaint: str) -> None:
    """Raises CheckFailed."""
    if not is_good:
        raise CheckFailed(complaint)


def run_command(*argv: str | Path, **options: object) -> str:
    """Run a program to its end and return what it printed; what it complained of becomes the error."""
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        complaint = (done.stderr.strip() or "no message").splitlines()[0]
        raise CheckFailed(f"{argv[0]} ended with {done.returncode}: {complaint}")
    return str(done.stdout)


def drop_caches() -> str:
    """Empty the kernel's caches of pages, names and inodes; why not, when that was not possible."""
    os.sync()  # what is dirty cannot be dropped
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError as error:
        return f"not cold: caches could not be dropped ({error.strerror})"
    return ""


def run(trial: Trial, workloads: Sequence[Workload], limit_s: int) -> dict[str, Result]:
    """Run them in their order; none lasts longer than `limit_s`, as long as the filesystem answers at all."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"not done within {limit_s} s")

    signal.signal(signal.SIGALRM, give_up)
    results: dict[str, Result] = {}
    for workload in workloads:
        # What is still dirty must not be written back while the next one is timed.
        note = ""
        if workload.is_cold:
            note = drop_caches()
        else:
            os.sync()
        result: Result = {"unit": workload.unit}
        if note:
            result["note"] = note
        if workload.needs is not None and "value" not in results.get(workload.needs, {}):
            result["error"] = f"{workload.needs} failed"
        else:
            signal.alarm(limit_s)
            try:
                _run_one(trial, workload, result)
            except Exception as error:
                result["error"] = f"{type(error).__name__}: {error}"
            finally:
                signal.alarm(0)
        results[workload.name] = result
    return results


def _run_one(trial: Trial, workload: Workload, result: Result) -> None:
    trial.elapsed_s = trial.cpu_s = None
    try:
        work = workload.act(trial)
    except CheckFailed:
        # What it did took its time, and others need what it left: the figure is kept, and marked by the error.
        if trial.elapsed_s is not None and workload.unit == "s":
            result["value"] = trial.elapsed_s
        raise
    if trial.elapsed_s is None or trial.cpu_s is None:
        raise CheckFailed("nothing was timed")
    result["value"] = trial.elapsed_s if workload.unit == "s" else work / trial.elapsed_s
    result["elapsed_s"], result["daemon_cpu_s"] = trial.elapsed_s, trial.cpu_s
