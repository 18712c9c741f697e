"""The ways to serve one and the same application that the benchmark compares, each as processes of its own.

`python -m tests.benchmarks.serving NAME DATA PORT` is one such process; `Serving` starts what a name stands for. Every
way has the same configuration, which takes the bounds on requests off: they would be all that is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.processes import ProcessFailed, end, family, memory, wait_until
from tests.benchmarks.wire import Account
from tests.postgresql import PostgresqlCluster

HOST: Final = "127.0.0.1"
START_S: Final = 30.0
END_S: Final = 20.0
FILE: Final = "server.toml"
USER: Final = "bench"
LIMITS: Final = "[limits]\nrequests_per_second = 1000000\nburst = 1000000\n"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to serve."""

    about: str
    modules: Sequence[str] = ()
    """What it needs beside what blobfs does."""
    processes: int = 1
    is_shared: bool = False
    """PostgreSQL, and an object store in a directory, which several processes can share."""


WAYS: Final[dict[str, Way]] = {
    "blobfs-server": Way("what people run: SQLite, blobs as files"),
    "uvicorn": Way("httptools, asyncio, as blobfs-server has it", ["httptools"]),
    "uvicorn-uvloop": Way("httptools, uvloop", ["httptools", "uvloop"]),
    "uvicorn-h11": Way("h11, asyncio"),
    "granian": Way("its own HTTP in Rust, asyncio", ["granian"]),
    "granian-uvloop": Way("its own HTTP in Rust, uvloop", ["granian", "uvloop"]),
    "hypercorn": Way("h11, asyncio", ["hypercorn"]),
    "hypercorn-uvloop": Way("h11, uvloop", ["hypercorn", "uvloop"]),
    "postgresql": Way(
        "one blobfs-server on PostgreSQL, blobs as objects in a directory, which does not flush them", is_shared=True
    ),
    "postgresql-2": Way("two of them", processes=2, is_shared=True),
}
USUAL: Final = ("blobfs-server", "postgresql", "postgresql-2")


def missing(name: str) -> str:
    """Why this way cannot be measured here; empty when it can."""
    absent = [module for module in WAYS[name].modules if importlib.util.find_spec(module) is None]
    return f"{', '.join(absent)} not installed" if absent else ""


class Serving:
    """Running processes of one way, with one account; `stop` ends them."""

    def __init__(self, name: str, scratch: Path) -> None:
        """Start; on return each process answers.

        Raises:
            ProcessFailed: one does not.
        """
        self.name = name
        self.way = WAYS[name]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._cluster: PostgresqlCluster | None = None
        try:
            self.accounts = self._start(scratch / name)
        except BaseException:
            self.stop()
            raise

    def _start(self, scratch: Path) -> list[Account]:
        text = LIMITS
        if self.way.is_shared:
            self._cluster = PostgresqlCluster(is_durable=True)
            text += f'[catalog]\nurl = "{self._cluster.create()}"\n[blobs]\nurl = "{(scratch / "objects").as_uri()}"\n'
        ports, token = [], ""
        for number in range(self.way.processes):
            data = scratch / str(number)
            data.mkdir(mode=0o700, parents=True)
            data.joinpath(FILE).write_text(text)
            token = token or _add_user(data)
            ports.append(_free_port())
            is_ours = self.way.is_shared or self.name == "blobfs-server"
            argv = ["server", "--data", str(data), "--port", str(ports[-1])]
            if not is_ours:
                argv = ["tests.benchmarks.serving", self.name, str(data), str(ports[-1])]
            output = None if os.environ.get("BLOBFS_BENCH_LOUD") else subprocess.DEVNULL
            process = subprocess.Popen([sys.executable, "-m", *argv], stdout=output, stderr=output)
            self._processes.append(process)
            if not _wait_for(process, ports[-1]):
                raise ProcessFailed(f"{self.name} did not start")
        return [Account(HOST, port, USER, token) for port in ports]

    @property
    def pids(self) -> list[int]:
        """Of the processes that serve; each may have children."""
        return [process.pid for process in self._processes]

    def cpu_s(self) -> float:
        """Seconds of processor time until now; a database's are not among them."""
        return sum(_clock_s(member) for pid in self.pids for member in family(pid))

    def memory_kib(self) -> tuple[int, int]:
        """Now and at most, all processes together."""
        found = [memory(pid) for pid in self.pids]
        return sum(each["rss_kib"] for each in found), sum(each["peak_kib"] for each in found)

    def stop(self) -> None:
        """End everything."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            end(process, END_S)
        if self._cluster is not None:
            self._cluster.stop()


def _wait_for(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it accepts connections, now or soon."""
    return wait_until(lambda: _is_up(port) or process.poll() is not None, START_S) and process.poll() is None


def _add_user(data: Path) -> str:
    argv = [sys.executable, "-m", "server", "user", "add", USER, "--data", str(data), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["token"])


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def _is_up(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
        return True
    return False


def _clock_s(pid: int) -> float:
    """Seconds that a process used. Its own clock, since /proc counts by hundredths of a second."""
    return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid makes of a process id


# --- one process ------------------------------------------------------------------------------------------------------


def make_app() -> Any:
    """The application on the directory that the environment names; granian's worker calls this."""
    from server.app import create_app
    from server.config import read_config
    from server.settings import Settings, prepare_data

    data = Path(os.environ["BLOBFS_BENCH_DATA"])
    prepare_data(data)
    return create_app(Settings(**read_config(data / FILE) | {"data": data}))


def _run_uvicorn(name: str, port: int) -> None:
    import uvicorn

    from server.connection import BoundedConnection

    http: Any = "h11" if name == "uvicorn-h11" else BoundedConnection
    loop: Any = "uvloop" if name == "uvicorn-uvloop" else "asyncio"
    app = make_app()
    uvicorn.run(app, host=HOST, port=port, http=http, loop=loop, ws="none", lifespan="on", access_log=False)


def _run_granian(name: str, port: int) -> None:
    from granian import Granian
    from granian.constants import Interfaces, Loops

    loop = Loops.uvloop if name == "granian-uvloop" else Loops.asyncio
    target = "tests.benchmarks.serving:make_app"
    Granian(
        target, HOST, port, factory=True, interface=Interfaces.ASGI, loop=loop, websockets=False, log_enabled=False
    ).serve()


def _run_hypercorn(name: str, port: int) -> None:
    import hypercorn.asyncio
    import hypercorn.config

    config = hypercorn.config.Config()
    config.bind = [f"{HOST}:{port}"]

    async def main() -> None:
        await hypercorn.asyncio.serve(make_app(), config)

    if name == "hypercorn-uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())


RUNNERS: Final[dict[str, Callable[[str, int], None]]] = {
    "uvicorn": _run_uvicorn,
    "granian": _run_granian,
    "hypercorn": _run_hypercorn,
}


if __name__ == "__main__":
    os.environ["BLOBFS_BENCH_DATA"] = sys.argv[2]
    RUNNERS[sys.argv[1].partition("-")[0]](sys.argv[1], int(sys.argv[3]))
