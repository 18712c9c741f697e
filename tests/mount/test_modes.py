"""Owners, modes, setuid and setgid in a mount by root: the same as on any disk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.test_files import failure


def test_a_setgid_directory_hands_down_its_group(folder: Path) -> None:
    os.chown(folder, 0, 1234)
    folder.chmod(0o2775)
    (folder / "d").mkdir()
    (folder / "f").touch()
    assert (folder / "d").stat().st_gid == (folder / "f").stat().st_gid == 1234
    assert (folder / "d").stat().st_mode & 0o2000
    assert not (folder / "f").stat().st_mode & 0o2000


def test_the_umask_counts_once(folder: Path) -> None:
    old = os.umask(0o027)
    try:
        os.mkdir(folder / "d", 0o777)
        os.close(os.open(folder / "f", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkfifo(folder / "p", 0o666)
    finally:
        os.umask(old)
    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in "dfp"] == [0o750, 0o640, 0o640]


def as_user(uid: int, call: Callable[[], object]) -> str:
    """`failure(call)` as another user, in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            name = failure(call)
            os._exit(getattr(errno, name) if name else 0)
        finally:
            os._exit(255)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return errno.errorcode[status] if status else ""


@pytest.fixture
def open_folder(folder: Path) -> Path:
    """A directory that every user reaches and may write to."""
    path = folder
    while path != path.parent and path.stat().st_uid == os.getuid() and path != Path("/tmp"):
        path.chmod(path.stat().st_mode | 0o711)
        path = path.parent
    folder.chmod(0o777)
    return folder


def test_writing_and_chown_by_another_user_clear_setuid(open_folder: Path) -> None:
    path = open_folder / "program"
    path.write_bytes(b"x")
    path.chmod(0o6777)
    assert as_user(12345, lambda: path.write_bytes(b"y")) == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o6755)
    os.chown(path, 12345, 12345)
    assert stat.S_IMODE(path.stat().st_mode) & 0o4000 == 0


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR], ids=["for writing alone", "for both"])
def test_whoever_writes_takes_setuid_but_root_does_not(open_folder: Path, flags: int) -> None:
    def write() -> None:
        with os.fdopen(os.open(path, flags), "wb", buffering=0) as file:
            file.write(b"y")

    path = open_folder / "program"
    path.write_bytes(b"x")
    for mode in (0o4666, 0o2767, 0o6777):
        path.chmod(mode)
        write()
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert as_user(12345, write) == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o6777)
    os.truncate(path, 5)
    assert stat.S_IMODE(path.stat().st_mode) == 0o6777
    assert as_user(12345, lambda: os.truncate(path, 3)) == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


@pytest.mark.parametrize("group", [12345, 54321], ids=["of the writer", "of others"])
def test_setgid_of_what_no_group_executes_stays_for_its_group_alone(open_folder: Path, group: int) -> None:
    def write() -> None:
        with os.fdopen(os.open(path, os.O_WRONLY), "wb", buffering=0) as file:
            file.write(b"y")

    path = open_folder / "locked"
    path.write_bytes(b"x")
    os.chown(path, 0, group)
    after = 0o2666 if group == 12345 else 0o666
    for call in (write, lambda: os.truncate(path, 3), lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))):
        path.chmod(0o6666)
        assert as_user(12345, call) == ""
        assert stat.S_IMODE(path.stat().st_mode) == after


def test_a_directory_keeps_setgid_when_it_is_given_away(open_folder: Path) -> None:
    path = open_folder / "team"
    path.mkdir()
    path.chmod(0o2775)
    os.chown(path, 12345, 12345)
    assert stat.S_IMODE(path.stat().st_mode) == 0o2775


def test_emptying_a_file_as_it_is_opened_clears_setuid_but_not_for_root(open_folder: Path) -> None:
    path = open_folder / "program"
    path.touch()
    path.chmod(0o6777)
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert stat.S_IMODE(path.stat().st_mode) == 0o6777
    assert as_user(12345, lambda: os.close(os.open(path, os.O_WRONLY))) == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o6777
    assert as_user(12345, lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))) == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


def test_modes_and_the_sticky_bit_are_enforced(open_folder: Path) -> None:
    secret, own = open_folder / "secret", open_folder / "own"
    secret.write_bytes(b"x")
    secret.chmod(0o600)
    assert as_user(12345, secret.read_bytes) == "EACCES"
    open_folder.chmod(0o1777)
    assert as_user(12345, secret.unlink) == "EPERM"
    assert as_user(12345, own.touch) == ""
    assert own.stat().st_uid == 12345
    assert as_user(12345, lambda: os.chown(own, 0, 0)) == "EPERM"
    assert as_user(12345, lambda: own.chmod(0o600)) == ""
    assert as_user(54321, lambda: own.chmod(0o666)) == "EPERM"
