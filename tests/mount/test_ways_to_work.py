"""What people do all day: edit, pack, build, install."""

from __future__ import annotations

import fcntl
import json
import os
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.test_programs import describe, run


def vim_renames(path: Path, body: str) -> None:
    """Vim with `backupcopy=no`: the old file becomes the backup, the text goes to a new one."""
    backup, probe = Path(f"{path}~"), path.with_name("4913")
    status = path.stat()
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, status.st_mode & 0o7777)
    os.fchown(descriptor, status.st_uid, status.st_gid)
    os.close(descriptor)
    assert probe.stat().st_uid == status.st_uid
    probe.unlink()
    backup.unlink(missing_ok=True)
    os.rename(path, backup)
    _write_new(path, body, os.O_CREAT | os.O_EXCL)
    os.chmod(path, status.st_mode & 0o7777)
    backup.unlink()


def vim_copies(path: Path, body: str) -> None:
    """Vim with `backupcopy=yes`: the backup is a copy, the file is written in place."""
    backup = Path(f"{path}~")
    backup.write_bytes(path.read_bytes())
    os.utime(backup, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    _write_new(path, body, os.O_TRUNC)
    backup.unlink()


def _write_new(path: Path, body: str, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | flags, 0o644)
    os.write(descriptor, body.encode())
    os.fsync(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("save", [vim_renames, vim_copies])
def test_vim_saves_beside_its_swap_file(folder: Path, save: Callable[[Path, str], None]) -> None:
    path, swap = folder / "text", folder / ".text.swp"
    path.write_text("first")
    path.chmod(0o640)
    with open(swap, "x+b", buffering=0) as recovery:
        for number in range(10):
            recovery.seek(4096 * (number % 3))
            recovery.write(bytes([number]) * 4096)
            save(path, f"version {number}" * number * 100)
        assert recovery.seek(0, os.SEEK_END) == 3 * 4096
    swap.unlink()
    assert path.read_text() == "version 9" * 900
    assert path.stat().st_mode & 0o7777 == 0o640
    assert os.listdir(folder) == ["text"]


def test_libreoffice_saves_under_its_lock_file(folder: Path) -> None:
    path, lock = folder / "letter.odt", folder / ".~lock.letter.odt#"
    path.write_bytes(b"old")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    os.write(descriptor, b",user,host,01.01.2026 10:00,file:///home/user/.config;")
    os.close(descriptor)
    with pytest.raises(FileExistsError):
        os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    with open(path, "r+b") as document:
        fcntl.lockf(document, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for number in range(5):
            temporary = folder / f"lu{number}abc.tmp"
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as package:
                package.writestr("mimetype", "application/vnd.oasis.opendocument.text", zipfile.ZIP_STORED)
                package.writestr("content.xml", f"<text>{number}</text>" * 5000)
            os.replace(temporary, path)
    lock.unlink()
    with zipfile.ZipFile(path) as package:
        assert package.testzip() is None
        assert package.read("content.xml").startswith(b"<text>4</text>")
    assert os.listdir(folder) == ["letter.odt"]


def test_zip_archives_are_written_added_to_and_unpacked(folder: Path) -> None:
    draw = random.Random(5)
    source = folder / "source"
    for number in range(60):
        path = source / f"d{number % 4}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw.randbytes(draw.choice((0, 10, 5000, 200_000))))
    run(sys.executable, "-m", "zipfile", "-c", "archive.zip", "source", cwd=folder)
    with zipfile.ZipFile(folder / "archive.zip", "a") as archive:
        archive.writestr("source/added", b"later")
    run(sys.executable, "-m", "zipfile", "-t", "archive.zip", cwd=folder)
    run(sys.executable, "-m", "zipfile", "-e", "archive.zip", "unpacked", cwd=folder)
    (source / "added").write_bytes(b"later")
    wanted, found = describe(source), describe(folder / "unpacked" / "source")
    assert {name: value[1] for name, value in found.items() if isinstance(value, tuple)} == {
        name: value[1] for name, value in wanted.items() if isinstance(value, tuple)
    }


MAKEFILE = """
objects = main.o part.o
program: $(objects)
\t$(CC) -o $@ $(objects)
%.o: %.c part.h
\t$(CC) -O1 -c -o $@ $<
"""


def test_make_builds_a_c_project_and_rebuilds_only_what_changed(folder: Path) -> None:
    (folder / "Makefile").write_text(MAKEFILE)
    (folder / "part.h").write_text("int part(void);\n")
    (folder / "part.c").write_text('#include "part.h"\nint part(void) { return 41; }\n')
    (folder / "main.c").write_text('#include <stdio.h>\n#include "part.h"\nint main(void) { printf("%d", part()); }\n')
    run("make", "-j2", cwd=folder)
    assert run(folder / "program") == "41"
    assert "up to date" in run("make", cwd=folder)
    (folder / "part.c").write_text('#include "part.h"\nint part(void) { return 42; }\n')
    told = run("make", cwd=folder)
    assert "part.o" in told
    assert "-o main.o" not in told
    assert run(folder / "program") == "42"


def test_a_virtual_environment_is_made_and_used(folder: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env")
    told = run(folder / "env" / "bin" / "python", "-c", "import sys; print(sys.prefix)")
    assert told.strip() == str(folder / "env")


@pytest.mark.long
def test_npm_installs_packages_with_their_dependencies_and_takes_them_away(folder: Path) -> None:
    """From tarballs made here, with npm's cache in the mount as well: no registry is asked."""
    npm = ("npm", "--offline", "--no-audit", "--no-fund", "--cache", folder / "cache")
    for name, below in (("inner", {}), ("outer", {"inner": f"file:{folder}/inner-1.0.0.tgz"})):
        package = folder / name
        (package / "lib").mkdir(parents=True)
        about = {"name": name, "version": "1.0.0", "bin": {name: "tool.js"}, "dependencies": below}
        (package / "package.json").write_text(json.dumps(about))
        for number in range(300):
            (package / "lib" / f"{number}.js").write_text(f"module.exports = {number};\n")
        (package / "tool.js").write_text(f"#!/usr/bin/env node\nconsole.log('{name}')\n")
        (package / "index.js").write_text("module.exports = require('./lib/41.js') + 1;\n")
        run(*npm, "pack", package, cwd=folder)
    project = folder / "project"
    project.mkdir()
    run(*npm, "init", "-y", cwd=project)
    run(*npm, "install", folder / "outer-1.0.0.tgz", cwd=project)
    assert run("node", "-e", "console.log(require('outer') + require('inner'))", cwd=project).strip() == "84"
    assert run(project / "node_modules" / ".bin" / "inner").strip() == "inner"
    told = run(*npm, "ls", "--all", cwd=project)
    assert "outer@1.0.0" in told
    assert "inner@1.0.0" in told
    (project / "node_modules" / "inner" / "lib" / "7.js").unlink()
    run(*npm, "ci", cwd=project)
    assert len(os.listdir(project / "node_modules" / "inner" / "lib")) == 300
    run(*npm, "uninstall", "outer", cwd=project)
    assert not (project / "node_modules" / "inner").exists()
