"""The local room: every filesystem on a fresh disk, one after the other, several times round.

Invariant: one filesystem is mounted at a time, and what one pass leaves is gone before the next begins.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import machine, report
from tests.benchmarks.disk import DiskFailed, fresh_disk, why_not
from tests.benchmarks.filesystems import FILESYSTEMS, ROOT, Filesystem, Place
from tests.benchmarks.processes import ProcessFailed, memory
from tests.benchmarks.trial import Result
from tests.benchmarks.workloads import WORKLOADS, pack_tree

SLACK_S: Final = 60
"""Beyond the limits of its workloads, how long a pass may take to start, check and clean up."""


@dataclass
class Options:
    """What the command line asked for."""

    peers: Sequence[str] = ()
    only: Sequence[str] = ()
    runs: int = 3
    scale: float = 1.0
    limit_s: int = 120
    disk: Path = Path(tempfile.gettempdir())


@dataclass
class Outcome:
    """All that came of it; what the report is made of."""

    about: dict[str, str] = field(default_factory=dict)
    passes: dict[str, list[dict[str, Result]]] = field(default_factory=dict)
    memory: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def has_failed(self) -> bool:
        """Whether any figure is missing that was asked for."""
        return any("error" in result for passes in self.passes.values() for one in passes for result in one.values())


def run(options: Options) -> Outcome:
    """Every chosen filesystem, `runs` times round; says on stderr what it does."""
    outcome = Outcome(about=machine.describe(options.disk))
    if reason := why_not():
        outcome.skipped["a fresh ext4 disk"] = reason
    chosen = []
    for filesystem in FILESYSTEMS:
        if options.peers and filesystem.name not in options.peers:
            continue
        if reason := filesystem.why_not():
            outcome.skipped[filesystem.name] = reason
            continue
        chosen.append(filesystem)
        if told := ", ".join(filter(None, (filesystem.tell_version(), filesystem.remark))):
            outcome.about[filesystem.name] = told
    with _stop_on_sigterm(), tempfile.TemporaryDirectory(prefix="blobfs-bench-") as scratch:
        try:
            _run_all(chosen, options, Path(scratch, "tree.tar"), outcome)
        except KeyboardInterrupt:
            outcome.skipped["what was still to come"] = "interrupted"
    return outcome


def _run_all(chosen: Sequence[Filesystem], options: Options, tarball: Path, outcome: Outcome) -> None:
    pack_tree(tarball)
    for number in range(options.runs):
        for filesystem in chosen:
            outcome.loads.append(machine.load())
            _say(f"run {number + 1} of {options.runs}: {filesystem.name} (load {outcome.loads[-1]})")
            one = run_pass(filesystem, options, tarball, number, outcome)
            outcome.passes.setdefault(filesystem.name, []).append(one)


@contextlib.contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    # As Ctrl-C does: what is mounted and running is ended on the way out.
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_pass(
    filesystem: Filesystem, options: Options, tarball: Path, number: int, outcome: Outcome
) -> dict[str, Result]:
    """One filesystem, every workload once, on a disk of its own."""
    wanted = [workload.name for workload in WORKLOADS.select(options.only)]
    if filesystem.measure is not None:
        return _measure(filesystem.measure, options, number, wanted)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="blobfs-bench-", dir=options.disk) as images,
            fresh_disk(Path(images)) as disk,
            tempfile.TemporaryDirectory(prefix="blobfs-bench-") as scratch,
            filesystem.mounted(Place(disk, Path(scratch))) as (directory, pid),
        ):
            results = _act(directory, pid, options, tarball, number)
            if pid is not None:
                outcome.memory.setdefault(filesystem.name, []).append(memory(pid))
            return results
    except (DiskFailed, ProcessFailed, OSError) as error:
        return {name: {"unit": WORKLOADS[name].unit, "error": str(error)} for name in wanted}


def _measure(
    measure: Callable[[Path, float, int], dict[str, Result]], options: Options, number: int, wanted: Sequence[str]
) -> dict[str, Result]:
    with (
        tempfile.TemporaryDirectory(prefix="blobfs-bench-", dir=options.disk) as images,
        fresh_disk(Path(images)) as disk,
    ):
        return {name: result for name, result in measure(disk, options.scale, number).items() if name in wanted}


def _act(directory: Path, pid: int | None, options: Options, tarball: Path, number: int) -> dict[str, Result]:
    argv: list[str | Path] = [sys.executable, "-m", "tests.benchmarks.workloads", directory, "--tarball", tarball]
    argv += ["--scale", str(options.scale), "--seed", str(number), "--limit", str(options.limit_s)]
    argv += ["--only", ",".join(options.only)]
    if pid is not None:
        argv += ["--daemon", str(pid)]
    limit_s = options.limit_s * len(WORKLOADS) + SLACK_S
    worker = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        output, complaint = worker.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        if pid is not None:
            _kill(pid)  # a request that its daemon has taken cannot be interrupted otherwise
        raise ProcessFailed(f"the filesystem did not answer within {limit_s} s") from None
    finally:
        worker.kill()
        worker.communicate()
    if worker.returncode != 0:
        raise ProcessFailed(f"the workloads ended: {(complaint.strip() or 'no message').splitlines()[-1]}")
    results: dict[str, Result] = json.loads(output)
    return results


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # our child, not waited for yet: the number is still its own


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write_up(outcome: Outcome, options: Options) -> str:
    """The section of the document, in Markdown."""
    about = dict(outcome.about)
    scale = "" if options.scale == 1 else f"; everything at {options.scale} of its size, which is no real run"
    about["runs"] = f"{options.runs}, each on a fresh ext4 image (`-o loop`), medians{scale}"
    if outcome.loads:
        about["load average before each pass"] = f"{min(outcome.loads)} to {max(outcome.loads)}"
    about["peak memory of the daemons, MiB"] = ", ".join(
        f"{name} {max(one['peak_kib'] for one in entries) / 1024:.0f}" for name, entries in outcome.memory.items()
    )
    for name, reason in outcome.skipped.items():
        about[f"{name} left out"] = reason
    parts = [report.facts(about), report.local_tables(outcome.passes, WORKLOADS.select(options.only))]
    if failures := report.complaints(outcome.passes):
        parts.append("Failed, or not as intended:\n\n" + "\n".join(f"- {line}" for line in failures))
    return "\n\n".join(parts)


def raw(outcome: Outcome) -> dict[str, Any]:
    """Everything, for a file that other programs read."""
    return vars(outcome)
