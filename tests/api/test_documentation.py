"""The examples of docs/API.md, run from top to bottom as one program."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def test_the_examples_of_the_api_page_run(invite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "API.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"store": tmp_path / "store", "invite": invite}
    examples = list(re.finditer(r"^```python\n(.*?)^```$", page, re.S | re.M))
    assert len(examples) > 8
    try:
        for example in examples:
            line = page[: example.start(1)].count("\n")
            exec(compile("\n" * line + example[1], "docs/API.md", "exec"), names)
    finally:
        if "account" in names:
            names["account"].close()
    assert "passphrase does not open this store" in capsys.readouterr().out
