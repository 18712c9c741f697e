#!/usr/bin/env python3
"""Run every check and test, from nothing but python3 and git: `python3 tests/run.py`.

Sets up what is missing, as mount.py does, and the test requirements on top. Without arguments: ruff, mypy, and the
whole suite with real mounts, in two processes. With arguments: pytest alone, with them, in one; paths are relative to
the checkout.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# In the order of tests/conftest.py; the plugin's own puts the files with few tests last, and those are the long ones.
PARALLEL = ("-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder")
CHECKS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))


def main(arguments: list[str]) -> int:
    """Return pytest's exit code, or 1 when only another check failed."""
    sys.path.insert(0, str(ROOT))
    from blobfs.bootstrap import TESTING, prepare_or_exit

    python = prepare_or_exit(ROOT, TESTING)
    failed = [check for check in CHECKS if not arguments and run(python, *check) != 0]
    exit_code = run(python, "pytest", *(arguments or PARALLEL))
    for check in failed:
        print(f"blobfs: {' '.join(check)} failed; its output is above.", file=sys.stderr)
    return exit_code or (1 if failed else 0)


def run(python: Path, module: str, *arguments: str) -> int:
    """Run a module of the environment in the checkout, and return its exit code."""
    return subprocess.run([python, "-m", module, *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
