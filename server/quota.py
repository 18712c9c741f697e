"""Quota: reserve, extend, settle or release, each in one transaction. The only way for a blob into the catalog.

Must not know HTTP. Invariant: `used + reserved` of an account never exceeds its quota by anything let in here, whatever
runs at the same time; a blob's row exists only when its bytes are durable in the backend.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from blobfs.protocol import INCOMING_NAMESPACE, UploadStatus
from server.backends.interface import BlobKey, BlobsBackend, Staged
from server.catalog import blobs
from server.catalog.accounts import Account, lock_account, lock_accounts
from server.catalog.blobs import Blob
from server.catalog.schema import RESERVATIONS, USERS
from server.errors import OverQuota

MAX_BLOBS: Final = 20_000_000
"""Blobs of one account: a bound on what blobs of no bytes, which no quota counts, can do to the catalog."""

MAX_INCOMING: Final = 1000
"""Items that wait in the incoming box of one account."""

MAX_INCOMING_BYTES: Final = 1 << 30
"""Bytes of them; a quarter of the quota where that is less."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an account's blobs go."""

    user_id: int
    user: str
    namespace: str

    def key(self, blob_id: str) -> BlobKey:
        """The backend's name of a blob of this place."""
        return BlobKey(self.user, self.namespace, blob_id)


