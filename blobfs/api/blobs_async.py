"""Blobs for async programs; see `blobfs.api.asynchronous` for what holds. Holds nothing of its own."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from functools import partial

import anyio

from blobfs.api.blobs import BlobInfo, BlobList, Blobs, Priority
from blobfs.api.shelf import BlobStatus
from blobfs.api.staging import AsyncSource
from blobfs.api.threads import in_thread, stage, waiting
from blobfs.protocol import DEFAULT_NAMESPACE, Flag


class AsyncBlobs:
    """See `Blobs`; every call is awaited."""

    def __init__(self, blobs: Blobs) -> None:
        """Use `AsyncAccount.blobs`."""
        self.plain = blobs
        """The same for plain calls."""

    async def put(
        self,
        blob_id: str,
        data: AsyncSource,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        local_only: bool = False,
        priority: Priority | int | str = Priority.MEDIUM,
    ) -> BlobInfo:
        """See `Blobs.put`; the pieces may also come from an async iterable."""
        if not isinstance(data, AsyncIterable):
            put = partial(self.plain.put, blob_id, data, namespace, local_only=local_only, priority=priority)
            return await in_thread(put)
        self.plain.check(blob_id, namespace, priority)
        staging = self.plain.account.attaching.staging
        staged = await stage(staging, await in_thread(staging.begin), data)
        return await in_thread(self.plain.put_staged, blob_id, staged, namespace, local_only, priority)

    async def get(self, blob_id: str, namespace: str = DEFAULT_NAMESPACE) -> anyio.AsyncFile[bytes]:
        """See `Blobs.get`; the file is one of anyio's."""
        return anyio.wrap_file(await in_thread(self.plain.get, blob_id, namespace))

    async def delete(self, blob_id: str, namespace: str = DEFAULT_NAMESPACE) -> None:
        """See `Blobs.delete`."""
        await in_thread(self.plain.delete, blob_id, namespace)

    async def info(self, blob_id: str, namespace: str = DEFAULT_NAMESPACE) -> BlobInfo:
        """See `Blobs.info`."""
        return await in_thread(self.plain.info, blob_id, namespace)

    async def status(self, blob_id: str, namespace: str = DEFAULT_NAMESPACE) -> BlobStatus:
        """See `Blobs.status`."""
        return await in_thread(self.plain.status, blob_id, namespace)

    async def list(
        self,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        status: BlobStatus | str | None = None,
        flag: Flag | str | None = None,
        order_by: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> BlobList:
        """See `Blobs.list`."""
        call = partial(
            self.plain.list, namespace, status=status, flag=flag, order_by=order_by, limit=limit, cursor=cursor
        )
        return await in_thread(call)

    async def count(self, namespace: str = DEFAULT_NAMESPACE, *, flag: Flag | str | None = None) -> int:
        """See `Blobs.count`."""
        return await in_thread(partial(self.plain.count, namespace, flag=flag))

    async def namespaces(self) -> tuple[str, ...]:
        """See `Blobs.namespaces`."""
        return await in_thread(self.plain.namespaces)

    async def sync_progress(self, namespace: str | None = None) -> dict[str, int]:
        """See `Blobs.sync_progress`."""
        return await in_thread(self.plain.sync_progress, namespace)

    async def get_flags(self, blob_id: str, namespace: str = DEFAULT_NAMESPACE) -> tuple[Flag, ...]:
        """See `Blobs.get_flags`."""
        return await in_thread(self.plain.get_flags, blob_id, namespace)

    async def set_flags(self, blob_id: str, flags: Iterable[Flag | str], namespace: str = DEFAULT_NAMESPACE) -> None:
        """See `Blobs.set_flags`."""
        await in_thread(self.plain.set_flags, blob_id, flags, namespace)

    async def set_priority(
        self, blob_id: str, priority: Priority | int | str, namespace: str = DEFAULT_NAMESPACE
    ) -> None:
        """See `Blobs.set_priority`."""
        await in_thread(self.plain.set_priority, blob_id, priority, namespace)

    async def set_local_only(self, blob_id: str, local_only: bool, namespace: str = DEFAULT_NAMESPACE) -> None:
        """See `Blobs.set_local_only`."""
        await in_thread(self.plain.set_local_only, blob_id, local_only, namespace)

    async def upload(
        self, blob_id: str, namespace: str = DEFAULT_NAMESPACE, *, timeout_s: float | None = None
    ) -> BlobStatus:
        """See `Blobs.upload`."""
        return await waiting(partial(self.plain.upload, blob_id, namespace, timeout_s=timeout_s))

    async def fetch(self, blob_id: str, namespace: str = DEFAULT_NAMESPACE) -> BlobStatus:
        """See `Blobs.fetch`."""
        return await waiting(self.plain.fetch, blob_id, namespace)

    async def send_missing(self, namespace: str = DEFAULT_NAMESPACE, *, timeout_s: float | None = None) -> None:
        """See `Blobs.send_missing`."""
        await waiting(partial(self.plain.send_missing, namespace, timeout_s=timeout_s))

    async def fetch_missing(self, namespace: str = DEFAULT_NAMESPACE) -> BlobList:
        """See `Blobs.fetch_missing`."""
        return await waiting(self.plain.fetch_missing, namespace)
