"""A desk in another process, which has the store mounted or open, over its socket.

Calls that may wait for the server have a connection of their own, and are given up by closing it. Invariant: what this
process staged there and never attached goes when its first connection does, however it ends.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from blobfs.api import wire
from blobfs.api.account import Account
from blobfs.api.changes import Listeners
from blobfs.api.desk import Desk, Listed, Named, Past, View
from blobfs.api.loop import WAITER
from blobfs.api.mailroom import as_parcel
from blobfs.api.shelf import Row
from blobfs.control import address
from blobfs.errors import RemoteUnavailable, StoreInUse

SLOW: Final = frozenset(("fetch", "settle", "revisions", "incoming.fail", "incoming.address"))


def _view(result: Any) -> View:
    view = View(*result)
    return view._replace(named=[Named(*entry) for entry in view.named])


RESULTS: Final[dict[str, Callable[[Any], Any]]] = {
    "create": _view,
    "get": lambda result: None if result is None else _view(result),
    "at": lambda result: None if result is None else _view(result),
    "put": lambda result: [_view(view) for view in result],
    "entries": lambda result: [Listed(*entry) for entry in result],
    "revisions": lambda result: [Past(*past) for past in result],
    "blobs.find": lambda result: None if result is None else Row(*result),
    "blobs.put": lambda result: Row(*result),
    "blobs.page": lambda result: [Row(*row) for row in result],
    "incoming.take": as_parcel,
    "keys": lambda result: [tuple(key) for key in result],
    "indexes": lambda result: {name: tuple(paths) for name, paths in result.items()},
}
"""What becomes of a result whose types the journey does not keep."""


def visit(store: Path) -> Account:
    """The account of a store that a process has open.

    Raises:
        StoreInUse: that process answers no programs. RemoteUnavailable: it ended meanwhile.
    """
    listeners = Listeners()
    visitor = Visitor(store, listeners)
    return Account(cast("Desk", visitor), listeners, visitor.close)


class Visitor:
    """Has every method of a `Desk`."""

    def __init__(self, store: Path, listeners: Listeners) -> None:
        self._store, self._listeners = store, listeners
        self._first = Line(store)
        self.blobs = PartVisitor(self._ask, wire.BLOBS)
        self.incoming = PartVisitor(self._ask, wire.INCOMING)
        try:
            self._news = _listen_to(store)
        except BaseException:
            self._first.close()
            raise
        self._thread = threading.Thread(target=self._listen, name="blobfs-news", daemon=True)
        self._thread.start()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return partial(self._ask, method)

    def _ask(self, method: str, *arguments: Any) -> Any:
        if method not in SLOW:
            result = self._first.ask(method, arguments)
        else:
            with contextlib.closing(Line(self._store)) as line:
                if (waiter := WAITER.get()) is not None:
                    waiter.add(line)
                result = line.ask(method, arguments)
        convert = RESULTS.get(method)
        return result if convert is None else convert(result)

    def _listen(self) -> None:
        with contextlib.suppress(RemoteUnavailable):
            while True:
                self._listeners.tell(wire.result_of(self._news.receive()))
        # That process has ended: whoever waits for news waits in vain.
        self._listeners.hang_up()

    def close(self) -> None:
        """Leave."""
        self._news.cancel()
        self._thread.join()
        self._news.close()
        self._first.close()


class PartVisitor:
    """Has every method of a part of a desk: its shelf, its mailroom."""

    def __init__(self, ask: Callable[..., Any], prefix: str) -> None:
        self._ask, self._prefix = ask, prefix

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return partial(self._ask, f"{self._prefix}{method}")


class Line:
    """One connection: a question, its answer, the next question."""

    def __init__(self, store: Path) -> None:
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with address(store, wire.SOCKET) as path:
                self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise StoreInUse("another process works on this store; wait until it has ended, then try again") from None

    def ask(self, method: str, arguments: Any) -> Any:
        """Ask, and wait. Raises what the desk raised; RemoteUnavailable: its process ended."""
        with self._lock:
            self.send([method, arguments])
            answer = self.receive()
        return wire.result_of(answer)

    def send(self, question: Any) -> None:
        """Send a question."""
        frame = wire.pack(question)
        try:
            self._socket.sendall(frame)
        except OSError:
            raise _gone() from None

    def receive(self) -> Any:
        """Wait for an answer."""
        (size,) = wire.SIZE.unpack(self._read(wire.SIZE.size))
        if size > wire.MAX_ANSWER:
            raise _gone()
        return wire.unpack(self._read(size))

    def _read(self, size: int) -> bytes:
        received = bytearray(size)
        view, at = memoryview(received), 0
        while at < size:
            try:
                count = self._socket.recv_into(view[at:])
            except OSError:
                count = 0
            if not count:
                raise _gone()
            at += count
        return bytes(received)

    def cancel(self) -> None:
        """Whoever waits for an answer waits no more. From any thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _listen_to(store: Path) -> Line:
    """A connection on which news come. Raises StoreInUse, RemoteUnavailable."""
    line = Line(store)
    try:
        line.send([wire.LISTEN, []])
        line.receive()
    except BaseException:
        line.close()
        raise
    return line


def _gone() -> RemoteUnavailable:
    return RemoteUnavailable("the process that had the store open ended; open the account again")
