"""Questions at a terminal: what is typed, what is seen, and Ctrl-C at any moment."""

from __future__ import annotations

import codecs
import os
import pty
import select
import sys
from collections.abc import Iterator

import pytest

from tests.door.conftest import PATIENCE_S, ROOT

_PROGRAM = """
import sys, termios
from blobfs.asking import ask, ask_hidden
from blobfs.errors import UsageError
question = {"shown": ask, "hidden": ask_hidden}[sys.argv[1]]
for _ in range(int(sys.argv[2])):
    try:
        print("typed", repr(question("? ")))
    except (KeyboardInterrupt, EOFError, UsageError) as error:
        print("came", type(error).__name__, bool(termios.tcgetattr(0)[3] & termios.ECHO))
"""


class Person:
    """Who looks at a terminal and types there."""

    def __init__(self, kind: str, questions: int) -> None:
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execv(sys.executable, [sys.executable, "-c", _PROGRAM, kind, str(questions)])
        self._seen = ""
        # A read may end in the middle of a letter.
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def expect(self, text: str) -> str:
        while text not in self._seen:
            assert select.select([self.screen], [], [], PATIENCE_S)[0], f"no {text!r} after {self._seen!r}"
            try:
                self._seen += self._decoder.decode(os.read(self.screen, 4096))
            except OSError:
                raise AssertionError(f"it ended, without {text!r} after {self._seen!r}") from None
        before, _, self._seen = self._seen.partition(text)
        return before

    def type(self, text: bytes) -> None:
        os.write(self.screen, text)

    def close(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self.screen)


@pytest.fixture
def person(request: pytest.FixtureRequest) -> Iterator[Person]:
    person = Person(*request.param)
    yield person
    person.close()


@pytest.mark.parametrize("person", [("shown", 300), ("hidden", 300)], indirect=True, ids=["shown", "hidden"])
def test_no_ctrl_c_is_missed_however_soon_it_comes_after_the_question(person: Person) -> None:
    for _ in range(300):
        person.expect("? ")
        person.type(b"\x03")
        person.expect("came KeyboardInterrupt True")


@pytest.mark.parametrize("person", [("hidden", 1)], indirect=True)
def test_what_is_typed_hidden_is_not_seen(person: Person) -> None:
    person.expect("? ")
    person.type("ö secret\n".encode())
    assert person.expect("typed 'ö secret'").strip() == ""


@pytest.mark.parametrize("person", [("shown", 2)], indirect=True)
def test_the_end_of_a_line_ends_an_answer_and_the_end_of_input_the_question(person: Person) -> None:
    person.expect("? ")
    person.type(b"cat\x7fr\n")
    person.expect("typed 'car'")
    person.expect("? ")
    person.type(b"\x04")
    person.expect("came EOFError True")


@pytest.mark.parametrize("person", [("hidden", 2)], indirect=True)
def test_nothing_typed_or_no_text_is_told_and_the_terminal_echoes_again(person: Person) -> None:
    for answer in (b"\x04", b"\xff\xfe\n"):
        person.expect("? ")
        person.type(answer)
        person.expect("came UsageError True")
