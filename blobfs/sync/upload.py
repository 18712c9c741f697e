"""Up: what was edited here goes to the server, blobs before documents, parents before children.

Works out what there is to send each time it is asked, and keeps no list of it. Invariant: a document is recorded as
synced only when the server has confirmed it, and it is sent only when the server has every blob that it names.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import trio

from blobfs import protocol
from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    BytesAbsent,
    DataMissing,
    FileOverQuota,
    IntegrityError,
    ProtocolError,
    QuotaExceeded,
    RemoteError,
    RemoteUnavailable,
    Rollback,
)
from blobfs.remote.client import Change, RemoteClient, Result
from blobfs.store.store import Store
from blobfs.sync import choice, parcel
from blobfs.sync.allowance import Allowance
from blobfs.sync.candidates import Candidates
from blobfs.sync.echoes import Echoes
from blobfs.sync.feed import Feed
from blobfs.sync.fitting import Fitting
from blobfs.sync.leaves import Leaves
from blobfs.sync.order import in_order, is_as_found
from blobfs.sync.parcel import Outgoing
from blobfs.sync.resend import resend
from blobfs.sync.sending import Sender, require_room
from blobfs.sync.story import told
from blobfs.values.crypto import Plain
from blobfs.values.documents import DocId
from blobfs.values.extents import BlobId
from blobfs.values.nodes import Content

_log: Final = logging.getLogger(__name__)

_GROUP: Final = 400
"""Small files in one group, so that hashing one, sending another and pushing a third overlap."""
_GROUP_BYTES: Final = 8 << 20
"""Of them together, at the most: they are in memory."""
_RECORDED: Final = 32
"""Documents recorded as sent in one transaction: a few milliseconds, in which every file operation waits."""
_GROUPS_AT_ONCE: Final = 3
_FILES_AT_ONCE: Final = 2
_AGAIN_S: Final = 0.5
_INVALID: Final = "the server refuses the document as invalid; it stays here"
_LOST: Final = "the server has lost the document, which it had confirmed before; it stays here, tell the operator"


@dataclass(slots=True)
class Round:
    """What came of one look at all that waits."""

    sent: int = 0
    next_s: float | None = None
    """When the first document that was not ready will be; None when none is waiting for its time."""
    error: RemoteError | None = None
    more: bool = False
    looked_s: float = 0.0


class Upload:
    """Sends what waits."""

    def __init__(
        self,
        store: Store,
        client: RemoteClient,
        leaves: Leaves,
        *,
        candidates: Candidates,
        allowance: Allowance,
        fetch: Callable[[Content, int, int], Awaitable[None]],
        feed: Feed,
        echoes: Echoes,
    ) -> None:
        self._store, self._client, self._leaves = store, client, leaves
        self._fetch, self._feed = fetch, feed
        self._recovery = feed.recovery
        self._echoes = echoes
        self.sender = Sender(client, store.keys)
        self.candidates = candidates
        self._fitting = Fitting(allowance, self.sender)
        self._again_s: float | None = None
        """When a document is worth another try that the server turned down for now."""

    # --- rounds -----------------------------------------------------------------------------------------

    async def round(self, *, hurry: bool) -> Round:
        """Send everything that is ready; with `hurry`, files that are not quiet yet too."""
        result = Round()
        priorities = await trio.to_thread.run_sync(self._store.blobs.priorities)
        look = await trio.to_thread.run_sync(partial(self.candidates.look, priorities, hurry=hurry))
        result.next_s, result.more, result.looked_s = look.next_s, look.more, look.took_s
        order = await trio.to_thread.run_sync(partial(in_order, look.ready, look.leaving, more=look.more))
        self.candidates.held = order.held
        if look.more and order.held:
            # What these wait for may come behind all that was looked at: the next look goes further.
            result.next_s = 0.0
        await self._send_small(order.directories, result)
        large = await self._send_small_knots(order.knots, result)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_knots, large, result)
            for level in choice.levels(order.files, priorities):
                await self._send_files(level, result)
        await self._send_small(order.gone, result)
        if self._again_s is not None:
            result.next_s, self._again_s = min(self._again_s, result.next_s or self._again_s), None
        return result

    # --- sending ----------------------------------------------------------------------------------------

    async def _send_small(self, ready: Sequence[Outgoing], result: Round) -> None:
        """Documents without bytes, in their order."""
        for at in range(0, len(ready), _GROUP):
            await self._send_group(ready[at : at + _GROUP], result)

    async def _send_small_knots(self, knots: Sequence[Sequence[Outgoing]], result: Round) -> list[Sequence[Outgoing]]:
        """Send those with few bytes, many to a request; the others are left."""
        large, some, weight = list[Sequence[Outgoing]](), list[Sequence[Outgoing]](), 0
        sizes = await trio.to_thread.run_sync(lambda: [sum(parcel.dirty_sizes(self._store, knot)) for knot in knots])
        for knot, size in zip(knots, sizes, strict=True):
            if size > _GROUP_BYTES:
                large.append(knot)
                continue
            if weight + size > _GROUP_BYTES or sum(map(len, some)) + len(knot) > _GROUP:
                await self._send_together(some, result)
                some, weight = [], 0
            some.append(knot)
            weight += size
        await self._send_together(some, result)
        return large

    async def _send_together(self, knots: Sequence[Sequence[Outgoing]], result: Round) -> None:
        before = result.sent
        if len(knots) > 1 and result.error is None:
            await self._send_group([outgoing for knot in knots for outgoing in knot], result, tied=True)
        if result.sent == before:
            # Something happened to one of them; the others go without it.
            await self._send_knots(knots, result)

    async def _send_knots(self, knots: Sequence[Sequence[Outgoing]], result: Round) -> None:
        for knot in knots:
            if result.error is None:
                await self._send_group(knot, result, tied=True)

    async def _send_files(self, ready: Sequence[Outgoing], result: Round) -> None:
        sizes = await trio.to_thread.run_sync(parcel.dirty_sizes, self._store, ready)
        large = [outgoing for outgoing, size in zip(ready, sizes, strict=True) if size > parcel.SMALL]
        small = [outgoing for outgoing, size in zip(ready, sizes, strict=True) if size <= parcel.SMALL]
        counts = [size for size in sizes if size <= parcel.SMALL]
        groups, files = trio.CapacityLimiter(_GROUPS_AT_ONCE), trio.CapacityLimiter(_FILES_AT_ONCE)

        async def send(limiter: trio.CapacityLimiter, group: Sequence[Outgoing]) -> None:
            async with limiter:
                if result.error is None:
                    await self._send_group(group, result)

        async with trio.open_nursery() as nursery:
            for group in parcel.small_groups(small, counts, _GROUP, _GROUP_BYTES):
                nursery.start_soon(send, groups, [small[index] for index in group])
            for outgoing in large:
                nursery.start_soon(send, files, [outgoing])

    async def _send_group(self, group: Sequence[Outgoing], result: Round, *, tied: bool = False) -> None:
        """Send some documents together; whatever is wrong with one of them parks that one only."""
        if not group:
            return
        try:
            result.sent += await self._send(group, tied=tied)
        except FileOverQuota as error:
            # Nothing of it was sent, so there is room for others.
            for outgoing in group:
                self.candidates.park(outgoing, error)
        except (RemoteUnavailable, AccessDenied, QuotaExceeded) as error:
            result.error = error
        except Exception as error:
            if len(group) > 1:
                await self._send_halves(group, result)
                return
            if not isinstance(error, BlobfsError):
                _log.exception("an upload failed in a way that blobfs did not foresee")
            if isinstance(error, ProtocolError):
                result.error = error
            self.candidates.park(group[0], error)

    async def _send_halves(self, group: Sequence[Outgoing], result: Round) -> None:
        middle = len(group) // 2
        await self._send_group(group[:middle], result)
        await self._send_group(group[middle:], result)

    def recover(self) -> None:
        """The server is another one than it was: nothing that it had is taken for granted."""
        self.candidates.parked.clear()
        self.sender.forget_all()

    async def _send(self, group: Sequence[Outgoing], *, tied: bool) -> int:
        """Send a group: bytes, then documents. How many documents the server took.

        Args:
            tied: none of them goes without the others.
        """
        mark, found, frozen = self._feed.applied, dict[DocId, Outgoing](), list[Content]()
        try:
            sizes = [0] * len(group)
            if tied or len(group) == 1:
                sizes = await trio.to_thread.run_sync(parcel.dirty_sizes, self._store, group)
            small = [outgoing for outgoing, size in zip(group, sizes, strict=True) if size <= parcel.SMALL]
            for outgoing, size in zip(group, sizes, strict=True):
                if size > parcel.SMALL and (fresh := await self._send_frozen(outgoing, frozen)) is not None:
                    found[outgoing.doc_id] = fresh
            found |= {fresh.doc_id: fresh for fresh in await self._send_small_bytes(small)}
            standing = [found[outgoing.doc_id] for outgoing in group if outgoing.doc_id in found]
            if len(standing) < len(group):
                # Something happened to the others meanwhile; what is left to tell of them is for the next round.
                self._again_s = _AGAIN_S
                standing = [] if tied else standing
            return await self._send_documents(standing, mark, tied=tied) if standing else 0
        finally:
            # What nobody changed since the freeze is settled with it, so the freeze lasts until it is recorded.
            for content in frozen:
                self._store.attachments.thaw(content)

    async def _send_frozen(self, outgoing: Outgoing, frozen: list[Content]) -> Outgoing | None:
        """Send the bytes of a large file, which is one of the `frozen` from then on; None when it went or moved."""
        found = await self._freeze(outgoing)
        if found is None:
            return None
        fresh, wanted = found
        assert fresh.content is not None
        frozen.append(fresh.content)
        if not is_as_found(outgoing, fresh):
            return None
        return fresh if await self._send_large_bytes(fresh, wanted) else None

    async def _send_documents(self, found: Sequence[Outgoing], mark: int, *, tied: bool) -> int:
        references = [await self._references(outgoing) for outgoing in found]
        changes = await trio.to_thread.run_sync(self._seal_changes, found, references)
        return await self._push(found, changes, mark, tied=tied)

    async def _send_small_bytes(self, group: Sequence[Outgoing]) -> list[Outgoing]:
        """Hash a whole group in one go and send what the server lacks of it; those that did not change meanwhile."""
        try:
            found, plains = await trio.to_thread.run_sync(self._read_group, group)
        except BytesAbsent as absent:
            await self._fetch(Content(absent.content), absent.offset, absent.length)
            found, plains = await trio.to_thread.run_sync(self._read_group, group)
        await self.sender.send(plains)
        return found

    def _read_group(self, group: Sequence[Outgoing]) -> tuple[list[Outgoing], list[Plain]]:
        found, plains = [], list[Plain]()
        for outgoing in group:
            fresh = self._read_whole(outgoing)
            if fresh is not None and is_as_found(outgoing, fresh[0]):
                found.append(fresh[0])
                plains += fresh[1]
        return found, plains

    def _read_whole(self, outgoing: Outgoing) -> tuple[Outgoing, list[Plain]] | None:
        """A document and all its dirty bytes, of one moment."""
        # In one transaction: what is hashed and what is told of it belong together.
        with self._store.transaction():
            fresh = parcel.look(self._store, outgoing.changed)
            if fresh is None:
                return None
            padded = parcel.is_padded(fresh, self._is_padded)
            wanted = parcel.dirty_extents(self._store, fresh)
            plains = parcel.read_plain(self._store, fresh, wanted, padded=padded)
            parcel.name_attachment(self._store, fresh, padded=padded, anew=self._is_lost(fresh))
        return fresh, plains + fresh.indices

    def _is_lost(self, outgoing: Outgoing) -> bool:
        """Whether the server has lost it, maybe with the index blobs that only matter to whoever reads it."""
        return outgoing.doc_id in self._recovery.lost

    @property
    def _is_padded(self) -> bool:
        return bool(self._store.settings.get("padded", False))

    async def _freeze(self, outgoing: Outgoing) -> tuple[Outgoing, list[tuple[int, int]]] | None:
        while True:
            try:
                return await trio.to_thread.run_sync(parcel.freeze, self._store, outgoing.changed)
            except BytesAbsent as absent:
                await self._fetch(Content(absent.content), absent.offset, absent.length)

    async def _send_large_bytes(self, fresh: Outgoing, wanted: Sequence[tuple[int, int]]) -> bool:
        """Send a large file as it was when it was frozen, whoever writes to it meanwhile; False: not beside others."""
        # Before anything is sent: it would be for nothing.
        require_room(len(wanted))
        padded = parcel.is_padded(fresh, self._is_padded)

        async def read(part: Sequence[tuple[int, int]]) -> list[Plain]:
            return await trio.to_thread.run_sync(partial(parcel.read_plain, self._store, fresh, part, padded=padded))

        async with self._fitting.entering(wanted, read) as may_enter:
            if not may_enter:
                return False
            await self.sender.stream(wanted, read, fresh.doc_id, sum(length for _, length in wanted))
        await trio.to_thread.run_sync(
            partial(parcel.name_attachment, self._store, fresh, padded=padded, anew=self._is_lost(fresh))
        )
        await self.sender.send(fresh.indices)
        return True

    # --- documents --------------------------------------------------------------------------------------

    async def _references(self, outgoing: Outgoing) -> tuple[set[BlobId], set[BlobId]]:
        """The blobs that a document refers to and its base did not, and the other way round."""
        base, document = outgoing.base, outgoing.document
        assert document is not None
        old = base.document.attachment if base is not None and not base.deleted else None
        if outgoing.doc_id in self._recovery.lost:
            there = self._recovery.lost[outgoing.doc_id]
            old = there.state.document.attachment if there is not None and not there.state.deleted else None
        if outgoing.deleted or document.attachment == old:
            return set(), set()
        for plain in outgoing.indices:
            self._leaves.learn(plain.blob_id, plain.data)
        before, after = await self._leaves.references(old), await self._leaves.references(document.attachment)
        return after - before, before - after

    def _base(self, outgoing: Outgoing) -> str | None:
        """The revision that the server has."""
        if outgoing.doc_id in self._recovery.lost:
            there = self._recovery.lost[outgoing.doc_id]
            return None if there is None else str(there.revision)
        return None if outgoing.base is None else str(outgoing.base.revision)

    def _seal_changes(
        self, group: Sequence[Outgoing], references: Sequence[tuple[set[BlobId], set[BlobId]]]
    ) -> list[Change]:
        device, padded, epoch = self._store.device, self._is_padded, self._store.keys.epoch
        # While a recovery lasts this device knows of edits that the server lacks, which is nobody else's fault.
        heads = {} if self._recovery.active else told(self._store.documents.heads(), device)
        for outgoing in group:
            if outgoing.document is not None:
                outgoing.document = replace(outgoing.document, heads=heads, sealer=device, epoch=epoch)
        return [
            self.sender.change(
                outgoing, device, self._base(outgoing), tuple(sorted(added)), tuple(sorted(removed)), padded=padded
            )
            for outgoing, (added, removed) in zip(group, references, strict=True)
        ]

    async def _push(self, group: Sequence[Outgoing], changes: Sequence[Change], mark: int, *, tied: bool) -> int:
        """Send documents, read at `mark`, in as few requests as the limits allow, and record what became of each."""
        taken, waiting = 0, list(zip(group, changes, strict=True))
        while waiting:
            batch, size = 0, 0
            while batch < min(len(waiting), protocol.MAX_CHANGES):
                size += waiting[batch][1].size
                if size > protocol.MAX_DOCUMENTS_BODY and batch:
                    break
                batch += 1
            async with self._feed.turn:
                # What arrived since these were read may have moved or ended them; then their time is the next round.
                sound = waiting[:batch]
                if self._feed.applied != mark:
                    sound = await trio.to_thread.run_sync(self._still_standing, sound)
                    sound = [] if tied and len(sound) < batch else sound
                if sound:
                    files, sent = [pair[0] for pair in sound], [pair[1] for pair in sound]
                    await trio.to_thread.run_sync(self._echoes.expect, sent)
                    results = await self._client.push(sent)
                    self._echoes.answered(sent)
                    taken += await self._record(files, sent, results)
            if len(sound) < batch:
                self._again_s = _AGAIN_S
            waiting = waiting[batch:]
        return taken

    def _still_standing(self, batch: Sequence[tuple[Outgoing, Change]]) -> list[tuple[Outgoing, Change]]:
        return [pair for pair in batch if self._still_stands(pair[0])]

    def _still_stands(self, outgoing: Outgoing) -> bool:
        """Whether a document is where it was, and follows from what it did, when it was read; its bytes may differ."""
        with self._store.transaction():
            fresh = parcel.look(self._store, outgoing.changed)
        return (
            fresh is not None
            and fresh.deleted == outgoing.deleted
            and fresh.local.document.names == outgoing.local.document.names
            and (fresh.base and fresh.base.revision) == (outgoing.base and outgoing.base.revision)
        )

    async def _record(self, group: Sequence[Outgoing], changes: Sequence[Change], results: Sequence[Result]) -> int:
        done = [number for number, result in enumerate(results) if result.status is protocol.ChangeStatus.OK]
        for number in done:
            # Before the store knows: the feed may bring it back at any moment.
            self._echoes.remember(changes[number])
        await trio.to_thread.run_sync(self._record_synced, [(group[number], changes[number]) for number in done])
        conflicts = [result for result in results if result.status is protocol.ChangeStatus.CONFLICT]
        refusals: Mapping[DocId, str] = {}
        if conflicts:
            self._again_s = _AGAIN_S
            refusals = await self._feed.arrive(conflicts)
        refused: BlobfsError | None = None
        for outgoing, result in zip(group, results, strict=True):
            if result.status is protocol.ChangeStatus.CONFLICT:
                await self._doubt(outgoing, result, refusals.get(outgoing.doc_id))
            elif result.status is protocol.ChangeStatus.MISSING_BLOBS:
                await self._restore(outgoing, result)
            elif result.status is protocol.ChangeStatus.OVER_QUOTA:
                refused = QuotaExceeded("the account on the server is full; delete something or ask for more room")
            elif result.status is protocol.ChangeStatus.INVALID:
                self.candidates.park(outgoing, IntegrityError(_INVALID))
        if refused is not None:
            raise refused
        return len(done)

    async def _doubt(self, outgoing: Outgoing, result: Result, refusal: str | None) -> None:
        """Park what the server turns down for a revision that no device takes, or has lost: trying again is no use."""
        if refusal is not None:
            self.candidates.park(outgoing, Rollback(refusal))
            return
        # An answer without the document may only have had no room for it; so ask.
        gone = result.current is None and outgoing.base is not None
        if gone and not await self._client.revisions(outgoing.doc_id, limit=1):
            self.candidates.park(outgoing, Rollback(_LOST))

    def _record_synced(self, done: Sequence[tuple[Outgoing, Change]]) -> None:
        # A few at a time: between two transactions the store is anybody's.
        for at in range(0, len(done), _RECORDED):
            some = done[at : at + _RECORDED]
            with self._store.transaction():
                for outgoing, change in some:
                    self._settle(outgoing, change)
                self._feed.remember_sent(some[-1][1])
                self._recovery.settle(outgoing.doc_id for outgoing, _ in some)

    def _settle(self, outgoing: Outgoing, change: Change) -> None:
        edit, document = outgoing.changed.edit, outgoing.document
        assert document is not None
        if outgoing.sealed:
            node = outgoing.local.node
            self._store.attachments.settle(node.inode, edit, outgoing.sealed, frozen_size=node.size)
        revision = self.sender.revision(outgoing, self._store.device)
        self._store.documents.record_synced(outgoing.doc_id, edit, revision, document, change.deleted)

    async def _restore(self, outgoing: Outgoing, result: Result) -> None:
        """The server lacks blobs that were there before: send them again if their bytes are here, else say so."""
        self._again_s = _AGAIN_S
        try:
            await resend(self._store, self.sender, outgoing, result.missing)
        except DataMissing as error:
            self.candidates.park(outgoing, error)
