"""Commands run as a person or a script would run them; every mount and process is gone after the test."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from blobfs.config import Mount, recall_all
from blobfs.outside import look
from tests import administration
from tests.e2e.devices import Server
from tests.watches import kill_for_good

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0


class Desk:
    """One user of this machine: a home of their own, mount points in it, and the commands that they run."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.mount, self.store = home / "private", home / "store"
        self.passphrase = home / "passphrase"
        self.passphrase.write_text("open sesame\n")
        self.environment = os.environ | {"XDG_DATA_HOME": str(home / "data"), "PYTHONPATH": str(ROOT)}
        self._started: list[subprocess.Popen[str]] = []

    def run(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """`blobfs ARGUMENTS`, to its end, without a terminal."""
        return subprocess.run(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=self.environment,
            cwd="/",
            check=False,
            **options,
        )

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """`blobfs ARGUMENTS`, left running; its output is one pipe."""
        process = subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
            cwd="/",
        )
        self._started.append(process)
        return process

    @staticmethod
    def command(*arguments: object) -> list[str]:
        # The passphrase hash is as strong as allowed and no stronger: tests set many.
        quick = ("--guess-time", "0") if arguments[0] in ("mount", "passwd") else ()
        return [sys.executable, "-m", "blobfs.cli", *map(str, arguments), *quick]

    def mount_arguments(self, *more: object) -> tuple[object, ...]:
        return ("mount", self.mount, "--store", self.store, "--passphrase-file", self.passphrase, *more)

    def up(self, *more: object) -> None:
        """Mounted in the background, on return."""
        done = self.run(*self.mount_arguments("--background", *more))
        assert done.returncode == 0, done.stderr
        assert os.path.ismount(self.mount)

    def status(self) -> dict[str, Any]:
        """What `status --json` prints, without a process to print it."""
        return look(Mount(self.mount, self.store)).to_json()

    def close(self) -> None:
        """End everything, whatever state it is in."""
        with suppress(Exception), pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_DATA_HOME", self.environment["XDG_DATA_HOME"])
            for mount in recall_all():
                if (pid := look(mount).pid) is not None:
                    kill_for_good(pid)
        for process in self._started:
            process.kill()
            process.communicate()
        for path in (self.mount, self.home / "other"):
            subprocess.run(["fusermount3", "-u", "-z", "-q", str(path)], check=False, stderr=subprocess.DEVNULL)


def end(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal and wait until the process is gone."""
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, number)
        wait_until(lambda: has_ended(process))
    finally:
        os.close(process)


def has_ended(process: int) -> bool:
    return bool(select.select([process], [], [], 0)[0])


def wait_until(condition: Callable[[], bool]) -> None:
    """For what another process does and announces to nobody."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """The process's output up to and with the line that holds `text`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"it ended without saying {text!r}: {seen}")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


class AccountServer(Server):
    """A server process with one account."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, *arguments: object) -> Any:
        return administration.answer(*arguments, "--data", self.data)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AccountServer]:
    server = AccountServer(tmp_path / "server")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk with a mount and a server of its own, for all tests of a module: each works in a folder of its own."""
    place = tmp_path_factory.mktemp("account")
    server, desk = AccountServer(place / "server"), Desk(place)
    try:
        desk.up("--connect", server.command("user", "add", "alice")["invite"])
        yield desk
    finally:
        desk.close()
        server.stop()


@pytest.fixture
def folder(account: Desk, request: pytest.FixtureRequest) -> Path:
    """A new folder in the mount of `account`."""
    made = account.mount / request.node.name[:60]
    made.mkdir()
    return made


def tell(account: Desk, *arguments: object) -> str:
    """What a command prints that succeeds."""
    done = account.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(account: Desk, *arguments: object) -> Any:
    """The JSON that a command prints."""
    return json.loads(tell(account, *arguments, "--json"))


def await_close(account: Desk, *files: Path) -> None:
    """On return these are closed for the mount's process, too: the kernel tells of the last close after it returned."""
    for file in files:
        wait_until(lambda file=file: not told(account, "status", file)["open"])  # type: ignore[misc]


def sync(account: Desk) -> None:
    """On return everything is on the server."""
    tell(account, "sync", account.mount, "--wait", "--timeout", "60")
