"""What a person is asked at a terminal, shown or hidden while it is typed.

In place of `input` and `getpass`, which can miss a Ctrl-C: one that comes between the prompt and the read is noted, and
the read then waits for a line all the same. Invariant: however a question ends, the terminal echoes again.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
from collections.abc import Iterator
from typing import Final

from blobfs.errors import UsageError

_TERMINAL: Final = "/dev/tty"
_ECHO: Final = 3
"""Where tcgetattr has the flags of which echo is one."""
_MOST: Final = 64 << 10
"""Bytes of an answer; the kernel hands over 4 KiB at most without a line end."""


def ask(prompt: str) -> str:
    """What is typed, without its line end. Raises EOFError, KeyboardInterrupt, UsageError (not UTF-8)."""
    print(prompt, end="", flush=True)
    return _read_line(sys.stdin.fileno())


def ask_hidden(prompt: str) -> str:
    """`ask` for a secret, at the terminal that the process belongs to, wherever its output goes.

    Raises:
        UsageError: nothing was typed, or what is not UTF-8.
    """
    with _open_terminal() as (reading, writing), _silent(reading):
        try:
            os.write(writing, prompt.encode())
            return _read_line(reading)
        except EOFError:
            raise UsageError("nothing was typed; start again, or give a file with what was asked for") from None
        finally:
            os.write(writing, b"\n")


@contextlib.contextmanager
def _open_terminal() -> Iterator[tuple[int, int]]:
    """Descriptors to read from and to write to."""
    try:
        terminal = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        yield sys.stdin.fileno(), sys.stderr.fileno()
        return
    try:
        yield terminal, terminal
    finally:
        os.close(terminal)


@contextlib.contextmanager
def _silent(terminal: int) -> Iterator[None]:
    """No echo during the block; what was typed before it is dropped."""
    before = termios.tcgetattr(terminal)
    silent = termios.tcgetattr(terminal)
    silent[_ECHO] &= ~termios.ECHO
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _read_line(descriptor: int) -> str:
    with _woken_by_signals() as woken:
        line = b""
        while not line.endswith(b"\n") and len(line) < _MOST:
            if descriptor not in select.select([descriptor, woken], [], [])[0]:
                # Of a signal whose handler raises nothing: that of Ctrl-C has raised by now.
                os.read(woken, 1)
                continue
            piece = os.read(descriptor, _MOST)
            if not piece:
                if not line:
                    raise EOFError
                break
            line += piece
    try:
        return line.removesuffix(b"\n").decode()
    except UnicodeDecodeError:
        raise UsageError("what was typed is not UTF-8 text; check the terminal's settings") from None


@contextlib.contextmanager
def _woken_by_signals() -> Iterator[int]:
    """A descriptor that can be read once a signal has come, whether or not somebody waits for it already."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        yield reading
    finally:
        # Not to what it was: Ctrl-C can come before that is noted, and nobody else waits for signals meanwhile.
        signal.set_wakeup_fd(-1)
        os.close(reading)
        os.close(writing)
