"""`log`, `completion`, `man`: text for a terminal, made of a log or of the parser itself."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterator

from blobfs import __version__
from blobfs.commands.places import mounted
from blobfs.config import LOG, SERVER_LOG
from blobfs.errors import StoreMissing
from blobfs.grammar import EXAMPLES, parser
from blobfs.wording import printable


def log(options: argparse.Namespace) -> int:
    """`log`: its last lines, without characters that a terminal obeys."""
    path = mounted(options.dir).store / (SERVER_LOG if options.server else LOG)
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in deque(file, maxlen=options.lines):
                print(printable(line.rstrip("\n")))
    except FileNotFoundError:
        raise StoreMissing("there is no log yet; one is written as soon as the store is mounted") from None
    return 0


# --- the parser, taken apart ------------------------------------------------------------------------------------------


def _commands() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Each command's parser and its sentence, in the order of the help."""
    action = next(entry for entry in parser()._actions if isinstance(entry, argparse._SubParsersAction))
    texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
    return {name: (made, texts.get(name, "")) for name, made in action.choices.items()}


def _options(made: argparse.ArgumentParser) -> list[argparse.Action]:
    return [entry for entry in made._actions if entry.option_strings and entry.help != argparse.SUPPRESS]


def _positionals(made: argparse.ArgumentParser) -> list[argparse.Action]:
    return [entry for entry in made._actions if not entry.option_strings]


def _words(made: argparse.ArgumentParser) -> list[str]:
    return [word for entry in _options(made) for word in entry.option_strings if word.startswith("--")]


# --- completion -------------------------------------------------------------------------------------------------------


def completion(options: argparse.Namespace) -> int:
    """`completion`: a script for a shell."""
    made = {"bash": _bash, "zsh": _zsh, "fish": _fish}[options.shell]
    print("\n".join(made()))
    return 0


def _bash() -> Iterator[str]:
    commands = _commands()
    yield "# blobfs: completion for bash"
    yield "_blobfs() {"
    yield '    local word="${COMP_WORDS[COMP_CWORD]}" command="${COMP_WORDS[1]}" words=""'
    yield '    if [ "$COMP_CWORD" -eq 1 ]; then'
    yield f'        COMPREPLY=($(compgen -W "{" ".join(commands)} --help --version" -- "$word")); return'
    yield "    fi"
    yield '    case "$command" in'
    for name, (made, _) in commands.items():
        choices = [str(choice) for entry in made._actions if not entry.option_strings for choice in entry.choices or ()]
        yield f'        {name}) words="{" ".join([*_words(made), *choices])}" ;;'
    yield "    esac"
    yield '    if [[ "$word" == -* ]] || [ "$command" = completion ]; then'
    yield '        COMPREPLY=($(compgen -W "$words" -- "$word"))'
    yield "    else"
    yield '        compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word")'
    yield "    fi"
    yield "}"
    yield "complete -F _blobfs blobfs"


def _zsh() -> Iterator[str]:
    commands = _commands()
    yield "#compdef blobfs"
    yield "# blobfs: completion for zsh"
    yield "_blobfs() {"
    yield "    local -a commands"
    yield "    commands=("
    for name, (_, text) in commands.items():
        yield f"        '{name}:{_quoted(text)}'"
    yield "    )"
    yield "    if (( CURRENT == 2 )); then _describe command commands; return; fi"
    yield "    case $words[2] in"
    for name, (made, _) in commands.items():
        yield f"        {name}) _arguments {' '.join(_zsh_words(made))} ;;"
    yield "    esac"
    yield "}"
    # Read by `source`, or as a file `_blobfs` in $fpath, which is run by the first completion itself.
    yield 'if [ "$funcstack[1]" = _blobfs ]; then _blobfs "$@"; else compdef _blobfs blobfs; fi'


