"""How the state of a mount is told: the JSON of `status --json`, a few lines for a person, one live line.

The daemon fills in a `Status`, the command line prints it; asks nobody. Invariant: what came from a server or a file
is shown without control characters, so it cannot write to the terminal.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from blobfs.troubles import DOUBTFUL, TROUBLES
from blobfs.values.documents import Json
from blobfs.wording import counted, format_ago, format_bytes, format_date, printable

NOT_MOUNTED: Final = "not mounted"
MOUNTED: Final = "mounted"
_COLOURS: Final = {MOUNTED: "32", NOT_MOUNTED: "2", "offline": "33"}
_MINUTE_S: Final = 60
_ASIDE: Final = 10
"""Documents put aside that are listed."""
_MOVING: Final = 5
"""Files on their way that are named."""
_TROUBLE: Final = "31"


@dataclass(frozen=True, slots=True)
class Pending:
    """What waits for the server. None: not known, since the store is locked."""

    documents: int | None
    bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One mount, as `status --json` shows it; docs/CLI.md lists the members. Members may be added, never changed."""

    state: str
    """`mounted`, `not mounted`, or why the server is not being reached: `offline`, `refused` ..."""
    reason: str | None = None
    """One sentence, when the state is not simply `mounted`."""
    mountpoint: str
    store: str | None
    pid: int | None = None
    server: str | None = None
    user: str | None = None
    embedded: bool | None = None
    device: str | None = None
    pending: Pending
    documents: int | None = None
    """Live documents of the account, directories included."""
    stored_bytes: int | None = None
    """Bytes of attachments that are in the local store."""
    transfers: Sequence[Json] | None = None
    """What is on its way now: `what` (`upload`, `download`), `doc_id`, `total` and `done` bytes."""
    parked: Sequence[Json] | None = None
    """Documents that sync goes on without: `doc_id`, `reason`, `since` (seconds since the epoch)."""
    last_contact: float | None = None
    """When the server last answered, in seconds since the epoch."""
    version: str
    usage: Json | None = None
    """What the account holds at the server: `used`, `quota` (bytes, null: no limit), `objects`; None: not known."""
    notices: Sequence[str] | None = None
    """What a person should hear of the account's other devices, a sentence each."""
    since: float | None = None
    """When the state became what it is, in seconds since the epoch."""
    reading: Json | None = None
    """While names come from the server: `done`, and `total` or null when it does not say."""

    def to_json(self) -> dict[str, Any]:
        """As `json.dumps` takes it."""
        return asdict(self)


def from_json(body: Mapping[str, Any]) -> Status:
    """The inverse of `to_json`; members that this version does not know are left out."""
    known = {name: body.get(name) for name in Status.__slots__ if name != "pending"}
    pending = body.get("pending") or {}
    return Status(**known, pending=Pending(pending.get("documents"), pending.get("bytes")))  # type: ignore[arg-type]


# --- what is known while nothing is mounted -----------------------------------------------------------------------


def not_mounted(mountpoint: Path, store: Path | None, pending: Pending, version: str) -> Status:
    """The status of a mount that is not there."""
    return Status(
        state=NOT_MOUNTED,
        mountpoint=os.fspath(mountpoint),
        store=os.fspath(store) if store is not None else None,
        pending=pending,
        version=version,
    )


def write_pending(path: Path, pending: Pending) -> None:
    """Leave a note of what waits, for `status` while the store is locked. Two numbers, and nothing else, in clear."""
    path.write_text(json.dumps(asdict(pending)), encoding="ascii")


