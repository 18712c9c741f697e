"""What is known of one file or folder: where its bytes are, what waits, since when, why, and what happens next.

Reads the store and the engine's status; changes nothing. Invariant: `synced` is said only of what the server has
confirmed, and a file that is not synced always has a reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from blobfs.answers.paths import find, number_of, page, path_of, text_of
from blobfs.errors import RemoteUnavailable
from blobfs.store.store import Store
from blobfs.store.survey import Found, absent_bytes
from blobfs.sync.choice import LOCAL_ONLY
from blobfs.sync.copies import is_conflict_name
from blobfs.sync.engine import SyncEngine
from blobfs.sync.status import STUCK, SyncState, SyncStatus
from blobfs.values.documents import Json, Kind, name_to_text
from blobfs.values.extents import extent_length
from blobfs.values.nodes import ROOT_INODE, Inode, Node

_AWAY_S: Final = 20
"""Seconds after which a server that is away is not waited for with each file."""
_WAITING_SHOWN: Final = 20
"""Files named in the answer about a folder."""


@dataclass(frozen=True, slots=True)
class Why:
    """Why something waits, and what happens next."""

    state: str
    reason: str
    then: str


class Files:
    """Answers about files."""

    def __init__(self, store: Store, engine: SyncEngine, is_open: Callable[[Inode], bool]) -> None:
        self._store, self._engine, self._is_open = store, engine, is_open

    def show(self, question: Json) -> Json:
        """One file or folder. For a worker thread."""
        with self._store.transaction():
            path = text_of(question, "path")
            node = find(self._store, path)
            status = self._engine.status()
            common = {
                "path": path,
                "kind": node.kind.value,
                "doc_id": node.doc_id,
                "pinned": self._store.pins.covers(node.inode),
                "pinned_itself": node.doc_id in self._store.pins.all(),
            }
            if node.kind is Kind.DIRECTORY:
                return common | self._folder(node, status)
            return common | self.file(node, status)

    async def bring(self, question: Json) -> Json:
        """Have a range of a file here, so that who reads it next waits for nothing.

        Raises:
            RemoteUnavailable: the server has been away for some time, or did not send it within the deadline. What else
            `SyncEngine.fetch` raises.
        """
        offset, length = number_of(question, "offset"), number_of(question, "length")
        node = await trio.to_thread.run_sync(find, self._store, text_of(question, "path"))
        health = self._engine.health
        if node.content is None or offset >= node.size:
            return {}
        if health.state is SyncState.OFFLINE and time.time() - (health.since_s or time.time()) >= _AWAY_S:
            # Each file would wait for its own deadline otherwise.
            if (await trio.to_thread.run_sync(self._bytes, node))[0]:
                raise RemoteUnavailable(f"its bytes are not here, and {health.worst}")
            return {}
        # At hand is enough, as for a reader: the store takes it in behind.
        await self._engine.read(node.content, offset, min(length, node.size - offset))
        return {}

    # --- a file -----------------------------------------------------------------------------------------------

    def file(self, node: Node, status: SyncStatus) -> Json:
        """What there is to say of a node that is no folder, within a transaction."""
        local, base = self._store.documents.local(node.doc_id), self._store.documents.base(node.doc_id)
        absent, dirty = self._bytes(node)
        waits = local is not None and local.edit > local.synced
        answer: Json = {
            "size": node.size,
            "here": max(0, node.size - absent),
            "stored": node.stored,
            "unsent": dirty,
            "mtime": node.mtime_ns / 1e9,
            "local": absent == 0,
            "remote": base is not None and not base.deleted,
            "synced": not waits,
            "dirty": waits,
            "open": self._is_open(node.inode),
            "state": "here" if not absent else "server only" if absent >= node.size else "partly here",
            "since": None,
            "reason": None,
            "next": None,
        }
        if waits:
            changed = next(entry for entry in self._store.survey.below(node.inode) if not entry.path)
            answer |= _told(changed.changed_ns, self._why(node, changed, status, is_new=base is None))
        return answer

    def _bytes(self, node: Node) -> tuple[int, int]:
        """(not here, not on the server)."""
        if node.content is None:
            return 0, 0
        if self._store.attachments.unresolved(node.content) is not None:
            return node.size, 0
        absent = dirty = 0
        for index, extent in self._store.attachments.extents(node.content).items():
            length = extent_length(node.size, index)
            if extent.blob_id is not None:
                absent += min(length, absent_bytes(extent.length, extent.present))
            dirty += length if extent.dirty else 0
        return absent, dirty

    def _why(self, node: Node, changed: Found, status: SyncStatus, *, is_new: bool) -> Why:
        names = [name for _, name in self._store.tree.names(node.inode)]
        if is_new and names and all(LOCAL_ONLY.fullmatch(name) for name in names):
            return Why("stays here", "lock and swap files mean something on this device only", "it is never sent")
        parked = next((entry for entry in status.parked if entry.doc_id == node.doc_id), None)
        if parked is not None:
            again = max(0.0, parked.retry_at_s - time.time())
            return Why("put aside", parked.reason, f"tried again in {again:.0f} s, or when it changes")
        sent = (entry for entry in status.transfers if entry.what == "upload")
        transfer = next((entry for entry in sent if entry.doc_id == node.doc_id), None)
        if transfer is not None:
            share = 100 * transfer.done // max(1, transfer.total)
            return Why(
                "sending", f"{share} % of its changed bytes are sent", "the server confirms it, then it is synced"
            )
        if status.state is SyncState.PAUSED:
            return Why("waiting", "sync is paused", "it is sent after `blobfs config DIR paused off`")
        if status.state is SyncState.STARTING:
            return Why("waiting", "the server has not answered yet", "it is sent once the server answers")
        if status.state is not SyncState.CONNECTED:
            stuck = status.state in STUCK
            mended = "it is sent when that is mended; `blobfs status` with the mount point says how"
            then = mended if stuck else "it is sent by itself when the server answers"
            return Why("waiting", status.reason, then)
        return self._why_queued(node, changed)

    def _why_queued(self, node: Node, changed: Found) -> Why:
        options, age_s = self._engine.options, time.time() - changed.changed_ns / 1e9
        if self._is_open(node.inode) and age_s < options.max_wait_s:
            left = options.max_wait_s - age_s
            return Why("waiting", "a program has it open", f"sent when it is closed, or in {left:.0f} s")
        if age_s < options.quiet_s + options.debounce_s:
            return Why("waiting", "it was changed just now", f"sent once it is quiet for {options.quiet_s:g} s")
        return Why("waiting", "other files are sent before it", "sent in its turn")

    # --- a folder ---------------------------------------------------------------------------------------------

    def _folder(self, node: Node, status: SyncStatus) -> Json:
        found, absent = self._store.survey.below(node.inode), self._store.survey.absent()
        files = list({entry.inode: entry for entry in found if entry.kind is Kind.FILE}.values())
        missing = {entry.inode: absent.get(entry.content, 0) for entry in files if entry.content is not None}
        waiting = [entry for entry in found if entry.waits and entry.inode != ROOT_INODE]
        whole = sum(not missing.get(entry.inode) for entry in files)
        size = sum(entry.size for entry in files)
        answer: Json = {
            "files": len(files),
            "folders": sum(entry.kind is Kind.DIRECTORY for entry in found[1:]),
            "size": size,
            "here": max(0, size - sum(missing.values())),
            "stored": sum(entry.stored for entry in files),
            "files_here": whole,
            "files_remote": sum(missing.get(entry.inode, 0) >= entry.size > 0 for entry in files),
            "local": whole == len(files),
            "synced": not waiting,
            "dirty": bool(waiting),
            "conflicts": sum(is_conflict_name(entry.name) for entry in found),
            "waiting": len(waiting),
            "waiting_files": [self._waiting(entry, status) for entry in waiting[:_WAITING_SHOWN]],
            "state": "here" if whole == len(files) else "partly here",
            "since": None,
            "reason": None,
            "next": None,
        }
        if waiting:
            first = min(waiting, key=lambda entry: entry.changed_ns)
            is_new = self._store.documents.base(first.doc_id) is None
            why = self._why(self._store.tree.get(first.inode), first, status, is_new=is_new)
            answer |= _told(first.changed_ns, why)
        return answer

    def _waiting(self, entry: Found, status: SyncStatus) -> Json:
        is_new = self._store.documents.base(entry.doc_id) is None
        why = self._why(self._store.tree.get(entry.inode), entry, status, is_new=is_new)
        return {"path": name_to_text(entry.path.lstrip(b"/"))} | _told(entry.changed_ns, why)

    # --- conflicts --------------------------------------------------------------------------------------------

    def conflicts(self, question: Json) -> Json:
        """The conflict copies in a folder, a page of them. For a worker thread."""
        path = text_of(question, "path")
        top = find(self._store, path)
        prefix = path_of(self._store, top.inode)
        copies = [
            {
                "path": (prefix + name_to_text(entry.path)).lstrip("/"),
                "size": entry.size,
                "mtime": entry.mtime_ns / 1e9,
            }
            for entry in self._store.survey.below(top.inode)
            if is_conflict_name(entry.name)
        ]
        return page(copies, question)


def _told(changed_ns: int, why: Why) -> Json:
    return {"state": why.state, "since": changed_ns / 1e9, "reason": why.reason, "next": why.then}
