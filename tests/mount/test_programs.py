"""Real programs that know nothing of blobfs."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program; its output. It has to succeed."""
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
        "LC_ALL": "C",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory on an ordinary disk with a bit of everything."""
    root = tmp_path_factory.mktemp("tree") / "tree"
    draw = random.Random(1)
    for number in range(150):
        path = root / f"d{number % 7}" / f"e{number % 3}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw.randbytes(draw.choice((0, 1, 100, 4096, 70_000, 300_000))))
        path.chmod(draw.choice((0o644, 0o600, 0o755, 0o4755, 0o444)))
        os.utime(path, ns=(10**18 + number, 1_600_000_000_123_456_789 + number))
    os.link(root / "d0" / "e0" / "file 0", root / "d1" / "hard link")
    os.symlink("../d0", root / "d1" / "symlink")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "d0", "user.a", b"\0b")
    with open(root / "sparse", "wb") as file:
        file.truncate(50 << 20)
        file.seek(30 << 20)
        file.write(b"x")
    # All of it lies in the past: rsync leaves a directory, symlink or fifo of the same second as it is.
    for path in root.rglob("*"):
        if path.is_symlink() or not path.is_file():
            os.utime(path, ns=(10**18, 1_600_000_000_987_654_321), follow_symlinks=False)
    return root


def describe(root: Path) -> dict[str, object]:
    """Everything about a tree that a copy keeps."""
    described: dict[str, object] = {}
    for directory, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(directory, name)
            status = path.lstat()
            body = None
            if path.is_symlink():
                body = os.readlink(path)
            elif path.is_file():
                body = hashlib.sha256(path.read_bytes()).hexdigest()
            xattrs = {key: os.getxattr(path, key) for key in os.listxattr(path, follow_symlinks=False)}
            links = 0 if path.is_dir() else status.st_nlink
            described[str(path.relative_to(root))] = (
                (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, links),
                body,
                xattrs,
            )
    return described


def test_cp_a_copies_everything(folder: Path, tree: Path) -> None:
    run("cp", "-a", tree, folder / "copy")
    assert describe(folder / "copy") == describe(tree)
    assert (folder / "copy" / "sparse").stat().st_blocks * 512 < 1 << 20


def test_tar_brings_everything_back(folder: Path, tree: Path, tmp_path: Path) -> None:
    options = ("--xattrs", "--sparse", "--format=posix")
    run("tar", *options, "-cf", tmp_path / "t.tar", "-C", tree.parent, "tree")
    run("tar", *options, "-xpf", tmp_path / "t.tar", "-C", folder)
    assert describe(folder / "tree") == describe(tree)
    run("tar", *options, "-cf", tmp_path / "back.tar", "-C", folder, "tree")
    run("tar", "--compare", "-f", tmp_path / "back.tar", "-C", folder)
    run("rm", "-rf", folder / "tree")
    assert list(folder.iterdir()) == []


def test_rsync_copies_everything_and_then_has_nothing_to_do(folder: Path, tree: Path) -> None:
    options = ("-aHAX", "--sparse")
    run("rsync", *options, f"{tree}/", folder / "copy")
    assert describe(folder / "copy") == describe(tree)
    assert (folder / "copy" / "sparse").stat().st_blocks * 512 < 1 << 20
    assert run("rsync", *options, "--itemize-changes", f"{tree}/", folder / "copy").strip() == ""
    run("rsync", *options, f"{folder}/copy/", folder / "again")
    assert describe(folder / "again") == describe(tree)


def test_git_works_and_its_repository_is_sound(folder: Path, tree: Path) -> None:
    run("git", "init", "-q", ".", cwd=folder)
    for number in range(3):
        for index in range(100):
            (folder / f"{index % 5}").mkdir(exist_ok=True)
            (folder / f"{index % 5}" / f"{index}").write_text(f"{number * index}\n" * 50)
        run("git", "add", "-A", cwd=folder)
        run("git", "commit", "-qm", f"{number}", cwd=folder)
    assert run("git", "status", "--porcelain", cwd=folder) == ""
    run("git", "gc", "-q", cwd=folder)
    run("git", "fsck", "--full", "--strict", cwd=folder)
    run("git", "clone", "-q", ".", "clone", cwd=folder)
    run("git", "fsck", "--full", "--strict", cwd=folder / "clone")
    assert run("git", "log", "--format=%s", cwd=folder / "clone").split() == ["2", "1", "0"]


@pytest.mark.parametrize("mode", ["DELETE", "WAL", "TRUNCATE", "PERSIST"])
def test_sqlite_keeps_its_database_sound(folder: Path, mode: str) -> None:
    database = folder / "db"
    connections = [sqlite3.connect(database, isolation_level=None) for _ in range(2)]
    try:
        assert connections[0].execute(f"PRAGMA journal_mode={mode}").fetchone()[0] == mode.lower()
        connections[0].execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        for number in range(60):
            connection = connections[number % 2]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO t (body) VALUES (?)", [(os.urandom(number * 50),) for _ in range(10)])
            connection.execute("DELETE FROM t WHERE id % 7 = ?", (number % 7,))
            connection.execute("ROLLBACK" if number % 5 == 4 else "COMMIT")
        connections[1].execute("VACUUM")
        assert connections[0].execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        for connection in connections:
            connection.close()


def test_an_editor_saves_by_renaming_over_the_file_that_is_open(folder: Path) -> None:
    path = folder / "text"
    path.write_text("first")
    with open(path) as reader:
        for number in range(20):
            temporary = folder / ".text.tmp"
            with open(temporary, "w") as file:
                file.write(f"version {number}")
                file.flush()
                os.fsync(file.fileno())
            shutil.copymode(path, temporary)
            os.rename(temporary, path)
        assert reader.read() == "first"
    assert path.read_text() == "version 19"
    assert [entry.name for entry in folder.iterdir()] == ["text"]


def test_a_python_module_is_compiled_and_imported(folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("from .part import answer\n")
    (folder / "package" / "part.py").write_text("answer = 42\n")
    command = "import package; print(package.answer)"
    assert run(sys.executable, "-c", command, cwd=folder).strip() == "42"
    assert list((folder / "package" / "__pycache__").glob("*.pyc"))


def test_a_thousand_files_in_one_directory_can_be_listed_and_removed(folder: Path) -> None:
    for number in range(1000):
        (folder / f"{number}").write_bytes(b"%d" % number)
    assert len(run("find", folder, "-type", "f", "-size", "-2").splitlines()) == 1000
    run("rm", "-rf", folder)
    assert not folder.exists()
