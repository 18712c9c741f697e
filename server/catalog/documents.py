"""Sealed documents: the push of changes, the feed, earlier revisions, and which blobs each refers to.

Must not know what a document says. Invariant: a revision is kept only while every blob that it refers to exists, and
a reader of the feed that has seen sequence number n will be shown everything above n.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, insert, select, update

from blobfs.protocol import DEFAULT_NAMESPACE
from server.catalog.accounts import lock_account
from server.catalog.blobs import batches, find_several
from server.catalog.schema import DOCUMENTS, REFS, REVISIONS, USERS

SMALL_TOMBSTONE: Final = 4096
"""Bytes of a sealed tombstone that the quota does not stop."""


@dataclass(frozen=True, slots=True)
class Document:
    """One revision of a sealed document."""

    doc_id: str
    seq: int
    revision: str
    deleted: bool
    payload: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """What a device wants a document to be. Every id in it is well-formed."""

    doc_id: str
    base: str | None
    revision: str
    deleted: bool
    payload: bytes
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The change is in, or was already."""

    seq: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """The server's document is not the change's base."""

    current: Document | None


@dataclass(frozen=True, slots=True)
class Missing:
    """Blobs that the change refers to are not here."""

    blob_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OverLimit:
    """The account has no room for the change."""


Outcome = Accepted | Conflict | Missing | OverLimit

_COLUMNS = (DOCUMENTS.c.doc_id, DOCUMENTS.c.seq, DOCUMENTS.c.revision, DOCUMENTS.c.deleted, DOCUMENTS.c.payload)


@dataclass(slots=True)
class _Push:
    """A push on its way: what it has found, and the rows it will write at its end."""

    user_id: int
    seq: int
    room: int | None
    now_ns: int
    current: dict[str, Document]
    present: set[str]
    known: set[str]
    """Documents that had a row before this push."""
    used: int = 0
    replaced: list[dict[str, Any]] = field(default_factory=list)
    written: dict[str, dict[str, Any]] = field(default_factory=dict)

    def judge(self, change: Change) -> Outcome:
        """Whether the change can be; reads only."""
        current = self.current.get(change.doc_id)
        if current is not None and _is_repeated(current, change):
            return Accepted(current.seq)
        if (None if current is None else current.revision) != change.base:
            return Conflict(current)
        if missing := tuple(blob_id for blob_id in change.added if blob_id not in self.present):
            return Missing(missing)
        if self.room is not None and self.used + len(change.payload) > self.room and not _is_relief(current, change):
            return OverLimit()
        return Accepted(self.seq + 1)

    def take(self, change: Change) -> None:
        """Make the change the current revision; what it replaces becomes an earlier one."""
        self.seq += 1
        common = {"user_id": self.user_id, "doc_id": change.doc_id}
        if (old := self.current.get(change.doc_id)) is not None:
            row = {"seq": old.seq, "revision": old.revision, "deleted": old.deleted, "payload": old.payload}
            self.replaced.append(common | row | {"replaced_ns": self.now_ns})
        new = Document(change.doc_id, self.seq, change.revision, change.deleted, change.payload)
        self.current[change.doc_id] = new
        self.used += len(change.payload)
        row = {"seq": new.seq, "revision": new.revision, "deleted": new.deleted, "payload": new.payload}
        self.written[change.doc_id] = common | row | {"changed_ns": self.now_ns}


def _is_repeated(current: Document, change: Change) -> bool:
    """Whether the change is one that was accepted, sent again because its answer was lost."""
    same = (current.revision, current.deleted, current.payload)
    return same == (change.revision, change.deleted, change.payload)


def _is_relief(current: Document | None, change: Change) -> bool:
    """Whether the change is a small tombstone for a live document: that must be possible in a full account too."""
    return change.deleted and current is not None and not current.deleted and len(change.payload) <= SMALL_TOMBSTONE


def push(connection: Connection, user_id: int, changes: Sequence[Change]) -> list[Outcome]:
    """Accept what can be accepted, in order, each with its references; one outcome for each change.

    All of it is one transaction, so a reader sees all accepted changes or none.
    """
    account = lock_account(connection, user_id)
    room = None if account.quota is None else account.quota - account.used - account.reserved
    current = _find_current(connection, user_id, [change.doc_id for change in changes])
    wanted = dict.fromkeys(blob_id for change in changes for blob_id in change.added)
    present = set(find_several(connection, user_id, DEFAULT_NAMESPACE, wanted))
    work = _Push(user_id, account.seq, room, time.time_ns(), current, present, set(current))
    outcomes: list[Outcome] = []
    for change in changes:
        outcome = work.judge(change)
        if isinstance(outcome, Accepted) and outcome.seq > work.seq:
            work.take(change)
            _refer(connection, work, change)
        outcomes.append(outcome)
    if work.written:
        _write(connection, work)
    return outcomes


