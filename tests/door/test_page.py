"""The parts of the page, each for itself: markup, links and sessions, whose a connection is, when the port closes."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio
import trio.testing

from blobfs.answers.listing import _folded
from blobfs.errors import UsageError
from blobfs.page.browsing import Browsing
from blobfs.page.comparing import LINES, LONGEST, as_text, difference
from blobfs.page.guard import IDLE_S, LINK_S, LONGEST_S, MAX_LINKS, MAX_SESSIONS, Guard, Refused
from blobfs.page.markup import address, join, shown, tag
from blobfs.page.peers import is_own, owner
from blobfs.page.previews import is_text, picture_type
from blobfs.page.site import Site
from blobfs.page.wire import MAX_BODY, MAX_HEAD, Request, Response, attend
from blobfs.sync.copies import is_conflict_name, settled_name


class Clock:
    """Time as a test has it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def ask(headers: Mapping[str, str] | None = None, method: str = "GET", room: str = "files") -> Request:
    return Request(method, room, "", {}, {"host": "127.0.0.1:5"} | dict(headers or {}), {})


def holds(guard: Guard, key: str, *, is_idle: bool = False) -> bool:
    try:
        guard.session(ask({"cookie": f"other=1; blobfs-5=of another port; blobfs-5={key}"}), is_idle=is_idle)
    except Refused:
        return False
    return True


# --- markup -------------------------------------------------------------------------------------------------------


def test_text_can_only_be_text() -> None:
    hostile = "<script>\"'&</script>"
    made = tag("a", hostile, [hostile, tag("b", 1)], href=hostile, title=None, hidden=True, class_="x", data_path="y")
    safe = "&lt;script&gt;&quot;&#x27;&amp;&lt;/script&gt;"
    assert made == f'<a href="{safe}" hidden class="x" data-path="y">{safe}{safe}<b>1</b></a>'
    assert tag("img", src="a") == '<img src="a">'
    assert join(None) == ""


def test_what_turns_or_hides_text_is_shown_as_something_else() -> None:
    assert shown("a\u202eb\u2066c\x1bd\udcffe\u2028f") == "a\ufffdb\ufffdc\ufffdd\ufffde\ufffdf"
    assert shown("line\n\N{WOMAN}\u200d\N{PERSONAL COMPUTER}") == "line\n\N{WOMAN}\u200d\N{PERSONAL COMPUTER}"


def test_an_address_carries_any_name() -> None:
    assert address("files", "a b/\udcff?#%/\u00e4") == "/files/a%20b/%FF%3F%23%25/%C3%A4"
    assert address("search", "", q="\u00e4&=") == "/search/?q=%C3%A4%26%3D"


# --- links and sessions -------------------------------------------------------------------------------------------


def test_links_and_sessions_end_in_time() -> None:
    clock = Clock()
    guard = Guard(5, clock)
    assert guard.end < clock.now
    late, token = (guard.issue().rpartition("/")[2] for _ in range(2))
    key = guard.redeem(token).key
    clock.now += LINK_S
    with pytest.raises(Refused):
        guard.redeem(late)
    with pytest.raises(Refused):
        guard.redeem(token)
    assert holds(guard, key)
    clock.now += IDLE_S - 1
    assert holds(guard, key, is_idle=True)
    clock.now += 1
    assert not holds(guard, key)  # what the page asks for by itself did not count
    assert guard.end < clock.now


def test_no_session_lasts_longer_than_the_longest() -> None:
    clock = Clock()
    guard = Guard(5, clock)
    key = guard.redeem(guard.issue().rpartition("/")[2]).key
    end = clock.now + LONGEST_S
    while clock.now < end:
        assert holds(guard, key)
        clock.now += IDLE_S - 1
    assert not holds(guard, key)


def test_there_are_never_more_links_and_sessions_than_a_few() -> None:
    guard = Guard(5, Clock())
    tokens = [guard.issue().rpartition("/")[2] for _ in range(MAX_LINKS + 1)]
    with pytest.raises(Refused):
        guard.redeem(tokens[0])
    keys = [guard.redeem(guard.issue().rpartition("/")[2]).key for _ in range(MAX_SESSIONS + 1)]
    assert [holds(guard, key) for key in keys] == [False] + [True] * MAX_SESSIONS


def test_a_link_may_be_followed_from_anywhere_but_not_framed() -> None:
    guard = Guard(5, Clock())
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    guard.check(ask(followed, room="open"))
    for headers, room in (
        (followed, "files"),
        (followed | {"sec-fetch-dest": "iframe"}, "open"),
        ({"sec-fetch-site": "same-site"}, "open"),
    ):
        with pytest.raises(Refused):
            guard.check(ask(headers, room=room))


# --- whose a connection is ----------------------------------------------------------------------------------------


