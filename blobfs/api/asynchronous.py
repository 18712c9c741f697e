"""The same for async programs, under trio and under asyncio: each call runs the plain one in a worker thread.

Holds nothing of its own. Invariant: a call that only touches the local store is finished before a cancellation of its
caller takes effect; one that waits for the server or for news is given up at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from functools import partial
from typing import Any, Final, Self

import anyio
import anyio.lowlevel
from anyio import to_thread

from blobfs.api.account import Account, AccountStatus, PastRevision
from blobfs.api.blobs_async import AsyncBlobs
from blobfs.api.changes import Changes
from blobfs.api.desk import Listed
from blobfs.api.document import MAIN, AttachmentState, Document, text_of
from blobfs.api.events import Event, Events
from blobfs.api.incoming_async import AsyncIncoming
from blobfs.api.staging import AsyncSource
from blobfs.api.threads import in_thread, stage, waiting
from blobfs.store.queries import Scalar
from blobfs.store.tree import new_doc_id
from blobfs.values.documents import Json

_SHORT_S: Final = 0.1
"""Seconds after which a cancelled wait for an event ends."""


class AsyncDocument:
    """See `Document`; what may touch a disk or the server is awaited."""

    def __init__(self, document: Document) -> None:
        """Accounts make them."""
        self.plain = document
        """The same document for plain calls."""

    @property
    def doc_id(self) -> str:
        """See `Document`."""
        return self.plain.doc_id

    @property
    def revision(self) -> str:
        """See `Document`."""
        return self.plain.revision

    @property
    def content(self) -> Json:
        """See `Document`."""
        return self.plain.content

    @content.setter
    def content(self, content: Json) -> None:
        self.plain.content = content

    def __repr__(self) -> str:
        return f"Async{self.plain!r}"

    async def is_dirty(self) -> bool:
        """See `Document.is_dirty`."""
        return await in_thread(self.plain.is_dirty)

    async def get_paths(self) -> list[str]:
        """See `Document.get_paths`."""
        return await in_thread(self.plain.get_paths)

    async def list_attachments(self) -> dict[str, int]:
        """See `Document.list_attachments`."""
        return await in_thread(self.plain.list_attachments)

    async def put_attachment(self, source: AsyncSource, name: str = MAIN) -> None:
        """See `Document.put_attachment`; the pieces may also come from an async iterable."""
        if isinstance(source, AsyncIterable):
            await self._put_pieces(source, name)
        else:
            await in_thread(self.plain.put_attachment, source, name)

    async def _put_pieces(self, source: AsyncIterable[bytes], name: str) -> None:
        attaching = self.plain.account.attaching
        staged = await stage(attaching.staging, await in_thread(attaching.begin, self.plain, name), source)
        await in_thread(attaching.change, self.plain, name, staged)

    async def get_attachment(self, name: str = MAIN) -> anyio.AsyncFile[bytes] | None:
        """See `Document.get_attachment`; the file is one of anyio's."""
        file = await in_thread(self.plain.get_attachment, name)
        return None if file is None else anyio.wrap_file(file)

    async def delete_attachment(self, name: str = MAIN) -> None:
        """See `Document.delete_attachment`."""
        await in_thread(self.plain.delete_attachment, name)

    async def get_attachment_state(self, name: str = MAIN) -> AttachmentState:
        """See `Document.get_attachment_state`."""
        return await in_thread(self.plain.get_attachment_state, name)

    async def upload_attachment(self, name: str = MAIN, *, timeout_s: float | None = None) -> AttachmentState:
        """See `Document.upload_attachment`."""
        return await waiting(partial(self.plain.upload_attachment, name, timeout_s=timeout_s))

    async def download_attachment(self, name: str = MAIN) -> AttachmentState:
        """See `Document.download_attachment`."""
        return await waiting(self.plain.download_attachment, name)


class AsyncChanges(AsyncIterator[str]):
    """See `Changes`; a wait that is cancelled loses nothing."""

    def __init__(self, changes: Changes) -> None:
        """Use `AsyncAccount.changes`."""
        self._changes = changes

    async def __anext__(self) -> str:
        while True:
            await anyio.lowlevel.checkpoint()
            if (doc_id := self._changes.take()) is not None:
                return doc_id
            try:
                more = await to_thread.run_sync(self._changes.wait, abandon_on_cancel=True)
            except BaseException:
                self._changes.poke()
                raise
            if not more:
                raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._changes.close()

    async def aclose(self) -> None:
        """Listen no more."""
        self._changes.close()


