"""What the disk sees: nothing but ciphertext, and every change to it is refused or has no effect."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from blobfs.errors import StoreDamaged
from blobfs.store.ledger import HEAVY
from blobfs.store.store import Store
from blobfs.values.documents import DocId, Kind
from blobfs.values.nodes import ROOT_INODE
from tests.store.conftest import KEYS, Bench, content, make, write

PLANTED = b"Planted-where-nobody-may-find-it"


def plant(store: Store) -> None:
    """The string in every place that a document has."""
    node = make(store, PLANTED, data=PLANTED * 10_000)
    write(store, node.inode, 5, PLANTED)
    write(store, make(store, b"heavy").inode, 0, PLANTED * (HEAVY // 16))
    store.tree.set_xattr(node.inode, b"user." + PLANTED, PLANTED, 20)
    store.tree.create(ROOT_INODE, b"l", Kind.SYMLINK, mode=0o777, uid=0, gid=0, now_ns=1, target=PLANTED)
    store.documents.create(DocId("api"), {"text": PLANTED.decode(), PLANTED.decode(): 1}, 20, uid=0, gid=0)
    store.settings.set("note", PLANTED.decode())


def find(place: Path) -> list[str]:
    """Files that hold the string, as bytes or as UTF-16."""
    wanted = (PLANTED, PLANTED.decode().encode("utf-16-le"), PLANTED.hex().encode())
    files = [path for path in place.rglob("*") if path.is_file()]
    return [path.name for path in files if any(form in path.read_bytes() for form in wanted)]


def test_no_file_shows_what_is_in_the_store(
    bench: Bench, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    plant(store)
    image = bench.image(store)
    names = {path.name.split("-0")[0] for path in image.iterdir()}
    assert {"documents.db", "blobs.db", "documents.db-wal", "blobs.db-wal", "blobs.db-shm", "journal", "spool"} <= names
    store._ledger.commit()
    bench.image(store)
    bench.close(store)
    bench.close(bench.open(image))
    assert find(tmp_path) == []


def test_a_failing_statement_spills_no_plaintext(bench: Bench, store: Store, tmp_path: Path) -> None:
    """A savepoint larger than SQLite's memory would need a file to be taken back from."""
    node = make(store, b"f")
    store._ledger.commit()
    code = "\n".join(
        (
            "import sys, os; from pathlib import Path; from blobfs.store.store import Store",
            "from tests.store.conftest import KEYS, write; from tests.store.test_secrecy import PLANTED",
            "store = Store.open(Path(sys.argv[1]), KEYS)",
            "try:",
            "    with store.transaction():",
            f"        write(store, {node.inode}, 0, PLANTED * (3 << 18))",
            f"        write(store, {node.inode}, 0, PLANTED * (3 << 18))",
            "        for number in os.listdir('/proc/self/fd'):",
            "            try: print(os.readlink(f'/proc/self/fd/{number}'))",
            "            except OSError: pass",
            "        raise KeyError",
            "except KeyError: os._exit(0)",
        )
    )
    path = bench.image(store)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=True,
    )
    opened = {line for line in done.stdout.splitlines() if line.startswith("/") and not line.startswith("/dev")}
    assert {Path(line).parent for line in opened if "deleted" in line or str(path) in line} == {path}
    assert find(path) == []


def test_another_key_opens_nothing(bench: Bench, store: Store) -> None:
    make(store, b"f", data=b"x")
    bench.close(store)
    for wrong in (
        replace(KEYS, documents_db=bytes(32)),
        replace(KEYS, blobs_db=bytes(32)),
    ):
        with pytest.raises(StoreDamaged):
            Store.open(store.path, wrong)
    assert len(bench.open(store.path).tree.entries(ROOT_INODE, 0, 9)) == 1


def journal_of(path: Path) -> Path:
    return max(path.glob("journal-*"))


