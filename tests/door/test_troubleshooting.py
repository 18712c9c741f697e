"""docs/TROUBLESHOOTING.md quotes the program: what it quotes is still what the program says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from blobfs.cli import EXIT_CODES
from blobfs.commands.doctor import PROBLEM
from blobfs.sync.status import SyncState

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "TROUBLESHOOTING.md").read_text()


def rows() -> list[str]:
    """The first cell of every row: symptoms and what is said."""
    return [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| ") and "what is said" not in line]


def spoken() -> str:
    """Every text in the program, f-strings and neighbours joined."""
    texts = []
    for path in (ROOT / "blobfs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value for part in node.values if isinstance(part, ast.Constant)))
    return "\n".join(texts)


def test_every_sentence_that_is_quoted_is_one_of_the_program() -> None:
    said = spoken()
    quoted = [text for row in rows() for text in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 40
    commands = {"restore", "cp", "(conflict DEVICE DATE)"}
    assert [text for text in quoted if text not in said and text not in commands] == []


def test_every_state_of_sync_that_needs_a_person_is_on_the_page() -> None:
    quiet = {SyncState.STARTING, SyncState.CONNECTED}
    assert [state.value for state in SyncState if state not in quiet and f"`{state.value}`" not in PAGE] == []


def test_exit_codes_on_the_page_exist() -> None:
    codes = {int(code) for row in rows() for code in re.findall(r"exit code (\d+)", row)}
    assert codes <= {*EXIT_CODES.values(), PROBLEM}
