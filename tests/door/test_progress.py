"""What is drawn while something lasts: on a terminal, after a second, taken back at the end; elsewhere nothing."""

from __future__ import annotations

import _thread
import io
import os
import re
import threading
from pathlib import Path

import pytest

from blobfs import rotation
from blobfs.screen import Bar, FilesBar, passing, view
from tests.door.conftest import wait_until

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


def test_a_count_without_an_end_shows_its_rate_and_no_time_left() -> None:
    bar = Bar("reading", None, noun="names")
    bar.reach(3000, None)
    assert bar.line(bar.start + 2) == "reading: 3,000 names  1,500/s  2 s"


def test_a_count_with_an_end_shows_the_time_left() -> None:
    bar = Bar("reading", None, noun="names")
    bar.reach(3000, 12_000)
    assert bar.line(bar.start + 2, 69) == "reading [##--------]  25 %  3,000 of 12,000 names  1,500/s  6 s left"


def test_on_a_narrow_screen_the_drawing_goes_and_what_is_told_stays() -> None:
    bar = Bar("reading", 12_000, noun="names")
    bar.advance(3000)
    now = bar.start + 2
    assert bar.line(now, 56) == "reading  25 %  3,000 of 12,000 names  1,500/s  6 s left"
    assert bar.line(now, 40) == "reading  25 %  1,500/s  6 s left"
    assert bar.line(now, 30) == "reading  25 %  6 s left"
    assert bar.line(now, 20) == "25 %  6 s left"
    assert Bar("reading the account's names", None, noun="names").line(now, 20).startswith("reading")


def test_what_stands_still_has_no_time_left_and_says_why() -> None:
    bar = Bar("sending", 4 << 20)
    bar.trouble = "the server cannot be reached"
    bar.advance(1 << 20)
    assert bar.line(bar.start + 4).endswith("1.0 MiB of 4.0 MiB  256.0 KiB/s  the server cannot be reached")


def test_many_small_files_move_a_bar_that_counts_files() -> None:
    bar = FilesBar("importing", 1000, 5000)
    bar.advance(5, files=1)
    bar.advance(0, files=249)
    assert "25 %  250 of 1,000 files  125/s  6 s left" in bar.line(bar.start + 2)


def test_a_large_file_beside_small_ones_moves_a_bar_of_bytes() -> None:
    bar = FilesBar("importing", 10, 1 << 30)
    bar.advance(512 << 20, files=5)
    assert "50 %  512.0 MiB of 1.0 GiB  256.0 MiB/s  2 s left" in bar.line(bar.start + 2)


def test_what_is_more_to_do_is_what_it_tells_of() -> None:
    bar = FilesBar("exporting", 1000, 1 << 30)
    now = bar.start
    bar.advance(0, files=990)
    assert "0 B of 1.0 GiB  0 B/s" in bar.line(now + 2)
    bar.advance(1 << 30)
    assert " 99 %  990 of 1,000 files  495/s  0 s left" in bar.line(now + 2)
    bar.advance(0, files=10)
    assert bar.line(now + 2).endswith("100 %  1,000 of 1,000 files  500/s")


def test_what_stands_still_is_said_to_and_promises_no_hours() -> None:
    bar = Bar("fetching", 4 << 20)
    bar.advance(1 << 20)
    now = bar.start
    assert bar.line(now + 9).endswith("27 s left")
    assert bar.line(now + 400).endswith("1.0 MiB of 4.0 MiB  2.6 KiB/s  still for 6 min 40 s")


def test_what_is_left_to_send_may_grow() -> None:
    bar = FilesBar("sending", 0, 0)
    bar.remain(2, 4 << 20)
    bar.remain(4, 8 << 20)
    bar.remain(2, 2 << 20)
    assert "6.0 MiB of 8.0 MiB" in bar.line(bar.start + 2)


def test_a_bar_that_nothing_moves_is_drawn_and_taken_back() -> None:
    screen = Screen()
    with Bar("fetching", 4 << 20, screen):
        assert screen.drawn.wait(60)
        # Drawn anew once it is said to stand still, however late this thread looks.
        assert screen.getvalue().startswith(f"{GONE}fetching [{'-' * 24}]   0 %  0 B of 4.0 MiB  0 B/s")
    assert screen.getvalue().endswith(GONE)


def test_what_lasts_is_shown_and_taken_back() -> None:
    screen = Screen()
    with passing("checking", screen):
        assert screen.drawn.wait(60)
        # Drawn anew each second, however late this thread looks.
        assert re.fullmatch(rf"({re.escape(GONE)}checking, \d+ s)+", screen.getvalue())
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


@pytest.mark.parametrize(
    ("columns", "rows", "shown"),
    [(80, 5, ["one", "two" * 10, "three", "four"]), (80, 4, ["one", "two" * 10, "..."]), (20, 4, ["one", "..."])],
)
def test_a_view_that_is_higher_than_the_screen_ends_with_a_mark_and_does_not_scroll(
    columns: int, rows: int, shown: list[str]
) -> None:
    text = "\n".join(("\x1b[32mone\x1b[0m", "two" * 10, "three", "four"))
    drawn = view(text, os.terminal_size((columns, rows)), anew=False)
    assert drawn.startswith("\x1b[H")
    assert re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", drawn).splitlines() == shown
    assert view(text, os.terminal_size((columns, rows)), anew=True).startswith("\x1b[2J")


def test_ctrl_c_while_a_database_gets_its_new_key_waits_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, ended = Screen(), threading.Event()
    monkeypatch.setattr("sys.stderr", screen)

    def work() -> None:
        wait_until(lambda: "new keys for blobs.db" in screen.getvalue())
        _thread.interrupt_main()
        wait_until(lambda: "finished first" in screen.getvalue())
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        rotation.show(tmp_path / "blobs.db", 1 << 20, work)
    assert ended.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "rekey"]