def _zsh_words(made: argparse.ArgumentParser) -> Iterator[str]:
    """What `_arguments` takes: options with their sentences, then what is no option. The first word is the command."""
    for entry in _options(made):
        text = _quoted(entry.help or "").replace("[", "(").replace("]", ")")
        for word in entry.option_strings:
            if word.startswith("--"):
                value = f"({' '.join(map(str, entry.choices))})" if entry.choices else "_files"
                yield f"'{word}[{text}]'" if entry.nargs == 0 else f"'{word}=[{text}]:{entry.dest}:{value}'"
    yield "'1: :'"
    for place, entry in enumerate(_positionals(made), start=2):
        if entry.choices:
            yield f"'{place}:{entry.dest}:({' '.join(map(str, entry.choices))})'"
    yield "'*:file:_files'"


def _fish() -> Iterator[str]:
    yield "# blobfs: completion for fish"
    for name, (made, text) in _commands().items():
        yield f"complete -c blobfs -f -n __fish_use_subcommand -a {name} -d '{_quoted(text)}'"
        seen = f"complete -c blobfs -n '__fish_seen_subcommand_from {name}'"
        for entry in _options(made):
            long = next((word[2:] for word in entry.option_strings if word.startswith("--")), None)
            if long is not None:
                value = "" if entry.nargs == 0 else " -r"
                if entry.choices:
                    value = f" -x -a '{' '.join(map(str, entry.choices))}'"
                yield f"{seen} -l {long}{value} -d '{_quoted(entry.help or '')}'"
        for entry in _positionals(made):
            if entry.choices:
                only = " -f" if len(_positionals(made)) == 1 else ""
                yield f"{seen}{only} -a '{' '.join(map(str, entry.choices))}'"


def _quoted(text: str) -> str:
    return text.replace("%%", "%").replace("'", "\N{RIGHT SINGLE QUOTATION MARK}").replace(":", " -")


# --- the manual page --------------------------------------------------------------------------------------------------


def man(options: argparse.Namespace) -> int:
    """`man`: the page in the language of man(7)."""
    sys.stdout.write(manual())
    return 0


def manual() -> str:
    """The manual page."""
    return "\n".join(_manual()) + "\n"


def _manual() -> Iterator[str]:
    yield f'.TH BLOBFS 1 "" "blobfs {__version__}" "User Commands"'
    yield ".SH NAME"
    yield "blobfs \\- an end\\-to\\-end encrypted folder on your own server"
    yield ".SH SYNOPSIS"
    yield ".B blobfs"
    yield ".I COMMAND"
    yield "[\\fIargument\\fR ...]"
    yield ".SH DESCRIPTION"
    yield _escaped(parser().description or "")
    yield ".SH COMMANDS"
    for name, (made, text) in _commands().items():
        # The usage wraps at the width of a terminal: a page must not depend on it.
        usage = " ".join(made.format_usage().removeprefix("usage: ").split())
        yield f".SS {name}"
        yield f".B {_escaped(usage)}"
        yield ".PP"
        yield _escaped(text[:1].upper() + text[1:] + ".")
        for entry in made._actions:
            if entry.help == argparse.SUPPRESS or entry.dest == "help":
                continue
            head = ", ".join(entry.option_strings) or str(entry.metavar)
            if entry.option_strings and entry.metavar:
                head += f" {entry.metavar}"
            yield ".TP"
            yield f".B {_escaped(head)}"
            yield _escaped(entry.help or "")
    yield ".SH EXIT STATUS"
    yield "0 when all is done; every other code is listed in docs/CLI.md."
    yield ".SH ENVIRONMENT"
    for name, text in (
        ("NO_COLOR", "No colours."),
        ("BLOBFS_DEBUG", "Write more into the log, and show the traceback of a fault of blobfs itself."),
        ("XDG_DATA_HOME", "Where stores and the list of mounts are; ~/.local/share by default."),
    ):
        yield ".TP"
        yield f".B {name}"
        yield _escaped(text)
    yield ".SH EXAMPLES"
    yield ".nf"
    yield from (_escaped(line) for line in EXAMPLES.splitlines()[1:])
    yield ".fi"


def _escaped(text: str) -> str:
    text = text.replace("%%", "%").replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text
