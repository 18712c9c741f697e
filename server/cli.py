"""`blobfs-server`: arguments, exit codes, and what commands print. The work is done in `commands.py` and `serve.py`.

Exit codes: 0 done, 1 a fault of the server's own, 2 usage or configuration, 3 the port is busy, 4 the data directory
cannot be used or is in use, 5 the account or token is not there, or is there already, 6 `check` or `copy` found damage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from blobfs.protocol import is_id, is_server_url
from server import commands, errors
from server.auth import Scope
from server.config import FILE_NAME, read_config
from server.settings import DAY_S, DEFAULT_HOST, DEFAULT_PORT, Settings

EXIT: Final[dict[type[Exception], int]] = {
    errors.ConfigBad: 2,
    errors.PortBusy: 3,
    errors.DataUnusable: 4,
    errors.AccountExists: 5,
    errors.AccountMissing: 5,
    errors.AccountNotEmpty: 5,
    errors.ServerError: 1,
}

COMMANDS: Final = ("user", "token", "quota", "usage", "collect", "check", "copy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; answers the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    is_command = bool(arguments) and arguments[0] in COMMANDS
    os.umask(0o077)  # What a server writes is its own.
    parsed = _command_parser().parse_args(arguments) if is_command else _server_parser().parse_args(arguments)
    try:
        if not is_command:
            return _serve(parsed)
        answer = commands.run(parsed, settings_of(parsed))
    except tuple(EXIT) as error:
        print(f"blobfs-server: {error}", file=sys.stderr)
        return next(EXIT[kind] for kind in type(error).__mro__ if kind in EXIT)
    except KeyboardInterrupt:
        return 130
    if parsed.json:
        print(json.dumps(answer))
    else:
        _print_plain(answer)
    return 6 if isinstance(answer, dict) and answer.get("clean") is False else 0


def _serve(parsed: argparse.Namespace) -> int:
    from server.serve import serve  # uvicorn is not needed, and its import not waited for, by the other commands

    serve(settings_of(parsed))
    return 0


def settings_of(parsed: argparse.Namespace) -> Settings:
    """What the arguments say, then the configuration file, then the defaults.

    Raises:
        ConfigBad: the file is none, or nobody named a data directory.
    """
    given = {name: value for name, value in vars(parsed).items() if name in Settings.__dataclass_fields__}
    for days, field in (("grace_days", "grace_s"), ("retention_days", "retention_s")):
        if hasattr(parsed, days):
            given[field] = getattr(parsed, days) * DAY_S
    if given.get("exit_with") == 0:
        given["exit_with"] = os.getppid()
    file: Path | None = getattr(parsed, "config", None)
    if file is None and "data" in given and (given["data"] / FILE_NAME).exists():
        file = given["data"] / FILE_NAME
    settings = ({} if file is None else read_config(file)) | given
    if "data" not in settings:
        raise errors.ConfigBad("Nobody says where the data is: --data DIR, or `data` in the file of --config.")
    return Settings(**settings)


def _print_plain(answer: Any) -> None:
    rows = answer if isinstance(answer, list) else [answer]
    for row in rows:
        print("  ".join(f"{name}: {value}" for name, value in row.items()))


# --- arguments --------------------------------------------------------------------------------------------


def _server_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blobfs-server",
        argument_default=argparse.SUPPRESS,  # what is not given is the file's to say
        description="Serve the accounts of a data directory.",
        epilog="Commands: " + ", ".join(f"blobfs-server {name} --help" for name in COMMANDS),
    )
    _add_data(parser)
    parser.add_argument("--host", help=f"address to listen on (default {DEFAULT_HOST})")
    parser.add_argument("--port", type=_port, help=f"0 picks one (default {DEFAULT_PORT})")
    parser.add_argument("--public-url", type=_url, help="what clients are to use, for invites")
    parser.add_argument("--tls-certificate", type=Path, metavar="PEM")
    parser.add_argument("--tls-key", type=Path, metavar="PEM")
    _add_times(parser)
    parser.add_argument(
        "--exit-with-parent",
        dest="exit_with",
        type=int,
        nargs="?",
        const=0,
        metavar="PID",
        help="end when the parent process (which has this id) does",
    )
    return parser


def _command_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="blobfs-server")
    nouns = parser.add_subparsers(dest="noun", required=True)
    user = nouns.add_parser("user", help="accounts").add_subparsers(dest="verb", required=True)
    add = _command(user, "add", "create an account and print an invite", name=True)
    add.add_argument("--quota", type=_bytes, metavar="BYTES", help="default: no limit")
    add.add_argument("--url", type=_url, help="what the invite names; default: where the server listens")
    _command(user, "list", "show all accounts")
    remove = _command(user, "remove", "remove an account", name=True)
    remove.add_argument("--delete-data", action="store_true", help="also when it holds data, which is lost")
    token = nouns.add_parser("token", help="credentials").add_subparsers(dest="verb", required=True)
    add = _command(token, "add", "create a token and print an invite", name=True)
    add.add_argument("--scope", choices=list(Scope), action="append", help="repeatable; default write")
    add.add_argument("--label", default="", help="for `token list`")
    add.add_argument("--expires-days", type=_days, help="default: never")
    add.add_argument("--url", type=_url, help="what the invite names")
    _command(token, "list", "show an account's tokens", name=True)
    revoke = _command(token, "revoke", "make a token worthless", name=True)
    revoke.add_argument("token", type=int, help="its number in `token list`")
    quota = nouns.add_parser("quota", help="limits").add_subparsers(dest="verb", required=True)
    change = _command(quota, "set", "change what an account may hold", name=True)
    change.add_argument("bytes", type=_limit, metavar="BYTES|none")
    _command(nouns, "usage", "show what accounts hold")
    collect = _command(nouns, "collect", "free what nothing needs")
    collect.add_argument("--dry-run", action="store_true", help="only say what would go")
    _add_times(collect)
    check = _command(nouns, "check", "compare the catalog with the blobs")
    check.add_argument("--repair", action="store_true", help="mend what can be mended")
    check.add_argument("--digests", action="store_true", help="read every blob again")
    copy = _command(nouns, "copy", "copy everything to another catalog or object store")
    copy.add_argument("--to", type=Path, required=True, metavar="FILE", help="the configuration of the target")
    return parser


def _command(parsers: Any, verb: str, text: str, name: bool = False) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = parsers.add_parser(verb, help=text, description=text)
    if name:
        parser.add_argument("name", type=_name, metavar="NAME", help="of the user")
    _add_data(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    unsaid = argparse.SUPPRESS
    parser.add_argument("--config", type=Path, metavar="FILE", default=None, help=f"default: DIR/{FILE_NAME}, if there")
    parser.add_argument("--data", type=Path, metavar="DIR", default=unsaid, help="the server's directory")
    parser.add_argument(
        "--catalog",
        dest="catalog_url",
        metavar="URL",
        default=unsaid,
        help="SQLAlchemy URL; default: SQLite in the data directory",
    )


def _add_times(parser: argparse.ArgumentParser) -> None:
    unsaid = argparse.SUPPRESS
    text = "how long unreferenced blobs stay (default 7)"
    parser.add_argument("--grace-days", type=_days, default=unsaid, help=text)
    text = "how long earlier revisions stay (default 30)"
    parser.add_argument("--retention-days", type=_days, default=unsaid, help=text)


def _name(text: str) -> str:
    if not is_id(text):
        raise argparse.ArgumentTypeError("a name has 1 to 128 letters, digits, - and _")
    return text


def _url(text: str) -> str:
    if not is_server_url(text):
        raise argparse.ArgumentTypeError("an address is http(s)://HOST[:PORT][/PATH]")
    return text


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


def _bytes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise argparse.ArgumentTypeError("a quota is a number of bytes")
    return int(text)


def _limit(text: str) -> int | None:
    return None if text == "none" else _bytes(text)


def _days(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 36500:
        raise argparse.ArgumentTypeError("a number of days")
    return value
