"""The `blobfs` command: a command to what does it, an error to one sentence and an exit code.

Owns the one table of exit codes (docs/CLI.md tells the same to people). Imports what a command needs only when it
runs, so that `--help` answers at once. Invariant: no traceback reaches a person.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from blobfs import errors
from blobfs.grammar import parser

if TYPE_CHECKING:
    import argparse

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
    errors.FileError: 22,
    # 23 is doctor's: something is wrong.
    KeyboardInterrupt: 130,
}
"""Looked up by MRO, most specific class first. An exception that is not here is a fault of blobfs: 1."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    if arguments is None and os.path.basename(sys.argv[0]) == "mount.blobfs":
        return _main_of_mount(sys.argv[1:])
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # In a locale without UTF-8 a letter of some file's name must not end a list in its middle.
        sys.stdout.reconfigure(errors="backslashreplace")
    options = parser().parse_args(arguments)
    module, _, function = options.command.partition(".")
    try:
        command: Callable[[argparse.Namespace], int] = getattr(
            importlib.import_module(f"blobfs.commands.{module}"), function
        )
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
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = f" that {error.filename} is on" if error.filename else ""
            return _tell(errors.NoSpace(), f"the disk{place} is full; make some room, then try again")
        return _tell(error, f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    except Exception as error:
        from blobfs.process import is_debugging

        if is_debugging():
            raise
        return _tell(error, _log_fault(error))


def _main_of_mount(arguments: list[str]) -> int:
    """What mount(8) calls for `mount -t blobfs`."""
    from blobfs.commands.system import from_mount

    try:
        return main(from_mount(arguments))
    except errors.BlobfsError as error:
        return _tell(error, str(error))


def exit_code(error: BaseException) -> int:
    """The exit code of an error."""
    return next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), 1)


def _tell(error: BaseException, sentence: str) -> int:
    from blobfs.wording import printable

    print(f"blobfs: {printable(sentence).rstrip('.')}.", file=sys.stderr)
    logging = sys.modules.get("logging")
    if logging is not None and logging.getLogger().handlers:
        # Of a mount that nobody looks at the log is all that tells later why there is none.
        logging.getLogger(__name__).error("%s", sentence)
    return exit_code(error)


def _log_fault(error: Exception) -> str:
    """Log a fault of ours, if there is a log by now, and say where to look for it."""
    import logging

    logging.getLogger(__name__).error("unexpected error", exc_info=error)
    where = "the store's log has the details" if logging.getLogger().handlers else "BLOBFS_DEBUG=1 shows the details"
    return f"an unexpected error ({type(error).__name__}); {where}"


if __name__ == "__main__":
    sys.exit(main())