def read_pending(path: Path) -> Pending:
    """The note, or not knowing: there is none after a process was killed."""
    try:
        body = json.loads(path.read_bytes())
        return Pending(int(body["documents"]), int(body["bytes"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Pending(None, None)


# --- for people -------------------------------------------------------------------------------------------------


def format_pending(pending: Pending) -> str:
    """What waits for the server, in words."""
    if pending.documents is None:
        return "what waits is not known while the store is locked"
    if not pending.documents:
        return "everything is on the server"
    verb = "waits" if pending.documents == 1 else "wait"
    return f"{counted(pending.documents, 'document')} ({format_bytes(pending.bytes or 0)}) {verb} for the server"


def format_usage(usage: Json) -> str:
    """What the account holds at the server, in words."""
    used, quota = int(usage["used"]), usage["quota"]
    if quota is None:
        return f"{format_bytes(used)} used, no limit"
    return f"{format_bytes(used)} of {format_bytes(quota)} used, {format_bytes(max(0, quota - used))} left"


def format_line(status: Status, *, colour: bool = False) -> str:
    """The live line."""
    parts = [paint(status.state, status.state, colour), *_counts(status)]
    if status.reason:
        parts.append(printable(status.reason))
    return " · ".join(parts)


def _counts(status: Status) -> list[str]:
    is_known = status.state not in DOUBTFUL or status.pending.documents
    parts = [format_pending(status.pending) if is_known else "what the server has is not known"]
    if status.reading and status.reading["done"] != status.reading["total"]:
        of = "" if status.reading["total"] is None else f" of {status.reading['total']:,}"
        parts.append(f"reading names, {status.reading['done']:,}{of}")
    if status.transfers:
        parts.append(f"{len(status.transfers)} on the way")
    if status.parked:
        parts.append(f"{len(status.parked)} put aside")
    return parts


def format_status(status: Status, *, now_s: float, colour: bool = False) -> str:
    """Some lines about one mount; `now_s` in seconds since the epoch."""
    head = " · ".join((paint(status.state, status.state, colour), *_counts(status)))
    lines = [f"{printable(status.mountpoint)}: {head}", *_trouble(status, now_s)]
    if status.server:
        kind = "embedded, this machine only" if status.embedded else f"as {printable(status.user or '?')}"
        lines.append(f"  server  {printable(status.server)} ({kind})")
    if status.usage:
        lines.append(f"  quota   {format_usage(status.usage)}")
    if status.store:
        held = f" ({format_bytes(status.stored_bytes)} here)" if status.stored_bytes is not None else ""
        lines.append(f"  store   {printable(status.store)}{held}")
    lines += _moving(status.transfers or ())
    lines += _aside(status.parked or (), now_s)
    lines += [f"  devices {printable(notice)}" for notice in status.notices or ()]
    if status.pid:
        lines.append(f"  process {status.pid}")
    return "\n".join(lines)


def _trouble(status: Status, now_s: float) -> list[str]:
    """What is wrong, why, since when, and what to do; nothing when all is well."""
    trouble = TROUBLES.get(status.state)
    if trouble is None:
        return []
    lines = [f"  what    {trouble.what}"]
    if status.reason:
        # What to do comes below, with the commands for this mount.
        lines.append(f"  why     {printable(status.reason.partition(';')[0])}")
    if status.since is not None:
        since = f"  since   {_format_moment(status.since, now_s)}"
        if status.last_contact is not None and status.since - status.last_contact >= _MINUTE_S:
            since += f"; the last good answer was {format_ago(now_s - status.last_contact)}"
        lines.append(since)
    return [*lines, f"  do      {trouble.do.format(dir=printable(status.mountpoint))}"]


def _moving(transfers: Sequence[Json]) -> list[str]:
    lines = []
    for entry in transfers[:_MOVING]:
        name = printable(str(entry.get("path") or entry["doc_id"] or "bytes"))
        if entry["what"] == "upload":
            lines.append(f"  sending {name}: {format_bytes(entry['done'])} of {format_bytes(entry['total'])}")
        else:
            # Of a file that comes only what was asked for by now is known here.
            lines.append(f"  coming  {name}: {format_bytes(entry['total'])} of it at the moment")
    return lines


def _aside(parked: Sequence[Json], now_s: float) -> list[str]:
    lines = []
    for entry in parked[:_ASIDE]:
        # What is wrong with the account as a whole is of no document.
        name = printable(str(entry.get("path") or entry["doc_id"]))
        since = f" (since {_format_moment(float(entry['since']), now_s)})" if entry.get("since") else ""
        lines.append(f"  aside   {name}{': ' * bool(name)}{printable(str(entry['reason']))}{since}")
    if len(parked) > _ASIDE:
        lines.append(f"  aside   and {len(parked) - _ASIDE} more; `blobfs status --json` tells of them")
    return lines


def _format_moment(moment_s: float, now_s: float) -> str:
    return f"{format_date(moment_s)}, {format_ago(now_s - moment_s)}"


def paint(text: str, state: str, colour: bool) -> str:
    """`text` in the colour of `state`, if there are colours."""
    return f"\x1b[{_COLOURS.get(state, _TROUBLE)}m{text}\x1b[0m" if colour else text


def has_colour(stream: TextIO) -> bool:
    """Whether to use colours on `stream`: a terminal, and nothing in the environment against it (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class LiveLine:
    """One line that is kept up to date on a terminal, and plain lines for changes of state elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._live, self._colour = stream, stream.isatty(), has_colour(stream)
        self._shown: str | None = None

    def show(self, status: Status) -> None:
        """Show `status`, if that is news."""
        line = format_line(status, colour=self._colour)
        news = line if self._live else f"{status.state}: {status.reason or ''}".rstrip(": ")
        if news == self._shown:
            return
        self._shown = news
        # Cut to the terminal's width: a line that wraps cannot be taken back.
        self._write("\r\x1b[2K" + self._fit(line) if self._live else f"blobfs: {news}\n")

    def clear(self) -> None:
        """Make room for ordinary output."""
        if self._live and self._shown is not None:
            self._write("\r\x1b[2K")
        self._shown = None

    def say(self, text: str) -> None:
        """Show `text` for good, in place of the line."""
        self.clear()
        self._write(text + "\n")

    def _write(self, text: str) -> None:
        # A terminal that was closed, or a pipe that nobody reads any more, is no reason to end a mount.
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()

    def _fit(self, line: str) -> str:
        try:
            width = os.get_terminal_size(self._stream.fileno()).columns
        except OSError:
            return line
        # Colour codes take no room on the screen; cutting through one would colour all that follows.
        return line if not width or len(line) - (9 if self._colour else 0) < width else line[: width - 1] + "\x1b[0m"
