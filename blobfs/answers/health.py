"""The part of `doctor` that needs the open store and the server: databases, keys, clock, cache, what was put aside.

Changes nothing, unless it is told to repair: then the server gets what it lost, the wrapped secret and blobs.
Invariant: the words of a finding name no file; each that is not well says what to do.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import trio

import blobfs
from blobfs.account import publish_again
from blobfs.answers.finding import Finding
from blobfs.answers.paths import path_of_document
from blobfs.answers.strays import Strays
from blobfs.devices import Register
from blobfs.errors import BlobfsError, RemoteUnavailable
from blobfs.remote.client import RemoteClient
from blobfs.status import format_usage
from blobfs.store.secrets import read_secrets
from blobfs.store.store import Store
from blobfs.sync.copies import is_conflict_name
from blobfs.sync.engine import SyncEngine
from blobfs.sync.restock import Losses
from blobfs.sync.status import SyncState
from blobfs.values.documents import Json, load
from blobfs.values.nodes import ROOT_INODE

_QUICK: Final = 20_000
"""Documents up to which the databases are compared unasked: a second or so in which nothing else can be done."""
_CLOCK_S: Final = 120
"""Of difference between two clocks, from which times of files confuse people."""
_FREE: Final = 256 << 20
"""Bytes on the disk of the store, below which writing may soon fail."""
_NEARLY: Final = 0.95
"""Part of the quota from which on it is nearly used up."""
_ANSWER_S: Final = 15
"""Seconds that each question to the server may take."""
_NAMED: Final = 20
"""Files that are named."""
_BLOBS: Final = "blobs at the server"
_SENDS: Final = "`blobfs doctor DIR --repair` sends those again"
_ELSEWHERE: Final = (
    "run `blobfs doctor DIR --repair` on the other devices, which may have the bytes; if none has, ask the server's "
    "operator for a backup"
)


class Health:
    """Answers to `doctor`."""

    def __init__(self, store: Store, engine: SyncEngine, client: RemoteClient, secrets: Path) -> None:
        self._store, self._engine, self._client, self._secrets = store, engine, client, secrets
        self._enter("checking the store")

    def _enter(self, what: str, done: int = 0, total: int | None = None, noun: str = "blobs") -> None:
        self._stage: Json = {"what": what, "done": done, "total": total, "noun": noun}

    async def stage(self, question: Json) -> Json:
        """What is checked at the moment, and how far it is: `total` null: nothing is counted; `noun` "": bytes are."""
        return self._stage

    async def answer(self, question: Json) -> Json:
        """All findings; with `deep`, databases of any size are compared row by row."""
        deep, repair = bool(question.get("deep")), bool(question.get("repair"))
        self._enter("checking the store")
        found = [
            Finding("version", True, f"the mount runs blobfs {blobfs.__version__}"),
            await trio.to_thread.run_sync(self._databases, deep),
            self._disk(),
            self._sync(),
            *self._aside(),
            *await trio.to_thread.run_sync(self._strays, repair),
            await trio.to_thread.run_sync(self._conflicts),
            self._local_keys(),
            self._quota(),
            *await trio.to_thread.run_sync(self._devices),
        ]
        for name, check in (
            ("server", self._server),
            ("clock", self._clock),
            ("keys at the server", partial(self._remote_keys, repair)),
        ):
            self._enter(f"checking {name}")
            found.append(await self._guarded(name, check))
        found.append(await self._guarded(_BLOBS, partial(self._blobs, repair), math.inf))
        return {"findings": [finding.to_json() for finding in found]}

    async def _guarded(self, name: str, check: Callable[[], Awaitable[Finding]], limit_s: float = _ANSWER_S) -> Finding:
        try:
            with trio.fail_after(limit_s):
                return await check()
        except RemoteUnavailable as error:
            return Finding(name, None, f"the server is not there: {error}", "start it, or wait until it is back")
        except trio.TooSlowError:
            return Finding(name, None, f"no answer within {_ANSWER_S} s", "try again when the line is better")
        except BlobfsError as error:
            return Finding(name, False, str(error), "follow what the sentence says")

    # --- here ---------------------------------------------------------------------------------------------------

    def _databases(self, deep: bool) -> Finding:
        if not deep and self._store.tree.count() > _QUICK:
            return Finding("databases", None, "not compared, being large", "`blobfs doctor --deep` does it")
        faults = self._store.check(partial(self._enter, "checking the databases", noun=""))
        if faults:
            advice = "unmount and mount again, which mends it; if it stays, send `blobfs doctor --bundle FILE`"
            return Finding("databases", False, f"{len(faults)} faults, the first: {faults[0]}", advice)
        return Finding("databases", True, f"{self._store.tree.count()} documents agree with their bytes")

    def _disk(self) -> Finding:
        free = shutil.disk_usage(self._store.path).free
        if free < _FREE:
            advice = "free some room, or set `blobfs config DIR cache-limit` or `free-disk`"
            return Finding("disk", False, f"{free >> 20} MiB are free on the disk of the store", advice)
        return Finding("disk", True, f"{free >> 20} MiB are free on the disk of the store")

    def _sync(self) -> Finding:
        status = self._engine.status()
        waits = f"{status.pending_documents} documents wait"
        if status.state is SyncState.CONNECTED:
            return Finding("sync", True, f"connected; {waits}" if status.pending_documents else "all is on the server")
        if status.state in (SyncState.OFFLINE, SyncState.STARTING, SyncState.PAUSED):
            advice = "it goes on by itself when the server answers"
            if status.state is SyncState.PAUSED:
                advice = "`blobfs config DIR paused off` goes on"
            return Finding("sync", None, f"{status.state.value}; {waits}", advice)
        return Finding("sync", False, f"{status.state.value}: {status.reason}; {waits}", "mend what the sentence names")

    def _quota(self) -> Finding:
        usage = self._engine.allowance.last
        if usage is None:
            return Finding("quota", None, "the server has not said yet what the account may hold")
        full = usage.quota is not None and usage.used > usage.quota * _NEARLY
        advice = "delete what is not needed, or ask the server's operator for more" if full else ""
        return Finding("quota", not full, format_usage(asdict(usage)), advice)

    def _aside(self) -> list[Finding]:
        parked = self._engine.status().parked
        if not parked:
            return []
        text = f"{len(parked)} documents are put aside, the first because {parked[0].reason}"
        return [Finding("put aside", False, text, "`blobfs status DIR` lists them with their reasons")]

    def _strays(self, repair: bool) -> list[Finding]:
        """What no path leads to, though all that the server shows was read."""
        strays = Strays(self._store)
        number = strays.count() if self._engine.is_well else 0
        if not number:
            return []
        what = f"{number} files or folders are in folders that the server does not show, so they are in no listing"
        if not repair:
            advice = "`blobfs doctor DIR --repair` moves them into the mount's top folder; the log of the device that "
            return [Finding("folders", False, what, advice + "moved them, or the server's operator, may know more")]
        applied = strays.bring_back()
        trio.from_thread.run_sync(lambda: [self._engine.on_applied(change) for change in applied])
        return [Finding("folders", True, f"repaired: {what}; they are in the mount's top folder now")]

    def _conflicts(self) -> Finding:
        below = self._store.survey.below(ROOT_INODE)
        count = sum(is_conflict_name(entry.name) for entry in below)
        if count:
            return Finding("conflicts", True, f"{count} conflict copies", "`blobfs conflicts DIR` lists them")
        return Finding("conflicts", True, "no conflict copies")

    def _devices(self) -> list[Finding]:
        register = Register(self._store)
        register.learn()
        found = [Finding("devices", None, notice, "`blobfs device DIR` lists them") for notice in register.notices()]
        strangers = register.strangers()
        if strangers:
            text = f"{len(strangers)} devices wrote and have not told of themselves: {', '.join(strangers[:5])}"
            advice = "they run an older blobfs, or are none of yours: then `blobfs passwd`, and a new invite for each"
            found.append(Finding("devices", None, text, advice))
        return found or [Finding("devices", True, "no device is new or silent")]

    def _local_keys(self) -> Finding:
        try:
            account = read_secrets(self._secrets).get("account")
        except (BlobfsError, OSError) as error:
            return Finding("keys", False, str(error), "copy secrets.json from a backup before the next unmount")
        if account != self._store.keys.account:
            advice = "copy the store's own secrets.json from a backup before the next unmount"
            return Finding("keys", False, "secrets.json is of another account than the open store", advice)
        return Finding("keys", True, "secrets.json is that of this account")

    # --- there --------------------------------------------------------------------------------------------------

    async def _server(self) -> Finding:
        start = trio.current_time()
        await self._client.greet()
        return Finding("server", True, f"answers in {(trio.current_time() - start) * 1000:.0f} ms")

    async def _clock(self) -> Finding:
        theirs = await self._client.clock()
        if theirs is None:
            return Finding("clock", None, "the server does not tell its time")
        apart = time.time() - theirs
        if abs(apart) > _CLOCK_S:
            which = "ahead of" if apart > 0 else "behind"
            text = f"this device is {abs(apart):.0f} s {which} the server"
            return Finding("clock", False, text, "set the clock, for example with `timedatectl set-ntp true`")
        return Finding("clock", True, "agrees with the server's")

    async def _remote_keys(self, repair: bool) -> Finding:
        found = await self._client.fetch_secret()
        name = "keys at the server"
        if found is None:
            if not repair:
                advice = "`blobfs doctor DIR --repair` sends it; without it no new device can join"
                return Finding(name, False, "the server lacks the wrapped secret", advice)
            await publish_again(self._client, self._store.settings, read_secrets(self._secrets))
            return Finding(name, True, "repaired: the server lacked the wrapped secret")
        try:
            account = load(found[0])["account"]
        except (ValueError, KeyError):
            return Finding(name, False, "the wrapped secret there is none", "`blobfs passwd DIR` sends it again")
        if account != self._store.keys.account:
            return Finding(name, False, "they are of another account", "connect this store to its own account")
        return Finding(name, True, "a new device can join with invite and passphrase")

    async def _blobs(self, repair: bool) -> Finding:
        """Asks for as long as the server answers: a large account on a slow line takes its time."""
        name, restock = _BLOBS, self._engine.restock()
        losses = await restock.look(partial(self._enter, "checking blobs at the server"))
        if not losses.lacking:
            return Finding(name, True, f"the server has all {losses.asked} blobs that this device relies on")
        lost = f"the server lacks {len(losses.lacking)} of {losses.asked} blobs that it confirmed before"
        if not repair:
            text = f"{lost}; {len(losses.here)} of them are whole on this device"
            advice = f"{_SENDS if losses.here else _ELSEWHERE}; evict nothing before"
            return Finding(name, False, text, advice, self._paths(losses))
        left = await restock.send(losses, partial(self._enter, "sending again what the server lacks"))
        if not left.lacking:
            return Finding(name, True, f"repaired: {lost}, and has them again")
        sent = len(losses.lacking) - len(left.lacking)
        text = f"{lost}; {sent} were sent again, {len(left.lacking)} cannot be made of what is on this device"
        return Finding(name, False, text, _ELSEWHERE, self._paths(left))

    def _paths(self, losses: Losses) -> tuple[str, ...]:
        """The first of the files that need what was lost."""
        doc_ids = {self._store.documents.of_content(content) for content in losses.contents}
        paths = {path_of_document(self._store, doc_id) for doc_id in doc_ids if doc_id is not None}
        return tuple(sorted(path for path in paths if path is not None)[:_NAMED])
