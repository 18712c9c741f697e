"""A mount by a user without rights: what other devices made is that user's, and nobody else gets in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.mount.conftest import ROOT


def test_files_of_other_devices_belong_to_the_user_who_mounts_and_to_nobody_else(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)  # pytest's directories are root's alone
    command = ["unshare", "--mount", sys.executable, "-m", "tests.mount.by_user", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
