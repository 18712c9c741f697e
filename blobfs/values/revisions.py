"""Revisions: version vectors that tell which edits of a document a state contains.

A device adds one to its own counter with every revision it sends. One revision follows from another when it contains
all that the other contains; two of which neither does are concurrent, and somebody has to merge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NewType

DeviceId = NewType("DeviceId", str)
"""16 lower-case hex digits, drawn at random when a store is made."""

_ENTRY: Final = re.compile(r"([0-9a-f]{16}):([1-9][0-9]{0,17})")
MAX_DEVICES: Final = 256
_DEVICE: Final = re.compile(r"[0-9a-f]{16}")


def is_device(text: str) -> bool:
    """Whether `text` can be a device's id."""
    return _DEVICE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Revision:
    """A version vector. The empty one stands for "nothing seen yet" and is never sent."""

    entries: tuple[tuple[DeviceId, int], ...] = ()
    """(device, counter), ascending by device, counters from 1."""

    def __str__(self) -> str:
        """The canonical form, as it stands in requests and associated data: `DEVICE:COUNTER,...`."""
        return ",".join(f"{device}:{counter}" for device, counter in self.entries)

    @classmethod
    def parse(cls, text: str) -> Revision:
        """The revision of a canonical form.

        Raises:
            ValueError: any other form, so that each revision has one text only.
        """
        entries: list[tuple[DeviceId, int]] = []
        for part in text.split(","):
            match = _ENTRY.fullmatch(part)
            if match is None or len(entries) >= MAX_DEVICES:
                raise ValueError("not a revision")
            entries.append((DeviceId(match[1]), int(match[2])))
        devices = [device for device, _ in entries]
        if devices != sorted(set(devices)):
            raise ValueError("not a canonical revision")
        return cls(tuple(entries))

    @classmethod
    def of(cls, counters: Mapping[DeviceId, int]) -> Revision:
        """The revision with these counters; a counter of 0 says nothing and is left out."""
        return cls(tuple(sorted((device, counter) for device, counter in counters.items() if counter)))

    @property
    def has_text(self) -> bool:
        """Whether others can read it: another device's edit, or a counter of 18 digits, may be one more than fits."""
        return len(self.entries) <= MAX_DEVICES and all(counter < 10**18 for _, counter in self.entries)

    def contains(self, other: Revision) -> bool:
        """Whether every edit in `other` is in this one; true for equal ones."""
        mine = dict(self.entries)
        return all(mine.get(device, 0) >= counter for device, counter in other.entries)

    def merged(self, other: Revision) -> Revision:
        """The least revision that contains both."""
        counters = dict(self.entries)
        for device, counter in other.entries:
            counters[device] = max(counter, counters.get(device, 0))
        return Revision.of(counters)

    def advanced(self, device: DeviceId) -> Revision:
        """This revision with one more edit of `device`."""
        counters = dict(self.entries)
        counters[device] = counters.get(device, 0) + 1
        return Revision.of(counters)
