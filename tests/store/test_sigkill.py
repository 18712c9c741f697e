"""A writer that is killed again and again: what it was told to be done is done."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from blobfs.store.store import Store
from blobfs.values.nodes import ROOT_INODE
from tests.store import writer
from tests.store.conftest import Bench, content


def kill_one(path: Path, seed: int, round_number: int, model: dict[str, bytearray]) -> tuple[str, str, int] | None:
    """Run a writer for a while; the model follows what was acknowledged. Returns the step that was cut."""
    lines = random.Random(f"kill-{seed}-{round_number}").randrange(1, 150)
    command = [sys.executable, "-m", "tests.store.writer", str(path), str(seed), str(round_number)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line.strip())
            if len(said) == lines:
                process.kill()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert len(said) >= lines, "the writer ended by itself"
    # What came down the pipe before the end counts, though it was read after it.
    begun = [json.loads(line) for line in said if line.startswith("[") and line.endswith("]")]
    done = said.count("done")
    for step in begun[:done]:
        writer.apply(model, *step)
    return tuple(begun[done]) if len(begun) > done else None


def look(store: Store) -> dict[str, bytes]:
    """All files of a store."""
    return {entry.name.decode(): content(store, entry.node.inode) for entry in store.tree.entries(ROOT_INODE, 0, 99)}


def check_rounds(bench: Bench, seed: int, rounds: int) -> None:
    store = bench.create()
    path = store.path
    bench.close(store)
    model: dict[str, bytearray] = {}
    for number in range(rounds):
        cut = kill_one(path, seed, number, model)
        store = bench.open(path)
        found = look(store)
        if found != model and cut is not None:
            writer.apply(model, *cut)  # it was done, and nobody was told
        assert found == model
        assert store.check() == []
        bench.close(store)


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_writer_loses_nothing(bench: Bench, seed: int) -> None:
    check_rounds(bench, seed, 15)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_writer_killed_many_times_loses_nothing(bench: Bench, seed: int) -> None:
    check_rounds(bench, seed, 60)
