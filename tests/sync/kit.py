"""What the tests of sync stand on: a real server process, real stores, and devices that work like a small mount."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from blobfs import protocol
from blobfs.errors import BytesAbsent, NotFound
from blobfs.remote.client import Change, RemoteClient, Result
from blobfs.store.store import Store
from blobfs.sync.engine import SyncEngine, SyncOptions
from blobfs.sync.upload import Round
from blobfs.values.documents import Json, Kind, dump
from blobfs.values.keys import AccountId, Keys, derive_keys
from blobfs.values.nodes import ROOT_INODE, Inode, Node
from tests import administration
from tests.ports import Port

REPOSITORY = Path(__file__).parents[2]
ACCOUNT = AccountId("ab" * 16)
KEYS = derive_keys(ACCOUNT, b"k" * 32)
TIMEOUT_S = 60
LIMIT_S = float(os.environ.get("BLOBFS_TEST_LIMIT_S", "300"))


def trio_test(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test to its end, within a time that only a hang needs."""

    @functools.wraps(function)
    def run(**fixtures: Any) -> None:
        async def bounded() -> None:
            with trio.fail_after(LIMIT_S):
                await function(**fixtures)

        trio.run(bounded)

    return run


# --- the server -------------------------------------------------------------------------------------------


class Server:
    """A `blobfs-server` process on a loopback port of the system's choice."""

    def __init__(self, data: Path) -> None:
        self._port = Port()
        self.data, self.port, self.url = data, self._port.number, ""
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """On return it listens; always on the same port."""
        command = [sys.executable, "-m", "server", "--data", str(self.data), "--port", str(self.port)]
        log = (self.data.parent / "server.log").open("a")
        with log:
            self._process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"listening on (http://[^\s:]+:\d+)", line):
                self.url = found[1]
                return
        raise AssertionError("the server did not start: " + (self.data.parent / "server.log").read_text())

    def stop(self, how: int = signal.SIGKILL) -> None:
        """End the process, and see it gone."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(TIMEOUT_S)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def freeze(self) -> None:
        """It answers nothing any more, and its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *arguments: str) -> Any:
        """Run one of the server's commands; what it prints."""
        return administration.answer(*arguments, "--data", self.data)

    def add_user(self, name: str, quota: int | None = None) -> str:
        """A new account; its token."""
        limit = [] if quota is None else ["--quota", str(quota)]
        return str(self.command("user", "add", name, *limit)["token"])


@contextmanager
def serving(directory: Path) -> Iterator[Server]:
    """A running server with its data in `directory`."""
    server = Server(directory / "server")
    try:
        server.start()
        yield server
    finally:
        server.stop()


# --- devices ----------------------------------------------------------------------------------------------

FAST = SyncOptions(quiet_s=0.05, max_wait_s=0.5, debounce_s=0.01, fetch_deadline_s=TIMEOUT_S, reopen_s=0.02)


