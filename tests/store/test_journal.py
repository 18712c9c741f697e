"""The journal's flush: as often as there is something to flush, and no more often."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blobfs.store.journal import Journal


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A descriptor for each `fdatasync`."""
    seen: list[int] = []
    real = os.fdatasync

    def flush(descriptor: int) -> None:
        real(descriptor)
        seen.append(descriptor)

    monkeypatch.setattr(os, "fdatasync", flush)
    return seen


def test_the_disk_is_waited_for_when_there_is_something_new_alone(tmp_path: Path, flushes: list[int]) -> None:
    journal = Journal(tmp_path, bytes(32), 1)
    try:
        for number in range(1, 4):
            journal.append(number, number - 1, [])
            assert journal.flush()
            assert not journal.flush()
            assert len(flushes) == number
            assert journal.unflushed == 0
    finally:
        journal.close()


def test_a_record_in_the_place_of_one_that_was_taken_back_is_flushed(tmp_path: Path, flushes: list[int]) -> None:
    journal = Journal(tmp_path, bytes(32), 1)
    try:
        before = journal.size
        journal.append(1, 0, [])
        end = journal.size
        assert journal.flush()
        journal.cut(before)
        journal.append(1, 0, [])
        assert journal.size == end
        assert journal.flush()
        assert len(flushes) == 2
    finally:
        journal.close()


def test_a_flush_that_fails_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "the disk is gone")

    journal = Journal(tmp_path, bytes(32), 1)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(OSError, match="gone"):
                journal.flush()
        assert journal.flush()
    finally:
        journal.close()
