"""Blobs: bytes that a program keeps under (namespace, id), beside the files of the mount and not among them.

Each is a document that no listing shows, so it is sealed, sent, deduplicated, evicted and fetched as files are.
Invariant: the bytes of a blob never change; what came from anywhere is a blob only when a device of the account put it.
"""

from __future__ import annotations

import contextlib
import enum
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from blobfs.api.shelf import BlobStatus, Row, Shelf
from blobfs.api.staging import Source, Staged
from blobfs.errors import BlobNotFound, IntegrityError, InvalidFlags, StaleHandle, UsageError
from blobfs.protocol import DEFAULT_NAMESPACE, Flag, is_id
from blobfs.store.blobs import ORDERS

if TYPE_CHECKING:
    from blobfs.api.account import Account

_PAGE: Final = 500


class Priority(enum.IntEnum):
    """Which blobs move first."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3
    URGENT = 4


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What is known of a blob."""

    blob_id: str
    namespace: str
    doc_id: str
    """Of the document that it is, for `Account.changes` and `get_doc_conflicts`."""
    size: int
    """Bytes."""
    date_ns: int
    """When it was put, in nanoseconds since the epoch."""
    flags: tuple[Flag, ...]
    status: BlobStatus
    reason: str
    """One sentence for a status that begins with FAILED, else empty."""
    priority: Priority


class BlobList(list[str]):
    """Ids, one page of them."""

    cursor: str | None = None
    """For the next page; None: there is no more."""


