"""mount.py and .ci/run as they are called."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from workshop import ROOT, Workshop


def test_mount_hands_arguments_and_descriptors_on(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.install()
    reading, writing = os.pipe()
    os.write(writing, b"correct horse")
    os.close(writing)
    monkeypatch.setenv("SECRET_FD", str(reading))
    arguments = ["a dir", "--passphrase-fd", str(reading), "--background", "--connect", ""]
    done = subprocess.run(
        [sys.executable, workshop.root / "mount.py", *arguments],
        pass_fds=(reading,),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    os.close(reading)
    assert done.stderr == ""
    assert done.stdout == "\n".join(["-P", "-m", "blobfs.cli", "mount", *arguments, "correct horse"])


def test_mount_without_a_directory_is_a_usage_error_before_any_set_up(workshop: Workshop) -> None:
    done = subprocess.run([sys.executable, workshop.root / "mount.py"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python3 mount.py DIR ")
    assert not (workshop.root / ".venv").exists()


def test_ci_calls_exactly_the_test_command_of_the_readme() -> None:
    commands = re.findall(r"^python3 .*?(?=\s+#|$)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert commands[:2] == ["python3 mount.py DIR", "python3 tests/run.py"]
    called = [line for line in (ROOT / ".ci/run").read_text().splitlines() if "python3" in line]
    assert called == [f"exec {commands[1]}"]
