"""What a device tells the others of itself, as the JSON of one document. docs/FORMAT.md, "Devices".

Whoever has the account's keys may write anything there, so every member is checked as it is read. Invariant: each
member has one writer, the device itself, but for `revoked`, which the others only ever set; so edits that meet are
merged member by member and none is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from blobfs.values.documents import MAX_TIME_NS, Json
from blobfs.values.revisions import DeviceId

MAX_NAME: Final = 64
"""Characters of a device's name."""
_MAX_TOKEN: Final = 10**18


@dataclass(frozen=True, slots=True)
class Card:
    """One device, by its own account."""

    device: DeviceId
    name: str
    created_ns: int = 0
    seen_ns: int = 0
    """When it last said that it is there, by its own clock."""
    version: str = ""
    """Of its blobfs."""
    token: int | None = None
    """The number of its token at the server."""
    revoked: bool = False

    def to_content(self) -> Json:
        """As it is written."""
        body: Json = {"name": self.name, "created_ns": self.created_ns, "seen_ns": self.seen_ns}
        body |= {"version": self.version, "token": self.token}
        return body | ({"revoked": True} if self.revoked else {})

    @classmethod
    def of(cls, device: DeviceId, content: Json) -> Card:
        """What can be understood of a document; the rest is as if it were not there."""
        return cls(
            device,
            name=_text(content.get("name"), MAX_NAME) or device[:8],
            created_ns=_count(content.get("created_ns"), MAX_TIME_NS) or 0,
            seen_ns=_count(content.get("seen_ns"), MAX_TIME_NS) or 0,
            version=_text(content.get("version"), 32),
            token=_count(content.get("token"), _MAX_TOKEN),
            revoked=content.get("revoked") is True,
        )


def _text(value: Any, most: int) -> str:
    return "".join(letter for letter in value[:most] if letter.isprintable()) if isinstance(value, str) else ""


def _count(value: Any, most: int) -> int | None:
    return value if type(value) is int and 0 <= value <= most else None
