#!/usr/bin/env python3
"""How fast blobfs is: `python tests/benchmarks/run.py local`, and the like. docs/PERFORMANCE.md tells more.

Not part of the tests. Peers are used when they are installed, and named when they are not; nothing is installed.
Run it as root on a quiet machine: only root can make a fresh disk, and empty the caches for what is read cold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    """0 when every figure was taken, 1 when one is missing."""
    sys.path.insert(0, str(ROOT))
    options = parse(arguments)
    os.environ["PYTHONPATH"] = str(ROOT)  # for the commands of the client and the server
    text, everything, has_failed = ROOMS[options.room](options)
    print(text)
    if options.json is not None:
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    if options.markdown is not None:
        from tests.benchmarks.report import replace_section

        replace_section(options.markdown, options.room, text)
    return 1 if has_failed else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--runs", type=int, default=3, help="how often each is run (3)")
    common.add_argument("--scale", type=float, default=1.0, help="of all sizes and counts (1)")
    common.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables into this document too")
    common.add_argument("--json", type=Path, metavar="FILE", help="write every single figure there")
    rooms = parser.add_subparsers(dest="room", required=True)
    local = rooms.add_parser("local", parents=[common], help="everything in the local store, beside other filesystems")
    local.add_argument("--peers", type=names, default=[], help="only these filesystems, separated by commas")
    local.add_argument("--only", type=names, default=[], help="only these workloads, and what they need")
    local.add_argument("--limit", type=int, default=120, help="seconds for one workload (120)")
    local.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()), help="where the disk images are made")
    rooms.add_parser("many", parents=[common], help="a hundred thousand small files, up and down")
    server = rooms.add_parser("server", parents=[common], help="requests and bytes a second of server processes")
    server.add_argument("--serve", type=names, default=[], help="these ways to serve, separated by commas")
    sync = rooms.add_parser(
        "sync", parents=[common], help="two devices and a server, at full speed and over a slow link"
    )
    sync.add_argument("--only", type=names, default=[], help="loopback, or 50 for the slow link")
    return parser.parse_args(arguments)


def names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name for name in text.split(",") if name]


def run_local(options: argparse.Namespace) -> tuple[str, object, bool]:
    """Text, raw figures, and whether some are missing."""
    from tests.benchmarks import local
    from tests.benchmarks.filesystems import FILESYSTEMS
    from tests.benchmarks.workloads import WORKLOADS

    known = {filesystem.name for filesystem in FILESYSTEMS} | set(WORKLOADS)
    if unknown := {*options.peers, *options.only} - known:
        sys.exit(f"not known: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    chosen = local.Options(options.peers, options.only, options.runs, options.scale, options.limit, options.disk)
    outcome = local.run(chosen)
    return local.write_up(outcome, chosen), local.raw(outcome), outcome.has_failed()


def run_server(options: argparse.Namespace) -> tuple[str, object, bool]:
    """Text, raw figures, and whether some are missing."""
    from tests.benchmarks import server
    from tests.benchmarks.serving import WAYS

    if unknown := set(options.serve) - set(WAYS):
        sys.exit(f"not known: {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
    return server.run(options.runs, options.scale, options.serve)


def run_sync(options: argparse.Namespace) -> tuple[str, object, bool]:
    """Text, raw figures, and whether some are missing."""
    from tests.benchmarks import sync

    return sync.run(options.runs, options.scale, options.only)


def run_many(options: argparse.Namespace) -> tuple[str, object, bool]:
    """Text, raw figures, and whether some are missing."""
    from tests.benchmarks import many

    return many.run(options.runs, options.scale)


ROOMS = {"sync": run_sync, "many": run_many, "local": run_local, "server": run_server}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
