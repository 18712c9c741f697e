"""A store: one account on one device. Opens every room of this floor in order, and owns the directory's lock.

STORE/documents.db  blobs.db  journal-NNNNNNNNNN  spool-NNNNNNNNNN  reserve  secrets.json  lock
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from blobfs.errors import NoSpace, NotFound, StoreInUse, StoreMissing, UsageError
from blobfs.store import rekey, upgrade
from blobfs.store.arrivals import Arrivals
from blobfs.store.attachments import Attachments
from blobfs.store.blobs import Blobs
from blobfs.store.content import ContentStore
from blobfs.store.database import refusal
from blobfs.store.documents import DocumentStore
from blobfs.store.hidden import Hidden
from blobfs.store.ledger import Ledger
from blobfs.store.mending import check, mend
from blobfs.store.pins import Pins
from blobfs.store.queries import Queries
from blobfs.store.reserve import Reserve
from blobfs.store.settings import Settings
from blobfs.store.settling import Settler
from blobfs.store.survey import Survey
from blobfs.store.tree import Tree
from blobfs.values.documents import ROOT
from blobfs.values.keys import Keys
from blobfs.values.nodes import ROOT_INODE
from blobfs.values.revisions import DeviceId

Result = TypeVar("Result")

_SWEEPS: Final = 8
"""Slices of discarded rows that one tick deletes."""
_CALM: Final = 30
"""Ticks without a transaction after which memory is given back, and again after as many."""
_QUIET: Final = 3
"""Ticks without a transaction after which room is given back to the disk."""
_SPARE: Final = 64 << 20
"""Bytes of free pages that are kept for what is written next."""
_PIECE: Final = 2 << 20
"""Bytes of pages given back in one transaction, which holds up all others for some 10 ms."""
_GIVING_S: Final = 0.2
"""Seconds of one tick for it."""
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""What glibc keeps of freed memory goes back only when it is asked; other C libraries do it by themselves."""


