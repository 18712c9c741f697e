"""The power goes at any moment: what fsync answered for is on the disk, and the store opens and is whole.

Unlike tests/store/test_power.py this is at the level of blocks: the daemon's files are on a real ext4, on a disk that
tells which writes it was not asked to flush.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.conftest import ROOT

RUNS = [pytest.param(1, 12)] + [pytest.param(seed, 100, marks=pytest.mark.long) for seed in range(2, 8)]


@pytest.mark.parametrize(("seed", "moments"), RUNS)
def test_what_fsync_answered_for_survives_power_loss_on_a_real_filesystem(
    tmp_path: Path, seed: int, moments: int
) -> None:
    command = ["unshare", "--mount", sys.executable, "-m", "tests.mount.power"]
    done = subprocess.run(
        [*command, str(tmp_path), str(seed), str(moments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
