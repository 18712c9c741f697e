"""The lock files: everything pinned, hashed, and free of registry addresses."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from workshop import ROOT

LOCKS = ROOT / "blobfs/bootstrap"
PIN = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>[0-9][0-9a-z.]*) ; [^;]*? \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+"
)


def read_pins(name: str) -> dict[str, str]:
    text = (LOCKS / f"{name}.lock").read_text()
    pins = {match["name"]: match["version"] for match in PIN.finditer(text)}
    assert PIN.sub("", text) == "", "a line that pins nothing"
    return pins


def normalise(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize("path", sorted(LOCKS.glob("*.lock")), ids=lambda path: path.name)
def test_a_lock_file_carries_no_address(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert "index" not in text


def test_every_requirement_of_the_project_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = {
        "runtime": project["project"]["dependencies"],
        "tests": project["project"]["optional-dependencies"]["test"] + project["project"]["dependencies"],
        "build": project["dependency-groups"]["build"],
    }
    for name, wanted in requirements.items():
        assert {normalise(requirement) for requirement in wanted} <= read_pins(name).keys()


def test_the_lock_files_agree_on_every_version_they_share() -> None:
    build, runtime, tests = (read_pins(name) for name in ("build", "runtime", "tests"))
    assert runtime.items() <= tests.items()
    for name in build.keys() & tests.keys():
        assert build[name] == tests[name]
