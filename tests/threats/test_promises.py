"""docs/THREATS.md promises nothing without a test."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_promises_name_exists() -> None:
    named = re.findall(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`", (ROOT / "docs" / "THREATS.md").read_text())
    assert len(named) > 50
    absent = [name for path, name in named if not re.search(rf"def {name}\(", (ROOT / path).read_text())]
    assert absent == []


def test_every_test_of_the_threats_is_named_by_a_promise() -> None:
    text = (ROOT / "docs" / "THREATS.md").read_text()
    tests = [
        (path.name, name)
        for path in Path(__file__).parent.glob("test_*.py")
        if path.name != Path(__file__).name
        for name in re.findall(r"def (test_\w+)\(", path.read_text())
    ]
    assert [entry for entry in tests if entry[1] not in text] == []


ROWS = {
    f"{letter}{number}" for letter, last in (("S", 30), ("N", 4), ("L", 10), ("T", 14)) for number in range(1, last + 1)
}


def test_every_attack_of_the_design_has_a_row_with_a_test() -> None:
    text = (ROOT / "docs" / "THREATS.md").read_text()
    rows = re.findall(r"^\| ([SNLT]\d+) \| (.+?) \| (.*?)\s*\|$", text, re.MULTILINE)
    assert sorted(row for row, _, _ in rows) == sorted(ROWS)
    assert [row for row, _, tests in rows if "::test_" not in tests] == []
