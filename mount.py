#!/usr/bin/env python3
"""Mount an end-to-end encrypted folder, from nothing but python3 and git: `python3 mount.py DIR`.

Sets up what is missing, then becomes `blobfs mount DIR`, with every argument and open file descriptor handed on.
docs/CLI.md lists the options and exit codes; later runs spend some milliseconds here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from blobfs.bootstrap import MOUNTING, prepare_or_exit

USAGE = "usage: python3 mount.py DIR [--store DIR] [--passphrase-file F | --passphrase-fd N] [--connect INVITE] ..."


def main(arguments: list[str]) -> int:
    """Set up, then replace this process by the mount; returns an exit code only when there is nothing to mount."""
    if not arguments:
        print(USAGE, file=sys.stderr)
        return 2
    python = str(prepare_or_exit(Path(__file__).resolve().parent, MOUNTING))
    # -P: what lies in the current directory is no part of blobfs, whatever its name.
    os.execv(python, [python, "-P", "-m", "blobfs.cli", "mount", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
