"""Stores and server trees of each version that has landed stay readable: `samples/version-N.tar` was made by it.

Each is the directory of a store with its embedded server inside, both ended in good order; in that of version 2 the
passphrase was changed between the files, and that of version 3 has a spool. Never made anew: a change that cannot read
one needs a migration.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from blobfs.store.store import Store
from blobfs.values.documents import Kind
from blobfs.values.epochs import open_older
from blobfs.values.keys import derive_keys, passphrase_bytes, unwrap
from blobfs.values.nodes import ROOT_INODE, Inode, Node
from tests.formats import reader

SAMPLES: Final = sorted((Path(__file__).parent / "samples").glob("version-*.tar"))
PASSPHRASE: Final = "sample passphrase"
WORDS: Final = {
    "version-1": "chalk coin half worth real tooth process clump enter salt frost nice "
    "airport gesture sad again record sell rubber game safe change crash trophy",
    "version-2": "rare legend book shell tongue first despair hold goose type team shoe "
    "cup canvas maid dune wealth simple magnet warfare rotate joke video around",
    "version-3": "length angle wish wire bottom onion clump hazard glide defense another jar "
    "jaguar lens swear seat truth twist apart unknown media phone napkin author",
}
FILES: Final = {
    b"hello.txt": b"hello\n",
    b"docs/again.txt": b"hello\n",
    b"docs/numbers.bin": bytes(number * 7 % 251 for number in range(150_000)),
    b"sparse": bytes(4 << 20) + b"end",
    b"odd \xff name": b"odd",
    b"empty": b"",
}
OTHERS: Final = {b"docs", b"link"}


@pytest.fixture(params=SAMPLES, ids=lambda path: path.stem)
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one sample, to be opened and migrated at will."""
    place = tmp_path / request.param.stem
    place.mkdir()
    # Python before 3.11.4, which is Debian 12's, knows no filter, and a later one warns without.
    subprocess.run(["tar", "--no-same-owner", "-xf", request.param, "-C", place], check=True)
    place.chmod(0o700)
    return place


def test_there_is_a_sample() -> None:
    assert SAMPLES


def test_a_store_shows_every_name_and_byte(sample: Path) -> None:
    body = json.loads((sample / "secrets.json").read_text())
    account, secret = unwrap(body, passphrase=passphrase_bytes(PASSPHRASE))
    store = Store.open(sample, derive_keys(account, secret, open_older(body, secret)))
    try:
        nodes = dict(_walk(store, ROOT_INODE, b""))
        assert shown(nodes) == FILES.keys() | OTHERS
        for name, content in FILES.items():
            node = nodes[name]
            assert node.content is not None
            assert store.attachments.read(node.content, 0, node.size) == content, name
        hello = nodes[b"hello.txt"]
        assert (hello.nlink, hello.mtime_ns, hello.inode) == (2, 10**18 + 123456789, nodes[b"docs/again.txt"].inode)
        assert store.tree.get_xattr(hello.inode, b"user.colour") == b"blue"
        assert (nodes[b"empty"].mode, nodes[b"link"].target) == (0o640, b"docs/numbers.bin")
        assert store.documents.pending() == (0, 0)
        assert store.check() == []
    finally:
        store.close()


def shown(names: Iterable[bytes]) -> set[bytes]:
    """Without what devices tell one another."""
    return {name for name in names if name.split(b"/")[0] != b".blobfs"}


def _walk(store: Store, directory: Inode, above: bytes) -> list[tuple[bytes, Node]]:
    found = []
    for entry in store.tree.entries(directory, 0, 1000):
        found.append((above + entry.name, entry.node))
        if entry.node.kind is Kind.DIRECTORY:
            found += _walk(store, entry.node.inode, above + entry.name + b"/")
    return found


def test_a_server_tree_passes_its_check_and_is_read_by_the_recovery_words_alone(sample: Path) -> None:
    data = sample / "server"
    command = [sys.executable, "-m", "server", "check", "--digests", "--data", str(data), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    account = reader.unlock((sample / "secrets.json").read_bytes(), words=WORDS[sample.name])
    (user,) = (path for path in (data / "blobs").iterdir() if not path.name.startswith("."))
    tree = reader.read_tree(account, user / "default", _documents(data / "catalog.db"))
    assert {name: entry.content() for name, entry in tree.items() if name in FILES} == FILES
    assert shown(tree) == FILES.keys() | OTHERS


def _documents(catalog: Path) -> list[dict[str, object]]:
    """What the feed would answer."""
    with sqlite3.connect(catalog) as connection:
        rows = connection.execute(
            "SELECT doc_id, seq, revision, deleted, payload FROM documents ORDER BY seq"
        ).fetchall()
    connection.close()
    names = ("doc_id", "seq", "revision", "deleted")
    return [
        dict(zip(names, (*row[:3], bool(row[3])), strict=True)) | {"payload": base64.b64encode(row[4]).decode("ascii")}
        for row in rows
    ]
