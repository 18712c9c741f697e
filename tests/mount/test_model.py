"""A mounted blobfs cannot be told from an ordinary directory, whatever is done, also to its daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.mount.conftest import Mounted
from tests.mount.machine import SideBySide

USUAL = settings(
    deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, max_examples=12, stateful_step_count=40
)
LONG = settings(USUAL, derandomize=False, max_examples=300, stateful_step_count=60)


def run(mount: Mounted, place: Path, how: settings) -> None:
    """Play runs of the machine, all in one store."""
    run_state_machine_as_test(lambda: SideBySide(mount, place), settings=how)  # type: ignore[no-untyped-call]


def test_a_mount_and_a_directory_answer_alike(mount: Mounted, tmp_path: Path) -> None:
    run(mount, tmp_path, USUAL)


@pytest.mark.long
def test_a_mount_and_a_directory_answer_alike_for_long(mount: Mounted, tmp_path: Path) -> None:
    run(mount, tmp_path, LONG)
