"""A server that shows another past than there was: versions under other numbers, or without the newest ones."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from blobfs.answers.past import Past
from blobfs.control import MAX_ANSWER
from blobfs.errors import BlobfsError, Rollback
from blobfs.store.documents import Base
from blobfs.sync.merge import State
from blobfs.sync.plan import Remote, plan
from blobfs.sync.view import Executor, News, StoreView
from blobfs.values.documents import ROOT, DocId, Document, Kind, Name, name_to_text
from blobfs.values.revisions import DeviceId, Revision
from tests.sync.kit import Account, Device, trio_test
from tests.threats.evil import Answer, Asked, Attack, Evil

Entries = list[dict[str, Any]]


def on_revisions(change: Callable[[Entries], Entries]) -> Attack:
    """Change what is told of a document's versions."""

    def attack(asked: Asked, answer: Answer) -> Answer:
        if not asked.path.endswith("/revisions") or answer.status != 200:
            return answer
        body = answer.json()
        return replace(answer, body=json.dumps({**body, "revisions": change(body["revisions"])}).encode())

    return attack


def past_of(device: Device) -> Past:
    return Past(device.store, device.client, device.engine.is_busy, lambda applied: None)


async def write_versions(device: Device, number: int) -> None:
    for version in range(1, number + 1):
        device.write("f", b"version %d" % version)
        await device.settle()


def shifted(entries: Entries) -> Entries:
    """The numbers of the newest ones, on older ones."""
    return [{**old, "seq": new["seq"]} for new, old in itertools.pairwise(entries)]


def reversed_numbers(entries: Entries) -> Entries:
    return [{**entry, "seq": other["seq"]} for entry, other in zip(entries[::-1], entries, strict=True)]


@pytest.mark.parametrize("change", [shifted, reversed_numbers])
@trio_test
async def test_a_version_that_is_not_the_one_that_was_listed_is_not_restored(
    account: Account, evil: Evil, change: Callable[[Entries], Entries]
) -> None:
    async with account.device("two", url=evil.url) as two:
        await write_versions(two, 4)
        past = past_of(two)
        entries = (await past.versions({"path": "f"}))["entries"]
        evil.attack = on_revisions(change)
        for entry in entries[:3]:
            question = {"path": "f", "version": entry["version"]}
            for ask in (past.restore, past.read):
                with pytest.raises(Rollback, match="another version under that number"):
                    await ask({**question, "index": 0})
        assert await two.read("f") == b"version 4"
        evil.attack = None
        await past.restore({"path": "f", "version": entries[2]["version"]})
        assert await two.read("f") == b"version 2"


@trio_test
async def test_an_older_version_in_place_of_the_deleted_one_is_told(account: Account, evil: Evil) -> None:
    async with account.device("two", url=evil.url) as two:
        await write_versions(two, 3)
        doc_id, past = two.node("f").doc_id, past_of(two)
        two.remove("f")
        await two.settle()
        evil.attack = on_revisions(lambda entries: entries[2:])
        assert await past.undelete({"doc_id": doc_id}) == {"restored": ["f"], "older": ["f"]}
        assert await two.read("f") == b"version 2"
        evil.attack = None
        await two.settle()
        two.remove("f")
        await two.settle()
        # Another order of the same list changes nothing.
        evil.attack = on_revisions(lambda entries: entries[::-1])
        assert await past.undelete({"doc_id": doc_id}) == {"restored": ["f"], "older": []}
        assert await two.read("f") == b"version 2"


@trio_test
async def test_versions_of_another_document_or_of_nobody_are_refused(account: Account, evil: Evil) -> None:
    async with account.device("two", url=evil.url) as two:
        two.write("other", b"other")
        await write_versions(two, 2)
        past, other = past_of(two), two.node("other").doc_id
        (first,) = await two.client.revisions(other)
        changes: dict[str, Callable[[Entries], Entries]] = {
            "another id": lambda entries: [{**entry, "doc_id": other} for entry in entries],
            "another's payload": lambda entries: [{**entries[0], "revision": first.revision, "payload": "QUJD" * 20}],
            "no revision": lambda entries: [{**entry, "revision": "1"} for entry in entries],
            "a deletion": lambda entries: [{**entry, "deleted": not entry["deleted"]} for entry in entries],
        }
        for what, change in changes.items():
            evil.attack = on_revisions(change)
            with pytest.raises(BlobfsError):
                await past.versions({"path": "f"})
            assert await two.read("f") == b"version 2", what


@trio_test
async def test_a_trash_of_the_longest_names_in_the_deepest_folders_is_told_page_by_page(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device of the account that deletes what it can must not take the list of it away, too."""
    depth, name = 150, b"\xff" * 255
    ids = [DocId(ROOT), *(DocId(f"{number:032x}") for number in range(depth))]
    arrivals = [
        Remote(doc_id, Revision.of({DeviceId("a" * 16): 2}), State(document, deleted=True))
        for parent, doc_id in itertools.pairwise(ids)
        for document in (Document(doc_id, Kind.DIRECTORY, (Name(parent, name),)),)
    ]
    async with account.device("two") as two:
        with two.store.transaction():
            news = News.among(two.store, arrivals)
            view = StoreView(two.store, news)
            planned = plan(view, arrivals, device=two.store.device, label="two", new_id=lambda: DocId("f" * 32))
            Executor(two.store, news).run(planned)
        looked, base = Counter[DocId](), two.store.documents.base

        def counted(doc_id: DocId) -> Base | None:
            looked[doc_id] += 1
            return base(doc_id)

        monkeypatch.setattr(two.store.documents, "base", counted)
        past, entries, start = past_of(two), [], 0
        while start is not None:
            answer = await past.trash({"from": start})
            assert len(json.dumps(answer)) < MAX_ANSWER
            entries += answer["entries"]
            start = answer["next"]
            assert max(looked.values()) <= 2
            looked.clear()
        assert {entry["doc_id"] for entry in entries} == set(ids[1:])
        assert all(entry["path"].endswith(name_to_text(name)) for entry in entries)
