"""The local socket: who may ask, what is answered, and what a bad peer can do."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from blobfs import control
from blobfs.config import SOCKET
from blobfs.errors import BlobfsError, NotMounted, QuotaExceeded, SyncTimeout, UsageError
from blobfs.values.documents import Json


async def _echo(question: Json) -> Json:
    return question


async def _refuse(question: Json) -> Json:
    raise QuotaExceeded("the account is full; free some room")


async def _break(question: Json) -> Json:
    raise ZeroDivisionError


async def _never(question: Json) -> Json:
    await trio.sleep_forever()
    raise AssertionError


COMMANDS = {"echo": _echo, "refuse": _refuse, "break": _break, "never": _never}


def serve(store: Path, test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            async with control.serving(store, COMMANDS):
                await test()

    trio.run(main)


def ask_and_return(store: Path, command: str, **options: object) -> Json:
    answers: list[Json] = []

    async def test() -> None:
        answers.append(await trio.to_thread.run_sync(lambda: control.ask(store, command, **options)))  # type: ignore[arg-type]

    serve(store, test)
    return answers[0]


def ask_and_fail(store: Path, command: str, kind: type[Exception], **options: object) -> str:
    messages: list[str] = []

    async def test() -> None:
        with pytest.raises(kind) as caught:
            await trio.to_thread.run_sync(lambda: control.ask(store, command, **options))  # type: ignore[arg-type]
        assert type(caught.value) is kind
        messages.append(str(caught.value))

    serve(store, test)
    return messages[0]


def test_a_question_is_answered(tmp_path: Path) -> None:
    assert ask_and_return(tmp_path, "echo", depth=1) == {"command": "echo", "depth": 1}


def test_an_error_arrives_as_what_it_was(tmp_path: Path) -> None:
    assert ask_and_fail(tmp_path, "refuse", QuotaExceeded) == "the account is full; free some room"


def test_an_unknown_command_is_refused(tmp_path: Path) -> None:
    ask_and_fail(tmp_path, "sing", UsageError)


def test_a_fault_of_a_command_is_told_without_its_details(tmp_path: Path) -> None:
    assert "ZeroDivision" not in ask_and_fail(tmp_path, "break", BlobfsError)


def test_an_answer_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    ask_and_fail(tmp_path, "never", SyncTimeout, timeout_s=0.1)


def test_nobody_there_means_not_mounted(tmp_path: Path) -> None:
    with pytest.raises(NotMounted):
        control.ask(tmp_path, "echo")
    with pytest.raises(NotMounted):
        control.ask(tmp_path / "missing", "echo")


def test_a_socket_left_by_a_killed_process_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(tmp_path / SOCKET))
    with pytest.raises(NotMounted):
        control.ask(tmp_path, "echo")
    assert ask_and_return(tmp_path, "echo") == {"command": "echo"}


def test_the_socket_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    modes: list[int] = []

    async def test() -> None:
        modes.append(stat.S_IMODE((tmp_path / SOCKET).stat().st_mode))

    serve(tmp_path, test)
    assert modes == [0o600]
    assert os.listdir(tmp_path) == []


def test_a_store_far_down_a_long_path_has_a_socket_too(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    assert ask_and_return(deep, "echo") == {"command": "echo"}


@pytest.mark.parametrize("question", [b"{\n", b"[]\n", b'{"command": []}\n', b"\xff\n", b"[" * 10_000 + b"\n"])
def test_a_question_that_is_none_gets_a_refusal(tmp_path: Path, question: bytes) -> None:
    lines: list[bytes] = []

    async def test() -> None:
        stream = await trio.open_unix_socket(os.fspath(tmp_path / SOCKET))
        async with stream:
            await stream.send_all(question)
            lines.append(await stream.receive_some(4096))

    serve(tmp_path, test)
    assert json.loads(lines[0])["kind"] == "UsageError"


def test_an_endless_question_is_cut_off_and_others_are_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with await trio.open_unix_socket(os.fspath(tmp_path / SOCKET)) as stream:
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(b"x" * (100 * control.MAX_LINE))
        answer = await trio.to_thread.run_sync(control.ask, tmp_path, "echo")
        assert answer == {"command": "echo"}

    serve(tmp_path, test)


def test_more_peers_than_there_are_places_are_dropped(tmp_path: Path) -> None:
    async def test() -> None:
        path = os.fspath(tmp_path / SOCKET)
        streams = [await trio.open_unix_socket(path) for _ in range(control.MAX_PEERS + 1)]
        try:
            assert await streams[-1].receive_some(1) == b""
        finally:
            for stream in streams:
                await trio.aclose_forcefully(stream)

    serve(tmp_path, test)


def test_a_peer_that_goes_away_takes_its_command_with_it(tmp_path: Path) -> None:
    ended = trio.Event()

    async def wait(question: Json) -> Json:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    async def main() -> None:
        with trio.fail_after(60):
            async with control.serving(tmp_path, {"wait": wait}):
                stream = await trio.open_unix_socket(os.fspath(tmp_path / SOCKET))
                await stream.send_all(b'{"command": "wait"}\n')
                await stream.aclose()
                await ended.wait()

    trio.run(main)
