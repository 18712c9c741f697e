"""What sync can tell about itself: its state, a sentence why, and what was put aside.

Holds no task and asks nobody. Invariant: whatever keeps a document from the server is in here with its reason.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    IntegrityError,
    KeysChanged,
    ProtocolError,
    QuotaExceeded,
    Rollback,
    WrongAccount,
    WrongServer,
)
from blobfs.values.documents import DocId


class SyncState(enum.StrEnum):
    """How sync and the server stand."""

    STARTING = "starting"
    CONNECTED = "connected"
    OFFLINE = "offline"
    PAUSED = "paused"
    REFUSED = "refused"
    OVER_QUOTA = "over-quota"
    WRONG_ACCOUNT = "wrong-account"
    WRONG_SERVER = "wrong-server"
    KEYS_CHANGED = "keys-changed"
    ROLLED_BACK = "rolled-back"
    INCOMPATIBLE = "incompatible"


STATES: Final[dict[type[BaseException], SyncState]] = {
    AccessDenied: SyncState.REFUSED,
    QuotaExceeded: SyncState.OVER_QUOTA,
    WrongAccount: SyncState.WRONG_ACCOUNT,
    WrongServer: SyncState.WRONG_SERVER,
    KeysChanged: SyncState.KEYS_CHANGED,
    Rollback: SyncState.ROLLED_BACK,
    IntegrityError: SyncState.ROLLED_BACK,
    ProtocolError: SyncState.INCOMPATIBLE,
}
"""By error; every other one means offline."""

STUCK: Final = frozenset(
    (
        SyncState.REFUSED,
        SyncState.OVER_QUOTA,
        SyncState.WRONG_ACCOUNT,
        SyncState.WRONG_SERVER,
        SyncState.KEYS_CHANGED,
        SyncState.ROLLED_BACK,
        SyncState.INCOMPATIBLE,
    )
)
"""States that a person has to mend."""

_SHOWN_ASIDE: Final = 1000
"""Documents put aside that are told one by one: an answer has a bound, and a server that spoils documents has none."""
DOUBTFUL: Final = frozenset((SyncState.WRONG_ACCOUNT, SyncState.WRONG_SERVER, SyncState.ROLLED_BACK))
"""States in which what the server once confirmed may be nowhere but here."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A document that sync goes on without."""

    doc_id: DocId
    reason: str
    since_s: float
    edit: int | None = None
    """The local edit that could not be sent; None when it is the server's revision that was refused."""
    retry_at_s: float = 0.0
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes on their way."""

    what: str
    """`upload` or `download`."""
    doc_id: DocId | None
    total: int
    done: int


@dataclass(slots=True)
class Reading:
    """How far the feed is, while it is read to its end."""

    done: int = 0
    """Documents that came and were applied or put aside."""
    total: int | None = None
    """Of so many; None: not known."""


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """A moment of sync."""

    state: SyncState
    reason: str
    """One sentence: why, and what to do. Empty when all is well."""
    pending_documents: int
    pending_bytes: int
    last_contact_s: float | None
    """When the server last answered, in seconds since the epoch."""
    parked: tuple[Parked, ...]
    transfers: tuple[Transfer, ...]
    held: tuple[DocId, ...] = ()
    """Files that are open here, of which another device has a newer version: it shows when they are closed."""
    since_s: float | None = None
    """When the state became what it is, in seconds since the epoch."""
    reading: Reading | None = None
    """What the server has and this device has not seen; None: all was seen."""

    def to_json(self) -> dict[str, Any]:
        """As `status --json` shows it."""
        return {
            "state": self.state.value,
            "reason": self.reason,
            "pending": {"documents": self.pending_documents, "bytes": self.pending_bytes},
            "last_contact": self.last_contact_s,
            "since": self.since_s,
            "parked": self._aside(),
            "transfers": [
                {"what": entry.what, "doc_id": entry.doc_id, "total": entry.total, "done": entry.done}
                for entry in self.transfers
            ],
            "held": list(self.held),
            "reading": None if self.reading is None else {"done": self.reading.done, "total": self.reading.total},
        }

    def _aside(self) -> list[dict[str, Any]]:
        shown = [
            {"doc_id": entry.doc_id, "reason": entry.reason, "since": entry.since_s}
            for entry in self.parked[:_SHOWN_ASIDE]
        ]
        if (more := len(self.parked) - len(shown)) > 0:
            since_s = self.parked[_SHOWN_ASIDE].since_s
            shown.append({"doc_id": "", "reason": f"{more} more documents are put aside", "since": since_s})
        return shown


@dataclass(slots=True)
class Health:
    """How it stands with the server, one voice for each direction: up may be full while down is well."""

    clock: Callable[[], float] = time.time
    errors: dict[str, BlobfsError] = field(default_factory=dict)
    contacted: bool = False
    paused: bool = False
    last_contact_s: float | None = None
    changed: trio.Event = field(default_factory=trio.Event)
    _since: tuple[SyncState, float] | None = None

    def succeed(self, who: str) -> None:
        """The server answered `who` as it should."""
        first, self.contacted, self.last_contact_s = not self.contacted, True, self.clock()
        if self.errors.pop(who, None) is not None or first:
            self.tell()

    def fail(self, who: str, error: BlobfsError) -> None:
        """`who` cannot go on for this reason."""
        self.errors[who] = error
        self.tell()

    def tell(self) -> None:
        """Wake whoever waits for another state."""
        if self._since is None or self._since[0] is not self.state:
            self._since = (self.state, self.clock())
        self.changed.set()
        self.changed = trio.Event()

    @property
    def since_s(self) -> float | None:
        """When the state became what it is, in seconds since the epoch; None: nothing was tried yet."""
        return None if self._since is None else self._since[1]

    @property
    def is_doubtful(self) -> bool:
        """Whether what is here must stay, whatever the server confirmed before."""
        return any(state_of(error) in DOUBTFUL for error in self.errors.values())

    @property
    def worst(self) -> BlobfsError | None:
        """The error that a person should hear of first."""
        ranked = sorted(self.errors.values(), key=lambda error: state_of(error) not in STUCK)
        return ranked[0] if ranked else None

    @property
    def state(self) -> SyncState:
        """All of it in a word."""
        if self.paused:
            return SyncState.PAUSED
        if self.worst is not None:
            return state_of(self.worst)
        return SyncState.CONNECTED if self.contacted else SyncState.STARTING


def state_of(error: BaseException) -> SyncState:
    """The state that an error means."""
    return next((STATES[kind] for kind in type(error).__mro__ if kind in STATES), SyncState.OFFLINE)
