"""How a mount starts with the machine: the unit for systemd, and what `mount -t blobfs` and fstab say.

Knows mount(8)'s way of calling a helper and nothing of mounting. Invariant: an option that is not understood is
refused, not ignored, unless it is one that mount(8) deals with itself.
"""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import sys
from pathlib import Path
from typing import Final

from blobfs.config import choose_store, is_new, resolve
from blobfs.errors import StoreMissing, UsageError
from blobfs.fs.mountpoint import is_automount
from blobfs.unlock import CREDENTIAL

HELPER: Final = "mount.blobfs"
"""The name under which mount(8) calls: a link to `blobfs` in /sbin."""

_UNIT: Final = """\
# blobfs: the folder {title}, for `systemctl --user`. Made by `blobfs unit`.
[Unit]
Description=Encrypted folder {title}

[Service]
# Ready means mounted.
Type=notify
NotifyAccess=main
ExecStart={command}
# Ready may take long: an older store is copied and upgraded first.
TimeoutStartSec=infinity
# SIGTERM ends it in order: everything is in the store before the process goes, however long that takes.
KillMode=mixed
TimeoutStopSec=11min
# A mount that a killed process leaves is taken away by the next start, so nobody meets a dead folder for long.
Restart=on-failure
RestartSec=1
# What only a person can mend: wrong arguments, passphrase, mount point, store, missing FUSE, another account.
RestartPreventExitStatus=2 3 4 6 7 8 12 20 21

[Install]
WantedBy=default.target
"""

_CREDENTIAL: Final = f"LoadCredentialEncrypted={CREDENTIAL}:"

_IGNORED: Final = frozenset(("rw", "defaults", "auto", "noauto", "nofail", "_netdev", "async")) | frozenset(
    ("user", "nouser", "users", "owner", "group", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "relatime")
)
"""Options that are mount(8)'s or systemd's own, or that say what is so anyway."""


def unit(options: argparse.Namespace) -> int:
    """`unit`: a systemd unit for a mount point."""
    point = resolve(options.dir)
    store = choose_store(point, options.store)
    _check_made(store)
    words = [*_program(), "mount", os.fspath(point), "--store", os.fspath(store)]
    if options.passphrase_file is not None:
        # A specifier of systemd's stays as it is: `%d/passphrase` is where a credential will be.
        given = os.fspath(options.passphrase_file)
        command = " ".join(map(_quote, [*words, "--passphrase-file"]))
        command += f" {given if given.startswith('%') else _quote(os.path.abspath(given))}"
    else:
        command = " ".join(map(_quote, [*words, *(["--keyring"] if options.keyring else [])]))
    if options.credential is not None:
        file = _quote(os.path.abspath(options.credential))
        command += f"\n# Decrypted for this service alone, into memory; blobfs looks for it there.\n{_CREDENTIAL}{file}"
    sys.stdout.write(_UNIT.format(title=os.fspath(point).replace("%", "%%"), command=command))
    return 0


def _check_made(store: Path) -> None:
    """A first run prints recovery words, which must not end in the log of a service. Raises StoreMissing."""
    if is_new(store):
        raise StoreMissing(f"there is no store in {store} yet; make it with `blobfs mount` on a terminal first")


def _program() -> list[str]:
    found = shutil.which("blobfs")
    return [os.path.abspath(found)] if found else [sys.executable, "-m", "blobfs.cli"]


def _quote(word: str) -> str:
    """A word of a command line in a unit."""
    if "\n" in word:
        raise UsageError("a path with a line end cannot stand in a unit; choose another one")
    word = word.replace("%", "%%").replace("$", "$$")
    if any(character in word for character in " \t'\"\\;"):
        return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return word


# --- mount -t blobfs ------------------------------------------------------------------------------------------------


def from_mount(arguments: list[str]) -> list[str]:
    """What mount(8) said (`STORE DIR [-sfnv] [-o OPTIONS]`) as arguments of `blobfs`; drops root for `runas`.

    Raises:
        UsageError: an option that cannot be. StoreMissing: a first run, which belongs on a terminal.
    """
    parser = argparse.ArgumentParser(prog=HELPER, add_help=False)
    parser.add_argument("spec")
    parser.add_argument("dir")
    parser.add_argument("-o", dest="options", action="append", default=[])
    for flag in ("-s", "-f", "-n", "-v", "-w"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-t")
    parser.add_argument("-N")
    given = parser.parse_args(arguments)
    found = ["mount", given.dir, "--background"]
    store = None if given.spec in ("none", "blobfs") else resolve(Path(given.spec))
    if store is not None:
        found += ["--store", os.fspath(store)]
    for option in filter(None, ",".join(given.options).split(",")):
        name, _, value = option.partition("=")
        if name == "runas" and value:
            _become(value, resolve(Path(given.dir)))
        elif name == "passphrase_file" and value:
            found += ["--passphrase-file", value]
        elif option == "allow_other":
            found.append("--allow-other")
        elif option == "ro":
            found.append("--read-only")
        elif option not in _IGNORED and not name.startswith(("x-", "X-", "comment")):
            raise UsageError(f"blobfs has no mount option {option}; docs/CLI.md lists those that it has")
    _check_made(choose_store(resolve(Path(given.dir)), store))
    return found


def _become(user: str, point: Path) -> None:
    """Go on as another user, for good, who may mount at `point`; only root can."""
    try:
        account = pwd.getpwnam(user)
        if is_automount(point):
            # fusermount3 wants a directory that its caller may write to, and systemd's automount belongs to root.
            os.chown(point, account.pw_uid, account.pw_gid, follow_symlinks=False)
        os.initgroups(user, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    except KeyError:
        raise UsageError(f"there is no user {user} on this machine; correct runas") from None
    except PermissionError:
        raise UsageError("only root can mount as another user; leave runas out") from None
    os.environ["HOME"] = account.pw_dir
    for name in ("XDG_DATA_HOME", "XDG_RUNTIME_DIR"):
        os.environ.pop(name, None)
    os.chdir(Path("/"))
