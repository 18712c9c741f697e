"""The engine: when and how many. Wake-ups, priorities, backoff, offline, and what to say about it.

Owns every task of sync. Knows nothing of the kernel; the daemon wires `on_applied` and `is_busy`. Invariant: no error
of the server's ends it, and none of them touches what is in the store.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from blobfs.errors import (
    BlobfsError,
    CorruptBlob,
    FileOverQuota,
    IntegrityError,
    ProtocolError,
    RemoteError,
    RemoteUnavailable,
    StoreError,
)
from blobfs.remote.client import RemoteClient
from blobfs.remote.retry import Backoff
from blobfs.store.documents import Applied
from blobfs.store.store import Store
from blobfs.sync.allowance import Allowance
from blobfs.sync.candidates import Candidates, Timing
from blobfs.sync.download import Download
from blobfs.sync.echoes import Echoes
from blobfs.sync.evict import CacheLimits, keep_within
from blobfs.sync.feed import Feed
from blobfs.sync.keyring import Keyring
from blobfs.sync.leaves import Leaves
from blobfs.sync.pinning import Keeper
from blobfs.sync.restock import Restock
from blobfs.sync.status import STUCK, Health, Parked, Reading, SyncState, SyncStatus, Transfer, state_of
from blobfs.sync.upload import Upload
from blobfs.values.documents import DocId, Json
from blobfs.values.nodes import Content, Inode

_log: Final = logging.getLogger(__name__)

UP: Final = "upload"
DOWN: Final = "feed"
_DAMAGES: Final = 100
"""Reads that failed, as status shows them."""
_RESTART_S: Final = 5.0
_LOOKING: Final = 4
"""After a look at what waits, so many times as long passes before the next: in a flood of files, programs go on."""
_LOOKING_S: Final = 2.0
"""But no longer than that."""
_PAUSED: Final = "sync is paused; resume it to read what is not on this device"


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """Times in seconds."""

    quiet_s: float = 0.25
    """A file that nobody has open, and nobody has written for so long, is sent."""
    max_wait_s: float = 15.0
    """A file that is written all the time is sent after so long."""
    debounce_s: float = 0.1
    """Between a change and the first look at it, so that many make one request."""
    fetch_deadline_s: float = 30.0
    """After which a read of bytes that do not come fails."""
    cache: CacheLimits = field(default_factory=CacheLimits)
    evict_every_s: float = 20.0
    incoming: bool = True
    """Whether what senders left becomes files."""
    reopen_s: float = 1.0
    """Between two looks whether a file that was open is closed, while a newer version of it waits."""


class SyncEngine:
    """Keeps one store and one account on a server the same."""

    def __init__(
        self,
        store: Store,
        client: RemoteClient,
        *,
        options: SyncOptions | None = None,
        secret: Callable[[], bytes] | None = None,
        keep_secret: Callable[[Json], None] = lambda body: None,
    ) -> None:
        """Nothing moves before `run`.

        Args:
            secret: reads the wrapped secret, which is left with the server when that has none or an older one.
            keep_secret: is given the server's when it claims a newer epoch.
        """
        self._store, self._client = store, client
        self._keyring = Keyring(client, store.keys, secret, keep_secret)
        self.options = options or SyncOptions()
        self.on_applied: Callable[[Applied], None] = lambda applied: None
        """Called on the loop after each change that came from another device."""
        self.is_busy: Callable[[Inode], bool] = lambda inode: False
        """Whether a file is open; called from worker threads too."""
        self.is_pinned: Callable[[Content], bool] = store.pins.covers_content
        """Whether bytes must stay here; called from a worker thread."""
        self.health = Health()
        self._caught_up = trio.Event()
        self.allowance = Allowance(client, self.health, DOWN)
        self.rounds = 0
        echoes = Echoes(store.settings)
        leaves = Leaves(client, store.keys)
        self._download = Download(
            store, client, leaves, deadline_s=self.options.fetch_deadline_s, note=self._note_damage
        )
        self.landing = self._download.landing
        self.keeper = Keeper(store, self._download, self._unpaused)
        self._feed = Feed(
            store,
            client,
            is_busy=lambda inode: self.is_busy(inode),
            on_applied=self._note_applied,
            echoes=echoes,
            check_keys=self._keyring.check,
        )
        self._upload = Upload(
            store,
            client,
            leaves,
            candidates=Candidates(
                store, Timing(self.options.quiet_s, self.options.max_wait_s), lambda inode: self.is_busy(inode)
            ),
            allowance=self.allowance,
            fetch=self._download.fetch,
            feed=self._feed,
            echoes=echoes,
        )
        self._wake = trio.Event()
        self._retry = trio.Event()
        self._bound = False
        self._hurried = 0
        self._damage: OrderedDict[tuple[DocId, str], Parked] = OrderedDict()
        self._idle = trio.Event()

    # --- what the other rooms call --------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sync until cancelled."""
        token = trio.lowlevel.current_trio_token()

        def wake() -> None:
            self.landing.outdate()
            token.run_sync_soon(self.wake, idempotent=True)

        self._store.on_change.append(wake)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._download.run)
                own = (self._follow, self._send, self._apply_waiting, self._evict)
                for task in (*own, self.keeper.run, self.allowance.run):
                    nursery.start_soon(self._keep_up, task)
                task_status.started()
        finally:
            self._store.on_change.remove(wake)

    def wake(self) -> None:
        """Something may have to be sent. From the loop's thread."""
        self._wake.set()

    @property
    def is_well(self) -> bool:
        """Whether all that the server had at the start is applied here, and nothing has been wrong since."""
        is_fine = all(isinstance(error, FileOverQuota) for error in self.health.errors.values())
        return self._caught_up.is_set() and is_fine and not self.health.paused

    async def first_look(self) -> None:
        """Return when all that the server had at the start is applied here, or when it is known not to answer."""
        while not self._caught_up.is_set() and DOWN not in self.health.errors:
            await self._one_of(self._caught_up.wait, self.health.changed.wait)

    async def ready(self) -> None:
        """Return when all that the server had at the start is applied here, and what senders left may become files."""
        await self._caught_up.wait()
        while self.health.paused or not self.options.incoming:
            await self.health.changed.wait()

    async def fetch(self, content: Content, offset: int, length: int) -> None:
        """On return these bytes are in the store, each one authenticated.

        Rows that are here already are not asked for; callers that want the same rows share a request.

        Raises:
            RemoteUnavailable: they did not come within the deadline. AccessDenied.
            CorruptBlob, DataMissing: what the server has is not what a device sent; nothing of it was kept.
        """
        if self.health.paused:
            raise RemoteUnavailable(_PAUSED)
        await self._download.fetch(content, offset, length)

    async def read(self, content: Content, offset: int, length: int) -> bytes:
        """These bytes, some of which are not in the store: as soon as they are here and authenticated.

        The store gets them behind the reader, or not at all when it has no room. Raises as `fetch`, but for that.
        """
        if self.health.paused:
            raise RemoteUnavailable(_PAUSED)
        return await self._download.read(content, offset, length)

    def peek(self, content: Content, offset: int, length: int) -> bytes | None:
        """These bytes, if they came of late and are at hand without asking the store; as it would answer now."""
        return self.landing.read(content, offset, length)

    def is_coming(self, content: Content, offset: int, length: int) -> bool:
        """Whether some of these bytes are on their way, and certainly not in the store."""
        return self._download.is_coming(content, offset, length)

    def prefetch(self, content: Content, offset: int, length: int) -> None:
        """A hint that these bytes will be read soon. Returns at once."""
        if not self.health.paused and DOWN not in self.health.errors:
            self._download.prefetch(content, offset, length)

    async def settle(self, timeout_s: float = math.inf) -> None:
        """On return the server has confirmed everything that was here, and what it had has been applied here.

        Raises:
            RemoteUnavailable: not within `timeout_s`. AccessDenied, QuotaExceeded, WrongAccount, KeysChanged,
            Rollback, ProtocolError: nothing can be sent before somebody mends it. IntegrityError: a document cannot be
            sent.
        """
        # What was wrong before is tried again first: somebody may have mended it.
        former = list(self.health.errors.values())
        self._hurried += 1
        self.retry()
        try:
            with trio.move_on_after(timeout_s):
                await self._drain(former)
                return
            worst = self.health.worst
            raise worst or RemoteUnavailable("not everything could be sent in this time; blobfs goes on trying")
        finally:
            self._hurried -= 1

    def retry(self) -> None:
        """Try again at once what waits for its time, or was put aside."""
        self._upload.candidates.parked.clear()
        self._retry.set()
        self._retry = trio.Event()
        self._wake.set()

    def pause(self) -> None:
        """Move no more bytes, until `resume`. Local work goes on."""
        self.health.paused = True
        self.health.tell()

    def resume(self) -> None:
        """Go on. The server may have been restored from a backup meanwhile, and no connection was there to be lost."""
        self._feed.suspect()
        self.health.paused = False
        self.health.tell()
        self.retry()

    def recover(self) -> None:
        """Take a server that was set back as it is, and send again what it lost; nothing of either side is given up."""
        self._feed.recover()
        self._upload.recover()
        self.retry()

    def restock(self) -> Restock:
        """What finds the blobs that the server lost, and sends again what is here of them."""
        return Restock(self._store, self._client, self._upload.sender)

    def limit(self, *, up: float | None, down: float | None, connections: int) -> None:
        """Bandwidth in bytes per second, None lifts a limit; and so many connections at a time. At once."""
        self._client.transport.share(connections)
        self._client.transport.up.bytes_per_s, self._client.transport.down.bytes_per_s = up, down

    @property
    def reading(self) -> Reading | None:
        """How far the feed is; None: all that the server had was read."""
        return self._feed.reading

    def status(self) -> SyncStatus:
        """How it stands now."""
        worst = self.health.worst
        documents, size = self._store.documents.pending(self._upload.candidates.kept_here)
        doubt = () if self._feed.story.doubt is None else (self._feed.story.doubt,)
        parked = (*doubt, *self._upload.candidates.parked.values(), *self._feed.parked.values(), *self._damage.values())
        return SyncStatus(
            state=self.health.state,
            reason="sync is paused; resume it to go on" if self.health.paused else str(worst) if worst else "",
            pending_documents=documents,
            pending_bytes=size,
            last_contact_s=self.health.last_contact_s,
            parked=parked,
            transfers=(*self._upload.sender.transfers.values(), *self._coming()),
            held=tuple(self._feed.waiting),
            since_s=self.health.since_s,
            reading=self._feed.reading,
        )

    def _coming(self) -> list[Transfer]:
        found = self._download.under_way()
        return [
            Transfer("download", self._store.documents.of_content(content), total, done)
            for content, (total, done) in found.items()
        ]

    def failure(self, doc_id: DocId) -> str | None:
        """Why sync goes on without this document; None when it does not."""
        entry = self._upload.candidates.parked.get(doc_id) or self._feed.parked.get(doc_id)
        return None if entry is None else entry.reason

    def refusal(self) -> str | None:
        """Why nothing can be sent before somebody mends it; None when nothing is wrong, or the server is away."""
        error = self.health.errors.get(UP)
        is_one_file = isinstance(error, FileOverQuota)
        return None if error is None or is_one_file or state_of(error) not in STUCK else str(error)

    # --- the account ------------------------------------------------------------------------------------------

    async def _bind(self) -> None:
        """On return the server is known to hold this account's data, or none. Once for each run.

        Raises:
            WrongAccount: it holds another account's. KeysChanged: the account is in a newer epoch.
        """
        if self._bound:
            return
        await self._client.greet()
        # Before anything else: a new epoch's documents must not be at the server before its secrets file is.
        await self._keyring.check()
        self._bound = True

    async def _keep_up(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run a task for ever: an error that nobody foresaw must not take the mount away from its users."""
        while True:
            try:
                await task()
            except Exception:
                _log.exception("a task of sync failed in a way that blobfs did not foresee; it starts again")
                await trio.sleep(_RESTART_S)

    # --- tasks ------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """The feed, for ever."""
        backoff = Backoff()
        while True:
            await self._unpaused()
            try:
                if DOWN in self.health.errors or not self._bound:
                    await self._bind()
                    await self._feed.catch_up()
                    self._caught_up.set()
                else:
                    await self._feed.follow()
            except (RemoteError, IntegrityError) as error:
                self._feed.suspect()
                await self._stand_back(DOWN, error, backoff)
            except StoreError as error:
                _log.error("the local store cannot take changes: %s", error)
                await self._stand_back(DOWN, error, backoff)
            else:
                backoff.succeed()
                if self.health.state is not SyncState.CONNECTED:
                    self._wake.set()
                self.health.succeed(DOWN)

    async def _send(self) -> None:
        """Uploads, for ever."""
        backoff, next_s, pause_s = Backoff(), 0.0, 0.0
        while True:
            with trio.move_on_after(next_s):
                await self._wake.wait()
            self._wake = trio.Event()
            await trio.sleep(0 if self._hurried else max(self.options.debounce_s, pause_s))
            await self._unpaused()
            # The feed is the one that asks: nothing is sent to a server that is away or is not the right one.
            while DOWN in self.health.errors or not self._bound:
                await self.health.changed.wait()
            try:
                # What is sent to a backup before it is known to be one could not be told from what it had.
                await self._feed.trust()
                done = await self._upload.round(hurry=self._hurried > 0)
            except (StoreError, RemoteError, IntegrityError) as error:
                await self._stand_back(UP, error, backoff)
                next_s = 0.0
                continue
            self.rounds += 1
            pause_s = min(_LOOKING * done.looked_s, _LOOKING_S)
            if done.sent or done.error is not None:
                self.allowance.outdate()
            if done.error is not None:
                await self._stand_back(UP, done.error, backoff)
                next_s = 0.0
                continue
            backoff.succeed()
            if (refusal := self._upload.candidates.refusal) is None:
                self.health.succeed(UP)
            elif self.health.errors.get(UP) is not refusal:
                _log.warning("%s: %s", UP, refusal)
                self.health.fail(UP, refusal)
            next_s = 0.0 if done.more and done.sent else math.inf if done.next_s is None else max(0.05, done.next_s)
            self._idle.set()
            self._idle = trio.Event()

    async def _stand_back(self, who: str, error: BlobfsError, backoff: Backoff) -> None:
        """Say what is wrong, and wait before the next try. `retry` ends the wait."""
        if not isinstance(error, RemoteUnavailable) or who not in self.health.errors:
            _log.warning("%s: %s", who, error)
        self._bound = False if isinstance(error, RemoteError) and who == DOWN else self._bound
        self.health.fail(who, error)
        retry = self._retry
        with trio.move_on_after(backoff.fail(error)):
            await retry.wait()

    def _note_applied(self, applied: Applied) -> None:
        if applied.content_changed:
            self.keeper.wake()
        self.on_applied(applied)

    async def _unpaused(self) -> None:
        while self.health.paused:
            await self.health.changed.wait()

    async def _apply_waiting(self) -> None:
        while True:
            await trio.sleep(self.options.reopen_s)
            if self._feed.waiting:
                await self._feed.apply_waiting()

    async def _evict(self) -> None:
        await keep_within(
            self._store,
            lambda: None if self.health.is_doubtful else self.options.cache,
            lambda content: self.is_pinned(content),
            self.options.evict_every_s,
        )

    async def _drain(self, former: Sequence[BlobfsError]) -> None:
        """See `settle`; errors that were there before do not end it."""
        while True:
            self._raise_if_stuck(former)
            if DOWN in self.health.errors or not self._bound:
                await self._one_of(self.health.changed.wait, self._idle.wait)
                continue
            try:
                await self._feed.catch_up()
            except (RemoteError, IntegrityError):
                await trio.sleep(0.05)
                continue
            if self._is_clean():
                return
            self._wake.set()
            await self._one_of(self.health.changed.wait, self._idle.wait)

    def _raise_if_stuck(self, former: Sequence[BlobfsError]) -> None:
        for error in self.health.errors.values():
            if state_of(error) in STUCK and not any(error is other for other in former):
                raise error

    def _is_clean(self) -> bool:
        """Whether nothing waits. Raises IntegrityError or QuotaExceeded when something cannot be sent."""
        limit = 1 + len(self._upload.candidates.kept_here) + len(self._upload.candidates.parked)
        kept_here, changed = self._upload.candidates.kept_here, self._store.documents.changed(limit)
        # By the edit: a lock file that became another one by a rename waits for the next round.
        waiting = {entry.doc_id for entry in changed if kept_here.get(entry.doc_id) != entry.edit}
        if waiting and waiting <= self._upload.candidates.parked.keys():
            first = self._upload.candidates.parked[next(iter(waiting))].reason
            raise self._upload.candidates.refusal or IntegrityError(f"{len(waiting)} documents cannot be sent: {first}")
        return not waiting

    async def _one_of(self, *waits: Callable[[], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:

            async def wait(call: Callable[[], Awaitable[None]]) -> None:
                await call()
                nursery.cancel_scope.cancel()

            for call in waits:
                nursery.start_soon(wait, call)

    def _note_damage(self, content: Content, error: BlobfsError) -> None:
        """A read met bytes that are not what was sent, or no answer of a blobfs server: shown until the next start."""
        if not isinstance(error, IntegrityError | ProtocolError):
            return
        doc_id = self._store.documents.of_content(content) or DocId("")
        _log.warning("document %s cannot be read: %s", doc_id, error)
        reason = str(error)
        if isinstance(error, CorruptBlob):
            reason += "; it cannot be read here, so keep the device that wrote it, and tell the server's operator"
        self._store.blobs.note_failure(doc_id, str(error))
        self._damage[doc_id, str(error)] = Parked(doc_id, reason, time.time())
        if len(self._damage) > _DAMAGES:
            self._damage.popitem(last=False)
