"""The desk of whoever owns a store, a daemon or a program: other programs of the same user work through it.

Invariant: a program can touch no bytes but those that it staged itself, and when it is gone nothing of it is left open.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import trio

from blobfs.api import wire
from blobfs.api.changes import Changes
from blobfs.api.desk import Desk, Put, View
from blobfs.api.loop import WAITER, Waiter
from blobfs.api.shelf import Row
from blobfs.control import accept, is_own, listening
from blobfs.errors import BlobfsError, UsageError
from blobfs.fs.use import Use

MAX_PEERS: Final = 200
"""Connections: a program has two, and one for each call of it that waits for the server."""
PIECE: Final = 256 << 10
"""Bytes that are read at once."""
PLAIN: Final = frozenset(
    (
        *("get", "at", "paths", "entries", "make_folder", "move", "ids"),
        *("find", "keys", "indexes", "create_index", "delete_index", "conflicts"),
        *("check", "state", "fetch", "settle", "revisions", "status"),
    )
)
"""Methods of a desk that every program may call as they are."""
SHELF: Final = frozenset(
    (
        *("find", "page", "count", "deleted", "namespaces"),
        *("delete", "set_flags", "set_local", "prioritise", "arrived"),
    )
)
"""The same of its shelf."""
MAILROOM: Final = frozenset(("take", "done", "fail", "failures", "address"))
"""The same of its mailroom."""
OWN: Final = frozenset(("create", "put", "stage", "fill", "abandon", "enter", "leave", "read"))
"""Methods that a `Session` has in their place."""

Listen = Callable[[], AbstractContextManager[Changes]]
"""Begins to listen for news."""

log = logging.getLogger(__name__)


class Session:
    """What one connection has staged and opened."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._staged: set[int] = set()
        self._open: Counter[int] = Counter()

    def call(self, method: str, arguments: list[Any]) -> Any:
        """Do what was asked. In a worker thread."""
        if method.startswith(wire.BLOBS):
            return self._call_shelf(method.removeprefix(wire.BLOBS), arguments)
        if method.startswith(wire.INCOMING):
            return self._call_mailroom(method.removeprefix(wire.INCOMING), arguments)
        if method in OWN:
            return getattr(self, method)(*arguments)
        if method in PLAIN:
            return getattr(self._desk, method)(*arguments)
        raise _unknown()

    def _call_shelf(self, method: str, arguments: list[Any]) -> Any:
        if method == "put":
            return self.put_blob(*arguments)
        if method in SHELF:
            return getattr(self._desk.blobs, method)(*arguments)
        raise _unknown()

    def _call_mailroom(self, method: str, arguments: list[Any]) -> Any:
        if method not in MAILROOM:
            raise _unknown()
        result = getattr(self._desk.incoming, method)(*arguments)
        if method == "take" and result is not None:
            # Its bytes are the program's, and go with it.
            self._staged.add(result.content)
        return result

    def put_blob(self, namespace: str, blob_id: str, attached: list[Any], local: bool, priority: int) -> Row:
        """See `Shelf.put`."""
        contents = self._attached([attached])
        content, size, stored = attached
        row = self._desk.blobs.put(namespace, blob_id, (content, size, stored), local, priority)
        self._staged.difference_update(contents)
        return row

    def put(self, puts: list[Any], deletes: list[Any]) -> list[View]:
        """See `Desk.put`."""
        wanted = [Put(*put) for put in puts]
        attached = self._attached([entry for put in wanted for entry in put.attached.values()])
        views = self._desk.put(wanted, deletes)
        self._staged.difference_update(attached)
        return views

    def create(self, doc_id: str, text: str, path: str | None, attached: list[Any] | None) -> View:
        """See `Desk.create`."""
        contents = self._attached([attached])
        view = self._desk.create(doc_id, text, path, attached)
        self._staged.difference_update(contents)
        return view

    def _attached(self, attached: list[Any]) -> list[int]:
        """The contents that are to be attached. Raises UsageError: one was not staged here, or is there twice."""
        contents = [entry[0] for entry in attached if entry is not None and entry[0] is not None]
        if not self._staged.issuperset(contents) or len(set(contents)) != len(contents):
            raise UsageError("an attachment can be put once; put it again from its source")
        return contents

    def stage(self) -> int:
        """See `Desk.stage`."""
        content = self._desk.stage()
        self._staged.add(content)
        return content

    def fill(self, content: int, offset: int, data: bytes) -> int:
        """See `Desk.fill`."""
        self._own(content)
        return self._desk.fill(content, offset, data)

    def abandon(self, content: int) -> None:
        """See `Desk.abandon`."""
        self._own(content)
        self._staged.discard(content)
        self._desk.abandon(content)

    def read(self, inode: int | None, content: int, size: int, offset: int, length: int) -> bytes:
        """See `Desk.read`."""
        if inode is None:
            self._own(content)
        return self._desk.read(inode, content, size, offset, length)

    def _own(self, content: int) -> None:
        if content not in self._staged:
            raise UsageError("these bytes belong to a document already; put them again from their source")

    def enter(self, inode: int) -> None:
        """See `Desk.enter`."""
        self._open[inode] += 1
        self._desk.enter(inode)

    def leave(self, inode: int) -> None:
        """See `Desk.leave`."""
        if self._open[inode] > 0:
            self._open[inode] -= 1
            self._desk.leave(inode)

    def end(self) -> None:
        """The program is gone. In a worker thread."""
        for inode in self._open.elements():
            self._desk.leave(inode)
        for content in self._staged:
            try:
                self._desk.abandon(content)
            except BlobfsError as error:
                log.warning("what a program staged is not given back before the next start: %s", error)


