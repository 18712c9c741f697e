"""What is drawn while something lasts: on a terminal, after a second, taken back at the end; elsewhere nothing."""

from __future__ import annotations

import io
import threading

import pytest

from blobfs.commands.screen import Count, passing

GONE = "\r\x1b[2K"


class Screen(io.StringIO):
    """A terminal that tells when something was drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = threading.Event()

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        self.drawn.set()


def test_a_count_shows_its_rate_and_no_time_left() -> None:
    with Count("names", Screen()) as count:
        count.reach(3000, 0)
        assert count.line(2.0) == "names: 3,000 so far, 1,500/s, 2 s"


def test_what_lasts_is_shown_and_taken_back() -> None:
    screen = Screen()
    with passing("checking", screen):
        assert screen.drawn.wait(20)
        assert screen.getvalue() == f"{GONE}checking, 1 s"
    assert screen.getvalue().endswith(GONE)


def test_what_is_quick_is_not_shown() -> None:
    screen = Screen()
    with passing("checking", screen):
        pass
    assert screen.getvalue() == ""


def test_nothing_is_drawn_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with passing("checking"):
        assert not [thread for thread in threading.enumerate() if thread.name == "passing"]
    assert capsys.readouterr().err == ""
