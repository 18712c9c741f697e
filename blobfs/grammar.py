"""The grammar of the command line: every command, its arguments, and the function that does it, by name.

Imports nothing that a command needs, so that `--help` answers at once. Invariant: help, completion and the manual page
are made of this parser and so can never disagree with what is accepted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from blobfs import __version__

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXAMPLES: Final = """\
examples:
  blobfs mount ~/private                        make or open a private folder, in the foreground
  blobfs mount ~/private --background           the same, detached
  blobfs mount ~/private --connect blobfs1:...  join an account from another device, with its passphrase
  blobfs status                                 what is mounted, and what waits for the server
  blobfs status ~/private/letter.odt            where one file is, and why it waits if it does
  blobfs pin ~/private/travel                   keep a folder here, for when there is no network
  blobfs browse ~/private                       the folder in a browser: states, previews, versions, conflicts
  blobfs versions ~/private/letter.odt          what it was before; `restore` brings it back
  blobfs sync ~/private --wait                  return when the server has everything
  blobfs doctor ~/private                       what is wrong, and what to do
  blobfs umount ~/private                       end it; nothing is lost
"""

ANYTHING: Final = "a mount point, or anything in it"


def parser() -> argparse.ArgumentParser:
    """The whole grammar. `command` of what it parses is `module.function` in blobfs.commands."""
    top = argparse.ArgumentParser(
        prog="blobfs",
        description="An end-to-end encrypted folder whose files are fetched when used, on your own server.",
        epilog=EXAMPLES + "\nEvery command has its own --help; docs/CLI.md lists the exit codes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"blobfs {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_mount(commands)
    _add_state(commands)
    _add_browse(commands)
    _add_ends(commands)
    _add_keeping(commands)
    _add_past(commands)
    _add_copies(commands)
    _add_account(commands)
    _add_shell(commands)
    return top


def _add(commands: Commands, name: str, function: str, text: str, example: str = "") -> argparse.ArgumentParser:
    made = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example:\n  {example}" if example else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(command=function)
    return made


def _add_mount(commands: Commands) -> None:
    mount = _add(commands, "mount", "mounts.mount", "make or open a private folder and mount it")
    mount.add_argument("dir", metavar="DIR", type=Path, help="an empty directory; made if only it is missing")
    mount.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="where the encrypted store is; default: a place of its own, remembered",
    )
    _add_sources(mount)
    _add_keyring(mount)
    mount.add_argument("--connect", metavar="INVITE", help="join the server of an invite, or of @FILE that holds one")
    mount.add_argument(
        "--pin", metavar="PIN", help="with --connect: the key of the server, as `blobfs-server` prints it"
    )
    mount.add_argument(
        "--device-name", metavar="NAME", help="on a first run: this device's name; default: the machine's"
    )
    mount.add_argument("--background", action="store_true", help="return once the mount is ready")
    mount.add_argument(
        "--allow-other", action="store_true", help="let other users of this machine in, as far as modes allow"
    )
    mount.add_argument(
        "--read-only", action="store_true", help="let nothing be changed here; other devices' changes still arrive"
    )
    mount.add_argument(
        "--lock-after", metavar="MINUTES", help="end the mount when nobody has used it for so long; `off`: never"
    )
    mount.add_argument(
        "--no-passphrase-at-server",
        dest="passphrase_at_server",
        action="store_false",
        help="on a first run: the server keeps what the recovery words open, and nothing to guess a passphrase at",
    )
    _add_words_check(mount)
    _add_guess_time(mount)
    mount.add_argument("--handover", type=int, help=argparse.SUPPRESS)
    mount.add_argument("--heal", help=argparse.SUPPRESS)
    mount.add_argument("--healing", action="store_true", help=argparse.SUPPRESS)


def _add_state(commands: Commands) -> None:
    status = _add(
        commands,
        "status",
        "mounts.status",
        "show what is mounted and what waits for the server, or the state of one file or folder",
        "blobfs status ~/private/letter.odt",
    )
    status.add_argument(
        "dir",
        metavar="PATH",
        nargs="?",
        type=Path,
        help="a mount point, or a file or folder in one; default: all mounts",
    )
    _add_json(status)
    status.add_argument("--watch", action="store_true", help="show it anew whenever it changes, until Ctrl-C")
    sync = _add(commands, "sync", "mounts.sync", "send what waits, now")
    sync.add_argument("dir", metavar="DIR", type=Path, help=ANYTHING)
    sync.add_argument("--wait", action="store_true", help="return when the server has confirmed everything")
    sync.add_argument("--timeout", metavar="S", type=_seconds, help="give up waiting after S seconds")
    recover = _add(
        commands, "recover", "mounts.recover", "send again what a server lost that was restored from a backup"
    )
    recover.add_argument("dir", metavar="DIR", type=Path, help=ANYTHING)
    conflicts = _add(
        commands,
        "conflicts",
        "files.conflicts",
        "list the conflict copies in a folder, or settle one",
        "blobfs conflicts ~/private/'letter (conflict laptop 2026-03-01 101500).odt' --keep file",
    )
    conflicts.add_argument("path", metavar="PATH", type=Path, help=ANYTHING + "; with --keep: a conflict copy")
    conflicts.add_argument(
        "--keep", choices=["file", "copy", "both"], help="which stays: the file, the copy in its place, or both"
    )
    _add_json(conflicts)
    log = _add(commands, "log", "shell.log", "show the log of the process that holds a mount")
    log.add_argument("dir", metavar="DIR", type=Path, help=ANYTHING)
    log.add_argument("-n", "--lines", metavar="N", type=_count, default=50, help="the last N lines (default: 50)")
    log.add_argument("--server", action="store_true", help="the embedded server's log instead")
    doctor = _add(
        commands, "doctor", "doctor.doctor", "check everything, and say what to do", "blobfs doctor ~/private --deep"
    )
    doctor.add_argument("dir", metavar="DIR", type=Path, nargs="?", help=ANYTHING + "; default: this machine only")
    doctor.add_argument("--deep", action="store_true", help="compare the databases row by row, however large")
    doctor.add_argument("--repair", action="store_true", help="put right what is safe to; removes no file of yours")
    doctor.add_argument("--bundle", metavar="FILE", type=Path, help="write findings and logs, without names, to FILE")
    _add_json(doctor)
    _add_sources(doctor)


def _add_browse(commands: Commands) -> None:
    browse = _add(
        commands,
        "browse",
        "browse.browse",
        "open a mount in the browser: files and their states, previews, versions, conflicts, the trash",
        "blobfs browse ~/private",
    )
    browse.add_argument("dir", metavar="PATH", type=Path, help=ANYTHING)
    browse.add_argument("--no-open", action="store_true", help="print the link only; it opens once, on this machine")


def _add_ends(commands: Commands) -> None:
    umount = _add(commands, "umount", "mounts.umount", "end a mount; everything is in the local store then")
    umount.add_argument("dir", metavar="DIR", type=Path, help="the mount point")
    umount.add_argument(
        "--force", action="store_true", help="also while programs have files in it open; those get errors from then on"
    )
    lock = _add(commands, "lock", "mounts.lock", "end mounts at once, open files or not, so that no key is in memory")
    lock.add_argument("dir", metavar="DIR", type=Path, nargs="?", help="the mount point; default: every mount")
    lock.add_argument("--forget", action="store_true", help="remove the passphrase from the desktop's keyring, too")


def _add_keeping(commands: Commands) -> None:
    for name, text, example in (
        ("pin", "keep files on this device, fetched now", "blobfs pin ~/private/travel --match '*.pdf'"),
        ("unpin", "let files go again when room is needed", "blobfs unpin ~/private/travel"),
        ("evict", "drop local bytes that the server has", "blobfs evict ~/private/films --match '*.mkv'"),
    ):
        made = _add(commands, name, f"files.{name}", text, example)
        several = "+" if name == "evict" else "*"
        made.add_argument("paths", metavar="PATH", type=Path, nargs=several, help="files and folders in a mount")
        made.add_argument("--match", metavar="PATTERN", help="only files of this name, such as '*.jpg' or 'a/*/b.txt'")
        if name == "pin":
            made.add_argument("--list", metavar="DIR", type=Path, help="list what is pinned in the mount DIR")
            made.add_argument("--wait", action="store_true", help="return when all of it is here")


def _add_past(commands: Commands) -> None:
    versions = _add(
        commands,
        "versions",
        "past.versions",
        "list the versions of a file that the server keeps, or save one",
        "blobfs versions ~/private/letter.odt --version 17 --output old.odt",
    )
    versions.add_argument("path", metavar="PATH", type=Path, help="a file in a mount")
    versions.add_argument("--version", metavar="N", type=_count, help="this version, with --output")
    versions.add_argument(
        "--output", metavar="FILE", type=Path, help="write the version to FILE, which is not there yet"
    )
    _add_json(versions)
    restore = _add(commands, "restore", "past.restore", "make an earlier version of a file the present one")
    restore.add_argument("path", metavar="PATH", type=Path, help="a file in a mount")
    restore.add_argument("--version", metavar="N", type=_count, required=True, help="as `versions` numbers them")
    trash = _add(commands, "trash", "past.trash", "list deleted files, or bring some back", "blobfs trash ~/private")
    trash.add_argument("dir", metavar="DIR", type=Path, help=ANYTHING)
    trash.add_argument("restore", metavar="RESTORE", nargs="?", choices=["restore"], help="`restore`: bring back NAME")
    trash.add_argument("names", metavar="NAME", nargs="*", help="a path or an id, as the list shows them")
    _add_json(trash)


def _add_copies(commands: Commands) -> None:
    copy = _add(commands, "cp", "files.copy", "copy files within a mount; none of their bytes is sent again")
    copy.add_argument("source", metavar="SOURCE", type=Path, help="a file or folder in a mount")
    copy.add_argument("target", metavar="TARGET", type=Path, help="a new name, or a folder to copy into")
    copy.add_argument("-r", "--recursive", action="store_true", help="a folder with all in it")
    export = _add(
        commands,
        "export",
        "transfer.export",
        "copy everything out in plain",
        "blobfs export ~/private /media/disk/plain",
    )
    export.add_argument("dir", metavar="DIR", type=Path, help="a mount, or a file or folder in one")
    export.add_argument("target", metavar="TARGET", type=Path, help="a directory outside; made if missing")
    export.add_argument(
        "--keep-setuid",
        action="store_true",
        help="keep setuid and setgid bits and file capabilities, which are left out",
    )
    load = _add(
        commands,
        "import",
        "transfer.load",
        "copy a directory in, or what lies on a WebDAV server or in an rclone crypt remote",
        "blobfs import ~/Documents ~/private/docs\n"
        "  blobfs import https://cloud.example.org/remote.php/dav/files/alice ~/private/cloud --user alice\n"
        "  blobfs import --rclone-crypt /media/disk/crypt ~/private/old",
    )
    load.add_argument(
        "source",
        metavar="SOURCE",
        help="a directory outside; the https:// address of a WebDAV folder, such as Nextcloud's; "
        "or rclone:REMOTE:PATH for what your rclone is set up for",
    )
    load.add_argument("dir", metavar="DIR", type=Path, help="a folder in a mount; made if missing")
    load.add_argument("--user", metavar="NAME", help="at the WebDAV server; an app password does")
    load.add_argument("--rclone-crypt", action="store_true", help="SOURCE is a directory that rclone encrypted (crypt)")
    _add_source(load, "password", "the password of the server or the crypt remote")
    _add_source(load, "password2", "the crypt remote's second password, if it has one")
    load.add_argument(
        "--crypt-names",
        choices=["standard", "obfuscate", "off"],
        default="standard",
        help="how its names are encrypted (default: standard)",
    )
    load.add_argument(
        "--crypt-encoding",
        choices=["base32", "base64", "base32768"],
        default="base32",
        help="how its names are written (default: base32)",
    )
    load.add_argument("--crypt-plain-folders", action="store_true", help="its folders' names are not encrypted")
    for made in (export, load):
        made.add_argument("--again", action="store_true", help="go on with an earlier one: leave equal files alone")


def _add_account(commands: Commands) -> None:
    invite = _add(
        commands, "invite", "devices.invite", "print what another device needs to join, beside the passphrase"
    )
    invite.add_argument("dir", metavar="DIR", type=Path, help=ANYTHING)
    invite.add_argument(
        "--days", metavar="N", type=_days, default=7, help="it expires after N days unless a device joins (default: 7)"
    )
    invite.add_argument(
        "--pin", action="store_true", help="let it name the server's key, so that no certificate can stand in for it"
    )
    address = _add(
        commands,
        "drop-address",
        "drops.address",
        "print an address with which others can leave files for you, and do nothing else",
        "blobfs drop-address ~/private > address.txt",
    )
    address.add_argument("dir", metavar="DIR", type=Path, help=ANYTHING)
    address.add_argument("--days", metavar="N", type=_count, help="how long it is good; default: for ever")
    drop = _add(
        commands,
        "drop",
        "drops.drop",
        "leave files for somebody, sealed so that only they can read them",
        "blobfs drop report.pdf --to @address.txt",
    )
    drop.add_argument("files", metavar="FILE", type=Path, nargs="+", help="a file to leave")
    drop.add_argument("--to", metavar="ADDRESS", required=True, help="of `drop-address`, or @FILE that holds one")
    passwd = _add(
        commands, "passwd", "mounts.passwd", "change the passphrase, and the keys for all that is written from then on"
    )
    passwd.add_argument("dir", metavar="DIR", type=Path, nargs="?", help="the mount point")
    passwd.add_argument("--store", type=Path, metavar="DIR", help="the store, instead of its mount point")
    _add_sources(passwd)
    _add_source(passwd, "new-passphrase", "the new passphrase")
    _add_keyring(passwd)
    _add_guess_time(passwd)
    _add_words_check(passwd)
    keep = "leave the keys as they are: old copies of the secrets file go on to open everything"
    passwd.add_argument("--keep-keys", action="store_true", help=keep)
    device = _add(
        commands,
        "device",
        "devices.device",
        "list the account's devices, name this one, or revoke another",
        "blobfs device ~/private --revoke 'old laptop'",
    )
    device.add_argument("dir", metavar="DIR", type=Path, help=ANYTHING)
    device.add_argument("name", metavar="NAME", nargs="?", help="the same as --rename NAME")
    device.add_argument(
        "--rename", metavar="NAME", help="call this device NAME, in lists and conflict copies from now on"
    )
    device.add_argument("--revoke", metavar="NAME|ID", help="let a device in no more, or a token that no device has")
    _add_json(device)
    config = _add(
        commands,
        "config",
        "settings.config",
        "show or set limits and other options",
        "blobfs config ~/private cache-limit 20G",
    )
    config.add_argument("dir", metavar="DIR", type=Path, help=ANYTHING)
    config.add_argument("name", metavar="NAME", nargs="?", help="an option, as the list shows them")
    config.add_argument("value", metavar="VALUE", nargs="?", help="what it is to be; `off` lifts a limit")
    _add_json(config)


def _add_shell(commands: Commands) -> None:
    completion = _add(
        commands, "completion", "shell.completion", "print a completion script", "source <(blobfs completion bash)"
    )
    completion.add_argument("shell", metavar="SHELL", choices=["bash", "zsh", "fish"], help="bash, zsh or fish")
    unit = _add(
        commands,
        "unit",
        "system.unit",
        "print a systemd user unit that mounts",
        "blobfs unit ~/private > ~/.config/systemd/user/private.service",
    )
    unit.add_argument("dir", metavar="DIR", type=Path, help="the mount point")
    unit.add_argument("--store", type=Path, metavar="DIR", help="the store; default: as `mount` finds it")
    given = unit.add_mutually_exclusive_group()
    given.add_argument("--passphrase-file", type=Path, metavar="F", help="a file that holds the passphrase")
    given.add_argument("--credential", type=Path, metavar="F", help="a file that `systemd-creds encrypt` made of it")
    given.add_argument("--keyring", action="store_true", help="the passphrase is in the desktop's keyring")
    _add(commands, "man", "shell.man", "print the manual page", "blobfs man | man -l -")


# --- arguments that several commands have ---------------------------------------------------------------------------


def _add_json(made: argparse.ArgumentParser) -> None:
    made.add_argument("--json", action="store_true", help="for programs; docs/CLI.md lists the members")


def _add_sources(made: argparse.ArgumentParser) -> None:
    _add_source(made, "passphrase", "the passphrase")
    _add_source(made, "recovery", "the 24 recovery words, in place of the passphrase")


def _add_keyring(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--keyring", action="store_true", help="take the passphrase from the desktop's keyring, and keep it there"
    )


def _add_words_check(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--no-words-check",
        dest="words_check",
        action="store_false",
        help="do not ask for some of the new recovery words",
    )


def _add_guess_time(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--guess-time",
        type=_seconds,
        metavar="S",
        help="how long a guess at a new passphrase is to take on this machine (default: 0.7; 0: the least allowed)",
    )


def _add_source(made: argparse.ArgumentParser, name: str, text: str) -> None:
    group = made.add_mutually_exclusive_group()
    group.add_argument(f"--{name}-file", type=Path, metavar="F", help=f"a file that holds {text}")
    group.add_argument(f"--{name}-fd", type=_descriptor, metavar="N", help=f"an open descriptor to read {text} from")


def _descriptor(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _count(text: str) -> int:
    number = int(text)
    if not 0 < number < 1 << 63:
        raise ValueError(text)
    return number


def _days(text: str) -> float:
    days = float(text)
    if not 1 / 1440 <= days <= 3650:
        raise ValueError(text)
    return days


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 1e9:
        raise ValueError(text)
    return seconds
