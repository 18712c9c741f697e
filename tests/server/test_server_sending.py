"""Large blobs go from the file to the socket: exact, in order with all else, and what is cut never looks whole."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
import trio
from server_process import Account, RunningServer, wait_until
from starlette.types import Message, Receive, Scope, Send
from trio.testing import MockClock
from uvicorn.protocols.http.flow_control import FlowControl

from blobfs.protocol import MAX_BLOB, authorization_header
from server.app import Envelope
from server.backends.filesystem import FileReader
from server.meter import Meter
from server.routes.ranges import DIRECT
from server.sending import PROGRESS, SEND_FILE, FileMessage, FileSending, push

BIG = os.urandom(MAX_BLOB)
"""More than all buffers between a server and a client who takes little."""


class Wire:
    """A connection that no client tidies up, with room for little on this side."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        self._sock.settimeout(60)
        url = account.http.base_url
        self._sock.connect((url.host, url.port))
        self._got = b""

    def request(self, method: str, blob_id: str, *headers: str) -> bytes:
        name, token = self._account.name, self._account.token
        lines = [f"{method} /blobs/{name}/{blob_id} HTTP/1.1", "Host: x"]
        return "\r\n".join([*lines, f"Authorization: {authorization_header(name, token)}", *headers, "", ""]).encode()

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def head(self) -> tuple[int, int]:
        """Status, and bytes that the next body is to have."""
        while b"\r\n\r\n" not in self._got:
            piece = self._sock.recv(1)  # so that nothing of a body leaves the buffers of the system
            assert piece, self._got
            self._got += piece
        head, _, self._got = self._got.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
        return int(lines[0].split()[1]), length[0]

    def body(self, length: int) -> bytes:
        """So many bytes, or those that came before the connection ended."""
        pieces = []
        while length:
            try:
                piece = self._sock.recv(min(length, 1 << 20))
            except ConnectionResetError:
                break
            if not piece:
                break
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        self._sock.close()


@contextmanager
def begun(account: Account) -> Iterator[Wire]:
    """The big blob, new or not, is asked for, its head is here, and nobody takes the rest."""
    assert account.put("big", BIG).status_code in (201, 409)
    wire = Wire(account)
    try:
        wire.send(wire.request("GET", "big"))
        assert wire.head() == (200, MAX_BLOB)
        assert is_open(account)
        yield wire
    finally:
        wire.close()


def path_of(account: Account) -> Path:
    (path,) = (account.server.data / "blobs" / account.name).rglob("big")
    return path


def is_open(account: Account) -> bool:
    """Whether the server has the big blob open."""
    path = str(path_of(account))
    for link in Path(f"/proc/{account.server.process.pid}/fd").iterdir():
        try:
            if os.readlink(link).startswith(path):
                return True
        except FileNotFoundError:
            continue
    return False


def test_answers_follow_each_other_exactly_whatever_their_size(account: Account) -> None:
    data = BIG[: 3 * DIRECT + 17]
    account.put("large", data)
    account.put("small", data[:100])
    wire = Wire(account)
    cases: list[tuple[str, str, str | None, bytes]] = [
        ("GET", "large", None, data),
        ("GET", "small", None, data[:100]),
        ("HEAD", "large", None, b""),
        ("GET", "large", f"Range: bytes=13-{DIRECT + 12}", data[13 : DIRECT + 13]),
        ("GET", "large", f"Range: bytes=13-{DIRECT + 11}", data[13 : DIRECT + 12]),
        ("GET", "large", f"Range: bytes=-{DIRECT + 1}", data[-DIRECT - 1 :]),
        ("GET", "large", None, data),
    ]
    # All at once: each waits for the one before it.
    wire.send(b"".join(wire.request(method, name, *([more] if more else [])) for method, name, more, _ in cases))
    for method, _, more, expected in cases:
        status, length = wire.head()
        assert status == (206 if more else 200)
        assert length == (len(data) if method == "HEAD" else len(expected))
        assert wire.body(len(expected)) == expected
    wire.close()


def test_a_file_that_became_shorter_never_looks_whole(account: Account) -> None:
    with begun(account) as wire:
        os.truncate(path_of(account), MAX_BLOB - 1)
        assert wire.body(MAX_BLOB) == BIG[:-1]
        assert not is_open(account)
    assert account.http.delete(f"/blobs/{account.name}/big").status_code == 204


def test_nothing_is_written_into_the_middle_of_a_file(account: Account) -> None:
    with begun(account) as wire:
        wire.send(b"no request at all\r\n\r\n")
        wait_until(lambda: not is_open(account))
        got = wire.body(MAX_BLOB)
    assert len(got) < MAX_BLOB
    assert got == BIG[: len(got)]