def _unknown() -> UsageError:
    return UsageError("the process that has the store open is of another version; bring both to the same")


@contextlib.asynccontextmanager
async def serving(store: Path, desk: Desk, listen: Listen, use: Use) -> AsyncIterator[None]:
    """Answer programs while the block runs."""
    async with listening(store, wire.SOCKET, MAX_PEERS) as listener, trio.open_nursery() as nursery:
        nursery.start_soon(_accept, listener, desk, listen, use)
        yield
        nursery.cancel_scope.cancel()


async def _accept(listener: trio.socket.SocketType, desk: Desk, listen: Listen, use: Use) -> None:
    # Threads of its own: programs that wait for the server must not take those of the mount.
    threads = trio.CapacityLimiter(MAX_PEERS)
    peers = 0

    async def attend(peer: trio.SocketStream) -> None:
        nonlocal peers
        peers += 1
        try:
            await _Peer(peer, desk, listen, threads, use).attend()
        finally:
            peers -= 1

    async with trio.open_nursery() as nursery:
        while True:
            accepted = await accept(listener)
            if not is_own(accepted) or peers >= MAX_PEERS:
                log.warning("a program was turned away: another user's, or one too many")
                accepted.close()
                continue
            nursery.start_soon(attend, trio.SocketStream(accepted))


class _Peer:
    """One connection of a program."""

    def __init__(
        self, stream: trio.SocketStream, desk: Desk, listen: Listen, threads: trio.CapacityLimiter, use: Use
    ) -> None:
        self._stream, self._listen, self._threads, self._use = stream, listen, threads, use
        self._session = Session(desk)

    async def attend(self) -> None:
        """Answer until it hangs up."""
        try:
            while (question := await self._read()) is not None:
                if question[0] == wire.LISTEN:
                    await self._report()
                    return
                with self._use:
                    answer = await self._answer(*question)
                if answer is None:
                    return
                await self._stream.send_all(answer)
        # In groups too, as nurseries raise them.
        except* (trio.BrokenResourceError, trio.ClosedResourceError, BlobfsError, ValueError, TypeError, LookupError):
            log.info("a program's connection ended in the middle of something")
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._session.end)
                await trio.aclose_forcefully(self._stream)

    async def _read(self) -> list[Any] | None:
        head = await self._exactly(wire.SIZE.size)
        size = wire.SIZE.unpack(head)[0] if head else 0
        body = await self._exactly(size) if 0 < size <= wire.MAX_QUESTION else b""
        return list(wire.unpack(body)) if body else None

    async def _exactly(self, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            # In pieces: what was only announced must cost no memory.
            piece = await self._stream.receive_some(min(size - len(received), PIECE))
            if not piece:
                return b""
            received += piece
        return bytes(received)

    async def _answer(self, method: str, arguments: list[Any]) -> bytes | None:
        """The answer; None when nobody waits for it any more."""
        waiter, gone = Waiter(), False

        def run() -> bytes:
            WAITER.set(waiter)
            try:
                return wire.pack([True, self._session.call(method, arguments)])
            except BlobfsError as error:
                return wire.pack_error(error)
            except Exception:
                log.exception("a program's question failed in a way that blobfs did not foresee")
                return wire.pack_error(BlobfsError("an unexpected error; the log in the store has the details"))

        async def watch() -> None:
            # Whoever waits for an answer sends nothing: the next thing to come is the end.
            nonlocal gone
            try:
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._stream.receive_some(1)
                gone = True
            finally:
                # Also when cancelled: the thread that waits cannot be.
                waiter.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                answer = await trio.to_thread.run_sync(run, limiter=self._threads)
            finally:
                nursery.cancel_scope.cancel()
        return None if gone else answer

    async def _report(self) -> None:
        """Tell of each document that changes, until the program hangs up."""
        with self._listen() as news:
            await self._stream.send_all(wire.pack([True, None]))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hang_up, nursery.cancel_scope, news)
                while await trio.to_thread.run_sync(news.wait, limiter=self._threads):
                    while (doc_id := news.take()) is not None:
                        await self._stream.send_all(wire.pack([True, doc_id]))
                nursery.cancel_scope.cancel()

    async def _hang_up(self, scope: trio.CancelScope, news: Changes) -> None:
        try:
            with contextlib.suppress(trio.BrokenResourceError):
                await self._stream.receive_some(1)
        finally:
            # Also when cancelled: the thread that waits for news cannot be.
            news.close()
        scope.cancel()