class Blobs:
    """The blobs of an account. From any thread."""

    def __init__(self, account: Account) -> None:
        """Use `Account.blobs`."""
        self.account = account

    @property
    def _shelf(self) -> Shelf:
        return self.account.desk.blobs

    # --- putting and getting --------------------------------------------------------------------------------------

    def put(
        self,
        blob_id: str,
        data: Source,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        local_only: bool = False,
        priority: Priority | int | str = Priority.MEDIUM,
    ) -> BlobInfo:
        """Store a new blob; on return all of it survives SIGKILL, and will be sent.

        Args:
            blob_id, namespace: `[A-Za-z0-9_-]{1,128}`.
            data: a path, bytes, a binary file, or an iterable of bytes.
            local_only: never send it, until `set_local_only` says otherwise.
        Raises:
            BlobExists: there is one of this id. UsageError: no such id or priority, or no data. NoSpace. OSError.
        """
        self.check(blob_id, namespace, priority)
        staging = self.account.attaching.staging
        return self.put_staged(blob_id, staging.take(staging.begin(), data), namespace, local_only, priority)

    def check(self, blob_id: str, namespace: str, priority: Priority | int | str = Priority.MEDIUM) -> None:
        """Raises UsageError: one of these cannot be."""
        _check_id(blob_id)
        _check_id(namespace)
        as_priority(priority)

    def put_staged(
        self, blob_id: str, staged: Staged, namespace: str, local_only: bool, priority: Priority | int | str
    ) -> BlobInfo:
        """`put` for what is checked and staged already; for the API itself."""
        staging = self.account.attaching.staging
        try:
            row = self._shelf.put(namespace, blob_id, staged.attached, local_only, int(as_priority(priority)))
        except BaseException:
            staging.drop(staged)
            raise
        staging.release(staged)
        return _info(row, namespace)

    def get(self, blob_id: str, namespace: str = DEFAULT_NAMESPACE) -> io.BufferedReader:
        """The bytes of a blob as a file, seekable; close it after use. What is not here is fetched as it is read.

        Raises:
            BlobNotFound. Reading raises as `Document.get_attachment` says.
        """
        row = self._find(blob_id, namespace)
        return self.account.attaching.reader(row.inode, row.content, row.size)

    def delete(self, blob_id: str, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Delete a blob, on all devices. Raises BlobNotFound."""
        self.check(blob_id, namespace)
        self._shelf.delete(namespace, blob_id)

    # --- looking --------------------------------------------------------------------------------------------------

    def info(self, blob_id: str, namespace: str = DEFAULT_NAMESPACE) -> BlobInfo:
        """What is known of a blob. Raises BlobNotFound."""
        return _info(self._find(blob_id, namespace), namespace)

    def status(self, blob_id: str, namespace: str = DEFAULT_NAMESPACE) -> BlobStatus:
        """How a blob stands. Raises BlobNotFound."""
        self.check(blob_id, namespace)
        row = self._shelf.find(namespace, blob_id)
        if row is None and blob_id in self._shelf.deleted(namespace):
            return BlobStatus.PENDING_DELETE
        return self.info(blob_id, namespace).status

    def list(
        self,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        status: BlobStatus | str | None = None,
        flag: Flag | str | None = None,
        order_by: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> BlobList:
        """The ids of the blobs of a namespace.

        Args:
            status, flag: only those that have it.
            order_by: `date` or `+date`: the oldest first; `-date`: the newest first; else by id.
            limit: of a page; the rest comes with its `cursor`. Without one: all.
        Raises:
            InvalidFlags: no such flag. UsageError: another argument that cannot be.
        """
        wanted = None if status is None else _status(status)
        found = BlobList()
        if wanted is BlobStatus.PENDING_DELETE:
            found.extend(self._shelf.deleted(namespace))
            return found
        if limit is not None and limit < 1:
            raise UsageError("a page has room for one at least")
        last: Row | None = None
        for row in self._rows(namespace, flag, order_by, cursor):
            if wanted is not None and row.status != wanted:
                continue
            if limit is not None and len(found) == limit and last is not None:
                found.cursor = f"{last.date_ns}.{last.blob_id}"
                break
            found.append(row.blob_id)
            last = row
        return found

    def _rows(
        self, namespace: str, flag: Flag | str | None = None, order_by: str | None = None, cursor: str | None = None
    ) -> Iterator[Row]:
        _check_id(namespace)
        if order_by not in ORDERS:
            raise UsageError("blobs are ordered by `date`, `+date` or `-date`, or by id without any of them")
        name = None if flag is None else _flags([flag])[0].value
        after = None if cursor is None else _after(cursor)
        while page := self._shelf.page(namespace, name, order_by, after, _PAGE):
            yield from page
            after = (page[-1].date_ns, page[-1].blob_id)

    def count(self, namespace: str = DEFAULT_NAMESPACE, *, flag: Flag | str | None = None) -> int:
        """How many blobs a namespace has. Raises InvalidFlags, UsageError."""
        _check_id(namespace)
        return self._shelf.count(namespace, None if flag is None else _flags([flag])[0].value)

    def namespaces(self) -> tuple[str, ...]:
        """Every namespace that was ever used, ascending."""
        return tuple(self._shelf.namespaces())

    def sync_progress(self, namespace: str | None = None) -> dict[str, int]:
        """How many blobs have each status; of all namespaces when none is given. Statuses that none has are absent."""
        found: dict[str, int] = {}
        for name in self.namespaces() if namespace is None else (namespace,):
            for row in self._rows(name):
                found[row.status] = found.get(row.status, 0) + 1
            if deleted := len(self._shelf.deleted(name)):
                found[BlobStatus.PENDING_DELETE.value] = found.get(BlobStatus.PENDING_DELETE.value, 0) + deleted
        return found

    # --- flags and the like ---------------------------------------------------------------------------------------

    def get_flags(self, blob_id: str, namespace: str = DEFAULT_NAMESPACE) -> tuple[Flag, ...]:
        """The flags of a blob. Raises BlobNotFound."""
        return self.info(blob_id, namespace).flags

    def set_flags(self, blob_id: str, flags: Iterable[Flag | str], namespace: str = DEFAULT_NAMESPACE) -> None:
        """Replace the flags of a blob, on all devices. Raises BlobNotFound; InvalidFlags: no such flag."""
        self.check(blob_id, namespace)
        self._shelf.set_flags(namespace, blob_id, [flag.value for flag in _flags(flags)])

    def set_priority(self, blob_id: str, priority: Priority | int | str, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Say which blobs this device sends and fetches first. Raises BlobNotFound; UsageError: no priority."""
        self.check(blob_id, namespace)
        self._shelf.prioritise(namespace, blob_id, int(as_priority(priority)))

    def set_local_only(self, blob_id: str, local_only: bool, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Whether a blob stays on this device.

        Raises:
            BlobExists: it is to stay here, and the server has it; or it is to be sent, and another device put the id.
            BlobNotFound.
        """
        self.check(blob_id, namespace)
        self._shelf.set_local(namespace, blob_id, local_only)

    # --- the server -----------------------------------------------------------------------------------------------

    def upload(self, blob_id: str, namespace: str = DEFAULT_NAMESPACE, *, timeout_s: float | None = None) -> BlobStatus:
        """Wait until the server has confirmed a blob; its status then. `timeout_s` as `Document.upload_attachment`.

        Raises:
            BlobNotFound; UsageError: it is to stay here. RemoteUnavailable, QuotaExceeded and the like.
        """
        row = self._find(blob_id, namespace)
        if row.status == BlobStatus.LOCAL_ONLY:
            raise UsageError("the blob is to stay on this device; set_local_only says otherwise")
        self.account.desk.settle(row.doc_id, timeout_s)
        return self.status(blob_id, namespace)

    def fetch(self, blob_id: str, namespace: str = DEFAULT_NAMESPACE) -> BlobStatus:
        """Bring all bytes of a blob here, also of one whose download failed before; its status then.

        Raises:
            BlobNotFound. RemoteUnavailable, CorruptBlob, DataMissing: they cannot be had.
            StaleHandle: it was deleted meanwhile.
        """
        row = self._find(blob_id, namespace)
        self.account.attaching.bring(row.inode, row.content, row.size)
        self._shelf.arrived(row.doc_id)
        return self.status(blob_id, namespace)

    def send_missing(self, namespace: str = DEFAULT_NAMESPACE, *, timeout_s: float | None = None) -> None:
        """Wait until the server has every blob of a namespace. Raises as `Account.sync`."""
        if self.list(namespace, status=BlobStatus.PENDING_UPLOAD) or self.list(
            namespace, status=BlobStatus.FAILED_UPLOAD
        ):
            self.account.desk.settle(None, timeout_s)

    def fetch_missing(self, namespace: str = DEFAULT_NAMESPACE) -> BlobList:
        """Bring every blob of a namespace here, the highest priority first; the ids of those that failed.

        One that fails holds up no other. Those whose download failed before are left alone.

        Raises:
            RemoteUnavailable, AccessDenied: the server is away or turns this device down.
        """
        failed = BlobList()
        # Looked up again before each one: priorities may change, and what is new may be more urgent.
        while (row := self._most_urgent(namespace, failed)) is not None:
            try:
                self.fetch(row.blob_id, namespace)
            except IntegrityError:
                failed.append(row.blob_id)
            except (BlobNotFound, StaleHandle):
                continue
        return failed

    def _most_urgent(self, namespace: str, failed: Iterable[str]) -> Row | None:
        wanted = (
            row
            for row in self._rows(namespace, order_by="date")
            if row.status == BlobStatus.PENDING_DOWNLOAD and row.blob_id not in failed
        )
        return max(wanted, key=lambda row: row.priority, default=None)

    def _find(self, blob_id: str, namespace: str) -> Row:
        self.check(blob_id, namespace)
        row = self._shelf.find(namespace, blob_id)
        if row is None:
            raise BlobNotFound(f"there is no blob of this id in the namespace {namespace}")
        return row


def as_priority(value: Priority | int | str) -> Priority:
    """A priority by number or name. Raises UsageError: it is none."""
    with contextlib.suppress(KeyError, ValueError):
        return Priority[value.upper()] if isinstance(value, str) else Priority(value)
    raise UsageError("a priority is low, medium, high or urgent, or 1 to 4")


def _check_id(text: str) -> None:
    if not isinstance(text, str) or not is_id(text):
        raise UsageError("ids and namespaces have 1 to 128 letters, digits, `_` and `-`")


def _flags(names: Iterable[Flag | str]) -> list[Flag]:
    try:
        return [Flag(name) for name in names]
    except ValueError:
        raise InvalidFlags("the flags are " + ", ".join(Flag)) from None


def _status(name: BlobStatus | str) -> BlobStatus:
    try:
        return BlobStatus(name)
    except ValueError:
        raise UsageError("the statuses are " + ", ".join(BlobStatus)) from None


def _after(cursor: str) -> tuple[int, str]:
    date_ns, _, blob_id = cursor.partition(".")
    if not (date_ns.isascii() and date_ns.isdigit() and is_id(blob_id)):
        raise UsageError("a cursor is what the page before gave")
    return int(date_ns), blob_id


def _info(row: Row, namespace: str) -> BlobInfo:
    flags = tuple(Flag(flag) for flag in row.flags)
    status, priority = BlobStatus(row.status), Priority(row.priority)
    return BlobInfo(row.blob_id, namespace, row.doc_id, row.size, row.date_ns, flags, status, row.reason, priority)
