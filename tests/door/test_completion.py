"""Completion as the shells do it: each script is read by its own shell, which is asked what it would offer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from blobfs.cli import main

ZSH = """
zmodload zsh/zpty
zpty shell 'zsh -f -i'
zpty -w shell 'autoload -Uz compinit; compinit -u -D; source {script}; source {script.parent}/told; print rea""dy'
zpty -r shell seen '*ready*'
zpty -n -w shell $'blobfs {typed}\\t\\x14'
zpty -r shell seen '*told*'
zpty -d shell
"""
"""An interactive zsh on a terminal of its own."""
TOLD = """
tell() {{ print -r -- "$BUFFER" > {file}; zle kill-buffer; print to""ld }}
zle -N tell
bindkey '^T' tell
"""
"""What Ctrl-T is in it: the line as it was completed goes to a file."""


@pytest.fixture
def script(tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["completion", request.param]) == 0
    made = tmp_path / request.param
    made.write_text(capsys.readouterr().out)
    return made


def run(*command: str, home: Path) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ | {"HOME": str(home), "TERM": "dumb", "XDG_CONFIG_HOME": str(home)},
        cwd=home,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("script", ["bash", "zsh", "fish"], indirect=True)
def test_its_shell_can_read_the_script(script: Path) -> None:
    assert run(script.name, "-n", str(script), home=script.parent) == ""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("stat", {"status"}),
        ("status --j", {"--json"}),
        ("completion ", {"bash", "zsh", "fish"}),
        ("conflicts x --keep ", {"file", "copy", "both"}),
        ("export ou", {"out.txt"}),
        ("passwd --new-passphrase-file ou", {"out.txt"}),
    ],
)
@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish_offers(script: Path, typed: str, offered: set[str]) -> None:
    (script.parent / "out.txt").touch()
    told = run("fish", "-c", f"source {script}; complete -C 'blobfs {typed}'", home=script.parent)
    assert {line.partition("\t")[0] for line in told.splitlines()} == offered


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("stat", "status "),
        ("status --j", "status --json "),
        ("completion z", "completion zsh "),
        ("conflicts x --keep b", "conflicts x --keep both "),
        ("export ou", "export out.txt "),
    ],
)
@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_completes(script: Path, typed: str, completed: str) -> None:
    (script.parent / "out.txt").touch()
    (script.parent / "told").write_text(TOLD.format(file=script.parent / "line"))
    run("zsh", "-f", "-c", ZSH.format(script=script, typed=typed), home=script.parent)
    assert (script.parent / "line").read_text() == f"blobfs {completed}\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [(("stat",), {"status"}), (("status", "--j"), {"--json"}), (("completion", ""), {"bash", "zsh", "fish"})],
)
@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_offers(script: Path, typed: tuple[str, ...], offered: set[str]) -> None:
    words = " ".join(f'"{word}"' for word in ("blobfs", *typed))
    asked = (
        f'source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _blobfs; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    told = run("bash", "--norc", "-c", asked, home=script.parent)
    assert offered <= set(told.split())
