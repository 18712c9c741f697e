"""Numbers, times and foreign text as a person reads them. Pure, but for the machine's time zone."""

from __future__ import annotations

import time
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def printable(text: str) -> str:
    """`text` with everything that a terminal could obey replaced."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def counted(count: int, noun: str) -> str:
    """A number of things, whose plural ends in s."""
    return f"{count} {noun}{'s' * (count != 1)}"


def format_bytes(count: int) -> str:
    """A number of bytes with its unit, in three or four digits."""
    size, unit = float(count), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def format_span(seconds: float) -> str:
    """A time as it is set: in hours or minutes where it is whole ones."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:g} s"


def format_time(seconds: float) -> str:
    """A duration in two units at most."""
    whole = int(min(max(seconds, 0), 359_999))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_ago(passed_s: float) -> str:
    """A duration until now, in words."""
    for unit_s, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        count = int(passed_s // unit_s)
        if count > 0:
            return f"{counted(count, name)} ago"
    return "just now"


def format_date(seconds: float) -> str:
    """A moment, in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
