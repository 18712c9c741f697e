"""How mounts begin and end: in order, by force, and over what a dead daemon left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from blobfs.errors import UsageError
from blobfs.fs.mountpoint import heal, is_mounted, prepare
from tests.mount.conftest import Mounted


def test_everything_is_there_after_an_unmount_from_outside(mount: Mounted) -> None:
    body = os.urandom(700_000)
    (mount.path / "d").mkdir()
    (mount.path / "d" / "a").write_bytes(body)
    os.setxattr(mount.path / "d", "user.a", b"b")
    os.symlink("a", mount.path / "d" / "link")
    os.mkfifo(mount.path / "fifo", 0o600)
    assert mount.umount() == 0
    assert not is_mounted(mount.path)
    mount.start()
    assert (mount.path / "d" / "link").read_bytes() == body
    assert os.getxattr(mount.path / "d", "user.a") == b"b"
    assert mount.path.joinpath("fifo").is_fifo()


def test_sigterm_stores_what_is_still_open_and_leaves_no_mount(mount: Mounted) -> None:
    descriptor = os.open(mount.path / "a", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"not closed yet")
    assert mount.stop(signal.SIGTERM) == 0
    assert not is_mounted(mount.path)
    with pytest.raises(OSError, match="not connected"):
        os.close(descriptor)
    mount.start()
    assert (mount.path / "a").read_bytes() == b"not closed yet"


def test_what_was_closed_survives_sigkill(mount: Mounted) -> None:
    bodies = {f"{number}": os.urandom(number * 3001) for number in range(60)}
    for name, body in bodies.items():
        (mount.path / name).write_bytes(body)
    os.rename(mount.path / "59", mount.path / "renamed")
    (mount.path / "58").unlink()
    mount.stop(signal.SIGKILL)
    with pytest.raises(OSError, match="not connected"):
        os.stat(mount.path)
    mount.start()
    bodies["renamed"] = bodies.pop("59")
    del bodies["58"]
    assert {path.name: path.read_bytes() for path in mount.path.iterdir()} == bodies


def test_an_unlinked_open_file_leaves_nothing_behind_after_sigkill(mount: Mounted) -> None:
    descriptor = os.open(mount.path / "a", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, bytes(5 << 20))
    os.fsync(descriptor)
    os.unlink(mount.path / "a")
    mount.stop(signal.SIGKILL)
    with pytest.raises(OSError, match="not connected"):
        os.close(descriptor)
    mount.start()
    assert list(mount.path.iterdir()) == []


def test_a_dead_mount_is_taken_off(mount: Mounted) -> None:
    assert not heal(mount.path)
    mount.stop(signal.SIGKILL)
    assert heal(mount.path)
    assert not is_mounted(mount.path)
    assert not heal(mount.path)


def test_a_second_mount_on_the_same_place_is_refused(mount: Mounted, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is mounted on .* already"):
        prepare(mount.path)
    command = [sys.executable, "-m", "tests.mount.daemon", str(tmp_path / "other"), str(mount.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip() == f"a blobfs is mounted on {mount.path} already"
    (mount.path / "still works").touch()


def test_a_mountpoint_that_cannot_be_one_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for name, reason in (("none", "make it first"), ("file", "not a directory"), ("full", "is not empty")):
        with pytest.raises(UsageError, match=reason):
            prepare(tmp_path / name)


def test_a_mountpoint_may_have_any_name(tmp_path: Path) -> None:
    directory = tmp_path / "a b\\c,d\tü"
    directory.mkdir()
    mounted = Mounted(directory)
    try:
        mounted.start()
        assert is_mounted(mounted.path)
        (mounted.path / "a").write_bytes(b"x")
        assert mounted.umount() == 0
    finally:
        mounted.clean()


def test_a_busy_mount_ends_on_sigterm_all_the_same(mount: Mounted) -> None:
    program = "import os, sys\nwhile True:\n    open('a', 'wb').write(b'x' * 5000)\n    print(flush=True)"
    writer = subprocess.Popen([sys.executable, "-c", program], cwd=mount.path, stdout=-1, stderr=-3)
    try:
        assert writer.stdout is not None
        for _ in range(100):
            writer.stdout.readline()
        assert mount.stop(signal.SIGTERM) == 0
    finally:
        writer.kill()
        writer.communicate()
    mount.start()
    assert (mount.path / "a").read_bytes() in (b"", b"x" * 5000)


def test_root_alone_may_do_all_but_execute_what_nobody_may(tmp_path: Path) -> None:
    mounted = Mounted(tmp_path)
    try:
        mounted.start()
        script = mounted.path / "script"
        script.write_bytes(b"#!/bin/sh\nexit 7\n")
        script.chmod(0o000)
        assert script.read_bytes().startswith(b"#!")
        assert os.access(script, os.R_OK | os.W_OK)
        assert not os.access(script, os.X_OK)
        with pytest.raises(PermissionError):
            subprocess.run([script], check=False)
        script.chmod(0o100)
        assert os.access(script, os.X_OK)
        assert os.access(mounted.path, os.R_OK | os.W_OK | os.X_OK)
        assert subprocess.run([script], check=False).returncode == 7
    finally:
        mounted.clean()
