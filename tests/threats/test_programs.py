"""The desk of a mounted store and its page, before programs that send what no program of ours sends: they go on."""

from __future__ import annotations

import os
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blobfs.api import wire as desk_wire
from blobfs.api.changes import Listeners
from blobfs.api.desk import Desk
from blobfs.api.loop import Loop
from blobfs.api.serving import MAILROOM, OWN, PLAIN, SHELF, serving
from blobfs.errors import BlobfsError, NotADirectory, StoreDamaged
from blobfs.fs.use import Use
from blobfs.page import wire as page_wire
from blobfs.page.wire import Request, Response
from blobfs.store.store import Store
from tests.sync.kit import KEYS
from tests.threats.test_decoders import JUNK, NOISE

checked = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
WAITS = {"fetch", "settle", "revisions", "status", "incoming.take", "incoming.fail", "incoming.address"}
METHODS = sorted(
    PLAIN | OWN | {f"blobs.{name}" for name in SHELF | {"put"}} | {f"incoming.{name}" for name in MAILROOM}
)
CALLS = st.tuples(st.sampled_from([method for method in METHODS if method not in WAITS]), st.lists(JUNK, max_size=5))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = Store.create(tmp_path_factory.mktemp("desk") / "store", KEYS, device_name="one")
    yield opened
    opened.close()


def visited(store: Store, act: Callable[[Callable[[], socket.socket], Listeners], None]) -> None:
    """Let `act` do its worst in a thread, with connections of its own; then the desk still answers."""
    listeners = Listeners()

    def connect() -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(60)
        peer.connect(os.fspath(store.path / desk_wire.SOCKET))
        return peer

    def well() -> None:
        with connect() as peer:
            peer.sendall(desk_wire.pack(["indexes", []]))
            assert answer_of(peer) == [True, {}]

    async def main() -> None:
        desk = Desk(store, Loop(), written=lambda applied: None)
        async with serving(store.path, desk, listeners.listen, Use()):
            with trio.fail_after(60):
                await trio.to_thread.run_sync(act, connect, listeners)
                await trio.to_thread.run_sync(well)

    trio.run(main)


def answer_of(peer: socket.socket) -> Any:
    """The next answer; None: the desk hung up."""
    try:
        head = peer.recv(4, socket.MSG_WAITALL)
        if len(head) < 4:
            return None
        return desk_wire.unpack(peer.recv(desk_wire.SIZE.unpack(head)[0], socket.MSG_WAITALL))
    except ConnectionResetError:
        return None


def framed(value: Any) -> bytes:
    try:
        return desk_wire.pack(value)
    except BlobfsError:
        return b""


@checked
@given(st.lists(NOISE | NOISE.map(lambda data: desk_wire.SIZE.pack(len(data)) + data) | JUNK.map(framed), max_size=4))
@example([b"\xff\xff\xff\xff" + b"x" * 100])
@example([framed("listen"), framed(["listen"]), framed([["listen"], 1, 2]), framed({})])
@example([desk_wire.SIZE.pack(3) + b"\xdf\xff\xff"])
def test_noise_at_the_desk_ends_that_connection_and_no_other(store: Store, sent: list[bytes]) -> None:
    def act(connect: Callable[[], socket.socket], listeners: Listeners) -> None:
        for each in sent:
            with connect() as peer:
                peer.sendall(each)

    visited(store, act)


@checked
@given(st.lists(CALLS, min_size=1, max_size=8))
@example([("enter", [1]), ("enter", ["x"]), ("leave", [[]]), ("abandon", [1]), ("fill", [1, 0, "x"])])
def test_a_call_of_any_form_at_the_desk_is_answered(store: Store, calls: list[tuple[str, list[Any]]]) -> None:
    def act(connect: Callable[[], socket.socket], listeners: Listeners) -> None:
        with connect() as peer:
            for method, arguments in calls:
                question = framed([method, arguments])
                peer.sendall(question)
                if question:
                    answer = answer_of(peer)
                    assert answer is not None
                    assert answer[0] is True or answer[1]

    visited(store, act)


