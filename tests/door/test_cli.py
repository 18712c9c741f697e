"""The command line: its grammar, its one table, its speed."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs import errors
from blobfs.cli import EXIT_CODES, exit_code, main
from blobfs.commands.shell import manual
from blobfs.errors import BlobfsError
from blobfs.grammar import parser

COMMANDS: dict[str, argparse.ArgumentParser] = dict(
    next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)).choices
)
CLI_PAGE = Path(__file__).resolve().parents[2] / "docs" / "CLI.md"


@pytest.fixture(autouse=True)
def _own_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def kinds() -> Iterator[type[BlobfsError]]:
    for thing in vars(errors).values():
        if isinstance(thing, type) and issubclass(thing, BlobfsError):
            yield thing


def test_no_error_ends_with_the_code_of_success_or_of_a_shell() -> None:
    for kind in kinds():
        assert 1 <= exit_code(kind.__new__(kind)) < 126


def test_each_kind_of_failure_that_scripts_tell_apart_has_its_own_code() -> None:
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)


def test_a_fault_of_ours_is_one() -> None:
    assert exit_code(ZeroDivisionError()) == 1


def test_the_page_lists_every_code() -> None:
    listed = {line.split("|")[1].strip() for line in CLI_PAGE.read_text().splitlines() if line.startswith("| ")}
    assert {str(code) for code in EXIT_CODES.values()} | {"0", "10", "11"} <= listed


def test_the_manual_page_is_that_of_the_parser() -> None:
    page = CLI_PAGE.with_name("blobfs.1").read_text()
    assert page == manual(), "write it anew: blobfs man > docs/blobfs.1"


def test_the_page_names_every_command() -> None:
    page = CLI_PAGE.read_text()
    assert [name for name in COMMANDS if f"blobfs {name}" not in page] == []


def test_every_command_is_done_by_something() -> None:
    for made in COMMANDS.values():
        module, _, function = made.get_default("command").partition(".")
        assert callable(getattr(importlib.import_module(f"blobfs.commands.{module}"), function))


def test_help_answers_at_once() -> None:
    def run() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "blobfs.cli", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert b"examples:" in done.stdout
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor seconds, and the best of several: the program's own, not what else runs on this machine.
    assert min(run() for _ in range(5)) < 0.2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sing"],
        ["mount"],
        ["mount", "m", "--passphrase", "x"],
        ["mount", "m", "--passphrase-fd", "-1"],
        ["mount", "m", "--passphrase-fd", "one"],
        ["mount", "m", "--passphrase-fd", "0", "--passphrase-file", "f"],
        ["sync"],
        ["sync", "m", "--timeout", "nan"],
        ["sync", "m", "--timeout", "-1"],
    ],
)
def test_a_wrong_command_line_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: blobfs" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sync", "umount", "invite", "passwd"])
def test_what_was_never_mounted_is_not_mounted(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(tmp_path)]) == 17
    told = capsys.readouterr().err
    assert told.startswith("blobfs: ")
    assert told.count("\n") == 1


def test_status_of_what_is_not_mounted_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["state"] == "not mounted"
    assert body["pid"] is None
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_name_that_the_locale_has_no_letters_for_is_shown_by_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["status", str(tmp_path / "caf\u00e9")]) == 0
    out.seek(0)
    assert "/caf\\xe9: not mounted" in out.read()


def test_passwd_takes_a_mount_point_or_a_store(tmp_path: Path) -> None:
    assert main(["passwd"]) == 2
    assert main(["passwd", str(tmp_path), "--store", str(tmp_path)]) == 2
