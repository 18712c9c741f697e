"""What `blobfs config` sets: limits of the cache and the line, a pause, who is kept out, the device's name.

Owns the options' names, how their values are written, and where they are kept; the engine does what they say.
Invariant: an option that was set is in force at once, and again after the next mount.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import trio

from blobfs import suspend
from blobfs.account import keep_passphrase_away, keeps_passphrase
from blobfs.answers.paths import text_of
from blobfs.errors import UsageError
from blobfs.fs.keepout import PROGRAMS, KeepOut
from blobfs.remote.transport import CONNECTIONS, MAX_CONNECTIONS, MIN_CONNECTIONS
from blobfs.store.settings import Settings
from blobfs.sync.engine import SyncEngine
from blobfs.sync.evict import CacheLimits
from blobfs.values.documents import Json

_KEPT: Final = "door.options"
_SIZE: Final = re.compile(r"(\d{1,15})(?:\.(\d))?\s*([kmgt]?)(?:i?b)?(?:/s)?", re.IGNORECASE)
_UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_MAX_NAME: Final = 64
_MAX_PROGRAMS: Final = 100
_TIME: Final = re.compile(r"(\d{1,6})\s*(s|m|min|h|)", re.IGNORECASE)
_SECONDS: Final = {"s": 1, "": 60, "m": 60, "min": 60, "h": 3600}
LOCK_AFTER: Final = "lock-after"
LOCK_ON_SUSPEND: Final = "lock-on-suspend"
SERVER_PASSPHRASE: Final = "passphrase-at-server"  # noqa: S105 - a name


def parse_size(text: str) -> int | None:
    """Bytes from `10G`, `1.5 MiB`, `500k`; None from `off`. Raises UsageError."""
    if text.lower() in ("off", "none"):
        return None
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError("a size is a number with K, M, G or T behind it, or `off`")
    tenths = int(match[1]) * 10 + int(match[2] or 0)
    size = (tenths << _UNITS[match[3].lower()]) // 10
    if not 0 < size < 1 << 60:
        raise UsageError("a limit is more than nothing; `off` lifts it")
    return size


def parse_switch(text: str) -> bool:
    """`on` or `off`. Raises UsageError."""
    if text.lower() not in ("on", "off"):
        raise UsageError("that option is `on` or `off`")
    return text.lower() == "on"


def parse_time(text: str) -> int | None:
    """Seconds from `15` or `15min`, `90s`, `2h`; None from `off`. Raises UsageError."""
    if text.lower() in ("off", "none"):
        return None
    match = _TIME.fullmatch(text.strip())
    seconds = int(match[1]) * _SECONDS[match[2].lower()] if match is not None else 0
    if seconds <= 0:
        raise UsageError("a time is a number of minutes, or a number with s, min or h behind it, or `off`")
    return seconds


def parse_suspend(text: str) -> bool:
    """`on` or `off`. Raises UsageError, also where the machine cannot say that it goes to sleep."""
    wanted = parse_switch(text)
    if wanted:
        suspend.check()
    return wanted


def parse_connections(text: str) -> int:
    """A number of connections. Raises UsageError."""
    count = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
    if not MIN_CONNECTIONS <= count <= MAX_CONNECTIONS:
        raise UsageError(f"a number of connections is one from {MIN_CONNECTIONS} to {MAX_CONNECTIONS}")
    return count


def parse_programs(text: str) -> list[str] | None:
    """Names of programs as shell patterns, from a list with commas; None from `default`. Raises UsageError."""
    if text.lower() == "default":
        return None
    patterns = [] if text.lower() in ("off", "none") else [entry.strip() for entry in text.split(",")]
    if len(patterns) > _MAX_PROGRAMS or not all(
        entry and len(entry) <= _MAX_NAME and entry.isprintable() and "/" not in entry for entry in patterns
    ):
        raise UsageError(
            f"a list of programs has at most {_MAX_PROGRAMS} names between commas, without slashes; `off` empties it, "
            "`default` is the one that blobfs comes with"
        )
    return patterns


def parse_name(text: str) -> str:
    """A device's name. Raises UsageError."""
    name = text.strip()
    if not name or len(name) > _MAX_NAME or not name.isprintable() or "/" in name:
        raise UsageError(f"a device's name has 1 to {_MAX_NAME} printable characters and no slash")
    return name


