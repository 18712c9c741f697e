"""The change feed: what other devices did arrives here, is authenticated, merged and shown.

Invariants: nothing is applied that is not authentic and does not follow from what this device has seen; the cursor on
the disk never passes a document that was neither applied nor put aside with a reason.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import trio

from blobfs import protocol
from blobfs.errors import BlobfsError, CorruptDocument, NoSpace, Rollback
from blobfs.remote.client import Change, Page, RemoteClient, Result, Sealed
from blobfs.store.documents import Applied, Local
from blobfs.store.store import Store
from blobfs.sync import parcel
from blobfs.sync.anchors import Anchors
from blobfs.sync.census import find_lost, is_lost
from blobfs.sync.echoes import Echoes
from blobfs.sync.merge import State
from blobfs.sync.milestones import Finding, Milestones
from blobfs.sync.plan import plan
from blobfs.sync.recovery import Recovery
from blobfs.sync.situation import Remote, Same
from blobfs.sync.status import Parked, Reading
from blobfs.sync.story import Story
from blobfs.sync.view import Executor, News, StoreView
from blobfs.sync.waiting import Waiting
from blobfs.values import crypto
from blobfs.values.documents import FORMAT, DocId, Document, Kind
from blobfs.values.extents import Attachment
from blobfs.values.nodes import Inode
from blobfs.values.revisions import DeviceId, Revision

_log: Final = logging.getLogger(__name__)

_STRANGERS: Final = 1000
"""Documents that nobody here knows of put aside one by one: there is no end to those that a server can make up."""
_MORE: Final = DocId("")
"""Stands for the others."""
_EARLY_S: Final = 1.0
"""After a wait that ended before its time, and without any news: whoever asks again at once might do so for ever."""
_CHUNK: Final = 100
"""Documents applied in one transaction: for some 30 ms nobody else gets at the store."""
_ASKED: Final = 3
"""Documents of the newest that came, asked for when they are not where they were."""
_EPOCH: Final = "feed.epoch"
"""The setting with the epoch of the keys that the feed was last read with."""
_FORMAT: Final = "feed.format"
"""The setting with the newest format of documents that could be read then."""
_ROLLED_BACK: Final = (
    "the server has lost changes that this device has seen: it was restored from a backup, or is not honest; "
    "nothing is sent or taken until it has them again, or until `blobfs recover DIR` sends them again"
)


class _Asked(NamedTuple):
    """What was known when a page was asked for."""

    cursor: str | None
    mark: int
    claims: Mapping[DeviceId, int]
    era: int


class Feed:
    """Follows the feed."""

    def __init__(
        self,
        store: Store,
        client: RemoteClient,
        *,
        is_busy: Callable[[Inode], bool],
        on_applied: Callable[[Applied], None],
        echoes: Echoes,
        check_keys: Callable[[], Awaitable[None]],
    ) -> None:
        """`check_keys` raises KeysChanged when what does not open may be sealed with the keys of a newer epoch."""
        self._store, self._client, self._check_keys = store, client, check_keys
        self._is_busy, self._on_applied, self._echoes = is_busy, on_applied, echoes
        self._label = str(store.settings.get("device_name") or store.device[:6])
        self._own: dict[DocId, str] = {}
        """Revisions that came and that this store sealed itself: answers that were lost, so few."""
        self.turn = trio.Lock()
        """Held while documents are applied, and by uploads from sending documents until they are recorded: whether the
        server knows of a name must not change while the planner decides who keeps it."""
        self.applied = 0
        """Grows when something arrives, in `turn`."""
        self.reading: Reading | None = None
        """While `catch_up` reads."""
        self.recovery, self.story = Recovery(store), Story(store)
        self._anchors = Anchors(store)
        self._milestones = Milestones(store.settings)
        self._cursor = None if self.recovery.active else store.documents.cursor
        self._era = 0
        """Grows as a recovery begins: what was asked for before is asked for again."""
        self._is_suspect = True
        self._looking = trio.Lock()
        """Held while the server is asked for what it may have lost: once for all who want to know."""
        self._waiting = Waiting(store, lambda inode: self._is_busy(inode))
        self.parked: dict[DocId, Parked] = {
            DocId(doc_id): Parked(DocId(doc_id), reason, since_s)
            for doc_id, reason, since_s in store.settings.get("parked") or []
        }
        reads = {_EPOCH: (store.keys.epoch, 0), _FORMAT: (FORMAT, 1)}
        if any(now != (store.settings.get(name) or first) for name, (now, first) in reads.items()):
            # What could not be opened may open now: it is read again, and so is all the rest.
            if self.parked:
                self._cursor = None
                self.parked.clear()
            for name, (now, _) in reads.items():
                store.settings.set(name, now)

    @property
    def waiting(self) -> Mapping[DocId, Remote]:
        """Versions that arrived and are not applied yet."""
        return self._waiting.remotes

    # --- following ----------------------------------------------------------------------------------------

    async def catch_up(self) -> None:
        """Apply all that the server has now.

        Raises:
            RemoteError. Rollback: the server lacks changes that this device has seen.
        """
        await self.trust()
        reading = self.reading = self.reading or Reading()
        try:
            while True:
                asked = self._ask()
                page = await self._client.feed(asked.cursor, count=reading.total is None)
                if reading.total is None and page.left is not None:
                    reading.total = reading.done + len(page.documents) + page.left
                if await self._take(asked, page) and not page.more:
                    return
        finally:
            self.reading = None

    async def follow(self) -> None:
        """Wait for news, and apply them. Raises as `catch_up`."""
        if self._is_suspect:
            await self.catch_up()
            return
        asked, began = self._ask(), trio.current_time()
        page = await self._client.feed(asked.cursor, wait_s=protocol.MAX_WAIT_S)
        await self._take(asked, page)
        if not page.documents and trio.current_time() - began < protocol.MAX_WAIT_S - _EARLY_S:
            # As a server answers that ends. It may be another one, or in another state, before anybody asks again.
            self.suspect()
            await trio.sleep(_EARLY_S)

    def _ask(self) -> _Asked:
        return _Asked(self._cursor, self._echoes.mark, self.story.claims(), self._era)

    def suspect(self) -> None:
        """The connection was lost, or ended by the server: who answers next has to know all that was seen before."""
        self._is_suspect = True

    def recover(self) -> None:
        """Take the server as it is; what it lost is sent again."""
        with self._store.transaction():
            self.recovery.begin()
            # Numbers mean something else from now on; whoever is killed before all is applied reads it all again.
            self._store.documents.cursor = None
            self._milestones.cut(0)
            self._milestones.save()
        self.story.forget()
        self.parked.clear()
        self._cursor = None
        self._era += 1

    async def trust(self) -> None:
        """On return, whoever answers now is known to have all that was seen here. Raises as `catch_up`."""
        async with self._looking:
            if self._is_suspect and not self.recovery.active:
                await self._probe()
            self._is_suspect = False

    async def _probe(self) -> None:
        """Go back to where the server's numbers still are what they were. Raises Rollback: it lacks what was seen."""
        era = self._era
        finding = await self._milestones.look(self._client)
        if await self._has_lost(finding) and era == self._era:
            await self._check_keys()
            raise Rollback(_ROLLED_BACK)
        if finding.moved:
            await self._go_back(finding.seq, era)

    async def _has_lost(self, finding: Finding) -> bool:
        for doc_id in {*self._anchors.ids, *finding.moved[:_ASKED]}:
            if await is_lost(self._store, self._client, doc_id):
                return True
        # Numbers that are given out again are a backup's: others may have sent again what was asked for, and not all.
        lost = await find_lost(self._store, self._client) if finding.is_anew else None
        if lost is not None:
            # From now on it is enough to ask for this one.
            self._anchors.note(lost)
        return lost is not None

    async def _go_back(self, seq: int, era: int) -> None:
        """Read on after this number: what came before it is as it was, and what came after it may be something else."""
        async with self.turn:
            # Unless all is read again anyway.
            if era == self._era and self._cursor is not None:
                self._milestones.cut(seq)
                self._cursor = str(seq) if seq else None

    async def _take(self, asked: _Asked, page: Page) -> bool:
        """Apply a page; False when another one came first."""
        async with self.turn:
            if asked.cursor != self._cursor or asked.era != self._era:
                return False
            self.recovery.see(sealed.doc_id for sealed in page.documents)
            before = 0 if self.reading is None else self.reading.done
            self._waiting.is_partial = page.more
            came = await self._apply_all(
                [sealed for sealed in page.documents if not self._is_overtaken(sealed, asked.mark)]
            )
            if asked.era != self._era:
                # A recovery began meanwhile: it has not seen this page, and would take all in it for lost.
                return False
            self._cursor = page.cursor
            if self.reading is not None:
                # What came back to whoever sent it was not applied, and counts, too.
                self.reading.done = before + len(page.documents)
            finished = self.recovery.reading and not page.more
            if finished:
                await trio.to_thread.run_sync(self.recovery.finish_reading)
            if page.documents or finished:
                await trio.to_thread.run_sync(self._record, page)
            if (asked.claims or came) and not page.more and not self.waiting and not self.recovery.active:
                await trio.to_thread.run_sync(self.story.judge, asked.claims, came)
            return True

    def _is_overtaken(self, sealed: Sealed, mark: int) -> bool:
        """Whether this device replaced the revision itself, while the page that has it was on its way."""
        if not self._echoes.is_later(sealed.doc_id, mark):
            return False
        base = self._store.documents.base(sealed.doc_id)
        try:
            revision = Revision.parse(sealed.revision)
        except ValueError:
            return False
        return base is not None and base.revision != revision and base.revision.contains(revision)

    def _record(self, page: Page) -> None:
        """Keep where to go on. Held back while a version waits, which would be forgotten in a crash."""
        self._milestones.add(page.documents)
        with self._store.transaction():
            if self.waiting:
                self._anchors.note_newest(page.documents)
            else:
                self._store.documents.cursor = page.cursor
                self._milestones.save()
                self._anchors.leave(page.documents)
            parked = [[entry.doc_id, entry.reason, entry.since_s] for entry in self.parked.values()]
            self._store.settings.set("parked", parked or None)

    def remember_sent(self, change: Change) -> None:
        """The server has this, so it must not forget it. Within the transaction that records it; holding `turn`."""
        self._anchors.note(change.doc_id)

    def _remember_met(self, arrived: Sequence[Sealed]) -> None:
        with self._store.transaction():
            self._anchors.note_newest(arrived)

    async def arrive(self, results: Sequence[Result]) -> Mapping[DocId, str]:
        """Take in the documents that a push met; where the answer had no room for them the feed brings them.

        The caller holds `turn`. Those that were refused come back, with the reason.
        """
        arrived = [result.current for result in results if result.current is not None]
        await self._apply_all(arrived)
        await trio.to_thread.run_sync(self._remember_met, arrived)
        parked = (self.parked.get(sealed.doc_id) for sealed in arrived)
        return {entry.doc_id: entry.reason for entry in parked if entry is not None}

    async def apply_waiting(self) -> None:
        """Apply the versions whose files have been closed."""
        async with self.turn:
            if ready := self._waiting.over():
                await self._apply(ready)

    # --- applying -----------------------------------------------------------------------------------------

    async def _apply_all(self, documents: Sequence[Sealed]) -> Mapping[DeviceId, int]:
        """Apply those that are authentic; what their sealers had seen. Raises KeysChanged, RemoteError."""
        fresh = [sealed for sealed in documents if not self._echoes.is_echo(sealed)]
        opened, refused = await trio.to_thread.run_sync(self._open_all, fresh)
        if refused:
            # Nothing of the page is applied then, and the cursor stays before it.
            await self._check_keys()
        for doc_id, error in refused:
            self._park(doc_id, error)
        self._own |= {sealed.doc_id: sealed.revision for sealed in fresh if self._echoes.is_ours(sealed)}
        claims = self.story.listen(remote.state.document for remote in opened)
        if self.recovery.active:
            opened = await trio.to_thread.run_sync(self.recovery.sift, opened)
        # A whole page at once, so that documents which exchange names are seen together.
        await self._apply(opened)
        if self.recovery.active:
            await trio.to_thread.run_sync(self.recovery.finish_merges)
        return claims

    def _open_all(self, documents: Sequence[Sealed]) -> tuple[list[Remote], list[tuple[DocId, CorruptDocument]]]:
        """Those that are authentic, and why the others are not."""
        opened, refused = list[Remote](), list[tuple[DocId, CorruptDocument]]()
        for sealed in documents:
            try:
                revision = Revision.parse(sealed.revision)
                document = crypto.open_document(
                    self._store.keys, sealed.doc_id, revision, sealed.deleted, sealed.payload
                )
                self._check_epoch(document, revision)
                if self._store.hidden.is_usurped_by(document) and not sealed.deleted:
                    raise CorruptDocument(f"refused: document {sealed.doc_id} has a name that blobfs keeps for itself")
                if self._store.hidden.is_hiding(document) and not sealed.deleted:
                    raise CorruptDocument(f"refused: document {sealed.doc_id} would go where nobody sees it any more")
                opened.append(Remote(sealed.doc_id, revision, State(document, sealed.deleted)))
            except ValueError:
                refused.append((sealed.doc_id, CorruptDocument("a document came with a malformed revision")))
            except CorruptDocument as error:
                refused.append((sealed.doc_id, error))
        return opened, refused

    def _check_epoch(self, document: Document, revision: Revision) -> None:
        """Raises CorruptDocument for an edit with old keys of what only newer ones open: no device makes it."""
        if document.epoch >= self._store.keys.epoch:
            return
        base = self._store.documents.base(document.doc_id)
        if base is not None and base.document.epoch > document.epoch and revision.contains(base.revision):
            raise CorruptDocument(f"document {document.doc_id} was replaced by somebody who has old keys only")

    def _park(self, doc_id: DocId, error: Exception) -> None:
        reason = str(error) if isinstance(error, BlobfsError) else "an error of blobfs itself; the log has the details"
        if len(self.parked) >= _STRANGERS and doc_id not in self.parked and not self._is_known(doc_id):
            doc_id, reason = _MORE, f"beside these there are others that were not applied; of one of them: {reason}"
            if doc_id in self.parked:
                # Nor may they push everything else out of the log.
                return
        _log.warning("document %s was not applied: %s", doc_id, reason)
        self.parked[doc_id] = Parked(doc_id, reason, time.time())

    def _is_known(self, doc_id: DocId) -> bool:
        documents = self._store.documents
        return documents.inode(doc_id) is not None or documents.base(doc_id) is not None

    async def _apply(self, arrivals: Sequence[Remote]) -> None:
        self.applied += len(arrivals)
        ready, same, are_plain = await trio.to_thread.run_sync(self._look_at, arrivals)
        chunk = _CHUNK if are_plain else max(1, len(ready))
        try:
            for at in range(0, len(ready), chunk):
                await self._apply_some(ready[at : at + chunk], same)
                if self.reading is not None and chunk < len(ready):
                    self.reading.done += chunk
        except NoSpace:
            # Those of the page come again; those that waited would not.
            self._waiting.keep(ready)
            raise

    def _look_at(self, arrivals: Sequence[Remote]) -> tuple[list[Remote], Mapping[Same, int], bool]:
        """Those that can be applied, what `_find_equal` says of them, and whether all of them are new here, so that no
        order among them matters."""
        if not self._waiting.is_partial:
            # What waited for this, too, unless a newer version of it came.
            coming = {remote.doc_id for remote in arrivals}
            arrivals = [*(remote for remote in self.waiting.values() if remote.doc_id not in coming), *arrivals]
        news = News.among(self._store, arrivals)
        ready = self._waiting.sift(arrivals, news)
        are_plain = all(self._inode(remote.doc_id, news) is None for remote in ready)
        return ready, self._find_equal(ready, news), are_plain

    def _inode(self, doc_id: DocId, news: News) -> Inode | None:
        return None if doc_id in news.strangers else self._store.documents.inode(doc_id)

    async def _apply_some(self, arrivals: Sequence[Remote], same: Mapping[Same, int]) -> None:
        try:
            done = await trio.to_thread.run_sync(partial(self._apply_now, arrivals, same))
        except NoSpace:
            raise
        except Exception as error:
            if len(arrivals) > 1:
                # One of them is the cause; the others must not wait for it.
                for remote in arrivals:
                    await self._apply_some([remote], same)
                return
            if not isinstance(error, BlobfsError):
                _log.exception("a document could not be applied in a way that blobfs did not foresee")
            self._park(arrivals[0].doc_id, error)
            return
        for applied in done:
            try:
                self._on_applied(applied)
            except Exception:
                # It is applied all the same; what the kernel holds of it runs out by itself.
                _log.exception("the mount could not be told of a change from another device")

    def _apply_now(self, arrivals: Sequence[Remote], same: Mapping[Same, int]) -> list[Applied]:
        """Plan and do, in one transaction. In a worker thread."""
        with self._store.transaction():
            # Again, now that nobody else is at the store: a file may have been opened or edited since it was looked at.
            news = News.among(self._store, arrivals)
            arrivals = self._waiting.sift(arrivals, news)
            decided = plan(
                StoreView(self._store, news),
                arrivals,
                device=self._store.device,
                label=self._label,
                new_id=lambda: DocId(secrets.token_hex(16)),
                same_content={pair for pair, edit in same.items() if self._is_as_of(pair[0], edit)},
                own={remote.doc_id for remote in arrivals if self._own.get(remote.doc_id) == str(remote.revision)},
            )
            done = Executor(self._store, news).run(decided)
            for applied in done:
                self._purge(applied)
        for remote in arrivals:
            self.parked.pop(remote.doc_id, None)
        for remote, error in decided.refused:
            self._park(remote.doc_id, error)
        return done

    def _purge(self, applied: Applied) -> None:
        """A file that went and that nobody holds gives its bytes back."""
        if not applied.names_after and applied.inode and not self._is_busy(applied.inode):
            self._store.tree.purge(applied.inode)

    # --- bytes that are not hashed ---------------------------------------------------------------------------

    def _find_equal(self, arrivals: Sequence[Remote], news: News) -> Mapping[Same, int]:
        """Which files have the bytes that arrive for them, or for their name: written twice, or sent before.

        With the edit that was looked at: a later one may have changed the bytes.
        """
        documents, found = self._store.documents, dict[Same, int]()
        for remote in arrivals:
            document = remote.state.document
            if remote.state.deleted or document.kind is not Kind.FILE or document.attachment is None:
                continue
            here = [remote.doc_id] if self._inode(remote.doc_id, news) is not None else []
            taken = (name for name in document.names if name not in news.free)
            here += filter(None, (documents.at(name.parent, name.name) for name in taken))
            for doc_id in here:
                local = documents.local(doc_id)
                if local is not None and self._has_bytes_of(local, document.attachment):
                    found[doc_id, remote.doc_id] = local.edit
        return found

    def _is_as_of(self, doc_id: DocId, edit: int) -> bool:
        local = self._store.documents.local(doc_id)
        return local is not None and local.edit == edit

    def _has_bytes_of(self, local: Local, attachment: Attachment) -> bool:
        if local.node.size != attachment.size:
            return False
        if not local.content_dirty:
            return local.document.attachment == attachment
        return parcel.has_bytes_of(self._store, local, attachment)
