"""A thumbnailer or an indexer that goes over a folder of remote files does not pull it down."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.mount.conftest import Mounted


def test_a_thumbnailer_reads_what_is_here_and_pulls_down_nothing(mount: Mounted, tmp_path: Path) -> None:
    program = shutil.copy("/bin/cat", tmp_path / "tumblerd")
    files = [mount.path / name for name in ("far", "read before", "empty", "new")]
    for file in files[:3]:
        file.write_bytes(os.urandom(300_000) if file.name != "empty" else b"")
    bodies = [file.read_bytes() for file in files[:3]]
    mount.evict()
    # What the kernel still has needs nothing from here; so it begins afresh.
    assert mount.stop() == 0
    mount.start("--allow-other")
    assert files[1].read_bytes() == bodies[1]
    files[3].write_bytes(b"written here")

    def run(file: Path, command: Path | str = program) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "LC_ALL": "C"}
        return subprocess.run([command, file], capture_output=True, check=False, env=environment, timeout=30)

    refused = run(files[0])
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"Permission denied" in refused.stderr
    assert files[0].stat().st_blocks == 0
    assert files[0].stat().st_size == 300_000
    assert [run(file).stdout for file in files[1:]] == [bodies[1], b"", b"written here"]
    assert run(files[0], "/bin/cat").stdout == bodies[0]
    assert run(files[0]).stdout == bodies[0]
