"""What can be mounted on, said before anything is asked or made."""

from __future__ import annotations

from pathlib import Path

import pytest

from blobfs.errors import FuseMissing, MountPointUnusable
from blobfs.mountpoint import check, check_fuse, prepare


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    check(tmp_path)


def test_a_directory_that_is_missing_is_made_when_its_parent_is_there(tmp_path: Path) -> None:
    check(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    prepare(tmp_path / "new")
    assert (tmp_path / "new").is_dir()


def test_no_parent_is_made(tmp_path: Path) -> None:
    with pytest.raises(MountPointUnusable, match="make it first"):
        check(tmp_path / "a" / "b")


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(MountPointUnusable, match="not a directory"):
        check(tmp_path / "f")
    with pytest.raises(MountPointUnusable):
        check(tmp_path / "f" / "g")


def test_a_directory_with_entries_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(MountPointUnusable, match="not empty"):
        check(tmp_path)


def test_another_mount_is_refused() -> None:
    with pytest.raises(MountPointUnusable, match="mounted on /proc already"):
        check(Path("/proc"))


def test_a_missing_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(FuseMissing, match="modprobe fuse"):
        check_fuse(tmp_path / "fuse")
