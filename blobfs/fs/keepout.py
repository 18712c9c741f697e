"""Programs that read whole folders unasked (thumbnailers, indexers): they must not pull everything to this device.

Knows processes by what the kernel says of them, and the list; not files. A courtesy to the line and the disk and no
barrier: a program calls itself what it likes. Invariant: whoever cannot be told is let in.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

PROGRAMS: Final = (
    "tumblerd",
    "*-thumbnailer",
    "gnome-thumbnail*",
    "ffmpegthumbnailer",
    "kio-thumbnail*",
    "thumbnail.so",
    "tracker-miner-f*",
    "tracker-extract*",
    "localsearch*",
    "baloo_file",
    "baloo_file_extr*",
    "recollindex",
    "updatedb*",
)
"""Names as shell patterns, of the thumbnailers and indexers of common desktops."""
LOG_S: Final = 60.0
"""Between two lines of the log about one program."""
_COMM: Final = 15
"""Letters to which the kernel cuts a process's name."""
_LOGGED: Final = 100
"""Programs remembered for that; a list with `*` in it must not fill the memory."""


class KeepOut:
    """The list, and what was said about whom."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.patterns: Sequence[str] = PROGRAMS
        self._clock = clock
        self._logged: dict[str, float] = {}

    def turns_away(self, pid: int) -> bool:
        """Whether a process is one of a program on the list; that it was turned away is logged then.

        Args:
            pid: of any thread of it. One that is gone, or in a namespace that cannot be seen from here, is let in.
        """
        if not self.patterns or pid <= 0:
            return False
        found = next(filter(None, map(self._match, names_of(pid))), None)
        if found is None:
            return False
        self._note(found)
        return True

    def _match(self, name: str) -> str | None:
        """The pattern that a name answers to."""
        for pattern in self.patterns:
            # A name that was cut answers to whatever it may have been.
            if fnmatchcase(name, pattern) or (len(name) == _COMM and name == pattern[:_COMM]):
                return pattern
        return None

    def _note(self, program: str) -> None:
        now_s = self._clock()
        if now_s - self._logged.get(program, -LOG_S) < LOG_S:
            return
        if len(self._logged) >= _LOGGED:
            self._logged.clear()
        self._logged[program] = now_s
        log.info(
            "a program that matches %r was refused files of which bytes are not on this device; "
            "the list is `blobfs config DIR keep-out`",
            program,
        )


def names_of(pid: int) -> list[str]:
    """What the kernel calls a process, and the file that it runs; what cannot be known is left out."""
    names = []
    try:
        names.append(Path(f"/proc/{pid}/comm").read_bytes().removesuffix(b"\n").decode(errors="replace"))
        names.append(os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)"))
    except OSError:
        pass
    return names
