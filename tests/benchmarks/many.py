"""The room of many documents: one device has a hundred thousand small files to send, another one joins and takes them.

Each device is a process of its own with a store and an engine and no mount, so that its memory is counted alone.
`python -m tests.benchmarks.many ROLE STORE URL USER TOKEN COUNT` is such a process; it prints its figures.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from blobfs.remote.client import RemoteClient
from blobfs.store.store import Store
from blobfs.sync.engine import SyncEngine, SyncOptions
from blobfs.values.documents import Kind, dump
from blobfs.values.keys import AccountId, derive_keys
from blobfs.values.nodes import ROOT_INODE, Inode
from tests.benchmarks import machine, report
from tests.benchmarks.link import linked
from tests.benchmarks.trial import check
from tests.e2e.devices import Server

COUNT: Final = 100_000
FOLDERS: Final = 100
SIZE: Final = 100
LIMIT_S: Final = 1800.0
KEYS: Final = derive_keys(AccountId("cd" * 16), b"b" * 32)
TARGETS: Final = {"first sync, s": "180", "first sync, peak MiB": "250"}


# --- a device, in its own process -------------------------------------------------------------------------


def make(store: Store, count: int) -> None:
    """So many files of 100 bytes in 100 directories, each with bytes of its own."""
    tree, owner = store.tree, {"uid": os.getuid(), "gid": os.getgid()}
    folders: list[Inode] = []
    for number in range(count):
        now_ns = time.time_ns()
        if number < FOLDERS:
            name = b"folder %d" % number
            folders.append(tree.create(ROOT_INODE, name, Kind.DIRECTORY, mode=0o755, now_ns=now_ns, **owner).inode)
        parent, name = folders[number % FOLDERS], b"a document, %d" % number
        node = tree.create(parent, name, Kind.FILE, mode=0o644, now_ns=now_ns, **owner)
        store.attachments.write(node.inode, [(0, name.ljust(SIZE))], SIZE, now_ns, now_ns)
        if not number % 1000:
            store.tick()


async def sync(store: Store, url: str, user: str, token: str) -> None:
    """Until both sides are the same."""
    options = SyncOptions(quiet_s=0)
    secret = dump({"version": 1, "account": KEYS.account})
    async with RemoteClient(url, user, token) as client, trio.open_nursery() as nursery:
        engine = SyncEngine(store, client, options=options, secret=lambda: secret)
        await nursery.start(engine.run)
        await engine.settle(LIMIT_S)
        nursery.cancel_scope.cancel()


def timed(action: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def device(role: str, path: Path, url: str, user: str, token: str, count: int) -> dict[str, float]:
    """What one device does; its figures."""
    figures = {}
    is_first = not path.exists()
    store = Store.create(path, KEYS, device_name=role) if is_first else Store.open(path, KEYS)
    with contextlib.closing(store):
        if role == "make":
            figures["made, s"] = timed(lambda: make(store, count))
            figures["what waits, s"] = timed(store.documents.pending)
            return figures
        figures["s"] = timed(lambda: trio.run(sync, store, url, user, token))
        figures["documents"] = store.tree.count()
        figures["pending"] = store.documents.pending()[0]
    figures["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


# --- the benchmark ------------------------------------------------------------------------------------------


def run(runs: int, scale: float) -> tuple[str, object, bool]:
    """Text, raw figures, and whether something failed."""
    about = machine.describe(Path(tempfile.gettempdir()))
    about["load average before"] = str(machine.load())
    count = max(FOLDERS, int(COUNT * scale))
    passes = [_one_pass(count) for _ in range(runs)]
    rows = [
        [name, report.number(statistics.median(one[name] for one in passes)), TARGETS.get(name, "")]
        for name in passes[0]
    ]
    text = "\n\n".join([report.facts(about), f"{count:,} files:", report.table(["", "median", "target"], rows)])
    return text, passes, False


def _one_pass(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="blobfs-many-") as place, contextlib.ExitStack() as stack:
        server = Server(Path(place, "server"))
        stack.callback(server.stop)
        token = server.add_user("many")["token"]
        figures: dict[str, float] = {}
        for role, title, store in (("make", "", "left"), ("send", "upload", "left"), ("join", "first sync", "right")):
            link = stack.enter_context(linked(server.port))
            found = _device(role, Path(place, store), link.url, token, count)
            check(role == "make" or found.pop("documents") == count + FOLDERS + 1, f"{role}: documents are missing")
            check(not found.pop("pending", 0), f"{role}: something still waits")
            figures |= {f"{title}, {name}".removeprefix(", "): value for name, value in found.items()}
            if title:
                figures[f"{title}, requests"] = link.requests.total()
                figures[f"{title}, MiB received"] = link.down_bytes / (1 << 20)
        return figures


def _device(role: str, store: Path, url: str, token: str, count: int) -> dict[str, Any]:
    argv = [sys.executable, "-m", "tests.benchmarks.many", role, str(store), url, "many", token, str(count)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    check(done.returncode == 0, f"{role} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    _role, _store, _url, _user, _token, _count = sys.argv[1:]
    print(json.dumps(device(_role, Path(_store), _url, _user, _token, int(_count))))
