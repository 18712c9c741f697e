"""What all tests share."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

LONG_FIRST = ("e2e", "contract", "server", "mount", "door", "threats", "setup", "sync", "api", "store")
"""Directories whose files take long: of what is short, two processes that run the rest are done at the same time."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--long`: also what takes minutes or gigabytes."""
    parser.addoption("--long", action="store_true", help="also run tests that take minutes or gigabytes")


def pytest_configure(config: pytest.Config) -> None:
    """The mark that such tests carry."""
    config.addinivalue_line("markers", "long: takes minutes or gigabytes; run with --long")
    # The same examples in each run, however slow the machine is: what is new to them is found by `--long`.
    settings.register_profile(
        "blobfs",
        deadline=None,
        derandomize=not config.getoption("--long"),
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("blobfs")
    _unmount_dead()
    # Commands and servers are started from here by the thousand: none of them is to compile the house anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # In the background of a shell Ctrl-C is ignored, by whatever is started from here, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _unmount_dead() -> None:
    """A run that was killed leaves mounts without a process in pytest's directories, which nobody can remove then."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        path, kind = line.split(" ")[1:3]
        if not kind.startswith("fuse.blobfs") or not path.startswith(f"{tempfile.gettempdir()}/pytest-of-"):
            continue
        try:
            os.stat(path)
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                subprocess.run(["fusermount3", "-u", "-z", path], check=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave them out unless asked for; and say what is to run in one process, when there are two."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        # Files share what their modules start; these two directories a PostgreSQL and a cluster of object storage, too.
        group = "services" if place.parts[0] in ("contract", "server") else str(place)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_place_in_line)
    if config.getoption("--long"):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _place_in_line(item: pytest.Item) -> int:
    directory = item.path.relative_to(Path(__file__).parent).parts[0]
    return LONG_FIRST.index(directory) if directory in LONG_FIRST else len(LONG_FIRST)
