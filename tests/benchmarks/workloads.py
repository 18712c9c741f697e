"""What is timed on a filesystem, each with a check of what was written; and the process that does it in a directory.

`python -m tests.benchmarks.workloads DIR ...` is started by local.py, one process for each pass, so that a filesystem
that hangs can be ended without ending the benchmark. Knows nothing of which filesystem it is.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import stat
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from tests.benchmarks.trial import MIB, PAGE, Registry, Trial, check, drop_caches, run, run_command

WORKLOADS: Final = Registry()
workload = WORKLOADS.add

FOLDERS: Final = 20


def write_file(path: Path | str, content: bytes) -> None:
    """Create a file the way most programs do: open, write, close."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        write_all(descriptor, content)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """One write, which must take everything."""
    check(os.write(descriptor, content) == len(content), "a write was short")


def read_file(path: Path | str, limit: int = -1) -> bytes:
    """The bytes of a file, with one request more than needed at most."""
    with open(path, "rb", buffering=0) as file:
        return file.read(limit) or b""


# --- many small files: 2,000 of 4 KiB in 20 directories ---------------------------------------------------------------


@workload("create files of 4 KiB", "files/s")
def small_create(trial: Trial) -> float:
    """Open, write, close."""
    trial.folders = [trial.root / f"folder{number}" for number in range(FOLDERS)]
    for folder in trial.folders:
        folder.mkdir()
    trial.small = [trial.folders[number % FOLDERS] / f"file{number}" for number in range(trial.count(2000))]
    trial.contents = [trial.page(number) for number in range(len(trial.small))]
    paths = list(map(str, trial.small))
    with trial.timed():
        for path, content in zip(paths, trial.contents, strict=True):
            write_file(path, content)
    return len(paths)


@workload("stat them, cold", "files/s", needs="small_create", is_cold=True)
def small_stat_cold(trial: Trial) -> float:
    """List each directory and stat every entry."""
    sizes = {}
    with trial.timed():
        for folder in trial.folders:
            with os.scandir(folder) as entries:
                for entry in entries:
                    sizes[entry.path] = entry.stat().st_size
    check(sizes == dict.fromkeys(map(str, trial.small), PAGE), "names or sizes differ")
    return len(sizes)


@workload("read them, cold", "files/s", needs="small_create", is_cold=True)
def small_read_cold(trial: Trial) -> float:
    """Open, read, close."""
    paths = list(map(str, trial.small))
    with trial.timed():
        contents = [read_file(path, PAGE + 1) for path in paths]
    check(contents == trial.contents, "bytes differ")
    return len(paths)


@workload("rename", "ops/s", needs="small_create")
def rename(trial: Trial) -> float:
    """Every second file moves to the next directory, under a new name."""
    old = trial.small[::2]
    new = [trial.folders[number % FOLDERS] / f"moved{number}" for number in range(1, len(old) + 1)]
    pairs = list(zip(map(str, old), map(str, new), strict=True))
    with trial.timed():
        for source, target in pairs:
            os.rename(source, target)
    trial.small[::2] = new
    drop_caches()
    check(not any(map(os.path.lexists, old)), "an old name is still there")
    check([read_file(path) for path in trial.small] == trial.contents, "bytes differ")
    return len(pairs)


@workload("delete them", "files/s", needs="small_create")
def small_delete(trial: Trial) -> float:
    """Unlink every file."""
    paths = list(map(str, trial.small))
    with trial.timed():
        for path in paths:
            os.unlink(path)
    check(not any(map(os.listdir, trial.folders)), "a deleted file is still listed")
    return len(paths)


@workload("list and stat 100,000 files, cold", "files/s", is_extra=True)
def many_find_cold(trial: Trial) -> float:
    """`find` with sizes over 100,000 empty files in 100 directories."""
    root = trial.root / "many"
    root.mkdir()
    names = set()
    for folder in range(100):
        (root / str(folder)).mkdir()
        names.add(f"{folder}")
        for number in range(trial.count(1000)):
            os.close(os.open(root / str(folder) / f"{number:04}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            names.add(f"{folder}/{number:04}")
    drop_caches()
    with trial.timed():
        found = run_command("find", root, "-mindepth", "1", "-printf", "%P\t%s\n")
    check({line.partition("\t")[0] for line in found.splitlines()} == names, "names differ")
    return len(names)


# --- a real tree: Python's standard library --------------------------------------------------------------------------


def pack_tree(tarball: Path) -> None:
    """The tree that is unpacked, the same for every filesystem; source files only."""
    source = Path(sysconfig.get_paths()["stdlib"])
    with tarfile.open(tarball, "w") as tar:
        for folder, directories, files in os.walk(source):
            directories[:] = sorted(set(directories) - {"site-packages", "dist-packages", "__pycache__"})
            for name in sorted(directories + files):
                path = Path(folder, name)
                tar.add(path, str(path.relative_to(source)), recursive=False)


def describe(path: Path) -> tuple[object, ...]:
    """What must be the same in the tarball and on the filesystem."""
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        return ("link", os.readlink(path))
    if stat.S_ISDIR(info.st_mode):
        return ("directory", info.st_mode & 0o777)
    return ("file", info.st_mode & 0o777, hashlib.sha256(path.read_bytes()).digest())


def packed(tarball: Path) -> dict[str, tuple[object, ...]]:
    """What the tarball says there is, by relative path."""
    tree: dict[str, tuple[object, ...]] = {}
    with tarfile.open(tarball) as tar:
        for member in tar:
            if member.issym():
                tree[member.name] = ("link", member.linkname)
            elif member.isdir():
                tree[member.name] = ("directory", member.mode & 0o777)
            elif (file := tar.extractfile(member)) is not None:  # a hard link reads as what it links to
                tree[member.name] = ("file", member.mode & 0o777, hashlib.sha256(file.read()).digest())
    return tree


def unpacked(root: Path) -> dict[str, tuple[object, ...]]:
    """What is below a directory, by relative path."""
    tree: dict[str, tuple[object, ...]] = {}
    for folder, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(folder, name)
            tree[str(path.relative_to(root))] = describe(path)
    return tree


@workload("tar x of a source tree", "s")
def tar_x(trial: Trial) -> float:
    """Unpack the standard library."""
    expected = packed(trial.tarball)  # reads the tarball, which is then in the page cache
    root = trial.root / "tree"
    root.mkdir()
    with trial.timed():
        run_command("tar", "xpf", trial.tarball, "-C", root)
    drop_caches()
    found = unpacked(root)
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    check(not wrong, f"{len(wrong)} of {len(expected)} paths differ, for example {wrong[:1]}")
    return 1


@workload("find in that tree, cold", "s", needs="tar_x", is_cold=True)
def find_cold(trial: Trial) -> float:
    """`find` that stats everything."""
    with trial.timed():
        found = run_command("find", trial.root / "tree", "-mindepth", "1", "-printf", "%P\t%s\n")
    names = sorted(line.partition("\t")[0] for line in found.splitlines())
    check(names == sorted(packed(trial.tarball)), "names differ")
    return 1


@workload("git init, add, commit of it", "s", needs="tar_x")
def git(trial: Trial) -> float:
    """A new repository of the tree, then what git itself says of it."""
    tree = trial.root / "tree"
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    settings = ("user.name=bench", "user.email=bench@localhost", "gc.auto=0", "maintenance.auto=false")
    prefix = ("git", *(part for setting in settings for part in ("-c", setting)))

    def call(*arguments: str) -> str:
        return run_command(*prefix, *arguments, cwd=tree, env=environment)

    with trial.timed():
        call("init", "-q")
        call("add", "-A", "-f")
        call("commit", "-q", "-m", "all")
    drop_caches()
    check(call("status", "--porcelain") == "", "git sees changes")
    files = sum(kind != "directory" for kind, *_ in packed(trial.tarball).values())
    check(call("ls-files", "-z").count("\0") == files, "git does not have every file")
    call("fsck", "--no-progress")
    return 1


@workload("rm -r of both", "s", needs="tar_x")
def rm_tree(trial: Trial) -> float:
    """Remove the tree, and the repository if there is one."""
    tree = trial.root / "tree"
    with trial.timed():
        run_command("rm", "-rf", tree)
    check(not tree.exists(), "the tree is still there")
    return 1


# --- one database, one log ------------------------------------------------------------------------------------------


@workload("sqlite transactions", "tx/s")
def sqlite(trial: Trial) -> float:
    """10 rows each, with a rollback journal and full syncs."""
    count = trial.count(200)
    rows = [(number, trial.random.randbytes(100)) for number in range(10 * count)]
    path = trial.root / "test.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        mode = database.execute("PRAGMA journal_mode=DELETE").fetchone()
        check(mode == ("delete",), "sqlite cannot keep its journal")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, payload BLOB)")
        with trial.timed():
            for first in range(0, len(rows), 10):
                database.execute("BEGIN")
                database.executemany("INSERT INTO t VALUES (?, ?)", rows[first : first + 10])
                database.execute("COMMIT")
    drop_caches()
    with contextlib.closing(sqlite3.connect(path)) as database:
        check(database.execute("PRAGMA integrity_check").fetchone() == ("ok",), "sqlite finds damage")
        check(database.execute("SELECT * FROM t ORDER BY id").fetchall() == rows, "rows differ")
    return count


@workload("append 4 KiB and fsync", "ops/s")
def append_fsync(trial: Trial) -> float:
    """200 times."""
    path = trial.root / "log"
    pages = [trial.page(number) for number in range(trial.count(200))]
    with trial.timed():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for page in pages:
            write_all(descriptor, page)
            os.fsync(descriptor)
        os.close(descriptor)
    drop_caches()
    check(read_file(path) == b"".join(pages), "bytes differ")
    return len(pages)


# --- one large file ---------------------------------------------------------------------------------------------------


@workload("sequential write, fsync", "MiB/s")
def seq_write(trial: Trial) -> float:
    """256 MiB in pieces of 1 MiB, then one fsync."""
    data, path = memoryview(trial.data), trial.root / "large"
    with trial.timed():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        for start in range(0, len(data), MIB):
            write_all(descriptor, data[start : start + MIB])
        os.fsync(descriptor)
        os.close(descriptor)
    check(path.stat().st_size == len(data), "the size differs")
    return len(data) / MIB


@workload("sequential read, cold", "MiB/s", needs="seq_write", is_cold=True)
def seq_read_cold(trial: Trial) -> float:
    """256 MiB in pieces of 1 MiB."""
    return read_large(trial)


@workload("sequential read, warm", "MiB/s", needs="seq_write")
def seq_read_warm(trial: Trial) -> float:
    """The same once more, from the page cache if the filesystem uses it."""
    read_file(trial.root / "large")
    return read_large(trial)


def read_large(trial: Trial) -> float:
    """Into memory that was touched before, so that no page fault is timed."""
    found = bytearray(b"\xff") * len(trial.data)
    view, start = memoryview(found), 0
    with trial.timed(), open(trial.root / "large", "rb", buffering=0) as file:
        while count := file.readinto(view[start : start + MIB]):
            start += count
    check(start == len(found) and found == trial.data, "bytes differ")
    return len(found) / MIB


@workload("random 4 KiB reads, cold", "IOPS", needs="seq_write", is_cold=True)
def rand_read_cold(trial: Trial) -> float:
    """2,000 pages, each once."""
    offsets = choose_pages(trial)
    with trial.timed():
        descriptor = os.open(trial.root / "large", os.O_RDONLY)
        pages = [os.pread(descriptor, PAGE, offset) for offset in offsets]
        os.close(descriptor)
    is_good = all(page == trial.data[at : at + PAGE] for at, page in zip(offsets, pages, strict=True))
    check(is_good, "bytes differ")
    return len(offsets)


@workload("random 4 KiB writes, fsync", "IOPS", needs="seq_write")
def rand_write(trial: Trial) -> float:
    """2,000 pages, then one fsync."""
    offsets = choose_pages(trial)
    pages = [trial.random.randbytes(PAGE) for _ in offsets]
    path = trial.root / "large"
    with trial.timed():
        descriptor = os.open(path, os.O_WRONLY)
        for offset, page in zip(offsets, pages, strict=True):
            check(os.pwrite(descriptor, page, offset) == PAGE, "a write was short")
        os.fsync(descriptor)
        os.close(descriptor)
    for offset, page in zip(offsets, pages, strict=True):
        trial.data[offset : offset + PAGE] = page
    drop_caches()
    check(read_file(path) == trial.data, "bytes differ")
    return len(offsets)


def choose_pages(trial: Trial) -> list[int]:
    """Offsets of distinct pages of the large file."""
    pages = range(0, len(trial.data), PAGE)
    return trial.random.sample(pages, min(trial.count(2000), len(pages)))


def main() -> int:
    """Run the named workloads in a fresh directory below DIR, which is removed; results as JSON on stdout."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--tarball", type=Path, required=True)
    parser.add_argument("--scale", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--daemon", type=int)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="trial-", dir=options.directory))
    try:
        trial = Trial(root, options.tarball, options.scale, options.seed, options.daemon)
        chosen = WORKLOADS.select([name for name in options.only.split(",") if name])
        json.dump(run(trial, chosen, options.limit), sys.stdout)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