class Device:
    """A store with the calls of a small mount, and its engine."""

    def __init__(self, store: Store, engine: SyncEngine, client: RemoteClient) -> None:
        self.store, self.engine, self.client = store, engine, client
        self.open: set[Inode] = set()
        self._looking = 0
        engine.is_busy = self.open.__contains__
        self._look, engine._upload.round = engine._upload.round, self._round  # type: ignore[method-assign]

    async def _round(self, *, hurry: bool) -> Round:
        self._looking += 1
        try:
            return await self._look(hurry=hurry)
        finally:
            self._looking -= 1

    def node(self, path: str) -> Node:
        node = self.store.tree.get(ROOT_INODE)
        for part in filter(None, path.split("/")):
            node = self.store.tree.lookup(node.inode, part.encode())
        return node

    def exists(self, path: str) -> bool:
        try:
            self.node(path)
        except NotFound:
            return False
        return True

    def _place(self, path: str) -> tuple[Inode, bytes]:
        parent, _, name = path.rpartition("/")
        return self.node(parent).inode, name.encode()

    def make(self, path: str, kind: Kind, target: bytes = b"") -> Node:
        parent, name = self._place(path)
        now_ns = time.time_ns()
        return self.store.tree.create(
            parent, name, kind, mode=0o755, uid=os.getuid(), gid=os.getgid(), now_ns=now_ns, target=target
        )

    def mkdir(self, path: str) -> None:
        self.make(path, Kind.DIRECTORY)

    # Each in one transaction: a worker of sync that is at the store meanwhile sees all of it or nothing, and what was
    # looked at is what is changed.

    def write(self, path: str, data: bytes, offset: int = 0, *, truncate: bool = True) -> Node:
        """Open for writing, write, close."""
        with self.store.transaction():
            node = self.node(path) if self.exists(path) else self.make(path, Kind.FILE)
            now_ns = time.time_ns()
            if truncate and node.size:
                self.store.attachments.resize(node.inode, 0, now_ns)
            size = offset + len(data) if truncate else max(node.size, offset + len(data))
            return self.store.attachments.write(node.inode, [(offset, data)] if data else [], size, now_ns, now_ns)

    async def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        node = self.node(path)
        length = node.size - offset if length is None else length
        if node.content is None:
            return b""
        while True:
            try:
                return await trio.to_thread.run_sync(self.store.attachments.read, node.content, offset, length)
            except BytesAbsent as absent:
                await self.engine.fetch(node.content, absent.offset, absent.length)

    def rename(self, old: str, new: str) -> None:
        with self.store.transaction():
            replaced = self.store.tree.rename(*self._place(old), *self._place(new), time.time_ns())
            if replaced is not None and replaced.deleted:
                self.store.tree.purge(replaced.inode)

    def remove(self, path: str) -> None:
        with self.store.transaction():
            node = self.node(path)
            if node.kind is Kind.DIRECTORY:
                self.store.tree.rmdir(*self._place(path), time.time_ns())
            else:
                gone = self.store.tree.unlink(*self._place(path), time.time_ns())
                if gone.deleted:
                    self.store.tree.purge(gone.inode)

    def paths(self, path: str = "") -> dict[str, Node]:
        """Every path below, with its node."""
        found = {}
        for entry in self.store.tree.entries(self.node(path).inode, 0, 1 << 20):
            below = f"{path}/{entry.name.decode()}".lstrip("/")
            found[below] = entry.node
            if entry.node.kind is Kind.DIRECTORY:
                found |= self.paths(below)
        return found

    async def tree(self) -> dict[str, tuple[Kind, int, bytes]]:
        """Everything that a user could compare: kind, mode and bytes by path."""
        found = {}
        for path, node in self.paths().items():
            data = await self.read(path) if node.kind is Kind.FILE else node.target
            found[path] = (node.kind, node.mode, data)
        return found

    async def settle(self) -> None:
        """As `SyncEngine.settle`; and no worker is looking for what may be sent, of which a test does half so far."""
        await self.engine.settle(LIMIT_S)
        await until(lambda: not self._looking)


class Account:
    """One account on a running server, and the devices on it."""

    def __init__(self, directory: Path, server: Server, user: str, token: str) -> None:
        self.directory, self.server, self.user, self.token = directory, server, user, token

    @asynccontextmanager
    async def device(
        self,
        name: str,
        *,
        options: SyncOptions = FAST,
        url: str | None = None,
        keys: Keys = KEYS,
        token: str | None = None,
        secret: bytes | None = None,
        kept: list[Json] | None = None,
    ) -> AsyncIterator[Device]:
        """A device that syncs; its store stays in the directory, so that the name can come back.

        Args:
            secret: its secrets file; one of the first epoch without.
            kept: gets what the server claims to be a newer one.
        """
        path = self.directory / name
        store = Store.open(path, keys) if path.exists() else Store.create(path, keys, device_name=name)
        try:
            async with RemoteClient(url or self.server.url, self.user, token or self.token) as client:
                own = secret or dump({"version": 1, "account": keys.account})
                newer = kept if kept is not None else []
                engine = SyncEngine(store, client, options=options, secret=lambda: own, keep_secret=newer.append)
                device = Device(store, engine, client)
                async with trio.open_nursery() as nursery:
                    await nursery.start(engine.run)
                    try:
                        yield device
                    finally:
                        nursery.cancel_scope.cancel()
        finally:
            store.close()


def noise(size: int) -> bytes:
    """Random bytes without zeros: those that a row ends with are not stored, where something came from the server."""
    return os.urandom(size).replace(b"\0", b"\1")


async def until(condition: Callable[[], bool]) -> None:
    """Look again whenever the loop has had its turn, until `condition` holds."""
    with trio.fail_after(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def converge(*devices: Device) -> None:
    """Let every device send all, then take all; merges may need another turn."""
    for _ in range(3):
        for device in devices:
            await device.settle()
    await until(lambda: not any(device._looking for device in devices))


def look_after_each_request(device: Device, watcher: Device, *, most: int = protocol.MAX_CHANGES) -> None:
    """From now on `watcher` takes, and sends, all there is after each request of at most so many documents."""
    push = device.client.push

    async def push_and_look(changes: Sequence[Change]) -> list[Result]:
        results = list[Result]()
        for at in range(0, len(changes), most):
            results += await push(changes[at : at + most])
            await watcher.settle()
        return results

    device.client.push = push_and_look  # type: ignore[method-assign]
