"""The server room: requests and bytes a second of PUT, GET and streams, by size of the blobs and number of connections.

The client is one process of raw connections, so that on two processors the server is what is measured. All ways to
serve are up at once and have their turn cell by cell, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from tests.benchmarks import machine, report
from tests.benchmarks.serving import USUAL, WAYS, Serving, missing
from tests.benchmarks.trial import MIB
from tests.benchmarks.wire import Kind, check, new_ids, press

SIZES: Final = (4 << 10, 128 << 10, 4 << 20)
CONNECTIONS: Final = (1, 16, 128)
STREAMS: Final = (1, 4)
"""Connections with streams: a device has one or two of them."""
LIMIT_S: Final = 3.0
"""For one cell of the table."""
MOST_BYTES: Final = 1 << 30
MOST_BLOBS: Final = 20_000
WARM: Final = 100
"""Blobs before the first figure."""

Case = tuple[Kind, int, int]
"""What is asked, bytes of a blob, connections."""


@dataclass
class Cell:
    """Figures of one case and one way to serve; one a run. Blobs and requests differ for streams only."""

    blobs_per_s: list[float] = field(default_factory=list)
    mib_per_s: list[float] = field(default_factory=list)
    cpu_us_per_blob: list[float] = field(default_factory=list)
    cpu_s_per_mib: list[float] = field(default_factory=list)


@dataclass
class Outcome:
    """Everything measured."""

    cells: dict[tuple[str, Case], Cell] = field(default_factory=dict)
    memory: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    """KiB after the small blobs, after all, and at most."""
    absent: dict[str, str] = field(default_factory=dict)


def cases() -> list[tuple[Case, Case]]:
    """Pairs: what brings blobs, and what takes them away again."""
    found = []
    for size in SIZES:
        found += [((Kind.PUT, size, number), (Kind.GET, size, number)) for number in CONNECTIONS]
        if size == SIZES[0]:
            found += [((Kind.UPLOAD, size, number), (Kind.DOWNLOAD, size, number)) for number in STREAMS]
    return found


def run(runs: int, scale: float, serve: Sequence[str] = ()) -> tuple[str, object, bool]:
    """Text, raw figures, and whether any is missing (a server that answers wrongly ends it all)."""
    chosen = list(serve) or list(USUAL)
    outcome = Outcome(absent={name: why for name in chosen if (why := missing(name))})
    names = [name for name in chosen if name not in outcome.absent]
    if not names:
        return report.facts({f"{name} left out": why for name, why in outcome.absent.items()}), {}, True
    about = machine.describe(Path(tempfile.gettempdir()))
    about["load average before"] = str(machine.load())
    for number in range(runs):
        with tempfile.TemporaryDirectory(prefix="blobfs-bench-") as scratch, contextlib.ExitStack() as stack:
            servers = []
            for name in names:
                servers.append(Serving(name, Path(scratch)))
                stack.callback(servers[-1].stop)
                _warm_up(servers[-1])
            _one_run(servers, outcome, scale, number)
    about["load average after"] = str(machine.load())
    about["runs"] = f"{runs}, medians; {LIMIT_S * scale:.1f} s at most for each figure"
    raw = {f"{name} {kind.value} {size} {at}": vars(cell) for (name, (kind, size, at)), cell in outcome.cells.items()}
    return _write_up(about, names, outcome), {"cells": raw, "memory": outcome.memory}, False


def _one_run(servers: Sequence[Serving], outcome: Outcome, scale: float, number: int) -> None:
    small: dict[str, int] = {}
    for index, (bring, take) in enumerate(cases()):
        body = os.urandom(bring[1])
        first = (index + number) % len(servers)
        for server in [*servers[first:], *servers[:first]]:
            if body and bring[1] > SIZES[0]:
                small.setdefault(server.name, server.memory_kib()[0])
            count = max(bring[2], int(min(MOST_BLOBS, MOST_BYTES // bring[1]) * scale))
            there = _cell(server, outcome, bring, new_ids(count), body, scale)
            _cell(server, outcome, take, there, body, scale)
    for server in servers:
        outcome.memory.setdefault(server.name, []).append((small[server.name], *server.memory_kib()))


def _warm_up(server: Serving) -> None:
    """First requests make statements, directories and threads; they are no part of any figure."""
    body = os.urandom(SIZES[0])
    for bring, take in ((Kind.PUT, Kind.GET), (Kind.UPLOAD, Kind.DOWNLOAD)):
        there = trio.run(press, server.accounts, bring, new_ids(WARM), body, 4, LIMIT_S).ids
        trio.run(press, server.accounts, take, there, body, 4, LIMIT_S)


def _cell(server: Serving, outcome: Outcome, case: Case, ids: Sequence[str], body: bytes, scale: float) -> list[str]:
    kind, size, connections = case
    before_s = server.cpu_s()
    rate = trio.run(press, server.accounts, kind, ids, body, connections, LIMIT_S * scale)
    used_s, moved = server.cpu_s() - before_s, len(rate.ids)
    cell = outcome.cells.setdefault((server.name, case), Cell())
    cell.blobs_per_s.append(moved / rate.seconds)
    cell.mib_per_s.append(moved * size / MIB / rate.seconds)
    cell.cpu_us_per_blob.append(used_s / moved * 1e6)
    cell.cpu_s_per_mib.append(used_s / (moved * size / MIB))
    check(server.accounts[0], rate.ids[-1], body)
    return rate.ids


def _write_up(about: dict[str, str], names: Sequence[str], outcome: Outcome) -> str:
    about |= {name: WAYS[name].about for name in names}
    for name, found in outcome.memory.items():
        texts = [f"{small / 1024:.0f}, {now / 1024:.0f}, {peak / 1024:.0f}" for small, now, peak in found]
        about[f"{name}, MiB of memory after small blobs, after all, at most"] = "; ".join(texts)
    about |= {f"{name} left out": why for name, why in outcome.absent.items()}
    parts = [report.facts(about)]
    columns: dict[str, Callable[[Cell], list[float]]] = {
        "Blobs a second:": lambda cell: cell.blobs_per_s,
        "MiB a second:": lambda cell: cell.mib_per_s,
        "Microseconds of the server's processor time for a blob:": lambda cell: cell.cpu_us_per_blob,
        "Seconds of the server's processor time for a MiB:": lambda cell: cell.cpu_s_per_mib,
    }
    everything = [case for pair in cases() for case in pair]
    order = list(Kind)
    everything.sort(key=lambda case: (order.index(case[0]), case[1], case[2]))
    for title, pick in columns.items():
        rows = []
        for kind, size, number in everything:
            head = f"{kind.value} of {size >> 10} KiB, {number} conn."
            row = [outcome.cells[name, (kind, size, number)] for name in names]
            rows.append([head, *(report.number(report.middle(pick(cell))) for cell in row)])
        parts += [title, report.table(["", *names], rows)]
    return "\n\n".join(parts)
