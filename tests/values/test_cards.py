"""A device's card: what is written is read, and whatever else stands there harms nobody."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.values.cards import MAX_NAME, Card
from blobfs.values.revisions import DeviceId, is_device

DEVICE = DeviceId("0123456789abcdef")
checked = settings(deadline=None, max_examples=100)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


def test_a_card_comes_back_from_its_content() -> None:
    for card in (Card(DEVICE, "desk"), Card(DEVICE, "lap top", 1, 2, "0.1", 7, True)):
        assert Card.of(DEVICE, card.to_content()) == card
    assert is_device(DEVICE)
    assert not any(map(is_device, ["", DEVICE + "0", DEVICE.upper(), f"{DEVICE} (conflict)", DEVICE + "\n"]))


@checked
@given(
    st.dictionaries(st.sampled_from(["name", "created_ns", "seen_ns", "version", "token", "revoked", "x"]), anything)
)
def test_whatever_a_card_holds_it_is_read_as_one(content: dict[str, object]) -> None:
    card = Card.of(DEVICE, content)
    assert 0 < len(card.name) <= MAX_NAME
    assert card.name.isprintable()
    assert card.version.isprintable()
    assert min(card.created_ns, card.seen_ns, card.token or 0) >= 0
    assert Card.of(DEVICE, card.to_content()) == card
