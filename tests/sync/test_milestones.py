"""Which documents of the feed are remembered, so that a place can be found up to which it is as it was read."""

from __future__ import annotations

from pathlib import Path

from blobfs.remote.client import Sealed
from blobfs.store.store import Store
from blobfs.sync.milestones import Milestones
from blobfs.values.documents import DocId
from tests.sync.kit import KEYS


def came(seq: int, doc_id: str | None = None) -> Sealed:
    return Sealed(DocId(doc_id or f"d{seq}"), seq, f"r{seq}", False, b"")


def test_few_milestones_are_kept_and_one_of_each_age(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", KEYS, device_name="one")
    milestones = Milestones(store.settings)
    milestones.add([came(seq) for seq in range(1, 101)])
    for seq in range(101, 1001):
        milestones.add([came(seq)])
    ages = [1000 - entry.seq for entry in milestones._passed]
    assert ages == sorted(ages, reverse=True)
    assert sorted({age.bit_length() for age in ages}) == list(range(11))
    assert len(ages) <= 22
    with store.transaction():
        milestones.save()
    assert Milestones(store.settings)._passed == milestones._passed
    # What comes again is at its new place only; what is read anew makes the rest untrue.
    milestones.add([came(1001, "d1000")])
    assert [entry.seq for entry in milestones._passed if entry.doc_id == "d1000"] == [1001]
    milestones.add([came(5)])
    assert [entry.seq for entry in milestones._passed if entry.seq >= 5] == [5]
    store.close()