def test_the_kernel_tells_whose_a_connection_is_and_nobodys_is_not_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        taken, here = listener.accept()[0], listener.getsockname()
        with taken:
            there = taken.getpeername()
            assert is_own(there, here)
            peer.close()
            # Closed by its process it would count as root's.
            assert owner(there, here) is None
    assert owner(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


# --- previews -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"<svg", None),
        (b"BM", None),
        (b"", None),
    ],
)
def test_pictures_are_told_by_their_first_bytes(head: bytes, kind: str | None) -> None:
    assert picture_type(head) == kind


def test_text_is_what_reads_like_text() -> None:
    assert is_text("\N{SNOWMAN}".encode() * 1365 + b"\xe2")  # cut within a character
    assert is_text(b"")
    assert not is_text(b"PK\3\4")
    assert not is_text(b"caf\xe9 in Latin-1, further on than a cut")
    assert _folded("A\u0308") == _folded("\u00e4")


# --- names of copies ----------------------------------------------------------------------------------------------


def test_a_copy_that_stays_has_a_name_that_is_no_copys() -> None:
    copy, taken = b"a.b (conflict left 2026-01-02 030405 2).txt", {b"a.b (left 2026-01-02 030405).txt"}
    kept = settled_name(copy, taken.__contains__)
    assert kept == b"a.b (left 2026-01-02 030405 2).txt"
    assert not is_conflict_name(kept)


# --- the wire -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"not HTTP\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * MAX_HEAD,
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999\r\n\r\n" + b"x" * (MAX_BODY + 1),
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 200\r\n\r\n"
        + b"a=b&" * 50,
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(sent: bytes) -> None:
    async def main() -> bytes:
        async def handle(request: Request) -> Response:
            raise AssertionError

        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        async with listener, trio.open_nursery() as nursery:
            peer = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
            taken = await listener.accept()

            async def serve() -> None:
                async with taken:
                    await attend(taken, handle)

            nursery.start_soon(serve)
            async with peer:
                await peer.send_all(sent)
                return await peer.receive_some(100)

    assert trio.run(main).startswith(b"HTTP/1.1 400")


# --- when the port is open ----------------------------------------------------------------------------------------


def test_the_port_is_open_only_while_there_is_a_link_or_a_session() -> None:
    clock = trio.testing.MockClock()
    built: list[Guard] = []

    def build(guard: Guard) -> Site:
        built.append(guard)
        answers: dict[str, Callable[[Any], Any]] = {}
        return Site("folder", answers, None, guard)  # type: ignore[arg-type]

    async def is_open(url: str) -> bool:
        try:
            peer = await trio.open_tcp_stream("127.0.0.1", int(url.split(":")[2].partition("/")[0]))
        except OSError:
            return False
        await peer.aclose()
        return True

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            browsing = Browsing(nursery, build)
            url = (await browsing.link())["url"]
            assert await is_open(url)
            clock.jump(LINK_S + 1)
            await trio.testing.wait_all_tasks_blocked()
            assert not await is_open(url)
            again = (await browsing.link())["url"]
            await trio.testing.wait_all_tasks_blocked()
            session = built[-1].redeem(again.rpartition("/")[2])
            clock.jump(LINK_S + 1)
            await trio.testing.wait_all_tasks_blocked()
            assert await is_open(again)
            built[-1].close(session)
            await trio.testing.wait_all_tasks_blocked()
            assert not await is_open(again)
            assert len(built) == 2
            nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)


def test_without_a_port_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blobfs.page.browsing.HOST", "192.0.2.1")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with pytest.raises(UsageError, match="no port of this machine"):
                await Browsing(nursery, lambda guard: None).link()  # type: ignore[arg-type, return-value]

    trio.run(main)


def test_texts_are_compared_within_a_second_whatever_they_hold() -> None:
    assert "Their lines are the same" in difference(["a"], ["a"])
    assert "Only short texts" in difference(None, ["a"])
    assert as_text(b"a\nb", 3) == ["a", "b"]
    assert [as_text(data, size) for data, size in ((b"\xff", 1), (b"a\0b", 3), (b"cut", 9), (b"", LONGEST + 1))] == [
        None
    ] * 4
    long = [f"line {number}" for number in range(10_000)]
    drawn = difference(long, [*long[:5000], "more", *long[5000:]])
    assert re.findall(r">([^<]*)\n<", drawn) == [
        *("\u2026", " line 4997", " line 4998", " line 4999", "+more", " line 5000", " line 5001", " line 5002")
    ]
    assert "Only short texts" in difference(long, long[::-1])
    # As many repetitions as a comparison takes for lines of their own, in another order.
    hostile = [str(number % 100) for number in range(LINES - 10)]
    started = time.process_time()
    difference(hostile, ["x", *hostile[::-1], "y"])
    assert time.process_time() - started < 5
