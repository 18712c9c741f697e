"""The rooms and arrows of the code: who may import whom, read from the source with `ast`.

The tables below are the map. A module that stands in none of them, or an arrow that they do not allow, fails here; then
either the code is wrong, or the map changes in plain sight.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

CLIENT: Final = {
    # room: (floor, the modules and packages of blobfs/ in it)
    "values": (0, ("errors", "protocol", "values")),
    "store": (1, ("store",)),
    "remote": (2, ("remote",)),
    "sync": (3, ("sync",)),
    "fs": (4, ("fs",)),
    "door": (
        5,
        (
            "__init__",
            "account",
            "answers",
            "api",
            "asking",
            "background",
            "calibration",
            "cli",
            "commands",
            "config",
            "control",
            "daemon",
            "devices",
            "embedded",
            "firstrun",
            "grammar",
            "healing",
            "keyring",
            "locking",
            "mounting",
            "mountpoint",
            "newer",
            "outside",
            "page",
            "process",
            "rclone",
            "rotation",
            "screen",
            "status",
            "suspend",
            "troubles",
            "unlock",
            "upkeep",
            "wordcheck",
            "wording",
        ),
    ),
    # Runs before anything is installed, so it imports nothing of ours and nothing from outside.
    "bootstrap": (0, ("bootstrap",)),
}
SERVER: Final = {
    "errors": (0, ("errors",)),
    "catalog": (1, ("catalog",)),
    "backends": (1, ("backends",)),
    "settings": (1, ("settings",)),
    # Also whatever stands in no other line.
    "rules": (2, ("auth", "collect", "quota")),
    "routes": (3, ("routes",)),
    "door": (4, ("__init__", "__main__", "app", "cli", "commands", "serve")),
}
FORBIDDEN_ARROWS: Final = {("fs", "remote")}
"""Arrows that point down and are none of ours all the same."""
SOLE_IMPORTERS: Final = {
    "pyfuse3": ("blobfs.fs.operations",),
    "httpx": ("blobfs.remote.transport", "blobfs.remote.causes"),
    "fsspec": ("blobfs.api.urls",),
    "h11": ("blobfs.page.wire", "blobfs.page.browsing"),
}
ALONE: Final = ("blobfs.errors", "blobfs.protocol", "blobfs.bootstrap")
"""Import the standard library and themselves, nothing else."""
_PURE: Final = """
__future__ base64 binascii bisect collections dataclasses enum functools hashlib heapq hmac itertools json math operator
re secrets string struct types typing unicodedata zlib blobfs cryptography mnemonic msgpack
"""
PURE: Final = frozenset(_PURE.split())
"""All that values may import: nothing that does input or output, tells the time or knows of tasks."""
HEAVY: Final = {"cryptography", "httpx", "mnemonic", "pyfuse3", "sqlalchemy", "sqlcipher3", "starlette", "trio"}
FORBIDDEN_NAMES: Final = frozenset(("utils", "util", "common", "helpers", "misc"))
MAX_LINES: Final = 500


# --- reading the source -------------------------------------------------------------------------------------


def modules(package: str) -> dict[str, Path]:
    """Every module under a top-level directory, by dotted name; a package goes by its own name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, source: str, *, is_package: bool = False) -> Iterator[str]:
    """The dotted name of everything that module `name` imports, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            above = parts[: len(parts) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(name: str) -> tuple[str, int] | None:
    """(room, floor) of a module of ours; None when the map does not know it."""
    top, _, rest = name.partition(".")
    part = rest.partition(".")[0] or "__init__"
    for label, (floor, parts) in (CLIENT if top == "blobfs" else SERVER).items():
        if part in parts:
            return label, floor
    return ("rules", 2) if top == "server" else None


def is_module(name: str) -> bool:
    """Whether a dotted name is a module of ours, there or on the map."""
    path, part = ROOT / name.replace(".", "/"), name.partition(".")[2]
    listed = {part for _, parts in SERVER.values() for part in parts}
    return path.is_dir() or path.with_suffix(".py").is_file() or part in listed


def is_within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(place + ".") for place in places)


def faults(name: str, source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one module."""
    found, here, top = [], room(name), name.partition(".")[0]
    if here is None:
        return [f"{name} is not on the map"]
    for target in imports(name, source, is_package=is_package):
        library = target.partition(".")[0]
        if not is_within(name, SOLE_IMPORTERS.get(library, (name,))):
            found.append(f"{name} imports {library}")
        if is_within(name, ALONE) and library not in {*sys.stdlib_module_names, "blobfs"}:
            found.append(f"{name} imports {library}, which is not in the standard library")
        if is_within(name, ("blobfs.values",)) and library not in PURE:
            found.append(f"{name} imports {library}, and values are pure")
        if library in ("blobfs", "server"):
            found.extend(f"{name} -> {target}: {reason}" for reason in arrow(name, here, target, top, library))
    return found