@dataclass(slots=True)
class Reservation:
    """Room for one upload under way; the row also tells a restarted server which blob may be half-way in."""

    number: int
    place: Place
    blob_id: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A blob that has come whole: its bytes are staged and durable."""

    reservation: Reservation
    staged: Staged
    blob: Blob


def reserve(
    connection: Connection, place: Place, wanted: Sequence[tuple[str, int]], owner: int = 0
) -> list[Reservation | UploadStatus]:
    """Set room aside for each (blob id, bytes), in order; one answer for each.

    Args:
        owner: `Catalog.owner` of this process.
    Answers:
        EXISTS: the blob is here. OVER_QUOTA: no room. Otherwise the reservation.
    """
    account = lock_account(connection, place.user_id)
    held = blobs.find_several(connection, place.user_id, place.namespace, dict(wanted))
    room, slots = _room(connection, account, place)
    answers: list[Reservation | UploadStatus] = []
    rows: list[dict[str, object]] = []
    total = 0
    for blob_id, size in wanted:
        if blob_id in held:
            answers.append(UploadStatus.EXISTS)
        elif (room is not None and total + size > room) or len(rows) >= slots:
            answers.append(UploadStatus.OVER_QUOTA)
        else:
            total += size
            number = secrets.randbits(62)
            row = {"id": number, "user_id": place.user_id, "namespace": place.namespace, "blob_id": blob_id}
            rows.append(row | {"bytes": size, "created_ns": time.time_ns(), "owner": owner})
            answers.append(Reservation(number, place, blob_id, size))
    if rows:
        connection.execute(_RESERVE, rows)
        _change(connection, {place.user_id: (0, 0, total)})
    return answers


def _room(connection: Connection, account: Account, place: Place) -> tuple[int | None, int]:
    """(bytes, blobs) that may still come to a place; None: no limit. Below zero where a limit was lowered."""
    room = None if account.quota is None else account.quota - account.used - account.reserved
    slots = MAX_BLOBS - account.blobs
    if place.namespace == INCOMING_NAMESPACE:
        # What senders leave has a quota of its own: a flood of it must not stop the account's own devices.
        items, size = blobs.held(connection, place.user_id, place.namespace)
        slots = min(slots, MAX_INCOMING - items)
        share = MAX_INCOMING_BYTES if account.quota is None else min(MAX_INCOMING_BYTES, account.quota // 4)
        room = share - size if room is None else min(room, share - size)
    return room, slots


def extend(connection: Connection, reservation: Reservation, needed: int, wanted: int) -> None:
    """Enlarge a reservation to `wanted` bytes, or as far as there is room, but at least to `needed`.

    Raises:
        OverQuota: there is no room for `needed`; what was reserved stays so.
    """
    account = lock_account(connection, reservation.place.user_id)
    room, _ = _room(connection, account, reservation.place)
    if room is not None:
        wanted = min(wanted, reservation.bytes + room)
    if wanted < needed:
        raise OverQuota("The account's quota has no room for this blob.")
    connection.execute(update(RESERVATIONS).where(RESERVATIONS.c.id == reservation.number).values(bytes=wanted))
    _change(connection, {reservation.place.user_id: (0, 0, wanted - reservation.bytes)})
    reservation.bytes = wanted


def settle(connection: Connection, backend: BlobsBackend, arrivals: Sequence[Arrival]) -> list[UploadStatus]:
    """Let blobs in: rows and bytes appear together when this transaction commits; one answer for each arrival.

    Answers:
        CREATED. EXISTS: another creator of the id was first. OVER_QUOTA: the account was removed meanwhile, or this
        process was taken for dead (its database was away), its reservation given up, and the room taken.
    """
    answers = [UploadStatus.EXISTS] * len(arrivals)
    places: dict[Place, list[int]] = {}
    for index, arrival in enumerate(arrivals):
        places.setdefault(arrival.reservation.place, []).append(index)
    open_accounts = lock_accounts(connection, (place.user_id for place in places))
    valid = _valid(connection, [arrival.reservation for arrival in arrivals])
    changes = {user_id: (0, 0, -total) for user_id, total in _totals(valid).items()}
    published: list[tuple[BlobKey, Staged]] = []
    for place, indexes in places.items():
        account = open_accounts.get(place.user_id)
        ids = [arrivals[index].blob.blob_id for index in indexes]
        held = set(blobs.find_several(connection, place.user_id, place.namespace, dict.fromkeys(ids)))
        created: list[Blob] = []
        for index, blob_id in zip(indexes, ids, strict=True):
            arrival = arrivals[index]
            if account is None or (arrival.reservation.number not in valid and not _has_room(account, arrival.blob)):
                answers[index] = UploadStatus.OVER_QUOTA
            elif blob_id not in held:
                held.add(blob_id)
                created.append(arrival.blob)
                published.append((place.key(blob_id), arrival.staged))
                answers[index] = UploadStatus.CREATED
        if created:
            blobs.add(connection, place.namespace, place.user_id, created)
            used, number, reserved = changes.get(place.user_id, (0, 0, 0))
            size = sum(blob.size for blob in created)
            changes[place.user_id] = (used + size, number + len(created), reserved)
    _forget(connection, valid)
    _change(connection, changes)
    # Last, so that the lock is not held over disk flushes for a batch that fails anyway. Before the commit, so that a
    # row never names bytes that are not durable; a crash in between leaves a reservation that names the stray file.
    backend.publish(published)
    return answers


def release(connection: Connection, backend: BlobsBackend, reservations: Sequence[Reservation]) -> None:
    """Give up uploads: their room is free again, and no stray bytes stand under their ids."""
    # Locked, so that no other process lets the same id in between the look and the deletion.
    lock_accounts(connection, (reservation.place.user_id for reservation in reservations))
    strays = []
    for reservation in reservations:
        place = reservation.place
        if blobs.find(connection, place.user_id, place.namespace, reservation.blob_id) is None:
            strays.append(place.key(reservation.blob_id))
    backend.delete(strays)
    valid = _valid(connection, reservations)
    _forget(connection, valid)
    _change(connection, {user_id: (0, 0, -total) for user_id, total in _totals(valid).items()})


def recover(
    connection: Connection, backend: BlobsBackend, before_ns: int, active: set[int], owners: set[int] | None = None
) -> int:
    """Give up the uploads of dead processes; answers how many there were.

    Args:
        before_ns: reservations as old as this are dead, unless `active`.
        owners: the processes that live, when there may be several; all that others reserved is dead.
    """
    query = select(
        RESERVATIONS.c.id,
        RESERVATIONS.c.user_id,
        USERS.c.name,
        RESERVATIONS.c.namespace,
        RESERVATIONS.c.blob_id,
        RESERVATIONS.c.created_ns,
        RESERVATIONS.c.owner,
    ).join(USERS, USERS.c.id == RESERVATIONS.c.user_id)
    dead = [
        Reservation(row.id, Place(row.user_id, row.name, row.namespace), row.blob_id, 0)
        for row in connection.execute(query)
        if row.id not in active and (row.created_ns <= before_ns or (owners is not None and row.owner not in owners))
    ]
    if dead:
        release(connection, backend, dead)
    return len(dead)


def _has_room(account: Account, blob: Blob) -> bool:
    return account.quota is None or account.used + account.reserved + blob.size <= account.quota


# --- statements, made once: making one takes longer than running it -----------------------------------------

_RESERVE: Final = insert(RESERVATIONS)
_FORGET: Final = delete(RESERVATIONS).where(RESERVATIONS.c.id == bindparam("number"))
_VALID: Final = select(RESERVATIONS.c.id, RESERVATIONS.c.user_id, RESERVATIONS.c.bytes)
_VALID_ONE: Final = _VALID.where(RESERVATIONS.c.id == bindparam("number"))
_VALID_SEVERAL: Final = _VALID.where(RESERVATIONS.c.id.in_(bindparam("numbers", expanding=True)))
_CHANGE: Final = (
    update(USERS)
    .where(USERS.c.id == bindparam("user_id"))
    .values(
        used=USERS.c.used + bindparam("more_used"),
        blobs=USERS.c.blobs + bindparam("more_blobs"),
        reserved=USERS.c.reserved + bindparam("more_reserved"),
    )
)


def _valid(connection: Connection, reservations: Sequence[Reservation]) -> dict[int, tuple[int, int]]:
    """(account, bytes) by number, of those that nobody gave up."""
    numbers = sorted({reservation.number for reservation in reservations})
    if len(numbers) == 1:
        rows = list(connection.execute(_VALID_ONE, {"number": numbers[0]}))
    else:
        rows = []
        for batch in blobs.batches(numbers):
            rows += connection.execute(_VALID_SEVERAL, {"numbers": batch})
    return {row[0]: (row[1], row[2]) for row in rows}


def _totals(valid: Mapping[int, tuple[int, int]]) -> dict[int, int]:
    """Bytes by account."""
    totals: dict[int, int] = {}
    for user_id, size in valid.values():
        totals[user_id] = totals.get(user_id, 0) + size
    return totals


def _forget(connection: Connection, numbers: Iterable[int]) -> None:
    if rows := [{"number": number} for number in numbers]:
        connection.execute(_FORGET, rows)


def _change(connection: Connection, changes: Mapping[int, tuple[int, int, int]]) -> None:
    """Add to `used`, `blobs` and `reserved` of accounts, which are locked."""
    for user_id, (used, number, reserved) in changes.items():
        values = {"more_used": used, "more_blobs": number, "more_reserved": reserved}
        connection.execute(_CHANGE, {"user_id": user_id} | values)
