"""The server as typed calls: blobs, documents, the feed, the wrapped secret.

Knows the protocol and nothing of keys, plaintext or the store. Invariant: whatever comes out was checked against the
protocol's grammar and limits; an answer that breaks them is a `ProtocolError`, whoever made it.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self

import trio

from blobfs import protocol
from blobfs.errors import (
    BlobExists,
    BlobNotFound,
    CorruptBlob,
    DataMissing,
    PreconditionFailed,
    ProtocolError,
    QuotaExceeded,
    RemoteUnavailable,
)
from blobfs.protocol import ChangeStatus, ItemStatus, UploadStatus
from blobfs.remote.parsing import array, broken, is_count, members, number, parse, texts
from blobfs.remote.refusals import ADVICE, AnswerTooLong, RangeRefused, StrangeNotFound
from blobfs.remote.transport import Answer, Lane, Limits, Transport
from blobfs.values.documents import DocId
from blobfs.values.extents import BlobId

MAX_PAGE: Final = 2 * protocol.MAX_DOCUMENTS_BODY
"""Bytes of an answer with documents: base64 and one document over the limit included."""
MAX_REVISION: Final = 16 << 10
"""Characters of a revision of the most devices."""
BYTES_PER_ID: Final = 70
"""Of a blob's id in a request: 64 hex digits, quotes and a comma, and some to spare."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed document as the server has it; nothing in it is authenticated yet."""

    doc_id: DocId
    seq: int
    revision: str
    deleted: bool
    payload: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the feed, ascending by `seq`."""

    documents: tuple[Sealed, ...]
    cursor: str
    more: bool
    left: int | None = None
    """Documents after this page; None: the server does not say, or was not asked."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a document is to become."""

    doc_id: DocId
    base: str | None
    revision: str
    deleted: bool
    payload: bytes
    added: tuple[BlobId, ...] = ()
    removed: tuple[BlobId, ...] = ()

    @property
    def size(self) -> int:
        """About the bytes it takes in a request."""
        ids = len(self.added) + len(self.removed)
        return len(self.payload) * 4 // 3 + BYTES_PER_ID * ids + 2 * len(self.revision) + 300


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one change."""

    status: ChangeStatus
    seq: int | None
    missing: tuple[BlobId, ...]
    current: Sealed | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What the account holds at the server, in bytes."""

    used: int
    quota: int | None
    """None: no limit. May be less than `used`."""
    objects: int


