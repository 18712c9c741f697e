"""What is drawn on a terminal: a view that is kept up to date, a bar with rate and time left.

Knows nothing of what is shown. Invariant: without a terminal nothing is drawn that would have to be taken back, and
with NO_COLOR there are no colours.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Self, TextIO

from blobfs.wording import format_bytes, format_time

_LOOK_S: Final = 1.0
_DRAW_S: Final = 0.2
_SILENT_S: Final = 1.0
"""What is done sooner shows no bar."""
_RECENT_S: Final = 10.0
"""Seconds from which the rate is taken; what stands still for so long is said to."""
_LATELY_S: Final = 30.0
"""Seconds from which the time left is taken: a rate may jump, what it promises should not."""
_COLOUR: Final = re.compile(r"\x1b\[[0-9]*m")
_BAR: Final = 24
_LEAST_BAR: Final = 4
"""Columns: a shorter bar says nothing."""
_FILE: Final = 64 << 10
"""Bytes that take as long as what a file costs beside its bytes, before that is known better."""
_FAR: Final = 100
"""How many times dearer than that a file may be, or cheaper."""
_SPARSE: Final = 5
"""Of the samples, each fifth tells what things cost: in less than a second chance weighs more."""


def watch(look: Callable[[], str]) -> int:
    """Show what `look` says, again whenever it is something else, until Ctrl-C."""
    live, shown = sys.stdout.isatty(), None
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            text = look()
            size = shutil.get_terminal_size() if live else None
            if (text, size) != shown:
                sys.stdout.write(view(text, size, anew=shown is None or shown[1] != size) if size else text + "\n")
                sys.stdout.flush()
                shown = text, size
            time.sleep(_LOOK_S)
    return 0


def view(text: str, size: os.terminal_size, *, anew: bool) -> str:
    """A whole screen of `text`: more than it holds would scroll, and be all over it with the next view."""
    lines = text.splitlines()
    rows = [max(1, -(-len(_COLOUR.sub("", line)) // size.columns)) for line in lines]
    # The cursor has a row of its own, and so has the mark that there is more.
    if sum(rows) >= size.lines:
        while lines and sum(rows[: len(lines)]) >= size.lines - 1:
            lines.pop()
        lines.append("...")
    # Home, then each line to its end, then all below: no flicker, nothing left of a longer view.
    return ("\x1b[2J\x1b[H" if anew else "\x1b[H") + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"


class Bar:
    """Progress over bytes, or over things of a name, on standard error; a context manager.

    A thread draws, so that what stands still is seen to stand, and what never began is seen, too.
    """

    def __init__(self, what: str, total: int | None, stream: TextIO | None = None, *, noun: str = "") -> None:
        """`total` None: nobody knows yet how many there will be; `noun`: what is counted, in place of bytes."""
        self._what, self._total, self._noun, self._stream = what, total, noun, stream or sys.stderr
        self._live = self._stream.isatty()
        self.start = self._moved = time.monotonic()
        """When what is counted began, by the clock of `time.monotonic`."""
        self._shown = ""
        self._drawing: threading.Thread | None = None
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._free = 0
        self.done = 0
        self._samples = deque([(self.start, self._counted())])
        self.trouble = ""
        """Why it does not go on just now; shown in place of the time left."""

    def __enter__(self) -> Self:
        if self._live:
            self._drawing = threading.Thread(target=self._draw, name="bar", daemon=True)
            self._drawing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._drawing is not None:
            self._drawing.join()
        with self._lock:
            self._clear()

    def skip(self, count: int) -> None:
        """What needs no work: it counts, and says nothing about the rate."""
        self.done += count
        self._free += count

    def advance(self, count: int) -> None:
        """So much more is done."""
        self.done += count

    def reach(self, done: int, total: int | None) -> None:
        """So much is done by now, of a total that may have grown or have become known."""
        self.done, self._total = done, total

    def begin(self, what: str, noun: str = "") -> None:
        """Something else is done now, and is counted from its own beginning."""
        if what != self._what:
            self._what, self._noun, self.done, self._total, self._free = what, noun, 0, None, 0
            self.start = self._moved = time.monotonic()
            self._samples = deque([(self.start, self._counted())])

    def say(self, text: str) -> None:
        """Print a line for good, in place of the bar."""
        with self._lock:
            self._clear()
            print(text, file=self._stream, flush=True)

    def line(self, now: float, width: int = 120) -> str:
        """As it is drawn at `now`, by the clock of `time.monotonic`, on `width` columns."""
        what, spent = self._what, format_time(now - self.start)
        if not self._total and not self.done:
            return f"{what}, {spent}" + (f"  {self.trouble}" if self.trouble else "")
        amount = self._amount()
        rate = self._rate(self._pace(now, self._kind()))
        if self._total is None:
            return _fitting(width, f"{what}: {amount}{rate}  {spent}", f"{what}: {amount}{rate}", amount)
        share, left = min(1.0, self.done / max(1, self._total)), self._left(now)
        # Nearly all is not all.
        percent = f"{100 if share == 1 else min(99, round(100 * share)):3} %"
        # What is told comes first: on a narrow screen it is the drawing that goes, then how it is counted.
        room = min(_BAR, width - len(f"{what} [] {percent}  {amount}{rate}{left}") - 1)
        if room >= _LEAST_BAR:
            filled = int(share * room)
            return f"{what} [{'#' * filled}{'-' * (room - filled)}] {percent}  {amount}{rate}{left}"
        return _fitting(
            width,
            *(f"{what} {percent}  {amount}{rate}{left}", f"{what} {percent}{rate}{left}", f"{what} {percent}{left}"),
            f"{percent.lstrip()}{left}",
        )

    def _left(self, now: float) -> str:
        if self.trouble:
            return f"  {self.trouble}"
        if now - self._moved >= _RECENT_S:
            return f"  still for {format_time(now - self._moved)}"
        left_s = self._left_s(now)
        return "" if left_s is None else f"  {format_time(left_s)} left"

    def _left_s(self, now: float) -> float | None:
        """Seconds that the rest takes; None: there is no rest, or no telling yet."""
        assert self._total is not None
        rest, pace = self._total - self.done, self._pace(now, since_s=_LATELY_S)
        return rest / pace if rest > 0 and pace > 0 else None

    def _counted(self) -> tuple[int, ...]:
        """What took time: all of it together, then each kind that a rate is told of."""
        return (self.done - self._free,)

    def _kind(self) -> int:
        """Which of these the rate is told of."""
        return 0

    def _pace(self, now: float, kind: int = 0, since_s: float = _RECENT_S) -> float:
        """Of the last seconds: what was quick in the beginning says nothing of what is slow now."""
        before = [sample for sample in self._samples if now - sample[0] >= since_s]
        then, counts = before[-1] if before else self._samples[0]
        return max(0.0, (self._counted()[kind] - counts[kind]) / max(now - then, 0.001))

    def _amount(self) -> str:
        if self._noun:
            of = "" if self._total is None else f" of {self._total:,}"
            return f"{self.done:,}{of} {self._noun}"
        done = format_bytes(self.done)
        return done if self._total is None else f"{done} of {format_bytes(self._total)}"

    def _rate(self, rate: float) -> str:
        if not self._noun:
            return f"  {format_bytes(int(rate))}/s"
        return f"  {rate:,.0f}/s" if rate >= 1 or not rate else f"  {60 * rate:.0f}/min"

    def _draw(self) -> None:
        pause_s = _SILENT_S
        while not self._ended.wait(pause_s):
            pause_s, now = _DRAW_S, time.monotonic()
            with self._lock:
                line = self.line(now, self._width())[: self._width() - 1]
                if line != self._shown:
                    _write(self._stream, "\r\x1b[2K" + line)
                self._shown = line
            self._sample(now)

    def _sample(self, now: float) -> None:
        if self._counted() != self._samples[-1][1]:
            self._moved = now
        if now - self._samples[-1][0] >= _DRAW_S:
            self._samples.append((now, self._counted()))
        while len(self._samples) > 1 and now - self._samples[1][0] >= _LATELY_S:
            self._samples.popleft()

    def _clear(self) -> None:
        if self._shown:
            _write(self._stream, "\r\x1b[2K")
        self._shown = ""

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:
            return 80


class FilesBar(Bar):
    """Progress over files, of which small ones take time, too: it tells of bytes or of files, what is more to do."""

    def __init__(self, what: str, files: int, size: int, stream: TextIO | None = None) -> None:
        self._bytes_done = self._files_done = self._bytes_free = self._files_free = 0
        super().__init__(what, 0, stream)
        self._expect(files, size)

    def _expect(self, files: int, size: int) -> None:
        self._files, self._size, self._total = files, size, size + files * _FILE
        self._noun = "files" if files * _FILE > size else ""

    def remain(self, files: int, size: int) -> None:
        """So much is left to do; what was more before is done by now."""
        if files > self._files or size > self._size:
            self._expect(max(files, self._files), max(size, self._size))
        self._bytes_done, self._files_done = self._size - size, self._files - files
        self.done = self._bytes_done + self._files_done * _FILE

    def skip(self, count: int, files: int = 0) -> None:
        """Bytes, and files that are whole with them, that need no work."""
        self._bytes_free += count
        self._files_free += files
        super().skip(self._weigh(count, files))

    def advance(self, count: int, files: int = 0) -> None:
        """Bytes, and files that are whole with them."""
        super().advance(self._weigh(count, files))

    def _weigh(self, count: int, files: int) -> int:
        self._bytes_done += count
        self._files_done += files
        return count + files * _FILE

    def _counted(self) -> tuple[int, ...]:
        return (*super()._counted(), self._bytes_done - self._bytes_free, self._files_done - self._files_free)

    def _amount(self) -> str:
        files, size = (self._files - self._files_done) * _FILE, self._size - self._bytes_done
        # Not for a little more: it would go to and fro.
        if files > 2 * size or size > 2 * files:
            self._noun = "files" if files > size else ""
        if self._noun:
            return f"{self._files_done:,} of {self._files:,} files"
        return f"{format_bytes(self._bytes_done)} of {format_bytes(self._size)}"

    def _kind(self) -> int:
        return 2 if self._noun else 1

    def _left_s(self, now: float) -> float | None:
        files, size = self._files - self._files_done, self._size - self._bytes_done
        past = [*list(self._samples)[::_SPARSE], (now, self._counted())]
        moves = [
            (after[0] - before[0], after[1][1] - before[1][1], (after[1][2] - before[1][2]) * _FILE)
            for before, after in itertools.pairwise(past)
        ]
        byte_cost, file_cost = _costs(moves)
        spent = sum(byte_cost * moved + file_cost * ended for _, moved, ended in moves)
        if not spent or not (files or size):
            return None
        # The costs are right beside each other; what was not moving at all makes both dearer.
        return (now - past[0][0]) * (byte_cost * size + file_cost * files * _FILE) / spent


def _costs(moves: Sequence[tuple[float, int, int]]) -> tuple[float, float]:
    """What a byte costs and what a file does (in bytes that it is worth), from (seconds, bytes, files) of some moments.

    The least squares of the difference to what these took; where they do not tell the two apart, both are the same.
    """
    xx, xy, yy = (sum(move[a] * move[b] for move in moves) for a, b in ((1, 1), (1, 2), (2, 2)))
    xt, yt = (sum(move[0] * move[a] for move in moves) for a in (1, 2))
    pull = (xx + yy) / 1000
    divisor = (xx + pull) * (yy + pull) - (xy - pull) ** 2
    if divisor <= 0:
        return 1.0, 1.0
    x, y = ((yy + pull) * xt - (xy - pull) * yt) / divisor, ((xx + pull) * yt - (xy - pull) * xt) / divisor
    # Never for nothing: what is left of the cheaper would end in no time.
    return max(x, y / _FAR, 0.0), max(y, x / _FAR, 0.0)


def _fitting(width: int, *lines: str) -> str:
    """The first that fits beside the cursor; the last does at least begin with what matters most."""
    return next((line for line in lines if len(line) < width), lines[-1])


@contextlib.contextmanager
def passing(what: str, stream: TextIO | None = None) -> Iterator[None]:
    """Show what lasts, and for how long by now, while the block runs; nothing for what ends within a second."""
    stream, start = stream or sys.stderr, time.monotonic()
    if not stream.isatty():
        yield
        return

    def draw(ended: threading.Event) -> None:
        drawn, pause_s = "", _SILENT_S
        while not ended.wait(pause_s):
            drawn, pause_s = f"\r\x1b[2K{what}, {format_time(time.monotonic() - start)}", _LOOK_S
            _write(stream, drawn)
        _write(stream, "\r\x1b[2K" if drawn else "")

    with drawing(draw):
        yield


@contextlib.contextmanager
def drawing(draw: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `draw` beside the block, in a thread of its own. The event says that the block is over; `draw` ends then."""
    ended = threading.Event()
    thread = threading.Thread(target=draw, args=(ended,), name="drawing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _write(stream: TextIO, text: str) -> None:
    with contextlib.suppress(OSError):
        stream.write(text)
        stream.flush()
