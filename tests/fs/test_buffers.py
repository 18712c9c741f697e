"""WriteBuffer against a plain array of bytes."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.fs.buffers import WriteBuffer
from blobfs.values.extents import ROW

SPACE = 5 * ROW
EDGES = st.sampled_from([0, 1, 100, ROW - 1, ROW, ROW + 1, 2 * ROW, 2 * ROW + 7, 3 * ROW - 1, 3 * ROW])
WRITES = st.lists(st.tuples(EDGES, st.sampled_from([1, 2, 99, ROW - 100, ROW - 1, ROW, ROW + 1])), max_size=12)
checked = settings(deadline=None, max_examples=100)
"""However long an example takes: the processors are not ours alone."""


def filled(writes: list[tuple[int, int]]) -> tuple[WriteBuffer, bytearray]:
    """A buffer after some writes, and what it must hold: zeros where nothing was written."""
    buffer, model = WriteBuffer(), bytearray(SPACE)
    for number, (offset, length) in enumerate(writes):
        data = bytes([number + 1]) * length
        buffer.put(offset, data)
        model[offset : offset + length] = data
    return buffer, model


def laid_out(pieces: Iterable[tuple[int, bytes | bytearray | memoryview]]) -> bytearray:
    """Pieces in their places."""
    space = bytearray(SPACE)
    for offset, data in pieces:
        space[offset : offset + len(data)] = data
    return space


@checked
@given(WRITES)
def test_pieces_are_ascending_disjoint_and_whole(writes: list[tuple[int, int]]) -> None:
    buffer, model = filled(writes)
    end = -1
    for offset, data in buffer.pieces():
        assert len(data) > 0
        assert offset > end or (offset == end and offset % ROW == 0)
        end = offset + len(data)
    assert laid_out(buffer.pieces()) == model
    assert buffer.held == len(model) - model.count(0)


@checked
@given(WRITES, EDGES, st.sampled_from([1, 100, ROW]))
def test_a_reader_sees_every_write(writes: list[tuple[int, int]], offset: int, length: int) -> None:
    buffer, model = filled(writes)
    target = bytearray(length)
    buffer.overlay(offset, target)
    assert target == model[offset : offset + length]
    assert buffer.covers(offset, length) <= (0 not in target)
    if buffer.covers(offset, length):
        assert buffer.get(offset, length) == target


@checked
@given(WRITES, EDGES)
def test_pieces_can_end_at_a_size(writes: list[tuple[int, int]], size: int) -> None:
    buffer, model = filled(writes)
    assert laid_out(buffer.pieces(size)) == model[:size] + bytes(SPACE - size)
    assert buffer.held == len(model) - model.count(0)


def test_whole_rows_are_kept_as_they_came() -> None:
    buffer = WriteBuffer()
    rows = [bytes(ROW), bytes(2 * ROW)]
    buffer.put(0, rows[0])
    buffer.put(ROW, rows[1])
    assert [data for _, data in buffer.pieces()] == rows
    assert all(data is row for (_, data), row in zip(buffer.pieces(), rows, strict=True))


def test_small_writes_in_sequence_become_rows() -> None:
    buffer = WriteBuffer()
    for offset in range(0, 3 * ROW, 4096):
        buffer.put(offset, b"x" * 4096)
    assert [(offset, len(data)) for offset, data in buffer.pieces()] == [(0, ROW), (ROW, ROW), (2 * ROW, ROW)]
