"""What commands draw on a terminal: a view that is kept up to date, a bar with rate and time left.

Knows nothing of what is shown. Invariant: without a terminal nothing is drawn that would have to be taken back, and
with NO_COLOR there are no colours.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self, TextIO

from blobfs.status import format_bytes

_LOOK_S: Final = 1.0
_DRAW_S: Final = 0.2
_SILENT_S: Final = 1.0
"""What is done sooner shows no bar."""
_BAR: Final = 24


def watch(look: Callable[[], str]) -> int:
    """Show what `look` says, again whenever it is something else, until Ctrl-C."""
    live, shown = sys.stdout.isatty(), None
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            text = look()
            if text != shown:
                # Home, then each line to its end, then all below: no flicker, nothing left of a longer view.
                lines = "".join(f"{line}\x1b[K\n" for line in text.splitlines())
                sys.stdout.write(
                    f"\x1b[H{lines}\x1b[J" if live and shown else "\x1b[2J\x1b[H" + lines if live else text + "\n"
                )
                sys.stdout.flush()
                shown = text
            time.sleep(_LOOK_S)
    return 0


class Bar:
    """Progress over a known number of bytes, on standard error; a context manager."""

    def __init__(self, what: str, total: int, stream: TextIO | None = None) -> None:
        self._what, self._total, self._stream = what, total, stream or sys.stderr
        self._live = self._stream.isatty()
        self._start, self._drawn, self._first = time.monotonic(), 0.0, 0
        self.done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def skip(self, count: int) -> None:
        """Bytes that need no work: they count, and say nothing about the rate."""
        self.done += count
        self._first += count

    def advance(self, count: int) -> None:
        """Bytes that are done."""
        self.done += count
        now = time.monotonic()
        if self._live and now - self._start > _SILENT_S and now - self._drawn > _DRAW_S:
            self._drawn = now
            _write(self._stream, "\r\x1b[2K" + self.line(now - self._start)[: self._width() - 1])

    def reach(self, done: int, total: int) -> None:
        """So much is done by now, of a total that may have grown."""
        self._total = total
        self.advance(done - self.done)

    def line(self, passed_s: float) -> str:
        """As it is drawn, `passed_s` seconds after the start."""
        share = min(1.0, self.done / self._total) if self._total else 1.0
        rate = (self.done - self._first) / max(passed_s, 0.001)
        filled = int(share * _BAR)
        left = (self._total - self.done) / rate if rate > 0 else 0.0
        bar = "#" * filled + "-" * (_BAR - filled)
        return (
            f"{self._what} [{bar}] {100 * share:3.0f} %  {format_bytes(self.done)} of {format_bytes(self._total)}  "
            f"{format_bytes(int(rate))}/s  {format_time(left)} left"
        )

    def clear(self) -> None:
        """Make room for ordinary output."""
        if self._drawn:
            _write(self._stream, "\r\x1b[2K")

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:
            return 80


class Count(Bar):
    """Progress over a number of things of which nobody knows how many there will be."""

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        super().__init__(what, 0, stream)

    def line(self, passed_s: float) -> str:
        """As it is drawn."""
        return f"{self._what}: {self.done:,} so far, {self.done / max(passed_s, 0.001):,.0f}/s, {format_time(passed_s)}"


@contextlib.contextmanager
def passing(what: str, stream: TextIO | None = None) -> Iterator[None]:
    """Show what lasts, and for how long by now, while the block runs; nothing for what ends within a second."""
    stream, ended, start = stream or sys.stderr, threading.Event(), time.monotonic()
    if not stream.isatty():
        yield
        return

    def draw() -> None:
        drawn, pause_s = "", _SILENT_S
        while not ended.wait(pause_s):
            drawn, pause_s = f"\r\x1b[2K{what}, {format_time(time.monotonic() - start)}", _LOOK_S
            _write(stream, drawn)
        _write(stream, "\r\x1b[2K" if drawn else "")

    drawing = threading.Thread(target=draw, name="passing", daemon=True)
    drawing.start()
    try:
        yield
    finally:
        ended.set()
        drawing.join()


def _write(stream: TextIO, text: str) -> None:
    with contextlib.suppress(OSError):
        stream.write(text)
        stream.flush()


def format_time(seconds: float) -> str:
    """A duration in two units at most."""
    whole = int(min(max(seconds, 0), 359_999))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_date(seconds: float) -> str:
    """A moment, in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
