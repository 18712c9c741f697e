"""A real PostgreSQL for the tests: a private cluster on a Unix socket, gone with the process that started it.

PostgreSQL refuses to run as root, so root's tests run it as `nobody`. Durability is off unless asked for: no test here
cuts the power.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from blobfs.bootstrap.system import find_postgresql

START_S = 60
_BASE = ["shared_buffers=32MB", "max_connections=80"]
_FAST = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
_PR_SET_PDEATHSIG = 1


class PostgresqlCluster:
    """A running cluster; `create` gives an empty database."""

    def __init__(self, is_durable: bool = False) -> None:
        """With `is_durable`, a commit waits for the disk, as benchmarks want it."""
        programs = find_postgresql()
        assert programs is not None, "PostgreSQL is missing; python3 tests/run.py installs it"
        # Not below pytest's directories: those are closed to other users.
        self.directory = Path(tempfile.mkdtemp(prefix="blobfs-pg-"))
        self._settings = [*_BASE, *([] if is_durable else _FAST)]
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(self.directory, "nobody")
            self._as = {"user": "nobody", "extra_groups": []}
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self._start(programs)
        except BaseException:
            self.stop()
            raise

    def _start(self, programs: Path) -> None:
        data = self.directory / "data"
        initdb = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
        subprocess.run([*initdb, "--no-sync"], cwd=self.directory, check=True, capture_output=True, **self._as)
        settings = [f"-c{setting}" for setting in self._settings]
        settings += ["-clisten_addresses=", f"-cunix_socket_directories={self.directory}"]
        libc = ctypes.CDLL(None)
        log = os.open(self.directory / "log", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            self.process = subprocess.Popen(
                [programs / "postgres", "-D", data, *settings],
                cwd=self.directory,
                stdout=log,
                stderr=log,
                # When the tests are killed, this ends too.
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0),
                **self._as,
            )
        finally:
            os.close(log)
        end = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self._conninfo("postgres")).close()
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.directory / "log").read_text()
                assert time.monotonic() < end, (self.directory / "log").read_text()
                select.select([], [], [], 0.05)
            else:
                return

    def _conninfo(self, database: str) -> str:
        return f"host={self.directory} user=postgres dbname={database}"

    def create(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{secrets.token_hex(8)}"
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
        return f"postgresql://postgres@/{name}?host={self.directory}"

    def break_connections(self, url: str) -> int:
        """End every session of the database at `url`, as a restart of PostgreSQL does; answers how many there were."""
        name = url.partition("@/")[2].partition("?")[0]
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            row = connection.execute(query, [name]).fetchone()
        assert row is not None
        return int(row[0])

    def stop(self) -> None:
        """End it and remove what it wrote."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(START_S)
        shutil.rmtree(self.directory)
