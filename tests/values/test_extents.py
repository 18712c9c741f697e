"""The algebra of extents: ranges, Padmé sizes, and the tree of blob ids against brute force."""

from __future__ import annotations

import hashlib
from math import floor, log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.values import extents
from blobfs.values.extents import EXTENT, INLINE, MAX_SIZE, Attachment, BlobId
from tests.values.strategies import blob_ids, holes_and_ids

checked = settings(deadline=None, max_examples=60)


class Indexes:
    """A keeper of index blobs, and the way back from an attachment to the ids of its extents."""

    def __init__(self) -> None:
        self.kept: dict[BlobId, bytes] = {}

    def put(self, plaintext: bytes) -> BlobId:
        blob_id = BlobId(hashlib.sha256(plaintext).hexdigest())
        self.kept[blob_id] = plaintext
        return blob_id

    def extents(self, attachment: Attachment) -> dict[int, BlobId]:
        level = {place: blob_id for place, blob_id in enumerate(attachment.ids) if blob_id is not None}
        for above in range(attachment.depth, 0, -1):
            below: dict[int, BlobId] = {}
            for place, blob_id in level.items():
                plaintext = self.kept[blob_id]
                assert len(plaintext) == attachment.index_length(above, place)
                count = extents.index_children(attachment.size, above, place)
                for child, entry in enumerate(extents.parse_index(plaintext, count)):
                    if entry is not None:
                        below[place * INLINE + child] = entry
            level = below
        return level


@checked
@given(st.integers(0, 500), st.integers(0, 300), st.integers(1, 64))
def test_spans_cut_a_range_into_pieces_that_join_to_it(offset: int, length: int, unit: int) -> None:
    pieces = list(extents.spans(offset, length, unit))
    covered = [index * unit + start + at for index, start, size in pieces for at in range(size)]
    assert covered == list(range(offset, offset + length))
    assert all(0 < size <= unit - start for _, start, size in pieces)
    assert len({index for index, _, _ in pieces}) == len(pieces)


@checked
@given(st.integers(0, MAX_SIZE))
def test_the_extents_of_a_size_hold_all_of_it(size: int) -> None:
    count = extents.extent_count(size)
    assert (count - 1) * EXTENT < size <= count * EXTENT if size else count == 0
    assert extents.extent_length(size, count) == 0
    if count:
        assert 0 < extents.extent_length(size, count - 1) == size - (count - 1) * EXTENT
        assert extents.extent_length(size, 0) == min(size, EXTENT)


@checked
@given(st.integers(2, EXTENT))
def test_padme_is_the_published_formula_and_wastes_little(length: int) -> None:
    exponent = floor(log2(length))
    unit = 2 ** (exponent - floor(log2(exponent)) - 1) if exponent > 1 else 1
    padded = extents.padme(length)
    assert padded == -(-length // unit) * unit
    assert length <= padded <= min(EXTENT, length * 1.12)
    assert extents.padme(padded) == padded


@checked
@given(st.lists(holes_and_ids, max_size=40), st.binary(max_size=70))
def test_an_index_comes_back_and_takes_no_tail_but_zeros(ids: list[BlobId | None], tail: bytes) -> None:
    plaintext = extents.index_plaintext(ids)
    assert extents.parse_index(plaintext, len(ids)) == ids
    assert extents.parse_index(plaintext + bytes(len(tail)), len(ids)) == ids
    if any(tail):
        with pytest.raises(ValueError, match="not an index"):
            extents.parse_index(plaintext + tail, len(ids))
    with pytest.raises(ValueError, match="not an index"):
        extents.parse_index(plaintext, len(ids) + 1)


SIZES = st.sampled_from([1, EXTENT, 1024 * EXTENT, 1024 * EXTENT + 1, 3000 * EXTENT - 7, (1 << 42) + 1, MAX_SIZE])


@checked
@given(SIZES, st.lists(st.tuples(st.integers(0), blob_ids), max_size=12), st.booleans())
def test_a_sparse_attachment_of_any_depth_comes_back(size: int, drawn: list[tuple[int, BlobId]], padded: bool) -> None:
    present = {index % extents.extent_count(size): blob_id for index, blob_id in drawn}
    indexes = Indexes()
    attachment = extents.build(size, present, indexes.put, padded=padded)
    assert attachment.depth == extents.depth_for(size)
    assert len(attachment.ids) <= INLINE
    assert indexes.extents(attachment) == present
    assert len(indexes.kept) <= attachment.depth * len(present)


def test_a_dense_attachment_of_two_thousand_extents_comes_back() -> None:
    present = {index: BlobId(hashlib.sha256(bytes([index % 256, index // 256])).hexdigest()) for index in range(2_000)}
    indexes = Indexes()
    attachment = extents.build(2_000 * EXTENT, present, indexes.put)
    assert (attachment.depth, len(attachment.ids), len(indexes.kept)) == (1, 2, 2)
    assert indexes.extents(attachment) == present


@pytest.mark.parametrize("index", [-1, 2])
def test_an_extent_after_the_end_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        extents.build(EXTENT + 1, {index: BlobId("ab" * 32)}, Indexes().put)


def test_padding_lengthens_the_last_extent_only() -> None:
    attachment = Attachment(EXTENT + 70_001, (None, None), 0, True)
    assert (attachment.blob_length(0), attachment.blob_length(1)) == (EXTENT, 71_680)
    assert Attachment(70_001, (None,)).blob_length(0) == 70_001