class Store:
    """The open store of this process; nobody else has it open."""

    def __init__(self, path: Path, keys: Keys) -> None:
        """Use `Store.create` or `Store.open`."""
        self.path = path
        self.keys = keys
        self._seen, self._calm = 0, 0
        """The transaction that the last tick saw as the newest, and for how many ticks it has been."""
        self._told = 0
        """The last transaction of the last tick: a later one is somebody else's."""
        self._lock = _lock(path)
        try:
            self._ledger = Ledger(path, keys)
        except BaseException:
            os.close(self._lock)
            raise
        try:
            content = ContentStore(self._ledger)
            self.settings = Settings(self._ledger)
            self.tree = Tree(self._ledger, content)
            self.attachments = Attachments(self._ledger, self.tree, content)
            self.documents = DocumentStore(self._ledger, self.tree, self.attachments, self.settings, keys)
            self.queries = Queries(self._ledger, self.settings)
            self.pins = Pins(self._ledger)
            self.survey = Survey(self._ledger)
            self.hidden = Hidden(self._ledger, self.tree)
            self.blobs = Blobs(self._ledger, self.tree, self.attachments, self.documents, self.hidden, self.settings)
            self.arrivals = Arrivals(
                self._ledger, self.tree, self.attachments, self.documents, self.hidden, keys.account
            )
            self._content = content
            self._settler = Settler(self._ledger)
            self.device = DeviceId(self.settings.get("device", ""))
            self.transaction = self._ledger.transaction
            self.on_change = self._ledger.changed
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, keys: Keys, *, device_name: str) -> Store:
        """Make a store in `path`, a directory without one.

        Raises:
            UsageError: there is one already. StoreInUse, NoSpace.
        """
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        if (path / "documents.db").exists() or (path / "blobs.db").exists():
            raise UsageError("there is a store in this directory already")
        store = cls(path, keys)
        try:
            store._begin(device_name)
        except BaseException:
            store.close()
            raise
        return store

    def _begin(self, device_name: str) -> None:
        now_ns = time.time_ns()
        with self.transaction():
            self._ledger.documents.run(
                "INSERT INTO documents VALUES (1, ?, 'directory', ?, ?, ?, 0, 0, 0, 2, ?, ?, ?, ?, x'', NULL, 0, '{}', "
                "0, 0, 0, 0)",
                (ROOT, 0o755, os.getuid(), os.getgid(), now_ns, now_ns, now_ns, now_ns),
            )
            self.device = DeviceId(secrets.token_hex(8))
            self.settings.set("device", self.device)
            self.settings.set("device_name", device_name)
        self._ledger.commit()

    @classmethod
    def open(cls, path: Path, keys: Keys, watch: rekey.Watch = rekey.run_plainly) -> Store:
        """Open the store in `path`; everything that was acknowledged before is there.

        Databases that have keys of an older epoch get the newest ones first, which `watch` may show.

        Raises:
            StoreMissing, StoreInUse, StoreTooNew, StoreDamaged, NoSpace.
        """
        if not (path / "documents.db").exists():
            raise StoreMissing("there is no store in this directory")
        upgrade.refuse_newer(path, keys)
        make_room(path)
        if keys.older:
            cls._renew(path, keys, watch)
        return cls._open(path, keys)

    @classmethod
    def _renew(cls, path: Path, keys: Keys, watch: rekey.Watch) -> None:
        """On return both databases open with the newest keys."""
        if (path / "blobs.db").exists():
            found = rekey.find(path, keys)
            if found[0] is not keys and found[0] is found[1]:
                # In order, so that nothing waits in a journal, and whatever a crash left is mended.
                with closing(cls._open(path, found[0])) as store:
                    store._settler.settle_all()
        with holding(path):
            rekey.finish(path, keys, watch)

    @classmethod
    def _open(cls, path: Path, keys: Keys) -> Store:
        with holding(path):
            was_older = upgrade.bring_up(path, keys)
        store = cls(path, keys)
        try:
            store._resume(is_unclean=was_older)
            store._told = store._ledger.sequence
        except BaseException:
            store.close()
            raise
        return store

    def _resume(self, *, is_unclean: bool) -> None:
        try:
            self.tree.get(ROOT_INODE)
        except NotFound:
            raise StoreMissing("the store was never finished; delete it and start again") from None
        # Whether a store of an older version was ended in order is not known once it is one of this version.
        if self._ledger.unclean or is_unclean:
            mend(self._ledger, self._content)
        for inode in self.tree.orphans():
            self.tree.purge(inode)

    def check(self, report: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
        """What is wrong with the store, a sentence each; empty when all is as it should be. Reads every row's head.

        `report` is told how far that is: bytes of files that were looked at, and of all.
        """
        return check(self._ledger, report)

    def mend(self) -> None:
        """Make the databases agree where `check` says that they do not, as after an unclean end."""
        mend(self._ledger, self._content)

    def sync(self) -> None:
        """On return everything acknowledged before survives power loss. Raises NoSpace.

        For a worker thread, unless `syncs_quickly`.
        """
        self._ledger.flush()

    def syncs_quickly(self) -> bool:
        """Whether `sync` would most likely take less time than to have a thread do it."""
        return self._ledger.flushes_quickly()

    def tick(self) -> None:
        """Commit a batch that is due, and free some of what was discarded. For a worker thread, once a second.

        When nothing was written for half a minute, the caches' memory goes back to the system.

        Raises:
            NoSpace: the disk is full; nothing is lost.
        """
        self._ledger.reserve.refill()
        try:
            self._free_rows()
            self._give_back()
        except NoSpace:
            self._ledger.reserve.spend()
            raise
        self._rest()

    def freeing(self, action: Callable[[], Result]) -> Result:
        """`action()`, one transaction that leaves less in the store; a full disk does not stop it.

        Raises:
            NoSpace: the reserve was given up before, and the disk is full again. Whatever else `action` raises.
        """
        while True:
            try:
                return action()
            except NoSpace:
                if not self._ledger.reserve.spend():
                    raise

    def withheld(self) -> int:
        """Bytes that are free on the disk and not for files: they are to be the reserve again."""
        return self._ledger.reserve.lacking

    def _free_rows(self) -> None:
        # Where room is short, nothing waits for the end of a flood.
        is_tight = self._ledger.reserve.is_spent or self._ledger.staging.is_long
        is_busy = self._ledger.sequence != self._told and not is_tight
        # To look for what was discarded is to have the databases told.
        has_swept = not self._ledger.tick(is_busy=is_busy) or self._sweep()
        if has_swept:
            # Not before: what is discarded needs no place in the database.
            self._settler.work(is_busy=is_busy)
        self._told = self._ledger.sequence

    def _sweep(self) -> bool:
        """Free some of what was discarded; whether that was all."""
        return any(not self._content.sweep() for _ in range(_SWEEPS))

    def _rest(self) -> None:
        """Give memory back to the system when nothing has been written for a while."""
        sequence = self._ledger.sequence
        if sequence != self._seen:
            self._seen, self._calm = sequence, 0
            return
        self._calm += 1
        if self._calm % _CALM == 0:
            self._ledger.shrink()
            if _trim is not None:
                _trim(0)

    def spare(self) -> int:
        """Bytes of the disk that the store has no use for, and gives back within minutes."""
        return max(0, self._ledger.spare() - _SPARE)

    def _give_back(self) -> None:
        """Give what was freed back to the disk, a little at a time, when nothing is written or the disk is full."""
        is_tight = self._ledger.reserve.is_spent
        if self._calm < _QUIET and not is_tight:
            return
        kept, has_given = 0 if is_tight else _SPARE, False
        if is_tight and self._ledger.spare() > kept:
            self._ledger.commit()
        end = time.monotonic() + _GIVING_S
        while time.monotonic() < end and self._ledger.spare() > kept and self._ledger.give_back(_PIECE):
            has_given = True
        if has_given and (is_tight or self._ledger.spare() <= kept):
            self._ledger.log.move()

    def close(self) -> None:
        """Commit, bring everything to the disk, and give up the store."""
        try:
            self._ledger.close()
            self._ledger.reserve.keep_for_start()
        finally:
            os.close(self._lock)


def make_room(path: Path) -> None:
    """Where the disk is nearly full, give up what was set aside: only to look into a database takes room already.

    Raises:
        StoreMissing, StoreInUse.
    """
    with holding(path):
        Reserve(path)


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Nobody opens the store in `path` during the block. Raises StoreMissing, StoreInUse."""
    lock = _lock(path)
    try:
        yield
    finally:
        os.close(lock)


def _lock(path: Path) -> int:
    with suppress(FileNotFoundError):
        try:
            descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise refusal(path / "lock", error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StoreInUse("another process has this store open; unmount it there first") from None
        return descriptor
    raise StoreMissing("there is no store in this directory")
