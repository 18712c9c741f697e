"""Revisions: the laws of a partial order with least upper bounds, and one text for each."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.values.revisions import MAX_DEVICES, DeviceId, Revision
from tests.values.strategies import devices, revisions

checked = settings(deadline=None, max_examples=100)


@checked
@given(revisions, revisions, revisions)
def test_containing_is_a_partial_order(a: Revision, b: Revision, c: Revision) -> None:
    assert a.contains(a)
    assert a.contains(Revision())
    assert not Revision().contains(a)
    assert (a.contains(b) and b.contains(a)) == (a == b)
    if a.contains(b) and b.contains(c):
        assert a.contains(c)


@checked
@given(revisions, revisions, revisions)
def test_merging_gives_the_least_revision_above_both(a: Revision, b: Revision, c: Revision) -> None:
    merged = a.merged(b)
    assert merged.contains(a)
    assert merged.contains(b)
    assert merged == b.merged(a)
    assert merged.merged(c) == a.merged(b.merged(c))
    assert a.merged(a) == a
    assert c.merged(merged).contains(merged)
    if c.contains(a) and c.contains(b):
        assert c.contains(merged)


@checked
@given(revisions, devices, devices)
def test_an_edit_follows_and_two_edits_of_one_state_are_concurrent(
    base: Revision, one: DeviceId, two: DeviceId
) -> None:
    first, second = base.advanced(one), base.advanced(two)
    assert first.contains(base)
    assert not base.contains(first)
    assert first.contains(second) == second.contains(first) == (one == two)


@checked
@given(revisions)
def test_a_revision_comes_back_from_its_text(revision: Revision) -> None:
    assert Revision.parse(str(revision)) == revision


pieces = st.sampled_from(["0000000000000001", "00000000000000aF", ":", "1", "01", "0", ",", "\n", " ", "٣", "9" * 19])


@settings(deadline=None, max_examples=300)
@given(st.lists(pieces, max_size=9).map("".join) | st.text(max_size=60))
def test_what_is_parsed_has_one_text_and_all_else_is_refused(text: str) -> None:
    try:
        revision = Revision.parse(text)
    except ValueError:
        return
    assert str(revision) == text
    assert Revision.of(dict(revision.entries)) == revision


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0000000000000001:0",
        "0000000000000001:01",
        "0000000000000001:1\n",
        "0000000000000001:1,",
        "0000000000000002:1,0000000000000001:1",
        "0000000000000001:1,0000000000000001:2",
        "000000000000000A:1",
        "0000000000000001:" + "9" * 5_000,
        ",".join(f"{device:016x}:1" for device in range(MAX_DEVICES + 1)),
    ],
)
def test_other_texts_of_a_revision_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="revision"):
        Revision.parse(text)


def test_a_counter_of_zero_is_left_out() -> None:
    assert Revision.of({DeviceId("0" * 16): 0}) == Revision()