class RemoteClient:
    """One account on one server, for this device. An async context manager; raises `RemoteError` kinds only."""

    def __init__(
        self,
        url: str,
        user: str,
        token: str,
        *,
        limits: Limits | None = None,
        ca_file: str | None = None,
        pin: str | None = None,
    ) -> None:
        """Raises UsageError: an address or an invite that cannot be used."""
        self.transport = Transport(url, user, token, limits=limits or Limits(), ca_file=ca_file, pin=pin)
        self.url = self.transport.url
        self.user = user

    async def __aenter__(self) -> Self:
        await self.transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.transport.__aexit__(kind, error, trace)

    def _path(self, route: str, **ids: str) -> str:
        return route.format(user=self.user, **ids)

    # --- the server and the account -------------------------------------------------------------------------

    async def greet(self) -> None:
        """On return the address is that of a blobfs server whose protocol this client speaks.

        Raises:
            ProtocolError: it is not.
        """
        body = parse((await self._ask("GET", protocol.ROOT, most=64 << 10)).body)
        if body.get("version") != protocol.VERSION:
            raise ProtocolError("the server speaks another version of the protocol; bring both to the same version")

    async def clock(self) -> float | None:
        """The server's time in seconds since the epoch, as its answers tell it; None when they do not."""
        answer = await self._ask("GET", protocol.ROOT, most=64 << 10)
        try:
            return parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
        except (ValueError, OverflowError):
            return None

    async def fetch_secret(self) -> tuple[bytes, str] | None:
        """(the wrapped secret, its tag for a replacement); None when the account has none."""
        try:
            answer = await self._ask("GET", self._path(protocol.SECRETS), most=protocol.MAX_SECRETS)
        except BlobNotFound:
            return None
        tag = answer.headers.get("etag", "")
        if not (tag.isascii() and tag.isprintable()):  # it goes back in a header of ours
            raise broken("tag")
        return answer.body, tag

    async def store_secret(self, body: bytes, replaces: str | None = None) -> None:
        """Put the wrapped secret there, as the first one or in place of the one with the tag `replaces`.

        Raises:
            PreconditionFailed: that is not what is there.
        """
        condition = {"If-None-Match": "*"} if replaces is None else {"If-Match": replaces}
        await self._ask("PUT", self._path(protocol.SECRETS), most=64 << 10, body=body, headers=condition)

    async def usage(self) -> Usage | None:
        """What the account holds and may hold; None: the server is older than the question."""
        try:
            body = parse((await self._ask("GET", self._path(protocol.USAGE), most=64 << 10)).body)
        except BlobNotFound:
            return None
        quota = body.get("quota")
        return Usage(number(body.get("used")), None if quota is None else number(quota), number(body.get("objects")))

    # --- documents ------------------------------------------------------------------------------------------

    async def feed(
        self, since: str | None, *, limit: int = protocol.MAX_CHANGES, wait_s: float = 0.0, count: bool = False
    ) -> Page:
        """The documents that changed after `since`; with none, waits up to `wait_s` for one.

        Args:
            count: ask how many come after the page.
        """
        query: dict[str, str | int] = {"limit": limit} | ({"count": "true"} if count else {})
        if since is not None:
            query["since"] = since
        if wait_s:
            query["wait"] = f"{wait_s:g}"
        lane = Lane.POLL if wait_s else Lane.BULK
        path = self._path(protocol.DOCUMENTS)
        answer = await self.transport.request(lane, "GET", path, most=MAX_PAGE, query=query, wait_s=wait_s)
        return await trio.to_thread.run_sync(_parse_page, answer.body, since)

    async def push(self, changes: Sequence[Change]) -> list[Result]:
        """Send changes, at most `MAX_CHANGES` and `MAX_DOCUMENTS_BODY` bytes; one result for each, in their order."""
        body = await trio.to_thread.run_sync(_pack_changes, changes)
        path = self._path(protocol.DOCUMENTS)
        answer = await self._ask("POST", path, most=MAX_PAGE, body=body, headers=_JSON_TYPE)
        return await trio.to_thread.run_sync(_parse_results, answer.body, changes)

    async def revisions(self, doc_id: DocId, limit: int = 100) -> list[Sealed]:
        """Earlier and present revisions of a document that the server still has, newest first.

        None only when the server itself says that it does not know the document.
        """
        path = self._path(protocol.REVISIONS, doc_id=doc_id)
        try:
            answer = await self._ask("GET", path, most=MAX_PAGE, query={"limit": limit})
        except StrangeNotFound as error:
            raise ProtocolError(str(error)) from error
        except BlobNotFound:
            return []
        entries = [_sealed(entry) for entry in array(parse(answer.body).get("revisions"), protocol.MAX_CHANGES)]
        if any(entry.doc_id != doc_id for entry in entries):
            raise broken("revisions")
        return entries

    # --- blobs ----------------------------------------------------------------------------------------------

    async def missing(self, ids: Iterable[BlobId]) -> set[BlobId]:
        """Those of `ids` that the server lacks."""
        wanted, found = list(dict.fromkeys(ids)), set[BlobId]()
        path = self._path(protocol.MISSING)
        for at in range(0, len(wanted), protocol.MAX_IDS):
            batch = wanted[at : at + protocol.MAX_IDS]
            body = json.dumps({"ids": batch}).encode("ascii")
            most = 80 * len(batch) + 1024
            # Not behind the megabytes that are sent meanwhile: what is sent next depends on the answer.
            answer = await self.transport.request(Lane.POLL, "POST", path, most=most, body=body, headers=_JSON_TYPE)
            lacking = texts(parse(answer.body).get("missing"), len(batch))
            if not set(lacking) <= set(batch):
                raise broken("missing")
            found.update(BlobId(name) for name in lacking)
        return found

    async def put(self, blob_id: BlobId, sealed: bytes | memoryview, digest: bytes | None = None) -> None:
        """Store one blob; on return the server has it whole, its digest confirmed. One that is there is as good.

        Args:
            digest: SHA-256 of the bytes, from whoever had it made in a thread already.
        """
        if digest is None:
            digest = await trio.to_thread.run_sync(lambda: hashlib.sha256(sealed).digest())
        headers = {protocol.DIGEST: protocol.digest_header(digest)}
        path = self._path(protocol.BLOB, blob_id=blob_id)
        try:
            await self._ask("PUT", path, most=64 << 10, body=sealed, headers=headers)
        except BlobExists:
            return

    async def put_many(self, blobs: Sequence[tuple[BlobId, bytes]]) -> None:
        """Store small blobs with one request, at most `MAX_STREAM_ITEMS`.

        Raises:
            QuotaExceeded: some did not fit; the others are stored.
        """
        body = b"".join(
            part for name, sealed in blobs for part in (protocol.pack_item_header(name, len(sealed)), sealed)
        )
        most = 200 * len(blobs) + 1024
        path = self._path(protocol.STREAM)
        answer = await self._ask("POST", path, most=most, body=body, query={"direction": "upload"})
        statuses: dict[str, str] = {}
        for entry in array(parse(answer.body).get("results"), len(blobs)):
            name, status = texts([members(entry).get("blob_id"), entry.get("status")], 2)
            statuses[name] = status
        for blob_id, _ in blobs:
            found = statuses.get(blob_id)
            if found == UploadStatus.OVER_QUOTA:
                raise QuotaExceeded(ADVICE[QuotaExceeded])
            if found not in (UploadStatus.CREATED, UploadStatus.EXISTS):
                raise broken("upload")

    async def get(self, blob_id: BlobId, start: int, size: int, *, lane: Lane = Lane.READER) -> bytes:
        """`size` stored bytes of a blob from `start` on, as they came: not authenticated.

        Raises:
            DataMissing: the server lacks it. CorruptBlob: it has more or fewer bytes than a device sent.
            ProtocolError: the answer is to another question.
        """
        return (await self._range(blob_id, start, size, lane, None)).body

    async def receive(self, blob_id: BlobId, start: int, buffer: memoryview, *, lane: Lane = Lane.READER) -> None:
        """As `get`, of as many bytes as `buffer` has, into it; what is in it after an error is nothing."""
        await self._range(blob_id, start, len(buffer), lane, buffer)

    async def _range(self, blob_id: BlobId, start: int, size: int, lane: Lane, into: memoryview | None) -> Answer:
        headers = {"Range": f"bytes={start}-{start + size - 1}"}
        path = self._path(protocol.BLOB, blob_id=blob_id)
        try:
            answer = await self.transport.request(lane, "GET", path, most=size, headers=headers, into=into)
        except BlobNotFound:
            raise DataMissing(MISSING) from None
        except (AnswerTooLong, RangeRefused):
            raise _other_length(blob_id) from None
        place = answer.headers.get("content-range", "")
        if answer.status != 206 or not place.startswith(f"bytes {start}-"):
            raise broken("range")
        if not place.startswith(f"bytes {start}-{start + size - 1}/"):
            raise _other_length(blob_id)
        if answer.size != size:
            # What the connection cut may come whole the next time; what was announced as so long will not.
            if answer.headers.get("content-length") == str(answer.size):
                raise _other_length(blob_id)
            raise RemoteUnavailable("the connection to the server broke; blobfs tries again by itself")
        return answer

    async def get_many(self, sizes: Mapping[BlobId, int], *, lane: Lane = Lane.BULK) -> AsyncGenerator[Blob, None]:
        """Whole small blobs with one request, in the order of `sizes`, which tells the stored bytes of each.

        Those that the server lacks come with None.
        """
        ids = list(sizes)
        body = json.dumps({"ids": ids}).encode("ascii")
        path, query = self._path(protocol.STREAM), {"direction": "download"}
        async with self.transport.open(
            lane, "POST", path, query=query, body=body, headers=_JSON_TYPE, deadline_s=600
        ) as (_, _, chunks):
            items = _Items(chunks)
            for name in ids:
                yield name, await items.next(name, sizes[name])
            await items.end()

    async def _ask(self, method: str, path: str, *, most: int, **request: Any) -> Any:
        return await self.transport.request(Lane.BULK, method, path, most=most, **request)


