"""A store that is left alone takes little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
from pathlib import Path
from blobfs.store import store
from blobfs.values.nodes import Inode
from tests.store.conftest import KEYS, make, write, content

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

opened = store.Store.create(Path(sys.argv[1]), KEYS, device_name="x")
node = make(opened, b"a")
for number in range(16):
    write(opened, node.inode, number << 22, os.urandom(4 << 20))
opened._settler.settle_all()
content(opened, node.inode)
busy = resident()
for _ in range(store._CALM + 2):
    opened.tick()
print(busy, resident())
opened.close()
"""


def test_memory_goes_back_to_the_system_when_nothing_is_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "store"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    busy, calm = map(int, done.stdout.split())
    assert calm < busy - (20 << 20)
    assert calm < 80 << 20
