"""A disk that gets full loses nothing that was acknowledged, and the store goes on when there is room again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.store.full_disk import RUNS


@pytest.mark.parametrize("what", RUNS)
def test_a_full_disk_loses_nothing(tmp_path: Path, what: str) -> None:
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-m", "tests.store.full_disk"]
    done = subprocess.run(
        [*command, str(tmp_path), what],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