@dataclass(frozen=True, slots=True)
class Option:
    """One option."""

    parse: Callable[[str], Any]
    default: Any
    text: str


OPTIONS: Final = {
    "cache-limit": Option(parse_size, None, "bytes of files kept on this device; least recently used ones go first"),
    "free-disk": Option(parse_size, None, "bytes left free on the disk of the store"),
    "upload-limit": Option(parse_size, None, "bytes a second to the server"),
    "download-limit": Option(parse_size, None, "bytes a second from the server"),
    "connections": Option(parse_connections, CONNECTIONS, "connections to the server at a time"),
    "paused": Option(parse_switch, False, "whether to leave the server alone; local work goes on"),
    "incoming": Option(parse_switch, True, "whether what senders leave becomes files in Incoming, here"),
    LOCK_AFTER: Option(parse_time, None, "lock when nobody has used it for so long: minutes, or 90s, 2h"),
    LOCK_ON_SUSPEND: Option(parse_suspend, False, "whether to lock before the machine goes to sleep"),
    SERVER_PASSPHRASE: Option(parse_switch, True, "off: new devices join with the recovery words only"),
    "keep-out": Option(parse_programs, None, "programs that may open only files that are here"),
    "device-name": Option(parse_name, None, "how conflict copies from this device are named"),
}


class Options:
    """The options of a store, in force."""

    def __init__(self, settings: Settings, engine: SyncEngine, keep_out: KeepOut) -> None:
        self._settings, self._engine, self._keep_out = settings, engine, keep_out
        self.changed = trio.Event()
        """Set, and replaced by another, when an option is set."""

    def values(self) -> dict[str, Any]:
        """Every option's value."""
        kept = self._settings.get(_KEPT, {})
        values = {name: kept.get(name, option.default) for name, option in OPTIONS.items()}
        if values["keep-out"] is None:
            values["keep-out"] = list(PROGRAMS)
        values[SERVER_PASSPHRASE] = keeps_passphrase(self._settings)
        return values | {"device-name": self._settings.get("device_name")}

    def apply(self) -> None:
        """Put all of them in force. On the loop."""
        values, engine = self.values(), self._engine
        engine.limit(up=values["upload-limit"], down=values["download-limit"], connections=values["connections"])
        self._keep_out.patterns = values["keep-out"]
        cache = CacheLimits(most=values["cache-limit"], free_disk=values["free-disk"])
        engine.options = replace(engine.options, cache=cache, incoming=values["incoming"])
        engine.health.tell()
        if values["paused"] != engine.health.paused:
            (engine.pause if values["paused"] else engine.resume)()

    def set(self, name: str, value: Any) -> None:
        """Keep the value of an option. On the loop."""
        if name == "device-name":
            self._settings.set("device_name", value)
        elif name == SERVER_PASSPHRASE:
            keep_passphrase_away(self._settings, away=not value)
        else:
            self._settings.set(_KEPT, {**self._settings.get(_KEPT, {}), name: value})
        self.changed.set()
        self.changed = trio.Event()

    async def answer(self, question: Json) -> Json:
        """`config`: show all, or set the option `name` to `value`."""
        if question.get("name") is not None:
            name, option = text_of(question, "name"), OPTIONS.get(text_of(question, "name"))
            if option is None:
                raise UsageError(f"there is no option of that name; there are {', '.join(OPTIONS)}")
            self.set(name, option.parse(text_of(question, "value")))
            self.apply()
        return {"values": self.values(), "texts": {name: option.text for name, option in OPTIONS.items()}}
