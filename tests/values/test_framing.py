"""Frame arithmetic against a blob built byte by byte."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.errors import CorruptBlob
from blobfs.values import framing
from blobfs.values.extents import EXTENT, FRAME

checked = settings(deadline=None, max_examples=100)
lengths = st.integers(0, EXTENT) | st.sampled_from([0, 1, FRAME - 1, FRAME, FRAME + 1, EXTENT - 1, EXTENT])


def layout(length: int) -> list[tuple[int, int, int]]:
    """(plaintext start, plaintext end, stored start) of each frame, by walking over the blob."""
    frames: list[tuple[int, int, int]] = []
    at, stored = 0, framing.PREAMBLE
    while not frames or at < length:
        end = min(length, at + FRAME)
        frames.append((at, end, stored))
        at, stored = end, stored + end - at + framing.TAG
    return frames


@checked
@given(lengths)
def test_sizes_agree_with_a_walk_over_the_blob(length: int) -> None:
    frames = layout(length)
    start, end, stored = frames[-1]
    assert framing.frame_count(length) == len(frames)
    assert framing.sealed_size(length) == stored + end - start + framing.TAG


@checked
@given(lengths.filter(bool), st.data())
def test_the_frames_for_a_range_are_those_that_touch_it(length: int, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, length - 1))
    wanted = data.draw(st.integers(1, length - offset))
    found = framing.frames_for(length, offset, wanted)
    touched = [
        (index, stored, stored + end - start + framing.TAG)
        for index, (start, end, stored) in enumerate(layout(length))
        if start < offset + wanted and end > offset
    ]
    assert (found.first, found.count) == (touched[0][0], len(touched))
    assert (found.start, found.start + found.size) == (touched[0][1], touched[-1][2])


@checked
@given(st.integers(-3, 70_000), st.integers(-3, 70_000))
def test_a_range_outside_the_blob_is_refused(offset: int, wanted: int) -> None:
    if 0 <= offset < offset + wanted <= 1_000:
        return
    with pytest.raises(ValueError, match="outside"):
        framing.frames_for(1_000, offset, wanted)


@checked
@given(st.binary(max_size=24), lengths)
def test_only_the_one_preamble_of_a_length_is_taken(stored: bytes, length: int) -> None:
    with contextlib.suppress(CorruptBlob):
        framing.parse_preamble(stored, length)
        assert stored[:16] == framing.preamble(length)
    framing.parse_preamble(framing.preamble(length) + stored, length)


@pytest.mark.parametrize("bit", range(128))
def test_each_bit_of_a_preamble_counts(bit: int) -> None:
    stored = bytearray(framing.preamble(FRAME))
    stored[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptBlob, match="wrong"):
        framing.parse_preamble(bytes(stored), FRAME)
