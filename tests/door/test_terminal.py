"""With a person at a terminal: prompts, recovery words, the live line, Ctrl-C."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import termios
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.door.conftest import PATIENCE_S, Desk
from tests.door.test_first_run import words_in


class Terminal:
    """A command on a pseudo-terminal, and what a person sees and types there."""

    def __init__(self, desk: Desk, *arguments: object, **environment: str) -> None:
        command = desk.command(*arguments)
        self.pid, self._screen = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, desk.environment | {"TERM": "xterm"} | environment)
        self.seen = ""
        # A read may end in the middle of a letter.
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def expect(self, text: str) -> str:
        """What came up to and with `text`, which is then behind us."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            assert select.select([self._screen], [], [], deadline - time.monotonic())[0], self.seen
            try:
                piece = os.read(self._screen, 65536)
            except OSError:
                piece = b""
            assert piece, f"it ended without saying {text!r}: {self.seen!r}"
            self.seen += self._decoder.decode(piece)
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def end(self) -> tuple[int, str]:
        """(exit code, the rest of the output)."""
        with suppress(OSError):
            while piece := os.read(self._screen, 65536):
                self.seen += self._decoder.decode(piece)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status), self.seen

    def echoes(self) -> bool:
        """Whether what is typed is seen."""
        return bool(termios.tcgetattr(self._screen)[3] & termios.ECHO)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self._screen)


@pytest.fixture
def terminal(desk: Desk) -> Iterator[type[Terminal]]:
    opened: list[Terminal] = []

    class Tracked(Terminal):
        def __init__(self, *arguments: object, **environment: str) -> None:
            super().__init__(desk, *arguments, **environment)
            opened.append(self)

    yield Tracked
    for one in opened:
        one.close()


def test_a_first_run_asks_twice_prints_the_words_shows_its_state_and_ends_on_ctrl_c(
    desk: Desk, terminal: type[Terminal]
) -> None:
    first = terminal("mount", desk.mount, "--store", desk.store)
    first.expect("New passphrase: ")
    first.type("open sesame\n")
    first.expect("The same again: ")
    first.type("open barley\n")
    first.expect("The two differ.")
    first.expect("New passphrase: ")
    first.type("open sesame\n")
    first.expect("The same again: ")
    first.type("open sesame\n")
    words = words_in(first.expect("`skip` goes on without. "))
    assert len(words) == 24
    first.type("\n")
    assert "\x1b[3J" in first.expect("Word ")
    first.type("zebra\n")
    assert words_in(first.expect("`skip` goes on without. ")) == words
    first.type("\n")
    first.expect("\x1b[3J")
    for _ in range(3):
        first.expect("Word ")
        first.type(words[int(first.expect(": ").removesuffix(": ")) - 1].upper() + "\n")
    first.expect("The words are right.")
    first.expect("Mounted")
    (desk.mount / "note").write_text("kept")
    first.expect("\r\x1b[2K")
    first.expect("the server")
    first.type("\x03")
    code, rest = first.end()
    assert code == 0, rest
    assert "Unmounted" in rest
    assert not os.path.ismount(desk.mount)
    assert not (desk.store / "passphrase").exists()

    second = terminal("mount", desk.mount, NO_COLOR="1")
    second.expect("Passphrase (or the recovery words): ")
    second.type("open barley\n")
    second.expect("does not open")
    second.expect("Passphrase (or the recovery words): ")
    second.type("open sesame\n")
    second.expect("Mounted")
    assert (desk.mount / "note").read_text() == "kept"
    shown = second.expect("the server")
    second.type("\x03")
    assert second.end()[0] == 0
    assert "\x1b[3" not in shown


@pytest.mark.parametrize("way", ["at once", "when asked", "by option"])
def test_the_check_of_the_words_can_be_skipped(desk: Desk, terminal: type[Terminal], way: str) -> None:
    more = ("--no-words-check",) if way == "by option" else ()
    one = terminal(*desk.mount_arguments(*more))
    if way != "by option":
        one.expect("`skip` goes on without. ")
        one.type("skip\n" if way == "at once" else "\n")
    if way == "when asked":
        one.expect("Word ")
        one.expect(": ")
        one.type("skip\n")
    seen = one.expect("Mounted")
    assert "Word " not in seen
    assert "skip" not in seen or way != "by option"
    one.type("\x03")
    assert one.end()[0] == 0


def test_a_passphrase_that_is_wrong_three_times_is_refused(desk: Desk, terminal: type[Terminal]) -> None:
    desk.up()
    desk.run("umount", desk.mount)
    one = terminal("mount", desk.mount)
    for _ in range(3):
        one.expect("Passphrase (or the recovery words): ")
        one.type("open barley\n")
    assert one.end()[0] == 3


def test_ctrl_c_at_the_prompt_leaves_nothing_behind(desk: Desk, terminal: type[Terminal]) -> None:
    one = terminal("mount", desk.mount, "--store", desk.store)
    one.expect("New passphrase: ")
    one.type("\x03")
    assert one.end()[0] == 130
    assert not desk.store.exists()
    assert not desk.mount.exists()


@pytest.mark.parametrize("when", ["asked again", "making the keys", "shown the words", "asked a word"])
def test_ctrl_c_on_a_first_run_leaves_nothing_or_a_whole_store(desk: Desk, terminal: type[Terminal], when: str) -> None:
    one = terminal("mount", desk.mount, "--store", desk.store)
    one.expect("New passphrase: ")
    one.type("open sesame\n")
    one.expect("The same again: ")
    if when != "asked again":
        one.type("open sesame\n")
    if when in ("shown the words", "asked a word"):
        one.expect("goes on without. ")
    if when == "asked a word":
        one.type("\n")
        one.expect("Word ")
        one.expect(": ")
    one.type("\x03")
    code, rest = one.end()
    assert code == 130
    assert one.echoes()
    assert not os.path.ismount(desk.mount)
    made = desk.store.exists()
    if when == "asked again":
        assert not made
    if when in ("shown the words", "asked a word"):
        assert made
        assert "the words that were shown are valid" in rest
    # Whichever it is, the next mount goes on from there.
    desk.up()


def test_a_random_passphrase_is_replaced_by_ones_own(desk: Desk, terminal: type[Terminal]) -> None:
    assert desk.run("mount", desk.mount, "--store", desk.store, "--background").returncode == 0
    assert desk.run("umount", desk.mount).returncode == 0
    one = terminal("passwd", desk.mount)
    one.expect("New passphrase: ")
    one.type("open sesame\n")
    one.expect("The same again: ")
    one.type("open sesame\n")
    words = one.expect("goes on without. ")
    one.type("skip\n")
    code, rest = one.end()
    assert code == 0, rest
    assert len(re.findall(r" [0-9]{1,2}\. [a-z]+", words)) == 24
    assert not (desk.store / "passphrase").exists()
    assert desk.run("mount", desk.mount, "--background").returncode == 2
    desk.up()