def test_who_goes_away_in_the_middle_leaves_nothing_open_and_no_failure(data: Path) -> None:
    with (data.parent / "log").open("w+") as log:
        own = RunningServer(data, log=log)
        account = own.account("leaving")
        with begun(account) as wire:
            wire.close()
            wait_until(lambda: not is_open(account))
        assert account.get("big").content == BIG
        # Who takes nothing does not hold up an end that is asked for twice.
        with begun(account):
            own.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not is_listening(account))
            own.process.send_signal(signal.SIGTERM)
            assert own.process.wait(60) == 0
        own.close()
        log.seek(0)
        assert log.read() == ""


def is_listening(account: Account) -> bool:
    try:
        socket.create_connection((account.http.base_url.host, account.http.base_url.port or 0), 60).close()
    except ConnectionRefusedError:
        return False
    return True


# --- without a server -------------------------------------------------------------------------------------------------


class Flowing(asyncio.Protocol):
    """What uvicorn's protocol has of flow control."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.flow = FlowControl(transport)

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()


def reader_of(path: Path) -> FileReader:
    path.write_bytes(BIG)
    return FileReader(os.open(path, os.O_RDONLY), MAX_BLOB)


def message_of(reader: FileReader, count: int, progress: Callable[[], None]) -> FileMessage:
    return {"type": SEND_FILE, "file": reader, "offset": 1, "count": count, "progress": progress}


def test_a_file_goes_behind_what_was_written_before(tmp_path: Path) -> None:
    reader = reader_of(tmp_path / "file")

    async def send() -> bytes:
        ours, theirs = socket.socketpair()
        transport, protocol = await asyncio.get_running_loop().create_connection(Flowing, sock=ours)
        incoming, writer = await asyncio.open_connection(sock=theirs)
        transport.write(BIG[: 1 << 20])  # more than the socket takes
        files = FileSending(transport, protocol.flow)
        sending = asyncio.create_task(files.send(message_of(reader, 2 << 20, lambda: None)))
        got = await incoming.readexactly(3 << 20)
        assert await sending
        transport.close()
        writer.close()
        await writer.wait_closed()
        return got

    assert asyncio.run(send()) == BIG[: 1 << 20] + BIG[1 : 1 + (2 << 20)]
    with pytest.raises(ValueError, match="closed"):
        reader.fileno()


def test_sending_that_is_given_up_after_some_progress_lets_go_of_the_connection(tmp_path: Path) -> None:
    reader = reader_of(tmp_path / "file")

    async def give_up() -> None:
        ours, theirs = socket.socketpair()
        with theirs, theirs.makefile("rb") as incoming:
            transport, protocol = await asyncio.get_running_loop().create_connection(Flowing, sock=ours)
            files, progress = FileSending(transport, protocol.flow), asyncio.Event()
            sending = asyncio.create_task(files.send(message_of(reader, MAX_BLOB - 1, progress.set)))
            got = await asyncio.to_thread(incoming.read, 4 * PROGRESS)
            await progress.wait()
            assert files.is_busy  # the rest is more than the socket takes
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert not files.is_busy
            transport.close()
            got += await asyncio.to_thread(incoming.read)
            assert len(got) < MAX_BLOB - 1
            assert got == BIG[1 : len(got) + 1]

    asyncio.run(give_up())
    reader.close()


def test_a_client_that_takes_something_now_and_then_has_all_the_time_and_one_that_does_not_has_none() -> None:
    idle_s, steps = 60.0, 5

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": SEND_FILE})

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == SEND_FILE:
            for _ in range(steps):
                await anyio.sleep(idle_s * 0.9)
                message["progress"]()
            await anyio.sleep_forever()

    async def main() -> float:
        meter = Meter()
        began = anyio.current_time()
        await Envelope(app, idle_s, meter)({"type": "http", "method": "GET", "headers": []}, receive, send)
        assert meter.open == 0
        return anyio.current_time() - began

    assert trio.run(main, clock=MockClock(autojump_threshold=0)) == pytest.approx(idle_s * (0.9 * steps + 1))


def test_what_the_kernel_cannot_send_is_read(tmp_path: Path) -> None:
    class Environment:
        """A file of /proc, of which the kernel sends none by itself."""

        def __init__(self) -> None:
            self._file = open("/proc/self/environ", "rb")  # noqa: SIM115 - closed by who sends it
            self.size = len(self._file.read())

        def fileno(self) -> int:
            return self._file.fileno()

        def close(self) -> None:
            self._file.close()

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        expected = Path("/proc/self/environ").read_bytes()[1:]
        assert push(ours, Environment(), 1, len(expected)) == len(expected)
        assert theirs.recv(len(expected), socket.MSG_WAITALL) == expected
        short = Environment()
        with pytest.raises(OSError, match="shorter"):
            push(ours, short, 1, len(expected) + 1)
        short.close()
