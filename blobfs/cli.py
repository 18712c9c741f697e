"""The `blobfs` command: arguments to a `Config`, a command to its room, an error to one sentence and an exit code.

Owns the grammar of the command line and the one table of exit codes (docs/CLI.md tells the same to people). Imports
what a command needs only when it runs, so that `--help` answers at once. Invariant: no traceback reaches a person.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from blobfs import __version__, errors
from blobfs.config import Config, Mount, Source, choose_store, default_store, recall_all, recall_around, resolve

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_CODES: Final[dict[type[BaseException], int]] = {
    errors.BlobfsError: 1,
    errors.UsageError: 2,
    errors.WrongPassphrase: 3,
    errors.MountPointUnusable: 4,
    errors.StoreInUse: 5,
    errors.StoreMissing: 6,
    errors.StoreError: 7,
    errors.StoreTooNew: 8,
    errors.NoSpace: 9,
    # 10 and 11 are the set-up's: system packages that are missing, a set-up that failed.
    errors.FuseMissing: 12,
    errors.RemoteUnavailable: 13,
    errors.AccessDenied: 14,
    errors.QuotaExceeded: 15,
    errors.SyncTimeout: 16,
    errors.NotMounted: 17,
    errors.ServerFailed: 18,
    errors.RemoteError: 19,
    errors.IntegrityError: 20,
    errors.WrongAccount: 21,
    KeyboardInterrupt: 130,
}
"""Looked up by MRO, most specific class first. An exception that is not here is a fault of blobfs: 1."""

EXAMPLES: Final = """\
examples:
  blobfs mount ~/private                        make or open a private folder, in the foreground
  blobfs mount ~/private --background           the same, detached
  blobfs mount ~/private --connect blobfs1:...  join an account from another device, with its passphrase
  blobfs status                                 what is mounted, and what waits for the server
  blobfs sync ~/private --wait                  return when the server has everything
  blobfs umount ~/private                       end it; nothing is lost
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except BrokenPipeError:
        # Whoever reads our output has gone; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_CODES[KeyboardInterrupt]
    except errors.BlobfsError as error:
        return _tell(error, str(error))
    except OSError as error:
        return _tell(error, f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    except Exception as error:
        if os.environ.get("BLOBFS_DEBUG"):
            raise
        return _tell(error, _log_fault(error))


def exit_code(error: BaseException) -> int:
    """The exit code of an error."""
    return next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), 1)


def _tell(error: BaseException, sentence: str) -> int:
    from blobfs.status import printable

    print(f"blobfs: {printable(sentence).rstrip('.')}.", file=sys.stderr)
    return exit_code(error)


def _log_fault(error: Exception) -> str:
    """Log a fault of ours, if there is a log by now, and say where to look for it."""
    import logging

    logging.getLogger(__name__).error("unexpected error", exc_info=error)
    where = "the store's log has the details" if logging.getLogger().handlers else "BLOBFS_DEBUG=1 shows the details"
    return f"an unexpected error ({type(error).__name__}); {where}"


# --- grammar ------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blobfs",
        description="An end-to-end encrypted folder whose files are fetched when used, on your own server.",
        epilog=EXAMPLES + "\nEvery command has its own --help; docs/CLI.md lists the exit codes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"blobfs {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_mount(commands)
    status = _add(commands, "status", _status, "show what is mounted and what waits for the server")
    status.add_argument(
        "dir", metavar="DIR", nargs="?", type=Path, help="a mount point, or anything in it; default: all"
    )
    status.add_argument("--json", action="store_true", help="one JSON object; a list of them without DIR")
    sync = _add(commands, "sync", _sync, "send what waits, now")
    sync.add_argument("dir", metavar="DIR", type=Path, help="a mount point, or anything in it")
    sync.add_argument("--wait", action="store_true", help="return when the server has confirmed everything")
    sync.add_argument("--timeout", metavar="S", type=_seconds, help="give up waiting after S seconds")
    recover = _add(commands, "recover", _recover, "send again what a server lost that was restored from a backup")
    recover.add_argument("dir", metavar="DIR", type=Path, help="a mount point, or anything in it")
    umount = _add(commands, "umount", _umount, "end a mount; everything is in the local store then")
    umount.add_argument("dir", metavar="DIR", type=Path, help="the mount point")
    umount.add_argument(
        "--force", action="store_true", help="also while programs have files in it open; those get errors from then on"
    )
    invite = _add(commands, "invite", _invite, "print what another device needs to join, beside the passphrase")
    invite.add_argument("dir", metavar="DIR", type=Path, help="a mount point, or anything in it")
    passwd = _add(commands, "passwd", _passwd, "change the passphrase")
    passwd.add_argument("dir", metavar="DIR", type=Path, nargs="?", help="the mount point")
    passwd.add_argument("--store", type=Path, metavar="DIR", help="the store, instead of its mount point")
    _add_sources(passwd)
    _add_source(passwd, "new-passphrase", "the new passphrase")
    return parser


def _add(
    commands: Commands, name: str, command: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=command)
    return parser


def _add_mount(commands: Commands) -> None:
    mount = _add(commands, "mount", _mount, "make or open a private folder and mount it")
    mount.add_argument("dir", metavar="DIR", type=Path, help="an empty directory; made if only it is missing")
    mount.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="where the encrypted store is; default: a place of its own, remembered",
    )
    _add_sources(mount)
    mount.add_argument("--connect", metavar="INVITE", help="join the server of an invite, or of @FILE that holds one")
    mount.add_argument("--background", action="store_true", help="return once the mount is ready")
    mount.add_argument(
        "--allow-other", action="store_true", help="let other users of this machine in, as far as modes allow"
    )
    mount.add_argument("--handover", type=int, help=argparse.SUPPRESS)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    _add_source(parser, "passphrase", "the passphrase")
    _add_source(parser, "recovery", "the 24 recovery words, in place of the passphrase")


