"""The daemon's local socket: other processes of the same user ask for its status, a sync, an end.

Owns the socket in the store's directory, who may speak on it, and the form of a question and its answer: one line of
JSON each. Knows nothing of what the commands do. Invariant: a peer of another user is dropped before a byte of it is
read, and no peer can make the daemon hold more than `MAX_LINE` bytes or `MAX_PEERS` connections for it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import blobfs.errors
from blobfs.config import SOCKET
from blobfs.errors import BlobfsError, NotMounted, SyncTimeout, UsageError
from blobfs.values.documents import Json

MAX_LINE: Final = 64 << 10
"""Bytes of a question."""
MAX_ANSWER: Final = 8 << 20
"""Bytes of an answer: one extent of an earlier version in base64, and room."""
MAX_PEERS: Final = 16
QUESTION_S: Final = 10
"""Seconds that a peer has to send its question."""
_UCRED: Final = struct.Struct("3i")

Command = Callable[[Json], Awaitable[Json]]
log = logging.getLogger(__name__)


# --- the daemon's side (trio) -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(store: Path, commands: Mapping[str, Command]) -> AsyncIterator[None]:
    """Answer on the store's socket while the block runs."""
    import trio

    async with listening(store, SOCKET, MAX_PEERS) as listener, trio.open_nursery() as nursery:
        nursery.start_soon(_accept, listener, commands)
        yield
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def listening(store: Path, name: str, waiting: int) -> AsyncIterator[Any]:
    """A socket in a store's directory that listens during the block. The caller owns the store: one left over is dead.

    Args:
        waiting: connections that may wait to be taken.
    """
    import trio

    path = store / name
    path.unlink(missing_ok=True)
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with address(store, name) as short:
            await listener.bind(short)
        os.chmod(path, 0o600)
        listener.listen(waiting)
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


async def _accept(listener: Any, commands: Mapping[str, Command]) -> None:
    import trio

    places = trio.CapacityLimiter(MAX_PEERS)
    async with trio.open_nursery() as nursery:
        while True:
            peer = await accept(listener)
            if not is_own(peer) or places.available_tokens < 1:
                log.warning("a local connection was dropped: another user's, or one too many")
                peer.close()
                continue
            places.acquire_on_behalf_of_nowait(peer)
            nursery.start_soon(
                _attend, trio.SocketStream(peer), commands, lambda peer=peer: places.release_on_behalf_of(peer)
            )


async def accept(listener: Any) -> Any:
    """The next connection. What keeps the process from taking one, such as too many open files, is waited out."""
    import trio

    while True:
        try:
            accepted, _ = await listener.accept()
        except OSError as error:
            log.warning("a local connection could not be taken: %s", error.strerror)
            await trio.sleep(1)
        else:
            return accepted


def is_own(peer: Any) -> bool:
    """Whether the other end of a connection is a process of this user or of root."""
    uid = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
    return uid in (os.geteuid(), 0)


async def _attend(stream: Any, commands: Mapping[str, Command], leave: Callable[[], None]) -> None:
    import trio

    try:
        with trio.move_on_after(QUESTION_S) as waiting:
            question = await _read_question(stream)
        if waiting.cancelled_caught:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, stream, nursery.cancel_scope)
            answer = await _answer(question, commands)
            await stream.send_all(json.dumps(answer).encode("ascii") + b"\n")
            nursery.cancel_scope.cancel()
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        log.info("a local connection ended before its answer")
    finally:
        leave()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await trio.aclose_forcefully(stream)


async def _read_question(stream: Any) -> bytes:
    received = bytearray()
    while b"\n" not in received:
        piece = await stream.receive_some(MAX_LINE)
        if not piece or len(received) + len(piece) > MAX_LINE:
            return b""
        received += piece
    return bytes(received)


async def _answer(question: bytes, commands: Mapping[str, Command]) -> Json:
    try:
        body = json.loads(question)
        command = commands[body["command"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return _refusal(UsageError("this blobfs does not know the command; use the version that mounted"))
    try:
        return {"ok": True, "result": await command(body)}
    except BlobfsError as error:
        return _refusal(error)
    except Exception:
        log.exception("a command of the local socket failed")
        return _refusal(BlobfsError("an unexpected error; the store's log has the details"))


def _refusal(error: BlobfsError) -> Json:
    return {"ok": False, "kind": type(error).__name__, "message": str(error)}


async def _cancel_when_gone(stream: Any, scope: Any) -> None:
    # Whoever sent its question sends no more: the next thing to come is its end.
    await stream.receive_some(1)
    scope.cancel()


# --- the asking side (synchronous, for the command line) ---------------------------------------------------------


def ask(store: Path, command: str, *, timeout_s: float | None = 30, **arguments: Any) -> Json:
    """Ask the daemon of `store`, and wait for its answer.

    Raises:
        NotMounted: no daemon answers.
        SyncTimeout: it did not answer in time.
        BlobfsError: of the kind that the daemon raised, with its message.
    """
    question = json.dumps({"command": command, **arguments}).encode("ascii") + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            with address(store) as short:
                connection.connect(short)
            connection.sendall(question)
            line = _read_answer(connection)
    except TimeoutError:
        raise SyncTimeout("the blobfs process did not answer in time; look at its log in the store") from None
    except OSError:
        raise NotMounted("no blobfs process has this store mounted; mount it with `blobfs mount DIR`") from None
    return _unpack(line)


def _read_answer(connection: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        piece = connection.recv(MAX_LINE)
        if not piece:
            raise NotMounted("the blobfs process ended before it answered; mount again with `blobfs mount DIR`")
        received += piece
        if len(received) > MAX_ANSWER:
            raise BlobfsError("the blobfs process answered with too much; use the version that mounted")
    return bytes(received)


def _unpack(line: bytes) -> Json:
    try:
        answer = json.loads(line)
        if answer["ok"]:
            return dict(answer["result"])
        kind, message = getattr(blobfs.errors, answer["kind"], BlobfsError), str(answer["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BlobfsError("the blobfs process answered in another form; use the version that mounted") from None
    raise kind(message) if isinstance(kind, type) and issubclass(kind, BlobfsError) else BlobfsError(message)


@contextlib.contextmanager
def address(store: Path, name: str = SOCKET) -> Iterator[str]:
    """A socket's path through a descriptor of its directory: an address has 108 bytes, a path may have more."""
    directory = os.open(store, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{name}"
    finally:
        os.close(directory)
