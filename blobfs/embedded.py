"""The embedded server: one process of the server's own program, on loopback, for a store that was given no other.

Owns that process, its port and its restarts; talks to it only through its command line and the line that it prints.
Imports nothing of the server's. Invariant: the process never outlives this one, and is the last thing to end.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Final

import trio

from blobfs.errors import ServerFailed
from blobfs.process import module_command, module_environment

START_S: Final = 60
"""Seconds until a server that has not said where it listens counts as failed; a cold disk needs several."""
STOP_S: Final = 10
RESTART_S: Final = 60
"""Most seconds between two attempts to bring a dead server back."""
PORT_BUSY: Final = 3
"""The server's exit code for it (docs/CLI.md)."""
LOG_BYTES: Final = 4 << 20
"""Size at which the next start begins another log; one old one is kept."""
HOST: Final = "127.0.0.1"
_LISTENING: Final = re.compile(rb"listening on (http://127\.0\.0\.1:([0-9]{1,5})/?)\s*")

log = logging.getLogger(__name__)


def add_user(data: Path, user: str) -> str:
    """Make an account in a server's data directory, which is made too; the token of its first device.

    Raises:
        ServerFailed: the server's program refused; the message holds its last line.
    """
    command = module_command("server", "user", "add", user, "--data", os.fspath(data), "--json")
    done = subprocess.run(  # noqa: S603 - our own program and our own arguments
        command, stdin=subprocess.DEVNULL, capture_output=True, cwd="/", env=module_environment(), check=False
    )
    try:
        token = json.loads(done.stdout)["token"] if done.returncode == 0 else None
    except (ValueError, KeyError, TypeError):
        token = None
    if not isinstance(token, str):
        raise ServerFailed(f"the embedded server could not make an account ({_last_line(done.stderr)})")
    return token


class EmbeddedServer:
    """The server process of one store."""

    def __init__(self, data: Path, log_path: Path, port: int) -> None:
        """Starts nothing yet. `port` is the one to try first; 0 lets the kernel pick one."""
        self.port = port
        self._data, self._log_path = data, log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._ended_with: int | None = None

    @property
    def url(self) -> str:
        """Where clients find it; stays what it was while the server is down."""
        return f"http://{HOST}:{self.port}"

    async def start(self) -> None:
        """Start it on its port, or, when that one is taken by now, on another; on return it listens at `url`.

        Raises:
            ServerFailed: it ended, or said nothing in time; the message holds its last line.
        """
        try:
            await self._start(self.port)
        except ServerFailed:
            if self.port == 0 or self._ended_with != PORT_BUSY:
                raise
            log.warning("the embedded server does not start on port %d, trying another", self.port)
            await self._start(0)

    @contextlib.asynccontextmanager
    async def supervised(self) -> AsyncIterator[None]:
        """Started again, on its port, whenever it is not running while the block lasts."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._supervise)
            yield
            nursery.cancel_scope.cancel()

    async def _supervise(self) -> None:
        pause_s = 1.0
        while True:
            if self._process is not None:
                await _ended(self._process)
            log.warning("the embedded server is not running; starting it again")
            try:
                await self._start(self.port)
            except ServerFailed as error:
                log.warning("%s", error)
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RESTART_S)
            else:
                pause_s = 1.0

    async def stop(self) -> None:
        """End it, at the latest after `STOP_S` seconds; no cancellation interrupts this."""
        if self._process is None:
            return
        with trio.CancelScope(shield=True):
            self._process.terminate()
            try:
                await trio.to_thread.run_sync(self._process.wait, STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await trio.to_thread.run_sync(self._process.wait)
        self._ended_with = self._process.returncode
        _close(self._process)
        self._process = None

    async def _start(self, port: int) -> None:
        await self.stop()
        self._process = process = self._spawn(port)
        announced = None
        with trio.move_on_after(START_S):
            announced = await trio.to_thread.run_sync(_read_line, process.stdout, abandon_on_cancel=True)
        match = _LISTENING.fullmatch(announced or b"")
        if match is None:
            if announced == b"":
                # It ends by itself, and its exit code tells why: a signal now would hide that.
                with trio.move_on_after(STOP_S):
                    await _ended(process)
            await self.stop()
            raise ServerFailed(f"the embedded server did not start; {self._log_path} says why")
        self.port = int(match[2])

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        _rotate(self._log_path)
        pid = str(os.getpid())
        arguments = ("--data", os.fspath(self._data), "--host", HOST, "--port", str(port), "--exit-with-parent", pid)
        # In a session of its own: Ctrl-C on the terminal is for us, and it ends last. Its standard input is a pipe that
        # nobody writes to, so that it cannot read the terminal either.
        with open(self._log_path, "ab") as errors:
            return subprocess.Popen(  # noqa: S603 - our own program and our own arguments
                module_command("server", *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd="/",
                env=module_environment(),
                start_new_session=True,
            )


async def _ended(process: subprocess.Popen[bytes]) -> None:
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


def _read_line(stream: IO[bytes] | None) -> bytes:
    return stream.readline(1024) if stream is not None else b""


def _rotate(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES:
            path.replace(path.with_name(path.name + ".1"))


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
