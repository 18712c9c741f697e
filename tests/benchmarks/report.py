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

SUBJECT: Final = "blobfs"
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
    """Medians of every filesystem, and how many times better blobfs is where it took part."""
    names = list(results)
    medians = [
        [f"{workload.title}, {workload.unit}", *(_cell(results[name], workload.name) for name in names)]
        for workload in workloads
    ]
    parts = ["Medians:", table(["", *names], medians)]
    if SUBJECT in results:
        others = [name for name in names if name != SUBJECT]
        rows = [[workload.title, *_ratios(results, others, workload)] for workload in workloads]
        parts += ["blobfs is so many times as fast as:", table(["", *others], rows)]
    cpu = [
        [workload.title, *(_cpu(results[name], workload.name) for name in names if name != "native")]
        for workload in workloads
    ]
    parts += [
        "Processor seconds of the daemon and its children while that was timed:",
        table(["", *(name for name in names if name != "native")], cpu),
    ]
    return "\n\n".join(parts)


def _cell(runs: Runs, workload: str) -> str:
    has_failed = any("error" in run.get(workload, {}) for run in runs)
    return number(median(runs, workload)) + (" FAILED" if has_failed else "")


def _cpu(runs: Runs, workload: str) -> str:
    values = [run[workload]["daemon_cpu_s"] for run in runs if "daemon_cpu_s" in run.get(workload, {})]
    return f"{statistics.median(values):.2f}" if values else NOTHING


def _ratios(results: Mapping[str, Runs], others: Sequence[str], workload: Workload) -> list[str]:
    ours = median(results[SUBJECT], workload.name)
    found = [ratio(ours, median(results[other], workload.name), workload.unit) for other in others]
    return [f"{value:.2f}" if value is not None else NOTHING for value in found]


def complaints(results: Mapping[str, Runs]) -> list[str]:
    """What failed, and what was not measured as intended; each once."""
    found: dict[str, None] = {}
    for name, runs in results.items():
        for run in runs:
            for workload, result in run.items():
                for key in ("error", "note"):
                    if text := result.get(key):
                        found[f"{name}, {workload}: {text}"] = None
    return list(found)


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
