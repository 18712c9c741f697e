"""A device of the account, with its keys, that seals by the book what no honest device would."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from blobfs.errors import IntegrityError
from blobfs.remote.client import Change
from blobfs.store.cards import Cards
from blobfs.sync.status import SyncState
from blobfs.values import crypto
from blobfs.values.cards import Card
from blobfs.values.documents import MAX_COUNT, ROOT, DocId, Document, Kind, Name
from blobfs.values.extents import Attachment
from blobfs.values.revisions import DeviceId, Revision
from tests.sync.kit import KEYS, Account, Device, converge, trio_test, until


async def seal_and_push(
    device: Device,
    doc_id: str,
    name: bytes,
    counters: Mapping[DeviceId, int],
    base: str | None = None,
    heads: Mapping[DeviceId, int] | None = None,
    sealer: DeviceId | None = None,
) -> None:
    """As an empty file, under a revision and heads of one's own choice."""
    names = (Name(DocId(ROOT), name),)
    document = Document(DocId(doc_id), names=names, heads=dict(heads or {}), sealer=sealer, mtime_ns=time.time_ns())
    revision = Revision.of(counters)
    payload = crypto.seal_document(KEYS, document, revision, deleted=False)
    (result,) = await device.client.push([Change(DocId(doc_id), base, str(revision), False, payload)])
    assert result.status == "ok"


async def goes_on(one: Device, two: Device) -> None:
    """What both write reaches the other."""
    for writer, reader, name in ((one, two, "of one"), (two, one, "of two")):
        writer.write(name, name.encode())
        await writer.settle()
        await until(lambda reader=reader, name=name: reader.exists(name))
        assert await reader.read(name) == name.encode()


async def spoiled_alone(one: Device, two: Device, spoiled: str) -> None:
    """An edit of what was spoiled stays here and is named; all else goes on, after a restart of the rounds too."""
    one.write(spoiled, b"edited")
    for data in (b"beside it", b"and again"):
        one.write("beside", data)
        await until(lambda data=data: two.exists("beside") and two.node("beside").size == len(data))  # type: ignore[misc]
        with pytest.raises(IntegrityError, match="copy it, and edit the copy"):
            await one.settle()
    assert [entry.doc_id for entry in one.engine.status().parked] == [one.node(spoiled).doc_id]
    assert two.engine.status().parked == ()
    assert await one.read(spoiled) == b"edited"
    one.write("copy", await one.read(spoiled))
    await until(lambda: two.exists("copy"))