def test_a_listener_that_can_hear_no_more_harms_nobody(store: Store) -> None:
    def act(connect: Callable[[], socket.socket], listeners: Listeners) -> None:
        with connect() as peer:
            peer.sendall(desk_wire.pack([desk_wire.LISTEN, []]))
            assert answer_of(peer) == [True, None]
            # It hangs on, but what is sent to it breaks.
            peer.shutdown(socket.SHUT_RD)
            listeners.tell("a" * 32)
            while listeners._all:
                os.sched_yield()

    visited(store, act)


def test_an_error_with_a_name_that_is_no_text_reaches_the_program() -> None:
    packed = desk_wire.pack_error(NotADirectory("\udcff is none"))
    with pytest.raises(NotADirectory, match="is none"):
        desk_wire.result_of(desk_wire.unpack(packed[desk_wire.SIZE.size :]))


def test_a_huge_claim_at_the_desk_costs_no_memory(store: Store) -> None:
    def act(connect: Callable[[], socket.socket], listeners: Listeners) -> None:
        tracemalloc.start()
        try:
            for claim in (desk_wire.MAX_QUESTION, 0xFFFFFFFF):
                with connect() as peer:
                    peer.sendall(desk_wire.SIZE.pack(claim) + b"x")
            for body in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 100_000):
                with pytest.raises(StoreDamaged):
                    desk_wire.unpack(body)
            assert tracemalloc.get_traced_memory()[1] < 2 << 20
        finally:
            tracemalloc.stop()

    visited(store, act)


# --- the page's HTTP ----------------------------------------------------------------------------------------------

HEADS = st.builds(
    lambda method, target, headers, body: b"%s %s HTTP/1.1\r\nHost: a\r\n%s\r\n%s" % (method, target, headers, body),
    st.sampled_from([b"GET", b"POST", b"HEAD", b"PRI", b"\xff"]),
    st.binary(max_size=40).map(lambda path: b"/" + path) | st.sampled_from([b"*", b"http://x/", b"/a?%ff=%00&\xff"]),
    st.lists(
        st.sampled_from(
            [
                b"Content-Length: 5\r\n",
                b"Content-Length: 99999999999999999999\r\n",
                b"Content-Length: -1\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Transfer-Encoding: gzip\r\n",
                b"Content-Type: application/x-www-form-urlencoded\r\n",
                b"Expect: 100-continue\r\n",
                b"Connection: close\r\n",
                b"Upgrade: websocket\r\n",
                b"X: \xff\r\n folded\r\n",
            ]
        ),
        max_size=4,
    ).map(b"".join),
    st.binary(max_size=60) | st.sampled_from([b"ffffffffffffffff\r\n", b"5;x=y\r\na=b&c\r\n0\r\n\r\n", b"a=%ed%a0%80"]),
)


@settings(deadline=None, max_examples=120)
@given(st.lists(HEADS | NOISE, min_size=1, max_size=3))
@example([b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 70_000])
@example([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 50])
def test_noise_at_the_page_is_a_request_or_refused(sent: list[bytes]) -> None:
    async def handle(request: Request) -> Response:
        assert sum(map(len, request.form.values())) <= page_wire.MAX_BODY
        # As pages are written: every part of a request can be shown.
        shown = [request.room, request.path, *request.query.values(), *request.form.values()]
        return Response(200, {}, "".join(shown).encode("utf-8", "surrogateescape"))

    async def main() -> bytes:
        ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
        heard = bytearray()

        async def speak() -> None:
            try:
                for each in sent:
                    await theirs.send_all(each)
                await theirs.send_eof()
            except trio.BrokenResourceError:
                return

        async def listen() -> None:
            try:
                async for piece in theirs:
                    heard.extend(piece)
            except trio.BrokenResourceError:
                return

        with trio.fail_after(60):
            async with ours, theirs, trio.open_nursery() as nursery:
                nursery.start_soon(speak)
                nursery.start_soon(listen)
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await page_wire.attend(ours, handle)
                await ours.aclose()
        return bytes(heard)

    assert trio.run(main)[:9] in (b"", b"HTTP/1.1 ")


def test_the_sockets_own_path_may_be_a_link_of_somebody_else(store: Store, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (store.path / desk_wire.SOCKET).symlink_to(precious)
    visited(store, lambda connect, listeners: None)
    assert precious.read_bytes() == b"precious"
    assert not (store.path / desk_wire.SOCKET).exists()