def run_again(bench: Bench, image: Path) -> list[bytes]:
    """The names that recovery finds."""
    store = bench.open(image)
    assert store.check() == []
    found = [entry.name for entry in store.tree.entries(ROOT_INODE, 0, 99)]
    bench.close(store)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_a_journal_that_was_changed_replays_a_prefix_at_most(bench: Bench, store: Store, seed: int) -> None:
    source = random.Random(seed)
    wanted = [b"f%d" % number for number in range(8)]
    for name in wanted:
        make(store, name, data=name * 100)
    image = bench.image(store)
    journal = journal_of(image)
    data = bytearray(journal.read_bytes())
    way, at = seed % 4, source.randrange(len(data))
    if way == 0:
        data[at] ^= 1 << source.randrange(8)
    elif way == 1:
        del data[at:]
    elif way == 2:
        del data[at : at + source.randrange(1, 500)]
    else:
        other = source.randrange(len(data))
        data[at : at + 300], data[other : other + 300] = data[other : other + 300], data[at : at + 300]
    journal.write_bytes(data)
    found = run_again(bench, image)
    assert found == wanted[: len(found)]


def test_a_journal_of_another_store_or_of_before_is_not_replayed(bench: Bench, store: Store) -> None:
    """Both stores are of one account, so they have one journal key."""
    make(store, b"mine")
    other = bench.create("other")
    make(other, b"foreign")
    before = bench.image(other)
    image = bench.image(store)
    shutil.copy(journal_of(before), journal_of(image))
    assert b"foreign" not in run_again(bench, image)
    image = bench.image(store)
    shutil.copy(journal_of(before), image / "journal-0000000099")
    assert run_again(bench, image) == [b"mine"]
    store._ledger.commit()
    old = journal_of(bench.image(store))
    store.tree.unlink(ROOT_INODE, b"mine", 30)
    store._ledger.commit()
    image = bench.image(store)
    shutil.copy(old, image / "journal-0000000000")
    assert run_again(bench, image) == []


@pytest.mark.parametrize("name", ["lock", "documents.db", "blobs.db", "journal-0000000007"])
def test_links_in_place_of_files_are_refused(bench: Bench, store: Store, tmp_path: Path, name: str) -> None:
    bench.close(store)
    target = tmp_path / "target"
    if (store.path / name).exists():
        (store.path / name).rename(target)
    else:
        target.write_bytes(b"x")
    (store.path / name).symlink_to(target)
    before = target.read_bytes()
    with pytest.raises(StoreDamaged):
        Store.open(store.path, KEYS)
    assert target.read_bytes() == before


def test_a_pipe_in_place_of_a_journal_is_refused(bench: Bench, store: Store) -> None:
    bench.close(store)
    os.mkfifo(store.path / "journal-0000000007")
    with pytest.raises(StoreDamaged):
        Store.open(store.path, KEYS)


def test_foreign_files_beside_the_journals_are_left_alone(bench: Bench, store: Store) -> None:
    bench.close(store)
    (store.path / "journal-old").write_bytes(b"x")
    assert bench.open(store.path).tree.count() == 1
    assert (store.path / "journal-old").exists()


def test_only_the_owner_may_read(bench: Bench, tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        (tmp_path / "open").mkdir(mode=0o755)
        store = bench.create("open")
        make(store, b"f", data=b"x" * HEAVY)
        store._ledger.commit()
    finally:
        os.umask(former)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.path.iterdir()} == {0o600}


@pytest.mark.usefixtures("unstaged")
def test_a_damaged_page_is_named_and_never_read_as_data(bench: Bench, store: Store) -> None:
    node = make(store, b"f", data=os.urandom(2 * HEAVY))
    bench.close(store)
    blobs = store.path / "blobs.db"
    data = bytearray(blobs.read_bytes())
    for at in range(12 * 16384, len(data), 16384):
        data[at + 100] ^= 1
    blobs.write_bytes(data)
    store = bench.open(store.path)
    with pytest.raises(StoreDamaged):
        content(store, node.inode)