class AsyncEvents(AsyncIterator[Event]):
    """See `Events`; a wait that is cancelled loses nothing."""

    def __init__(self, events: Events) -> None:
        """Use `AsyncAccount.events`."""
        self._events = events

    async def __anext__(self) -> Event:
        while True:
            try:
                # To the end of its short wait: a thread that is left alone could take an event along.
                event = await in_thread(self._next)
            except EOFError:
                raise StopAsyncIteration from None
            if event is not None:
                return event

    def _next(self) -> Event | None:
        try:
            return self._events.next_within(_SHORT_S)
        except StopIteration:
            # No future can carry that one.
            raise EOFError from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Listen no more."""
        self._events.close()


class AsyncAccount:
    """See `Account`; what may touch a disk or the server is awaited."""

    def __init__(self, account: Account) -> None:
        """Use `async with open_account(...)`."""
        self.plain = account
        """The same account for plain calls."""
        self.incoming = AsyncIncoming(account.incoming)
        """See `Account.incoming`."""
        self.blobs = AsyncBlobs(account.blobs)
        """See `Account.blobs`."""

    @property
    def recovery_words(self) -> str | None:
        """See `Account`."""
        return self.plain.recovery_words

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """See `Account.close`."""
        await in_thread(self.plain.close, shielded=True)

    async def create_doc(
        self,
        content: Json,
        doc_id: str | None = None,
        *,
        path: str | None = None,
        attachment: AsyncSource | None = None,
    ) -> AsyncDocument:
        """See `Account.create_doc`; the pieces of an attachment may also come from an async iterable."""
        if not isinstance(attachment, AsyncIterable):
            create = partial(self.plain.create_doc, content, doc_id, path=path, attachment=attachment)
            return AsyncDocument(await in_thread(create))
        chosen = new_doc_id() if doc_id is None else doc_id
        text, staging = text_of(chosen, content), self.plain.attaching.staging
        staged = await stage(staging, await in_thread(staging.begin), attachment)
        return AsyncDocument(await in_thread(self.plain.create_staged, chosen, text, path, staged))

    async def get_doc_at(self, path: str) -> AsyncDocument | None:
        """See `Account.get_doc_at`."""
        document = await in_thread(self.plain.get_doc_at, path)
        return None if document is None else AsyncDocument(document)

    async def list_folder(self, path: str = "") -> list[Listed]:
        """See `Account.list_folder`."""
        return await in_thread(self.plain.list_folder, path)

    async def make_folder(self, path: str) -> None:
        """See `Account.make_folder`."""
        await in_thread(self.plain.make_folder, path)

    async def move(self, path: str, new_path: str) -> None:
        """See `Account.move`."""
        await in_thread(self.plain.move, path, new_path)

    async def get_doc(self, doc_id: str) -> AsyncDocument | None:
        """See `Account.get_doc`."""
        document = await in_thread(self.plain.get_doc, doc_id)
        return None if document is None else AsyncDocument(document)

    async def get_all_docs(self) -> AsyncIterator[AsyncDocument]:
        """See `Account.get_all_docs`."""
        documents = self.plain.get_all_docs()
        while (document := await in_thread(next, documents, None)) is not None:
            yield AsyncDocument(document)

    async def put_doc(self, document: AsyncDocument) -> None:
        """See `Account.put_doc`."""
        await in_thread(self.plain.put_doc, document.plain)

    async def delete_doc(self, document: AsyncDocument) -> None:
        """See `Account.delete_doc`."""
        await in_thread(self.plain.delete_doc, document.plain)

    async def create_index(self, name: str, *paths: str) -> None:
        """See `Account.create_index`."""
        await in_thread(self.plain.create_index, name, *paths)

    async def delete_index(self, name: str) -> None:
        """See `Account.delete_index`."""
        await in_thread(self.plain.delete_index, name)

    async def list_indexes(self) -> dict[str, tuple[str, ...]]:
        """See `Account.list_indexes`."""
        return await in_thread(self.plain.list_indexes)

    async def get_from_index(self, name: str, *values: Scalar) -> list[AsyncDocument]:
        """See `Account.get_from_index`."""
        return [AsyncDocument(document) for document in await in_thread(self.plain.get_from_index, name, *values)]

    async def get_index_keys(self, name: str) -> list[tuple[Any, ...]]:
        """See `Account.get_index_keys`."""
        return await in_thread(self.plain.get_index_keys, name)

    async def get_doc_conflicts(self, doc_id: str) -> list[AsyncDocument]:
        """See `Account.get_doc_conflicts`."""
        return [AsyncDocument(document) for document in await in_thread(self.plain.get_doc_conflicts, doc_id)]

    async def resolve_doc(self, document: AsyncDocument, conflicts: Sequence[AsyncDocument]) -> None:
        """See `Account.resolve_doc`."""
        await in_thread(self.plain.resolve_doc, document.plain, [conflict.plain for conflict in conflicts])

    async def get_revisions(self, doc_id: str) -> list[PastRevision]:
        """See `Account.get_revisions`."""
        return await waiting(self.plain.get_revisions, doc_id)

    async def sync(self, timeout_s: float | None = None) -> None:
        """See `Account.sync`."""
        await waiting(self.plain.sync, timeout_s)

    async def status(self) -> AccountStatus:
        """See `Account.status`."""
        return await in_thread(self.plain.status)

    def changes(self) -> AsyncChanges:
        """See `Account.changes`."""
        return AsyncChanges(self.plain.changes())

    def events(self) -> AsyncEvents:
        """See `Account.events`."""
        return AsyncEvents(self.plain.events())
