"""Random operations on the store and on a model of plain dicts, with crashes in between."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from blobfs.errors import BytesAbsent, FileError
from blobfs.store import spool, staging
from blobfs.store.store import Store
from blobfs.values.documents import Kind
from blobfs.values.extents import EXTENT, ROW, ROWS_PER_EXTENT, BlobId, extent_length
from blobfs.values.nodes import ROOT_INODE, Content, Inode
from tests.store.conftest import Bench, content

T = TypeVar("T")
NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff"])
EDGES = st.sampled_from([0, 1, 4096, ROW - 1, ROW, ROW + 1, 3 * ROW, EXTENT - ROW, EXTENT - 1, EXTENT, EXTENT + 5])
LENGTHS = st.sampled_from([1, 100, 4096, ROW - 1, ROW, ROW + 1, 2 * ROW + 7, 3 * ROW])


@dataclass
class File:
    """What the model knows of one inode."""

    kind: Kind
    data: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, Inode] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Failed(Exception):
    """Ends a transaction."""


class StoreMachine(RuleBasedStateMachine):
    """The store answers as the model does, before and after every crash."""

    @initialize(
        pace=st.sampled_from([0, 1, 2]),
        least=st.sampled_from([1, 4096, ROW, 1 << 60]),
        most=st.sampled_from([4 * ROW, 512 << 20]),
    )
    def begin(self, pace: int, least: int, most: int) -> None:
        """A new store."""
        self.pace = pace
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(staging, "LEAST", least)
        self.patch.setattr(staging, "MOST", most)
        self.patch.setattr(spool, "SEGMENT", 2 * ROW)
        self.directory = Path(tempfile.mkdtemp())
        self.bench = Bench(self.directory)
        self.store: Store = self.bench.create()
        self.files: dict[Inode, File] = {ROOT_INODE: File(Kind.DIRECTORY)}
        self.clock = 0
        self.blobs: dict[BlobId, bytes] = {}

    def teardown(self) -> None:
        """Nothing is left."""
        if hasattr(self, "bench"):
            self.patch.undo()
            self.bench.end()
            shutil.rmtree(self.directory)

    # --- choosing

    def _tick(self) -> int:
        self.clock += 1
        return self.clock

    def _pick(self, seed: int, kind: Kind) -> Inode | None:
        inodes = sorted(inode for inode, file in self.files.items() if file.kind is kind)
        return inodes[seed % len(inodes)] if inodes else None

    def _links(self, inode: Inode) -> int:
        return sum(found == inode for file in self.files.values() for found in file.entries.values())

    def _reap(self, inode: Inode) -> None:
        if not self._links(inode):
            self.store.tree.purge(inode)
            del self.files[inode]

    # --- the tree

    @rule(seed=st.integers(0, 9), name=NAMES, kind=st.sampled_from([Kind.FILE, Kind.FILE, Kind.DIRECTORY]))
    def create(self, seed: int, name: bytes, kind: Kind) -> None:
        """A file or a directory."""
        parent = self._pick(seed, Kind.DIRECTORY)
        assert parent is not None
        taken = name in self.files[parent].entries
        try:
            node = self.store.tree.create(parent, name, kind, mode=0o600, uid=0, gid=0, now_ns=self._tick())
        except FileError:
            assert taken
            return
        assert not taken
        self.files[parent].entries[name] = node.inode
        self.files[node.inode] = File(kind)

    @rule(seed=st.integers(0, 9), into=st.integers(0, 9), name=NAMES)
    def link(self, seed: int, into: int, name: bytes) -> None:
        """One more name."""
        inode, parent = self._pick(seed, Kind.FILE), self._pick(into, Kind.DIRECTORY)
        if inode is None or parent is None:
            return
        with suppress(FileError):
            self.store.tree.link(inode, parent, name, self._tick())
            assert name not in self.files[parent].entries
            self.files[parent].entries[name] = inode

    @rule(seed=st.integers(0, 9), name=NAMES)
    def remove(self, seed: int, name: bytes) -> None:
        """Whatever has the name."""
        parent = self._pick(seed, Kind.DIRECTORY)
        assert parent is not None
        inode = self.files[parent].entries.get(name)
        if inode is None:
            return
        file = self.files[inode]
        if file.kind is Kind.DIRECTORY:
            if file.entries:
                with suppress(FileError):
                    self.store.tree.rmdir(parent, name, self._tick())
                    raise AssertionError("removed a directory with entries")
                return
            self.store.tree.rmdir(parent, name, self._tick())
        else:
            self.store.tree.unlink(parent, name, self._tick())
        del self.files[parent].entries[name]
        self._reap(inode)

    def _is_within(self, inode: Inode, directory: Inode) -> bool:
        return inode == directory or any(
            self._is_within(inode, child)
            for child in self.files[directory].entries.values()
            if self.files[child].kind is Kind.DIRECTORY
        )

    @rule(
        seed=st.integers(0, 9),
        name=NAMES,
        into=st.integers(0, 9),
        new_name=NAMES,
        exchange=st.booleans(),
        no_replace=st.booleans(),
    )
    def rename(self, seed: int, name: bytes, into: int, new_name: bytes, exchange: bool, no_replace: bool) -> None:
        """As rename(2) and renameat2(2)."""
        parent, target = self._pick(seed, Kind.DIRECTORY), self._pick(into, Kind.DIRECTORY)
        assert parent is not None
        assert target is not None
        old, new = self.files[parent].entries, self.files[target].entries
        inode, other = old.get(name), new.get(new_name)
        allowed = inode is not None
        if inode is not None:
            kind = self.files[inode].kind
            allowed = not (kind is Kind.DIRECTORY and self._is_within(target, inode))
            if no_replace and other is not None:
                allowed = False
            elif exchange:
                allowed &= other is not None
                if other is not None and self.files[other].kind is Kind.DIRECTORY:
                    allowed &= not self._is_within(parent, other)
            elif other is not None and other != inode:
                allowed &= self.files[other].kind is kind and not self.files[other].entries
            elif other == inode:
                allowed = True
        try:
            self.store.tree.rename(
                parent, name, target, new_name, self._tick(), exchange=exchange, no_replace=no_replace
            )
        except FileError:
            assert not allowed
            return
        assert allowed
        assert inode is not None
        if exchange:
            assert other is not None
            old[name], new[new_name] = other, inode
        elif other != inode:
            del old[name]
            new[new_name] = inode
            if other is not None:
                self._reap(other)

    # --- bytes

    @rule(seed=st.integers(0, 9), offset=EDGES, length=LENGTHS, pattern=st.integers(1, 255), append=st.booleans())
    def write(self, seed: int, offset: int, length: int, pattern: int, append: bool) -> None:
        """Over bytes, at the end, or beyond it."""
        inode = self._pick(seed, Kind.FILE)
        if inode is None:
            return
        data = self.files[inode].data
        start = len(data) if append and len(data) < 2 * EXTENT else offset
        piece = bytes([pattern]) * length
        size = max(len(data), start + length)
        node = self._with_fetch(
            inode, lambda: self.store.attachments.write(inode, [(start, piece)], size, self._tick(), self.clock)
        )
        data.extend(bytes(size - len(data)))
        data[start : start + length] = piece
        assert node == self.store.tree.get(inode)

    @rule(seed=st.integers(0, 9), size=EDGES)
    def resize(self, seed: int, size: int) -> None:
        """Shorter or longer."""
        inode = self._pick(seed, Kind.FILE)
        if inode is None:
            return
        data = self.files[inode].data
        node = self._with_fetch(inode, lambda: self.store.attachments.resize(inode, size, self._tick()))
        assert node == self.store.tree.get(inode)
        del data[size:]
        data.extend(bytes(size - len(data)))

    @rule(seed=st.integers(0, 9), name=st.sampled_from([b"user.a", b"user.b"]), value=st.binary(max_size=9))
    def set_xattr(self, seed: int, name: bytes, value: bytes) -> None:
        """Set it, or remove it when it is there with this value."""
        inode = sorted(self.files)[seed % len(self.files)]
        xattrs = self.files[inode].xattrs
        if xattrs.get(name) == value:
            self.store.tree.remove_xattr(inode, name, self._tick())
            del xattrs[name]
        else:
            self.store.tree.set_xattr(inode, name, value, self._tick())
            xattrs[name] = value

    # --- what sync does

    @rule(seed=st.integers(0, 9))
    def send(self, seed: int) -> None:
        """All dirty extents of a file are on the server."""
        inode = self._pick(seed, Kind.FILE)
        if inode is None:
            return
        node = self.store.tree.get(inode)
        assert node.content is not None
        sealed = {}
        for index, extent in self.store.attachments.extents(node.content).items():
            if extent.dirty:
                length = extent_length(node.size, index)
                self._fetch(node.content, index)
                plaintext = self.store.attachments.read_extent(node.content, index, length)
                blob_id = BlobId(f"{len(self.blobs):064x}")
                self.blobs[blob_id] = plaintext
                sealed[index] = (blob_id, length)
        local = self.store.documents.local(node.doc_id)
        assert local is not None
        assert local.content_dirty == bool(sealed)
        assert self.store.attachments.settle(inode, local.edit, sealed)

    def _fetch(self, number: Content, index: int, row: int | None = None) -> None:
        extent = self.store.attachments.extents(number)[index]
        if extent.blob_id is not None:
            plaintext, first = self.blobs[extent.blob_id], row or 0
            piece = plaintext if row is None else plaintext[row * ROW : (row + 1) * ROW]
            if piece:
                self.store.attachments.keep(number, index, extent.blob_id, first, piece)

    def _with_fetch(self, inode: Inode, action: Callable[[], T]) -> T:
        """Do it; if bytes are absent, nothing must have changed, and it must work when they are here."""
        while True:
            before = self.store.tree.get(inode)
            try:
                return action()
            except BytesAbsent as absent:
                assert self.store.tree.get(inode) == before
                for row in range(absent.offset // ROW, -(-(absent.offset + absent.length) // ROW)):
                    index, bit = divmod(row, ROWS_PER_EXTENT)
                    extents = self.store.attachments.extents(Content(absent.content))
                    if index in extents and not extents[index].present >> bit & 1:
                        self._fetch(Content(absent.content), index, bit)

    @rule(seed=st.integers(0, 9), rows=st.lists(st.integers(0, 31), max_size=3))
    def evict(self, seed: int, rows: list[int]) -> None:
        """Clean bytes go; some rows come back at once, others when they are needed."""
        inode = self._pick(seed, Kind.FILE)
        if inode is None:
            return
        node = self.store.tree.get(inode)
        assert node.content is not None
        extents = self.store.attachments.extents(node.content)
        assert self.store.attachments.evict(node.content, extents) <= node.stored
        for index in extents:
            for row in rows:
                self._fetch(node.content, index, row)

    # --- what is known and not in the databases yet

    @invariant()
    def settle_some(self) -> None:
        """A part of what waits is told to the databases, by a thread that comes along now and then."""
        if hasattr(self, "store") and self.pace:
            self.store._ledger.documents.backlog.settle(self.pace)
            self.store._ledger.blobs.backlog.settle(self.pace)
            if self.pace == 1:
                self.look()

    @rule(count=st.sampled_from([1, 3, 1000]))
    def settle_rows(self, count: int) -> None:
        """Some rows take in what lies over them in the spool."""
        ends = iter([False] * count)
        self.store._settler._settle_until(lambda: next(ends, True), is_gentle=False)
        self.look()

    @rule()
    def shed(self) -> None:
        """What does not wait is forgotten."""
        self.store._ledger.documents.backlog.shed()
        self.look()

    @rule(seed=st.integers(0, 9), name=NAMES, new_name=NAMES, ways=st.sampled_from(["", "check", "xattr", "row"]))
    def fail(self, seed: int, name: bytes, new_name: bytes, ways: str) -> None:
        """A transaction that comes to nothing, whatever it did before."""
        parent = self._pick(seed, Kind.DIRECTORY)
        assert parent is not None
        tree = self.store.tree
        with suppress(FileError, Failed), self.store.transaction():
            node = tree.create(parent, b"new", Kind.FILE, mode=0, uid=0, gid=0, now_ns=self._tick())
            self.store.attachments.write(node.inode, [(0, b"new")], 3, self._tick(), self.clock)
            if ways == "check":
                tree.count()
            elif ways == "xattr":
                tree.set_xattr(parent, b"user.new", b"new", self._tick())
            elif ways == "row":
                self.store.attachments.write(node.inode, [(ROW - 1, b"new")], ROW + 2, self._tick(), self.clock)
            tree.rename(parent, b"new", parent, new_name, self._tick())
            tree.purge(tree.unlink(parent, name, self._tick()).inode)
            raise Failed

    # --- ends

    @rule()
    def commit(self) -> None:
        """The batch ends."""
        self.store._ledger.commit()

    @rule()
    def sweep(self) -> None:
        """What was discarded goes."""
        self.store.tick()

    @rule()
    def flush(self) -> None:
        """All to the disk."""
        self.store.sync()

    @rule()
    def reopen(self) -> None:
        """An orderly end."""
        path = self.store.path
        self.bench.close(self.store)
        self.store = self.bench.open(path)
        self.compare()

    @precondition(lambda self: len(self.files) > 1)
    @rule()
    def crash(self) -> None:
        """SIGKILL."""
        former = self.store.path
        self.store = self.bench.crash(self.store)
        shutil.rmtree(former)
        self.compare()

    # --- comparing

    def compare(self) -> None:
        """Everything is as the model has it, in the databases too."""
        self.look()
        assert self.store.check() == []
        assert self.store.tree.count() == len(self.files)
        self.look()

    @rule()
    def look(self) -> None:
        """Everything is as the model has it, wherever it is known."""
        store = self.store
        for inode, file in self.files.items():
            node = store.tree.get(inode)
            assert node.kind is file.kind
            assert not node.deleted
            assert {name: store.tree.get_xattr(inode, name) for name in store.tree.list_xattrs(inode)} == file.xattrs
            if file.kind is Kind.DIRECTORY:
                assert all(store.tree.lookup(inode, name).inode == child for name, child in file.entries.items())
                entries = {entry.name: entry.node.inode for entry in store.tree.entries(inode, 0, 99)}
                assert entries == file.entries
                inner = [child for child in entries.values() if self.files[child].kind is Kind.DIRECTORY]
                assert all(store.tree.parent(child) == inode for child in inner)
                assert node.nlink == 2 + len(inner)
            else:
                assert node.nlink == self._links(inode)
                assert node.size == len(file.data)
                assert self._with_fetch(inode, lambda inode=inode: content(store, inode)) == file.data

    @rule()
    def check(self) -> None:
        """The databases agree."""
        assert self.store.check() == []


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.long
class TestStoreMachineForLong(StoreMachine.TestCase):  # type: ignore[name-defined,misc]
    """The same, for minutes and with other seeds."""

    settings = settings(
        max_examples=3000, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
    )
