"""The server room: requests and bytes a second of PUT and GET, by size of the blobs and number of connections.

The client is one process of raw connections, so that on two processors the server is what is measured.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from tests.benchmarks import machine, report
from tests.benchmarks.processes import memory
from tests.benchmarks.trial import MIB
from tests.benchmarks.wire import Account, new_ids, press
from tests.e2e.devices import Server

SIZES: Final = (4 << 10, 128 << 10, 4 << 20)
CONNECTIONS: Final = (1, 16, 128)
LIMIT_S: Final = 3.0
"""For one cell of the table."""
MOST_BYTES: Final = 1 << 30
MOST_REQUESTS: Final = 20_000


@dataclass
class Cell:
    """Figures of one size, method and number of connections; one a run."""

    requests_per_s: list[float] = field(default_factory=list)
    mib_per_s: list[float] = field(default_factory=list)


Cells = dict[tuple[str, int, int], Cell]


def run(runs: int, scale: float) -> tuple[str, object, bool]:
    """Text, raw figures, and whether any is missing (a server that answers wrongly ends it all)."""
    cells: Cells = {}
    about = machine.describe(Path(tempfile.gettempdir()))
    about["load average before"] = str(machine.load())
    peaks = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="blobfs-bench-") as scratch:
            server = Server(Path(scratch, "data"))
            try:
                assert server.process is not None
                token = server.add_user("bench")["token"]
                account = Account("127.0.0.1", server.port, "bench", token)
                peaks.append(_one_run(account, cells, scale, server.process.pid))
            finally:
                server.stop()
    about["memory of the server, MiB, after small blobs and after all"] = "; ".join(
        f"{small / 1024:.0f}, {all_ / 1024:.0f}" for small, all_ in peaks
    )
    about["runs"] = str(runs)
    return _write_up(about, cells), {f"{m} {s} {c}": vars(cell) for (m, s, c), cell in cells.items()}, False


def _one_run(account: Account, cells: Cells, scale: float, pid: int) -> tuple[int, int]:
    small = 0
    for size in SIZES:
        body = os.urandom(size)
        for connections in CONNECTIONS:
            count = max(connections, int(min(MOST_REQUESTS, MOST_BYTES // size) * scale))
            there = _cell(account, cells, "PUT", new_ids(count), body, connections, scale)
            _cell(account, cells, "GET", there, body, connections, scale)
        small = small or memory(pid)["rss_kib"]
    return small, memory(pid)["peak_kib"]


def _cell(
    account: Account, cells: Cells, method: str, ids: list[str], body: bytes, connections: int, scale: float
) -> list[str]:
    rate = trio.run(press, account, method, ids, body, connections, LIMIT_S * scale)
    cell = cells.setdefault((method, len(body), connections), Cell())
    cell.requests_per_s.append(rate.requests / rate.seconds)
    cell.mib_per_s.append(rate.requests * len(body) / MIB / rate.seconds)
    return rate.ids


def _write_up(about: dict[str, str], cells: Cells) -> str:
    head = ["", *(f"{connections} conn." for connections in CONNECTIONS)]
    rows = []
    for method in ("PUT", "GET"):
        for size in SIZES:
            found = [cells[method, size, connections] for connections in CONNECTIONS]
            name = f"{method} of {size >> 10} KiB"
            rows.append([f"{name}, requests/s", *(report.number(report.middle(cell.requests_per_s)) for cell in found)])
            rows.append([f"{name}, MiB/s", *(report.number(report.middle(cell.mib_per_s)) for cell in found)])
    return f"{report.facts(about)}\n\n{report.table(head, rows)}"