Blob = tuple[BlobId, bytes | None]
MISSING: Final = "the server lacks a part of the file that a device once sent; look for it on the device that wrote it"
_JSON_TYPE: Final = {"Content-Type": "application/json"}


class _Items:
    """A stream download, taken apart at its items."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks, self._held = chunks, bytearray()

    async def next(self, name: BlobId, size: int) -> bytes | None:
        """The next item, which must be `name` with `size` bytes."""
        try:
            status, id_length, length = protocol.unpack_item_header(await self._take(protocol.ITEM_HEADER.size))
        except protocol.BadStream:
            raise broken("stream") from None
        if (await self._take(id_length)) != name.encode("ascii"):
            raise broken("stream")
        if status is ItemStatus.NOT_FOUND:
            return None
        if length != size:
            raise broken("stream item")
        return await self._take(length)

    async def end(self) -> None:
        """Nothing may follow the last item."""
        if self._held or await anext(self._chunks, None) is not None:
            raise broken("stream")

    async def _take(self, length: int) -> bytes:
        while len(self._held) < length:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                raise RemoteUnavailable("the connection to the server broke; blobfs tries again by itself")
            self._held += chunk
        taken = bytes(self._held[:length])
        del self._held[:length]
        return taken


# --- JSON -------------------------------------------------------------------------------------------------


def _other_length(blob_id: BlobId) -> CorruptBlob:
    return CorruptBlob(f"blob {blob_id} has not the length on the server that a device gave it")


def _sealed(value: Any) -> Sealed:
    entry = members(value)
    doc_id, seq, revision = entry.get("doc_id"), entry.get("seq"), entry.get("revision")
    deleted, payload = entry.get("deleted"), entry.get("payload")
    if not (isinstance(doc_id, str) and protocol.is_id(doc_id) and is_count(seq)):
        raise broken("document")
    if not (isinstance(revision, str) and len(revision) <= MAX_REVISION and isinstance(deleted, bool)):
        raise broken("document")
    if not isinstance(payload, str) or len(payload) > protocol.MAX_DOCUMENT * 4 // 3 + 8:
        raise broken("document")
    try:
        return Sealed(DocId(doc_id), seq, revision, deleted, base64.b64decode(payload, validate=True))
    except ValueError:  # what is not base64, and what is not even ASCII
        raise broken("document") from None


def _parse_page(answer: bytes, since: str | None) -> Page:
    body = parse(answer)
    documents = tuple(_sealed(entry) for entry in array(body.get("documents"), protocol.MAX_CHANGES))
    cursor, more = body.get("cursor"), body.get("more")
    if not isinstance(cursor, str) or len(cursor) > 1024 or not isinstance(more, bool):
        raise broken("feed")
    if any(one.seq >= other.seq for one, other in itertools.pairwise(documents)):
        raise broken("feed out of order")
    if more and (not documents or cursor == since):
        raise broken("a feed without an end")
    left = body.get("left")
    return Page(documents, cursor, more, None if left is None else number(left))


def _parse_results(answer: bytes, changes: Sequence[Change]) -> list[Result]:
    results = array(parse(answer).get("results"), len(changes))
    if len(results) != len(changes):
        raise broken("results")
    return [_result(change, entry) for change, entry in zip(changes, results, strict=True)]


def _pack_changes(changes: Sequence[Change]) -> bytes:
    packed = [
        {
            "doc_id": change.doc_id,
            "base": change.base,
            "revision": change.revision,
            "deleted": change.deleted,
            "payload": base64.b64encode(change.payload).decode("ascii"),
            "added": change.added,
            "removed": change.removed,
        }
        for change in changes
    ]
    return json.dumps({"changes": packed}, separators=(",", ":")).encode("ascii")


def _result(change: Change, value: Any) -> Result:
    entry = members(value)
    (name,) = texts([entry.get("status")], 1)
    try:
        status = ChangeStatus(name)
    except ValueError:
        raise broken("result") from None
    seq, current = entry.get("seq"), entry.get("current")
    missing = texts(entry.get("missing") or [], max(len(change.added), 1))
    if entry.get("doc_id") != change.doc_id or (status is ChangeStatus.OK and not is_count(seq)):
        raise broken("result")
    if not set(missing) <= set(change.added):
        raise broken("result")
    sealed = None if current is None else _sealed(current)
    if sealed is not None and sealed.doc_id != change.doc_id:
        raise broken("result")
    return Result(status, seq if is_count(seq) else None, tuple(BlobId(one) for one in missing), sealed)


__all__ = ("Change", "Lane", "Limits", "Page", "PreconditionFailed", "RemoteClient", "Result", "Sealed", "Usage")
