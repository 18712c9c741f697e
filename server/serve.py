"""One server process: its data directory, its socket, uvicorn, and an end in good order.

Must not know routes. Invariant: "listening on URL" is printed only when connections are accepted; SIGTERM and SIGINT
finish or refuse what is under way; with `exit_with` the process does not outlive that parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import json
import logging
import os
import signal
import socket
import time
from types import FrameType
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette

from server.app import create_app
from server.certificate import read_pin
from server.errors import DataUnusable, PortBusy
from server.service import Service
from server.settings import Settings, lock_data, prepare_data, remember_address, remember_pin

DRAIN_S: Final = 10
"""How long requests under way may take to finish once the end has begun."""

PARENT_S: Final = 1.0
"""How often the parent is looked for, in case the kernel's signal is lost."""

_PR_SET_PDEATHSIG: Final = 1
_M_MMAP_THRESHOLD: Final = -3
_LARGE: Final = 8 << 20
_M_TRIM_THRESHOLD: Final = -1
_SLACK: Final = 32 << 20
"""Bytes of freed memory that stay for the next bodies: of sixteen requests, a megabyte each and what it is copied to.
Pages made anew cost a sixth of what a PUT does."""


def serve(settings: Settings) -> None:
    """Serve until a signal ends it.

    Raises:
        DataUnusable: the data directory cannot be used, or another server uses it.
        PortBusy: the address cannot be listened on.
    """
    prepare_data(settings.data)
    lock = lock_data(settings.data)
    try:
        listener = _listen(settings)
        _set_up_log()
        _settle_memory()
        app = create_app(settings)
        config = uvicorn.Config(
            app,
            http=_protocol(),
            loop="asyncio",  # by itself uvicorn takes uvloop where that happens to be installed
            ws="none",
            lifespan="on",
            limit_concurrency=settings.connections,
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,  # who asks is who is connected: nothing is decided by what a header claims
            timeout_keep_alive=60,
            timeout_graceful_shutdown=DRAIN_S,
            h11_max_incomplete_event_size=32 << 10,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
        )
        server = _Server(config, app, settings, listener)
        if settings.exit_with is not None:
            server.watch_parent(settings.exit_with)
        server.run(sockets=[listener])
        if not server.started:
            raise DataUnusable("The server could not start; its log says why.")
    finally:
        os.close(lock)


class _Server(uvicorn.Server):
    """Uvicorn that says when it listens, lets go of waiting requests at the end, and can watch a parent."""

    def __init__(self, config: uvicorn.Config, app: Starlette, settings: Settings, listener: socket.socket) -> None:
        super().__init__(config)
        self._service: Service = app.state.service
        self._settings = settings
        self._url = url_of(settings, listener)
        self._parent: int | None = None
        self._pin: str | None = None
        self._is_pin_needed = False
        if settings.tls_certificate is not None:
            self._pin, self._is_pin_needed = read_pin(settings.tls_certificate)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            remember_address(self._settings.data, self._url)
            remember_pin(self._settings.data, self._pin if self._is_pin_needed else None)
            print(f"listening on {self._url}", flush=True)
            if self._pin is not None:
                print(f"key pin {self._pin}", flush=True)
            if self._parent is None:  # else the manager, if any, waits for that process
                _tell_manager("READY=1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Long polls and event streams would otherwise hold the end up for as long as they may wait.
        self._service.news.close()
        await super().shutdown(sockets=sockets)
        if self.force_exit:
            # Left out by uvicorn, which would then log how the task that waits for it is cancelled.
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Uvicorn's own would raise the signal once more at the end, and an end in good order be an exit code of 143.
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    def watch_parent(self, parent: int) -> None:
        """End when `parent` does."""
        self._parent = parent
        signal.signal(signal.SIGUSR1, self._look_for_parent)
        # The kernel sends this when the parent's *thread* that started us ends, so the signal only means: look.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
        # Looked for once more on the first tick, so a parent that ended before this line is noticed too.

    def _look_for_parent(self, _signal: int, _frame: FrameType | None) -> None:
        if self._parent is not None and os.getppid() != self._parent:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if counter % int(PARENT_S * 10) == 0:
            self._look_for_parent(signal.SIGUSR1, None)
        return await super().on_tick(counter)


def _tell_manager(state: str) -> None:
    """Tell the service manager that started this process, if one did."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def _protocol() -> Any:
    """The HTTP parser: httptools where it is installed, else h11, which has bounds of its own."""
    if importlib.util.find_spec("httptools") is None:
        return "h11"
    from server.connection import BoundedConnection

    return BoundedConnection


def url_of(settings: Settings, listener: socket.socket) -> str:
    """What clients are to use for a server on this socket."""
    if settings.public_url is not None:
        return settings.public_url.rstrip("/")
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not bound to
        host = socket.gethostname()
    scheme = "http" if settings.tls_certificate is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _settle_memory() -> None:
    """From here on freed memory is kept to a fixed extent. Other C libraries than glibc do not know the question."""
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(_M_MMAP_THRESHOLD, _LARGE)
        tune(_M_TRIM_THRESHOLD, _SLACK)


def _listen(settings: Settings) -> socket.socket:
    """A bound socket; uvicorn makes it listen."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise PortBusy(f"The address {settings.host} cannot be listened on: {error.strerror}.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for TIME_WAIT
        listener.bind(address)
        listener.listen(2048)  # now, so that a second server on this port fails here and not later
    except OSError as error:
        listener.close()
        raise PortBusy(
            f"Port {settings.port} on {settings.host} cannot be listened on: {error.strerror}; choose another --port."
        ) from error
    return listener


# --- the log ----------------------------------------------------------------------------------------------


class _JsonFormatter(logging.Formatter):
    """One JSON object a line. Only what a caller put into `fields`: no header, query, token or id can slip in."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _is_fault(record: logging.LogRecord) -> bool:
    """A request that was cut off, since the server ends and the time for it is over, is none."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, asyncio.CancelledError)


def _set_up_log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter())
    handler.addFilter(_is_fault)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("blobfs.server").setLevel(os.environ.get("BLOBFS_SERVER_LOG", "INFO").upper())
