"""The sync room: two and more devices, a server, and a link of known speed between them.

Each device has a link of its own, so what one of them moves is counted apart; but what is to be fast on loopback goes
straight to the server, since the link is a Python program that takes more of the processor than what it connects.
Beside the figures stands what plain httpx does the same way with blobs of the same size. Everything that arrives is
compared with what was written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import trio

from blobfs import protocol
from blobfs.values.extents import EXTENT
from blobfs.values.framing import sealed_size
from tests.benchmarks import machine, report
from tests.benchmarks.link import Link, linked
from tests.benchmarks.trial import MIB, PAGE, CheckFailed, check, drop_caches
from tests.benchmarks.wire import Account, get_all, new_ids, put_all
from tests.e2e.devices import Device, Server, blobfs, command

LIMIT_S: Final = 600.0
READ_S: Final = 60.0
"""For reading many small files, which goes on at the same pace however many there are."""
FOLDERS: Final = 100
PINGS: Final = 20
LOOK_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class Speed:
    """A link and how much is moved over it at scale 1."""

    name: str
    round_trip_s: float
    bits_per_s: float
    large: int
    files: int

    @property
    def is_slow(self) -> bool:
        return not math.isinf(self.bits_per_s)


SPEEDS: Final = (
    Speed("loopback", 0.0, math.inf, 1 << 30, 10_000),
    Speed("50 ms, 100 Mbit/s", 0.05, 100e6, 256 << 20, 10_000),
)


@dataclass
class Figures:
    """By what was measured: the target in words, and a value a run."""

    targets: dict[str, str] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, name: str, target: str, value: float) -> None:
        """One more run of it."""
        self.targets[name] = target
        self.values.setdefault(name, []).append(value)


class Bench:
    """A server and devices that are up as long as one pass lasts."""

    def __init__(self, place: Path, speed: Speed, scale: float, stack: contextlib.ExitStack) -> None:
        self.place, self.speed, self.scale, self._stack = place, speed, scale, stack
        self.server = Server(place / "server")
        stack.callback(self.server.stop)
        self.account = Account("127.0.0.1", self.server.port, "bench", self.server.add_user("bench")["token"])
        self.large = max(EXTENT, int(speed.large * scale) // EXTENT * EXTENT)
        self.files = max(FOLDERS, int(speed.files * scale))
        self.seed = random.Random()
        self.left, self.left_way = self.device("left")

    def device(self, name: str) -> tuple[Device, Account]:
        """One more device, mounted, and the account as it reaches it: over a link of its own, if links are slow."""
        device, account = self.invited(name)
        device.up()
        return device, account

    def invited(self, name: str) -> tuple[Device, Account]:
        """As `device`, with its invite and not mounted yet: how long it takes to join is to be measured."""
        if self.speed.is_slow:
            link = self._link()
            return self._invited(name, link.url), self._through(link.port)
        return self._invited(name, f"http://127.0.0.1:{self.server.port}"), self.account

    def linked_device(self, name: str) -> tuple[Device, Link]:
        """One more device, mounted, over a link of its own, whatever its speed: to count what passes."""
        link = self._link()
        device = self._invited(name, link.url)
        device.up()
        return device, link

    def _link(self) -> Link:
        speed = self.speed
        return self._stack.enter_context(
            linked(self.server.port, round_trip_s=speed.round_trip_s, bits_per_s=speed.bits_per_s)
        )

    def _invited(self, name: str, url: str) -> Device:
        argv = ["token", "add", "bench", "--data", str(self.server.data), "--url", url, "--json"]
        done = command(sys.executable, "-m", "server", *argv)
        check(done.returncode == 0, f"no invite: {done.stderr.strip()}")
        device = Device(self.place, name, json.loads(done.stdout)["invite"])
        self._stack.callback(device.close)
        return device

    def _through(self, port: int) -> Account:
        return Account("127.0.0.1", port, self.account.user, self.account.token)

    def until(self, what: str, condition: Callable[[], bool]) -> float:
        """Seconds until it holds."""
        start = time.perf_counter()
        while not condition():
            check(time.perf_counter() - start < LIMIT_S, f"not within {LIMIT_S:.0f} s: {what}")
            time.sleep(LOOK_S)
        return time.perf_counter() - start

    def pause_left(self, paused: bool) -> None:
        """Have the first device leave the server alone, or go on."""
        done = blobfs("config", str(self.left.mount), "paused", "on" if paused else "off")
        check(done.returncode == 0, f"not paused: {done.stderr.strip()}")

    def sync_left(self) -> None:
        """On return the server has everything of the first device."""
        self.left.sync(LIMIT_S)


def run(runs: int, scale: float, only: list[str]) -> tuple[str, object, bool]:
    """Text, raw figures, and whether something failed."""
    about = machine.describe(Path(tempfile.gettempdir()))
    about["load average before"] = str(machine.load())
    about["scale"] = "" if scale == 1 else f"{scale} of all sizes, which is no real run"
    found: dict[str, Figures] = {}
    for number in range(runs):
        for speed in SPEEDS:
            if only and speed.name.split()[0] not in only:
                continue
            print(f"run {number + 1} of {runs}: {speed.name} (load {machine.load()})", file=sys.stderr, flush=True)
            figures = found.setdefault(speed.name, Figures())
            _one_pass(speed, scale, figures)
    parts = [report.facts(about)]
    for name, figures in found.items():
        rows = [
            [what, report.number(statistics.median(v)), figures.targets[what]] for what, v in figures.values.items()
        ]
        parts += [f"Over {name}:", report.table(["", "median", "target"], rows)]
        parts += [f"- failed: {error}" for error in figures.errors]
    failed = any(figures.errors for figures in found.values())
    return "\n\n".join(parts), {name: vars(figures) for name, figures in found.items()}, failed


def _one_pass(speed: Speed, scale: float, figures: Figures) -> None:
    with _scratch() as place, contextlib.ExitStack() as stack:
        try:
            bench = Bench(place, speed, scale, stack)
            for measure in (large_file, small_files, a_little_of_much, close_to_visible):
                measure(bench, figures)
        except (CheckFailed, AssertionError, OSError, httpx.HTTPError, ExceptionGroup) as error:
            figures.errors.append(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    before = os.environ.get("XDG_DATA_HOME")
    with tempfile.TemporaryDirectory(prefix="blobfs-bench-", ignore_cleanup_errors=True) as scratch:
        os.environ["XDG_DATA_HOME"] = str(Path(scratch, "home"))
        try:
            yield Path(scratch)
        finally:
            os.environ.pop("XDG_DATA_HOME")
            if before is not None:
                os.environ["XDG_DATA_HOME"] = before


# --- what is measured -------------------------------------------------------------------------------------------------


def large_file(bench: Bench, figures: Figures) -> None:
    """Up from one device and down to another, beside plain httpx."""
    size, blob = bench.large, sealed_size(EXTENT)
    digest = _write_large(bench.left.mount / "large", size, bench.seed)
    start = time.perf_counter()
    bench.sync_left()
    up = size / MIB / (time.perf_counter() - start)
    # Else the first device would put its spool into its database on the processors that the second one needs.
    bench.until("the first device is at rest", lambda: not list(bench.left.store.glob("spool-*")))
    other, other_way = bench.device("right")
    bench.until("the large file is visible", lambda: _size(other.mount / "large") == size)
    # Before the clock: what others wrote is brought to the disk by that. The server reads from the disk for either.
    drop_caches()
    down = size / MIB / _read_large(other.mount / "large", size)
    # After the clock, from the kernel's cache: what it was given is compared, and plain httpx hashes nothing either.
    check(_digest(other.mount / "large") == digest, "the large file differs on the second device")
    other.down()
    ids = new_ids(size // EXTENT)
    plain_up = size / MIB / trio.run(put_all, bench.left_way, ids, blob)
    drop_caches()
    plain_down = size / MIB / trio.run(get_all, other_way, ids, blob)
    name = f"a file of {size >> 20} MiB"
    line = bench.speed.bits_per_s / 8 / MIB
    for direction, ours, plain in (("up", up, plain_up), ("down", down, plain_down)):
        figures.add(f"{name} {direction}, MiB/s", "", ours)
        figures.add(f"the same bytes {direction} with plain httpx, MiB/s", "", plain)
        figures.add(f"of plain httpx, {direction}", "0.8 or more", ours / plain)
        if bench.speed.is_slow:
            figures.add(f"of the link, {direction}", "0.9 or more", ours / line)


def small_files(bench: Bench, figures: Figures) -> None:
    """Up, names on another device, bytes there; then a rename of the directory that they are in."""
    count, root = bench.files, bench.left.mount / "many"
    root.mkdir()
    contents = {}
    bench.pause_left(True)  # else most of them would be there before the clock starts
    for number in range(count):
        if number < FOLDERS:
            (root / f"{number:02}").mkdir()
        name = f"{number % FOLDERS:02}/{number:05}"
        contents[name] = bench.seed.randbytes(PAGE)
        (root / name).write_bytes(contents[name])
    start = time.perf_counter()
    bench.pause_left(False)
    bench.sync_left()
    figures.add(f"{count} files of 4 KiB up, files/s", "1000 or more", count / (time.perf_counter() - start))
    right, _ = bench.invited("second")
    start = time.perf_counter()
    right.up()
    bench.until("all names are visible", lambda: _count(right.mount / "many") == count)
    figures.add("their names and sizes on a new device, its start included, s", "under 5", time.perf_counter() - start)
    figures.add("their bytes there, files/s", "1000 or more", _read_files(right.mount / "many", contents))
    cursor = _documents_since(bench.account, None)[1]
    start = time.perf_counter()
    root.rename(bench.left.mount / "moved")
    bench.sync_left()
    figures.add("rename of their directory, s", "", time.perf_counter() - start)
    figures.add("documents that moved", "1", _documents_since(bench.account, cursor)[0])
    bench.until("the new name is visible", lambda: _count(right.mount / "moved") == count)
    right.down()


def a_little_of_much(bench: Bench, figures: Figures) -> None:
    """4 KiB out of a large file that is not here; one byte changed in it."""
    reader, link = bench.linked_device("reader")
    path = reader.mount / "large"
    bench.until("the large file is visible", lambda: _size(path) == bench.large)
    bench.until("the feed is quiet", _quiet(link))
    link.reset()
    at = bench.large // 2 + 12 * PAGE
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        page = os.pread(file.fileno(), PAGE, at)
    figures.add("4 KiB out of that file, not here yet, ms", "", (time.perf_counter() - start) * 1e3)
    figures.add("requests for it", "2 at most", sum(link.requests.values()))
    figures.add("KiB moved for it", "256 at most", (link.up_bytes + link.down_bytes) / 1024)
    with open(bench.left.mount / "large", "rb", buffering=0) as file:
        check(os.pread(file.fileno(), PAGE, at) == page, "4 KiB differ on the reader")
    link.reset()
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), bytes([page[0] ^ 1]), at)
    reader.sync(LIMIT_S)
    figures.add("MiB up after an edit of 1 byte", "one extent, 4", link.up_bytes / MIB)
    reader.down()


def close_to_visible(bench: Bench, figures: Figures) -> None:
    """From `close` on one device until another one reads the bytes."""
    watcher, _ = bench.device("watcher")
    took = []
    for number in range(PINGS):
        path = watcher.mount / f"ping{number}"
        content = bench.seed.randbytes(100)
        (bench.left.mount / path.name).write_bytes(content)
        took.append(bench.until("a small file is visible", lambda path=path: path.exists()))  # type: ignore[misc]
        check(path.read_bytes() == content, "a small file differs")
    figures.add("close to visible, median, s", "under 1", statistics.median(took))
    watcher.down()


# --- helpers ---------------------------------------------------------------------------------------------------------


def _write_large(path: Path, size: int, source: random.Random) -> bytes:
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            piece = source.randbytes(MIB)
            digest.update(piece)
            file.write(piece)
    return digest.digest()


def _read_large(path: Path, size: int) -> float:
    """Seconds until all of it was read, into one buffer: what a program does with the bytes is not measured."""
    buffer, read = memoryview(bytearray(MIB)), 0
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            read += count
    took = time.perf_counter() - start
    check(read == size, f"{read} bytes of the large file were read in place of {size}")
    return took


def _digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _read_files(root: Path, contents: dict[str, bytes]) -> float:
    """Files a second, read one after the other and compared; as many as the time allows."""
    start, read = time.perf_counter(), 0
    for name, content in contents.items():
        check((root / name).read_bytes() == content, f"{name} differs on the second device")
        read += 1
        if time.perf_counter() - start > READ_S:
            break
    return read / (time.perf_counter() - start)


def _count(root: Path) -> int:
    return sum(path.stat().st_size == PAGE for path in root.glob("*/*"))


def _quiet(link: Link) -> Callable[[], bool]:
    """Whether nothing passed for a second."""
    seen, since = -1, time.monotonic()

    def look() -> bool:
        nonlocal seen, since
        moved = link.up_bytes + link.down_bytes
        if moved != seen:
            seen, since = moved, time.monotonic()
        return time.monotonic() - since > 1.0

    return look


def _documents_since(account: Account, cursor: str | None) -> tuple[int, str]:
    """How many documents changed, and the cursor behind them."""
    count = 0
    path = protocol.DOCUMENTS.format(user=account.user)
    headers = {"Authorization": account.authorization}
    with httpx.Client(base_url=f"http://{account.host}:{account.port}", headers=headers, trust_env=False) as client:
        while True:
            query = {"limit": "1000"} | ({} if cursor is None else {"since": cursor})
            answer = client.get(path, params=query)
            check(answer.status_code == 200, f"the feed was answered with {answer.status_code}")
            page = answer.json()
            count, cursor = count + len(page["documents"]), str(page["cursor"])
            if not page["more"]:
                return count, cursor