def arrow(name: str, here: tuple[str, int], target: str, top: str, library: str) -> Iterator[str]:
    """What is wrong with one arrow between two modules of ours."""
    if top != library:
        if top == "blobfs" or not is_within(target, ("blobfs.protocol",)):
            yield "between client and server stands blobfs.protocol only"
        return
    if is_within(name, ALONE) and not is_within(target, tuple(place for place in ALONE if is_within(name, (place,)))):
        yield "it stands alone"
    there = room(".".join(target.split(".")[:2]))
    if target.count(".") == 1 and not is_module(target) and there in (None, ("rules", 2)):
        return  # a plain name of the package itself, such as its version
    if there is None:
        yield "not on the map"
    elif there[0] != here[0] and (there[1] >= here[1] or (top == "blobfs" and (here[0], there[0]) in FORBIDDEN_ARROWS)):
        yield f"from {here[0]} to {there[0]}"


# --- the code -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["blobfs", "server"])
def test_every_import_follows_the_map(package: str) -> None:
    found = [
        fault
        for name, path in modules(package).items()
        for fault in faults(name, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", ["blobfs", "server", "tests"])
def test_no_module_is_too_long_or_a_drawer_for_odds_and_ends(package: str) -> None:
    sizes = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules(package).items()}
    assert not {name: size for name, size in sizes.items() if size > MAX_LINES}
    assert not {name for name in sizes if FORBIDDEN_NAMES & set(name.split("."))}


def test_values_open_no_file() -> None:
    for name, path in modules("blobfs/values").items():
        calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("open", "print")], (
            name
        )


def test_importing_the_protocol_loads_nothing_heavy() -> None:
    code = f"import sys, blobfs, blobfs.protocol; sys.exit(' '.join(sys.modules.keys() & {HEAVY!r}) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stderr.strip(), done.returncode) == ("", 0)


# --- the guard itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("blobfs.values.new", "import os"),
        ("blobfs.values.new", "def late() -> None:\n    import trio"),
        ("blobfs.values.new", "from ..store import documents"),
        ("blobfs.store.new", "from blobfs.sync.engine import SyncEngine"),
        ("blobfs.store.new", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import blobfs.daemon"),
        ("blobfs.fs.new", "from blobfs.remote.client import RemoteClient"),
        ("blobfs.fs.new", "from blobfs import remote"),
        ("blobfs.fs.new", "import pyfuse3"),
        ("blobfs.sync.new", "import httpx"),
        ("blobfs.remote.new", "from httpx import AsyncClient"),
        ("blobfs.errors", "from blobfs.values import keys"),
        ("blobfs.protocol", "import cryptography.fernet"),
        ("blobfs.cli", "import server.app"),
        ("blobfs.new", ""),
        ("server.new", "from blobfs.values import keys"),
        ("server.new", "from blobfs import errors"),
        ("server.catalog.new", "from server.routes import blobs"),
        ("server.backends.new", "from server import quota"),
    ],
)
def test_a_wrong_arrow_is_found(name: str, source: str) -> None:
    assert faults(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("blobfs.values.new", "from blobfs.errors import CorruptBlob\nfrom blobfs.protocol import is_id"),
        ("blobfs.values.new", "from . import keys\nfrom .keys import Keys"),
        ("blobfs.store.new", "from blobfs import __version__"),
        ("blobfs.fs.operations", "import pyfuse3, trio\nfrom blobfs.sync.engine import SyncEngine"),
        ("blobfs.remote.transport", "import httpx"),
        ("blobfs.daemon", "from blobfs.fs import operations\nfrom blobfs import config"),
        ("server.new", "from blobfs.protocol import ID\nfrom blobfs import protocol\nfrom server.catalog import blobs"),
    ],
)
def test_a_right_arrow_passes(name: str, source: str) -> None:
    assert faults(name, source) == []
