"""What packages are made of, and what the front page shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from workshop import ROOT

PACKAGING = ROOT / "blobfs/bootstrap/packaging"


def test_packaging_names_no_registry_and_only_what_is_there() -> None:
    for path in PACKAGING.iterdir():
        text = path.read_text()
        # In brackets, so that this line does not name it either.
        assert not re.search(r"https?://|index.url|[p]y\W?[p]i", text, re.IGNORECASE), path.name
        for name in re.findall(r"blobfs/bootstrap/[\w./-]*\w", text):
            assert (ROOT / name).exists(), name


def test_the_scripts_are_sound() -> None:
    subprocess.run(["bash", "-n", PACKAGING / "build-deb"], check=True)


def test_the_server_of_the_container_starts_with_options_that_it_has() -> None:
    text = (PACKAGING / "Containerfile").read_text()
    command = re.search(r"^CMD \[(.*)\]$", text, re.MULTILINE)
    assert command is not None
    options = re.findall(r"--[a-z-]+", command[1])
    helped = subprocess.run(
        [sys.executable, "-m", "server", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert [option for option in options if option not in helped] == []


def test_the_server_of_the_package_finds_its_configuration(tmp_path: Path) -> None:
    unit = (PACKAGING / "blobfs-server.service").read_text()
    path = re.search(r"^ExecStart=.* --config (\S+)$", unit, re.MULTILINE)
    assert path is not None
    assert f'server.toml "$stage{path[1]}"' in (PACKAGING / "build-deb").read_text()
    mine = tmp_path / "server.toml"
    mine.write_text((PACKAGING / "server.toml").read_text().replace("/var/lib/blobfs", str(tmp_path / "data")))
    done = subprocess.run(
        [sys.executable, "-m", "server", "user", "add", "bob", "--config", mine],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_every_link_to_a_file_finds_it(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        assert "://" in link or (path.parent / link).exists(), link


def test_the_recorded_session_is_small_and_fetches_nothing() -> None:
    text = (ROOT / "docs/session.svg").read_text()
    assert len(text) < 60_000
    assert not re.search(r"url\(['\"]?http|href=['\"]?http|<script", text)
