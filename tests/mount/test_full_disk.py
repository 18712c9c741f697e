"""A disk that gets full is ENOSPC to programs, loses nothing that was acknowledged, and the mount goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.conftest import ROOT
from tests.mount.full_disk import RUNS


@pytest.mark.parametrize("what", RUNS)
def test_a_full_disk_refuses_keeps_and_goes_on_when_files_are_deleted(tmp_path: Path, what: str) -> None:
    command = ["unshare", "--mount", sys.executable, "-m", "tests.mount.full_disk", str(tmp_path), what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
