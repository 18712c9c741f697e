"""From the results of several runs to medians, ratios and tables; and the place of a table in a document.

Pure, but for `replace_section`. A ratio above 1 always says that blobfs is the better one.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.trial import Result, Workload

Runs = Sequence[Mapping[str, Result]]
"""One mapping a run: the results by the names of workloads."""

SUBJECTS: Final = ("blobfs", "blobfs-alone")
NOTHING: Final = "-"


def median(runs: Runs, workload: str) -> float | None:
    """The median of the runs that have a figure."""
    return middle([run[workload]["value"] for run in runs if "value" in run.get(workload, {})])


def middle(values: Sequence[float]) -> float | None:
    """Their median, if there are any."""
    return statistics.median(values) if values else None


def ratio(ours: float | None, theirs: float | None, unit: str) -> float | None:
    """How many times better ours is."""
    if not ours or not theirs:
        return None
    return theirs / ours if unit == "s" else ours / theirs


def number(value: float | None) -> str:
    """Three digits, or all of them when there are more."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; every column but the first to the right."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    lines.insert(1, "|---|" + "---:|" * (len(head) - 1))
    return "\n".join(lines)


def local_tables(results: Mapping[str, Runs], workloads: Sequence[Workload]) -> str:
    """Medians of every filesystem, how many times better blobfs is, and what processors had to do for it."""
    names = list(results)
    rows = [[f"{one.title}, {one.unit}", *(_cell(results[name], one.name) for name in names)] for one in workloads]
    parts = ["Medians:", table(["", *names], rows)]
    for subject in SUBJECTS:
        if any(median(results.get(subject, ()), one.name) for one in workloads):
            others = [name for name in names if name not in SUBJECTS]
            rows = [[one.title, *_ratios(results, subject, others, one)] for one in workloads]
            parts += [f"{subject} is so many times as fast as:", table(["", *others], rows)]
    daemons = [name for name in names if name != "native"]
    rows = [[one.title, *(_cpu(results[name], one.name) for name in daemons)] for one in workloads]
    parts += ["Processor seconds of the daemon and its children while that was timed:", table(["", *daemons], rows)]
    return "\n\n".join(parts)


def _cell(runs: Runs, workload: str) -> str:
    has_failed = any("error" in run.get(workload, {}) for run in runs)
    return number(median(runs, workload)) + (" FAILED" if has_failed else "")


def _cpu(runs: Runs, workload: str) -> str:
    values = [run[workload]["daemon_cpu_s"] for run in runs if "daemon_cpu_s" in run.get(workload, {})]
    return f"{statistics.median(values):.2f}" if values else NOTHING


def _ratios(results: Mapping[str, Runs], subject: str, others: Sequence[str], workload: Workload) -> list[str]:
    ours = median(results[subject], workload.name)
    found = [ratio(ours, median(results[other], workload.name), workload.unit) for other in others]
    return [f"{value:.2f}" if value is not None else NOTHING for value in found]


def complaints(results: Mapping[str, Runs]) -> list[str]:
    """What failed, and what was not measured as intended; each once, with the workloads that it befell."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for name, runs in results.items():
        for run in runs:
            for workload, result in run.items():
                for text in filter(None, (result.get("error"), result.get("note"))):
                    found.setdefault((name, text), {})[workload] = None
    return [f"{name}, {', '.join(workloads)}: {text}" for (name, text), workloads in found.items()]


def facts(entries: Mapping[str, str]) -> str:
    """A list of Markdown."""
    return "\n".join(f"- {name}: {text}" for name, text in entries.items() if text)


def replace_section(document: Path, section: str, text: str) -> None:
    """Put `text` between the marks of `section` in a document; at its end when it has none yet."""
    begin, end = f"<!-- {section}: written by tests/benchmarks/run.py -->", f"<!-- end of {section} -->"
    old = document.read_text() if document.exists() else "# Performance\n"
    block = f"{begin}\n\n{text}\n\n{end}"
    head, mark, rest = old.partition(begin)
    if mark:
        _, _, tail = rest.partition(end)
        new = head + block + tail
    else:
        new = f"{old.rstrip()}\n\n{block}\n"
    document.write_text(new)