def _add_source(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument(f"--{name}-file", type=Path, metavar="F", help=f"a file that holds {text}")
    group.add_argument(f"--{name}-fd", type=_descriptor, metavar="N", help=f"an open descriptor to read {text} from")


def _descriptor(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 1e9:
        raise ValueError(text)
    return seconds


def _source(options: argparse.Namespace, name: str) -> Source:
    return Source(getattr(options, f"{name}_file"), getattr(options, f"{name}_fd"))


# --- commands -----------------------------------------------------------------------------------------------------


def _mount(options: argparse.Namespace) -> int:
    from blobfs import mounting

    point = resolve(options.dir)
    config = Config(
        mountpoint=point,
        store=choose_store(point, options.store),
        passphrase=_source(options, "passphrase"),
        recovery=_source(options, "recovery"),
        connect=options.connect,
        background=options.background,
        allow_other=options.allow_other,
        handover=options.handover,
    )
    return mounting.mount(config)


def _status(options: argparse.Namespace) -> int:
    from blobfs.mounting import look
    from blobfs.status import format_status, has_colour

    if options.dir is not None:
        path = resolve(options.dir)
        mounts = [recall_around(path) or Mount(path, default_store(path))]
    else:
        mounts = list(recall_all())
    found = [look(mount) for mount in mounts]
    if options.json:
        bodies = [status.to_json() for status in found]
        print(json.dumps(bodies[0] if options.dir is not None else bodies, indent=2))
        return 0
    for status in found:
        print(format_status(status, colour=has_colour(sys.stdout)))
    if not found:
        print("nothing was mounted yet; begin with `blobfs mount DIR`")
    return 0


def _sync(options: argparse.Namespace) -> int:
    from blobfs.control import ask
    from blobfs.status import format_pending, from_json

    # The daemon keeps the time; the answer is given a little longer to arrive.
    patience_s = None if options.timeout is None else options.timeout + 30
    answer = ask(
        _mounted(options.dir).store,
        "sync",
        timeout_s=patience_s if options.wait else 30,
        wait=options.wait,
        limit_s=options.timeout,
    )
    print(format_pending(from_json(answer).pending))
    return 0


def _recover(options: argparse.Namespace) -> int:
    from blobfs.control import ask

    ask(_mounted(options.dir).store, "recover")
    print("what the server lost is sent again; `blobfs sync DIR --wait` returns when it has everything")
    return 0


def _umount(options: argparse.Namespace) -> int:
    from blobfs import mounting

    return mounting.umount(resolve(options.dir), force=options.force)


def _invite(options: argparse.Namespace) -> int:
    from blobfs.control import ask

    answer = ask(_mounted(options.dir).store, "invite")
    print(answer["invite"])
    if answer["embedded"]:
        print(
            "blobfs: this server listens on this machine only; a device elsewhere needs a server of its own address, "
            "see `blobfs-server --help`",
            file=sys.stderr,
        )
    return 0


def _passwd(options: argparse.Namespace) -> int:
    from blobfs import mounting

    if (options.dir is None) == (options.store is None):
        raise errors.UsageError("name the mount point, or the store with --store; one of them")
    store = resolve(options.store) if options.store is not None else _mounted(options.dir).store
    return mounting.passwd(
        store,
        passphrase=_source(options, "passphrase"),
        recovery=_source(options, "recovery"),
        new=_source(options, "new_passphrase"),
    )


def _mounted(path: Path) -> Mount:
    mount = recall_around(resolve(path))
    if mount is None:
        raise errors.NotMounted(f"{path} was never mounted by this user; mount it with `blobfs mount {path}`")
    return mount


if __name__ == "__main__":
    sys.exit(main())