@trio_test
async def test_a_device_that_counts_for_many_that_are_none_stops_nobody(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        for number in range(2):
            counters = {DeviceId(f"{number:08x}{other:08x}"): 1 for other in range(256)}
            await seal_and_push(two, f"{number + 1:032x}", b"ghosts %d" % number, counters)
        await until(lambda: one.exists("ghosts 1"))
        await goes_on(one, two)
        await spoiled_alone(one, two, "ghosts 1")


@trio_test
async def test_a_device_that_counts_to_the_end_stops_nobody(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        for number in range(12):
            await seal_and_push(two, f"{number + 1:032x}", b"end %d" % number, {one.store.device: MAX_COUNT})
        await until(lambda: one.exists("end 11"))
        await goes_on(one, two)
        await spoiled_alone(one, two, "end 1")


@trio_test
async def test_a_device_that_claims_to_have_seen_what_never_was_is_named_and_stops_nobody(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        heads = dict.fromkeys([DeviceId(f"{number:016x}") for number in range(1, 257)], MAX_COUNT)
        own = two.store.device
        await seal_and_push(two, "1" * 32, b"heads", {own: 1}, heads=heads, sealer=own)
        await until(lambda: one.exists("heads"))
        one.write("of one", b"of one")
        await one.settle()
        await goes_on(one, two)
        assert one.engine.status().state is SyncState.CONNECTED
        (doubt,) = one.engine.status().parked
        assert "blobfs recover DIR" in doubt.reason
        # What the lie stands in has to go first: recovery reads all of the feed again, and believes it again.
        one.remove("heads")
        await one.settle()
        one.engine.recover()
        await until(lambda: not one.engine.status().parked)
        await goes_on(one, two)


def odd(kind: Kind, parent: str, name: bytes, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "names": (Name(DocId(parent), name),), **more}


@trio_test
async def test_documents_that_fit_nowhere_stop_nobody(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    async with account.device("one") as one, account.device("two") as two:
        one.mkdir("folder")
        one.write("folder/in it", b"in it")
        one.mkdir("other")
        one.write("file", b"file")
        await converge(one, two)
        folder, other, inner, file = (one.node(path).doc_id for path in ("folder", "other", "folder/in it", "file"))
        Cards(two.store).write(Card(two.store.device, "two"))
        await converge(two, one)
        devices = two.store.hidden.find(b"devices")
        assert devices is not None
        hidden, top = devices.doc_id, two.store.hidden.find()
        assert top is not None
        changed: list[tuple[str, dict[str, Any]]] = [
            (folder, odd(Kind.FILE, ROOT, b"folder")),  # with something in it
            (file, odd(Kind.DIRECTORY, ROOT, b"file")),
            (inner, odd(Kind.SYMLINK, file, b"in it", target=b"/etc/passwd")),
            (file, odd(Kind.FILE, inner, b"file")),  # in a file
            (other, odd(Kind.DIRECTORY, folder, b"other")),
            (folder, odd(Kind.DIRECTORY, other, b"folder")),  # in each other
            (inner, odd(Kind.FILE, hidden, b"in it", attachment=Attachment(1 << 44, (None,) * 4, 2))),
        ]
        made = [
            odd(Kind.FILE, ROOT, b".blobfs"),
            odd(Kind.FILE, top.doc_id, b"devices"),
            odd(Kind.DIRECTORY, ROOT, b".blobfs"),
            odd(Kind.FILE, "f" * 32, b"orphan"),
            odd(Kind.DIRECTORY, "f" * 128, b"orphan"),
            odd(Kind.FILE, ROOT, b"FILE\x1b[2J\n"),
            odd(Kind.CHARACTER, ROOT, b"null", rdev=0x103),
            *[odd(Kind.DIRECTORY, ROOT, b"twin") for _ in range(20)],
            *[odd(Kind.FILE, ROOT, b"x" * 255) for _ in range(5)],
            {"kind": Kind.FILE, "names": tuple(sorted(Name(DocId(ROOT), b"%d" % n) for n in range(1000)))},
            {"kind": Kind.SYMLINK, "names": (), "target": b"nowhere"},
        ]
        for doc_id, parts in [*changed, *[(f"{number + 100:032x}", parts) for number, parts in enumerate(made)]]:
            base = two.store.documents.base(DocId(doc_id))
            revision = (Revision() if base is None else base.revision).advanced(DeviceId("e" * 16))
            document = Document(DocId(doc_id), **parts)
            payload = crypto.seal_document(KEYS, document, revision)
            before = None if base is None else str(base.revision)
            (result,) = await one.client.push([Change(DocId(doc_id), before, str(revision), False, payload)])
            if result.status == "ok":
                await two.settle()
        await converge(one, two)
        await goes_on(one, two)
        assert [(path, node.kind, node.size) for path, node in sorted(one.paths().items())] == [
            (path, node.kind, node.size) for path, node in sorted(two.paths().items())
        ]
        reasons = [entry.reason for device in (one, two) for entry in device.engine.status().parked]
        assert len([reason for reason in reasons if "changes its kind" in reason]) == 6
        assert len([reason for reason in reasons if "keeps for itself" in reason]) == len(reasons) - 6 == 4
        # What is kept out of sight has its place, whoever else has that name.
        for device in (one, two):
            Cards(device.store).write(Card(device.store.device, f"name of {device.store.device}"))
        await converge(one, two)
        assert len(Cards(one.store).all()) == len(Cards(two.store).all()) == 2
    assert not [record for record in caplog.records if record.exc_info]


@trio_test
async def test_folders_in_each_other_that_come_deepest_first_are_all_there(account: Account) -> None:
    """Too many for the stack, and beside an edit, so that they are planned together."""
    depth = 400
    async with account.device("one") as one, account.device("two") as two:
        one.write("file", b"one")
        await converge(one, two)
        base = two.store.documents.base(two.node("file").doc_id)
        assert base is not None
        own = two.store.device
        edited = (replace(base.document, mode=0o640), base.revision.advanced(own), str(base.revision))
        ids = [DocId(ROOT), *(DocId(f"{number:032x}") for number in range(depth))]
        folders = [
            (Document(doc_id, Kind.DIRECTORY, (Name(parent, b"d"),)), Revision.of({own: 1}), None)
            for parent, doc_id in itertools.pairwise(ids)
        ]
        changes = [
            Change(document.doc_id, former, str(revision), False, crypto.seal_document(KEYS, document, revision))
            for document, revision, former in [*reversed(folders), edited]
        ]
        assert {result.status for result in await two.client.push(changes)} == {"ok"}
        await until(lambda: one.node("file").mode == 0o640)
        assert one.engine.status().parked == ()
        assert one.node("/".join("d" * depth)).doc_id == ids[-1]


@trio_test
async def test_what_people_see_cannot_be_moved_to_where_nobody_looks(account: Account) -> None:
    """What is deleted is in the trash; what is hidden would be nowhere."""
    async with account.device("one") as one, account.device("two") as two:
        for folder in ("documents", "photos"):
            one.mkdir(folder)
            one.write(f"{folder}/all", folder.encode())
        one.write("file", b"file")
        Cards(one.store).write(Card(one.store.device, "one"))
        await converge(one, two)
        top = two.store.hidden.find()
        cards = two.store.hidden.find(b"devices")
        assert top is not None
        assert cards is not None
        moves = {
            "documents": Name(top.doc_id, b"gone"),
            "photos": Name(DocId(ROOT), b".blobfs"),
            "file": Name(cards.doc_id, b"gone"),
            "photos/all": Name(cards.doc_id, b"all"),
        }
        own, ids = two.store.device, {path: one.node(path).doc_id for path in moves}
        for path, name in moves.items():
            base = two.store.documents.base(ids[path])
            assert base is not None
            document, revision = replace(base.document, names=(name,)), base.revision.advanced(own)
            payload = crypto.seal_document(KEYS, document, revision)
            (result,) = await two.client.push([Change(ids[path], str(base.revision), str(revision), False, payload)])
            assert result.status == "ok"
        two.write("beside", b"goes on")
        await until(lambda: one.exists("beside"))
        parked = {entry.doc_id: entry.reason for entry in one.engine.status().parked}
        assert set(ids.values()) <= set(parked)
        assert all("nobody sees" in parked[doc_id] or "keeps for itself" in parked[doc_id] for doc_id in ids.values())
        for path, data in (("documents/all", b"documents"), ("photos/all", b"photos"), ("file", b"file")):
            assert await one.read(path) == data
        # Out of the hidden directory, and from one place in it to another, things move as ever.
        assert two.store.hidden.find(b"devices") is not None
        two.store.hidden.directory(b"incoming")
        await two.settle()
        await until(lambda: one.store.hidden.find(b"incoming") is not None)
