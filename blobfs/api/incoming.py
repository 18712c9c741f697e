"""The incoming box for programs: what senders left, handed to a consumer item by item.

Invariant: an item goes at the server only after the consumer has saved what it made of it. A consumer that is killed in
between is handed the item again, under the same id.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from blobfs.api.mailroom import Mailroom, Parcel
from blobfs.api.reading import BUFFER, AttachmentReader
from blobfs.errors import UsageError

if TYPE_CHECKING:
    from blobfs.api.account import Account
    from blobfs.api.desk import Desk

Result = TypeVar("Result")
_MAX_REASON = 500


class Item:
    """Something that a sender left. Good while it is being consumed."""

    def __init__(self, desk: Desk, parcel: Parcel) -> None:
        """Consumers are given them."""
        self.item_id = parcel.item_id
        """The same whenever and wherever it is handed out: save under it."""
        self.name = parcel.name
        """What the sender calls it: any text. It is no path, and nothing proves who the sender is."""
        self.size = parcel.size
        """Bytes."""
        self.content = parcel.content
        """For the API itself."""
        self._desk = desk

    def open(self) -> io.BufferedReader:
        """Its bytes as a file, seekable; all of them are here, and sealed whole by whoever sent it."""

        def read(offset: int, length: int) -> bytes:
            return self._desk.read(None, self.content, self.size, offset, length)

        return io.BufferedReader(AttachmentReader(self.size, read, lambda _, __: None, lambda: None), BUFFER)

    def read(self) -> bytes:
        """All its bytes: 16 MiB at most."""
        with self.open() as file:
            return file.read()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item could not be taken. It stays at the server, for a consumer of a higher version."""

    item_id: str
    reason: str
    count: int
    """How often it was tried."""
    version: int
    """Of the consumer that failed last; one that cannot be opened fails under every one."""


class Incoming:
    """The incoming box of an account."""

    def __init__(self, account: Account) -> None:
        """Use `Account.incoming`."""
        self._account = account

    @property
    def _mailroom(self) -> Mailroom:
        return self._account.desk.incoming

    def address(self, *, days: int | None = None) -> str:
        """A new address for senders: with it, `blobfs drop FILE --to ADDRESS` leaves things, and nobody does more.

        Args:
            days: after which it leaves nothing any more; None: never.
        Raises:
            RemoteUnavailable, AccessDenied: the server makes it. UsageError: no such number of days.
        """
        if days is not None and not 0 < days <= 3650:
            raise UsageError("an address is good for 1 to 3650 days, or for ever")
        return self._mailroom.address(days)

    def consume(
        self,
        process: Callable[[Item], Result],
        save: Callable[[Item, Result], object] | None = None,
        *,
        version: int = 1,
    ) -> int:
        """Hand everything that waits now to a consumer, oldest first; how many items were saved.

        While one device works on an item, no other gets it; if it does not come to an end in 15 minutes, another may.
        An item whose `save` has returned is never handed out again, on any device. One for which either raises an
        `Exception` is kept at the server as failed.

        Args:
            process: makes something of an item.
            save: keeps that; without one, `process` has done it. Killed right after it, a program is handed the item
                again: save under `item_id`, so that nothing is kept twice.
            version: of the consumer, from 1 on. What failed under a lower one is tried again.
        Raises:
            RemoteUnavailable, AccessDenied: the server; what was saved stays saved. NoSpace. UsageError.
        """
        done = 0
        while (item := self.take(version)) is not None:
            try:
                try:
                    result = process(item)
                    if save is not None:
                        save(item, result)
                except Exception as error:
                    self.fail(item, error, version)
                else:
                    self.done(item)
                    done += 1
            finally:
                self.drop(item)
        return done

    # --- the steps of it, for the API itself ------------------------------------------------------------------

    def take(self, version: int) -> Item | None:
        """The next item."""
        if version < 1:
            raise UsageError("versions of a consumer begin with 1")
        parcel = self._mailroom.take(version)
        return None if parcel is None else Item(self._account.desk, parcel)

    def done(self, item: Item) -> None:
        """It was saved."""
        self._mailroom.done(item.item_id)

    def fail(self, item: Item, error: Exception, version: int) -> None:
        """It could not be."""
        self._mailroom.fail(item.item_id, f"{type(error).__name__}: {error}"[:_MAX_REASON], version)

    def drop(self, item: Item) -> None:
        """Give its bytes back."""
        self._account.desk.abandon(item.content)

    def failures(self) -> list[Failure]:
        """What failed and was not taken since, by item."""
        return [
            Failure(item_id, str(entry["reason"]), int(entry["count"]), int(entry["version"]))
            for item_id, entry in self._mailroom.failures().items()
        ]