def _find_current(connection: Connection, user_id: int, doc_ids: Sequence[str]) -> dict[str, Document]:
    found: dict[str, Document] = {}
    for batch in batches(dict.fromkeys(doc_ids)):
        query = select(*_COLUMNS).where(DOCUMENTS.c.user_id == user_id, DOCUMENTS.c.doc_id.in_(batch))
        found.update((row.doc_id, Document(*row)) for row in connection.execute(query))
    return found


def _refer(connection: Connection, work: _Push, change: Change) -> None:
    """Open the references that the change adds and close those that it removes; a deletion closes all."""
    open_refs = [REFS.c.user_id == work.user_id, REFS.c.doc_id == change.doc_id, REFS.c.until_seq.is_(None)]
    if change.deleted:
        if change.doc_id in work.current:
            connection.execute(update(REFS).where(*open_refs).values(until_seq=work.seq))
        return
    for batch in batches(change.removed):
        connection.execute(update(REFS).where(*open_refs, REFS.c.blob_id.in_(batch)).values(until_seq=work.seq))
    held: set[str] = set()
    for batch in batches(change.added):
        query = select(REFS.c.blob_id).where(*open_refs, REFS.c.blob_id.in_(batch))
        held.update(connection.execute(query).scalars())
    common = {"user_id": work.user_id, "doc_id": change.doc_id, "since_seq": work.seq, "until_seq": None}
    rows = [{"blob_id": blob_id} | common for blob_id in dict.fromkeys(change.added) if blob_id not in held]
    if rows:
        connection.execute(insert(REFS), rows)


_REPLACE = (
    update(DOCUMENTS)
    .where(DOCUMENTS.c.user_id == bindparam("of_user"), DOCUMENTS.c.doc_id == bindparam("of_document"))
    .values({name: bindparam(name) for name in ("seq", "revision", "deleted", "payload", "changed_ns")})
)


def _write(connection: Connection, work: _Push) -> None:
    if work.replaced:
        connection.execute(insert(REVISIONS), work.replaced)
    fresh = [row for doc_id, row in work.written.items() if doc_id not in work.known]
    if fresh:
        connection.execute(insert(DOCUMENTS), fresh)
    again = [row for doc_id, row in work.written.items() if doc_id in work.known]
    if again:
        rows = [{"of_user": row.pop("user_id"), "of_document": row.pop("doc_id")} | row for row in again]
        connection.execute(_REPLACE, rows)
    values = {"seq": work.seq, "used": USERS.c.used + work.used}
    connection.execute(update(USERS).where(USERS.c.id == work.user_id).values(values))


# --- reading ----------------------------------------------------------------------------------------------

_FEED = (
    select(*_COLUMNS)
    .where(DOCUMENTS.c.user_id == bindparam("user_id"), DOCUMENTS.c.seq > bindparam("since"))
    .order_by(DOCUMENTS.c.seq)
    .limit(bindparam("limit"))
)
_COUNT = (
    select(func.count())
    .select_from(DOCUMENTS)
    .where(DOCUMENTS.c.user_id == bindparam("user_id"), DOCUMENTS.c.seq > bindparam("since"))
)
_SEQ = select(USERS.c.seq).where(USERS.c.id == bindparam("user_id"))


def last_seq(connection: Connection, user_id: int) -> int:
    """The sequence number of the account's newest change; 0 when there is none."""
    return int(connection.execute(_SEQ, {"user_id": user_id}).scalar() or 0)


def last_seqs(connection: Connection, user_ids: Sequence[int]) -> dict[int, int]:
    """`last_seq` of several accounts."""
    query = select(USERS.c.id, USERS.c.seq).where(USERS.c.id.in_(list(user_ids)))
    return {row.id: row.seq for row in connection.execute(query)}


def feed(connection: Connection, user_id: int, since: int, limit: int) -> Iterator[Document]:
    """The newest revision of each document that changed after `since`, ascending, fetched as they are consumed."""
    rows = connection.execute(
        _FEED, {"user_id": user_id, "since": since, "limit": limit}, execution_options={"yield_per": 20}
    )
    for row in rows:
        yield Document(*row)


def count_after(connection: Connection, user_id: int, since: int) -> int:
    """How many documents changed after `since`; reads the index alone, some 10 ms for a million."""
    return int(connection.execute(_COUNT, {"user_id": user_id, "since": since}).scalar_one())


def revisions(connection: Connection, user_id: int, doc_id: str, before: int | None) -> Iterator[Document]:
    """The document's revisions, newest first, the current one among them; only those with a `seq` below `before`."""
    current = _find_current(connection, user_id, [doc_id]).get(doc_id)
    if current is not None and (before is None or current.seq < before):
        yield current
    columns = (REVISIONS.c.doc_id, REVISIONS.c.seq, REVISIONS.c.revision, REVISIONS.c.deleted, REVISIONS.c.payload)
    query = select(*columns).where(REVISIONS.c.user_id == user_id, REVISIONS.c.doc_id == doc_id)
    if before is not None:
        query = query.where(REVISIONS.c.seq < before)
    rows = connection.execute(query.order_by(REVISIONS.c.seq.desc()), execution_options={"yield_per": 20})
    for row in rows:
        yield Document(*row)
