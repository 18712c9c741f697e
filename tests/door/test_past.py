"""What was: `versions`, `restore`, `trash`; and `cp`, which shares the bytes of what is."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from blobfs.answers.past import beside
from tests.door.conftest import Desk, await_close, sync, tell, told


def test_an_earlier_version_is_listed_saved_and_restored(account: Desk, folder: Path) -> None:
    first, file = os.urandom(5 << 20), folder / "file"
    file.write_bytes(first)
    sync(account)
    file.write_bytes(b"second")
    sync(account)
    listed = told(account, "versions", file)
    assert [(entry["size"], entry["current"]) for entry in listed] == [(6, True), (5 << 20, False)], listed
    before = listed[-1]
    tell(account, "versions", file, "--version", before["version"], "--output", account.home / "saved")
    assert (account.home / "saved").read_bytes() == first
    assert account.run("versions", file, "--version", 1 << 40, "--output", account.home / "none").returncode == 22
    await_close(account, file)
    tell(account, "restore", file, "--version", before["version"])
    assert file.read_bytes() == first
    sync(account)
    assert [entry["size"] for entry in told(account, "versions", file)] == [5 << 20, 6, 5 << 20]
    tell(account, "evict", file)
    assert file.read_bytes() == first


def test_what_was_not_sent_yet_is_not_replaced(account: Desk, folder: Path) -> None:
    file = folder / "file"
    file.write_bytes(b"first")
    sync(account)
    version = told(account, "versions", file)[0]["version"]
    tell(account, "config", account.mount, "paused", "on")
    try:
        file.write_bytes(b"unsent")
        await_close(account, file)
        done = account.run("restore", file, "--version", version)
        assert (done.returncode, "not on the server yet" in done.stderr) == (2, True)
        assert file.read_bytes() == b"unsent"
        assert account.run("cp", file, folder / "copy").returncode == 2
        assert not (folder / "copy").exists()
    finally:
        tell(account, "config", account.mount, "paused", "off")


def test_a_file_that_is_open_is_not_replaced(account: Desk, folder: Path) -> None:
    (folder / "file").write_bytes(b"first")
    sync(account)
    version = told(account, "versions", folder / "file")[0]["version"]
    with (folder / "file").open("rb"):
        done = account.run("restore", folder / "file", "--version", version)
    assert (done.returncode, "has the file open" in done.stderr) == (2, True)


def test_a_deleted_folder_comes_back_with_what_was_in_it(account: Desk, folder: Path) -> None:
    (folder / "inner").mkdir()
    content = os.urandom(200_000)
    (folder / "inner" / "ü.bin").write_bytes(content)
    (folder / "inner" / "link").symlink_to("ü.bin")
    sync(account)
    before_s = time.time()
    shutil.rmtree(folder / "inner")
    sync(account)
    inner = f"{folder.name}/inner"
    listed = {entry["path"]: entry["deleted"] for entry in told(account, "trash", account.mount)}
    assert {inner, f"{inner}/ü.bin", f"{inner}/link"} <= set(listed)
    assert before_s <= listed[f"{inner}/ü.bin"] <= listed[inner] <= time.time()
    said = tell(account, "trash", account.mount, "restore", inner)
    assert sorted(said.splitlines()) == sorted(f"Restored {folder / 'inner' / name}." for name in ("", "ü.bin", "link"))
    assert (folder / "inner" / "ü.bin").stat().st_mtime < before_s
    assert (folder / "inner" / "ü.bin").read_bytes() == content
    assert (folder / "inner" / "link").read_bytes() == content
    sync(account)
    assert inner not in {entry["path"] for entry in told(account, "trash", account.mount)}


def test_a_file_brings_its_deleted_folder_back_and_spares_who_has_its_name(account: Desk, folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_bytes(b"old")
    sync(account)
    shutil.rmtree(folder / "inner")
    sync(account)
    tell(account, "trash", account.mount, "restore", f"{folder.name}/inner/a.txt")
    assert (folder / "inner" / "a.txt").read_bytes() == b"old"
    sync(account)
    (folder / "inner" / "a.txt").unlink()
    sync(account)
    (folder / "inner" / "a.txt").write_bytes(b"new")
    tell(account, "trash", account.mount, "restore", f"{folder.name}/inner/a.txt")
    assert (folder / "inner" / "a.txt").read_bytes() == b"new"
    assert (folder / "inner" / "a (restored).txt").read_bytes() == b"old"
    assert account.run("trash", account.mount, "restore", "nothing").returncode == 22


def test_a_copy_sends_no_bytes_and_is_a_file_of_its_own(account: Desk, folder: Path) -> None:
    content, source = os.urandom(3 << 20), folder / "source"
    source.write_bytes(content)
    source.chmod(0o640)
    os.setxattr(source, "user.tag", b"value")
    sync(account)
    await_close(account, source)
    stored = account.status()["stored_bytes"]
    tell(account, "cp", source, folder / "copy")
    sync(account)
    assert account.status()["stored_bytes"] == stored
    info, copied = source.stat(), (folder / "copy").stat()
    assert (copied.st_mode, copied.st_size, copied.st_mtime_ns) == (info.st_mode, info.st_size, info.st_mtime_ns)
    assert os.getxattr(folder / "copy", "user.tag") == b"value"
    with (folder / "copy").open("r+b") as file:
        file.write(b"changed")
    assert source.read_bytes() == content
    assert (folder / "copy").read_bytes() == b"changed" + content[7:]
    await_close(account, source)
    assert account.run("cp", source, folder / "copy").returncode == 22


def test_a_folder_is_copied_with_all_in_it(account: Desk, folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_bytes(b"bytes")
    (folder / "a" / "link").symlink_to("b/file")
    sync(account)
    await_close(account, folder / "a" / "b" / "file")
    assert account.run("cp", folder / "a", folder / "c").returncode == 22
    assert account.run("cp", "-r", folder / "a", folder / "a" / "b").returncode == 22
    tell(account, "cp", "-r", folder / "a", folder / "c")
    assert (folder / "c" / "link").read_bytes() == b"bytes"


@pytest.mark.parametrize(
    ("name", "number", "free"),
    [
        (b"a.txt", 1, b"a.txt"),
        (b"a.txt", 2, b"a (restored).txt"),
        (b"a.txt", 3, b"a (restored 2).txt"),
        (b".hidden", 2, b".hidden (restored)"),
        (b"x" * 255, 2, b"x" * 244 + b" (restored)"),
    ],
)
def test_a_name_beside_a_taken_one(name: bytes, number: int, free: bytes) -> None:
    assert beside(name, number) == free
