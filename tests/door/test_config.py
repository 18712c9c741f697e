"""Which store belongs to which mount point."""

from __future__ import annotations

from pathlib import Path

import pytest

from blobfs.config import Mount, choose_store, default_store, recall, recall_all, recall_around, remember, resolve
from blobfs.errors import UsageError


@pytest.fixture(autouse=True)
def _own_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_a_mount_point_has_one_default_store_and_two_have_two(tmp_path: Path) -> None:
    assert default_store(tmp_path / "a" / "x") == default_store(tmp_path / "a" / "x")
    assert default_store(tmp_path / "a" / "x") != default_store(tmp_path / "b" / "x")
    assert default_store(tmp_path / "a" / "x").is_relative_to(tmp_path / "data")


def test_a_store_given_once_is_found_again(tmp_path: Path) -> None:
    remember(Mount(tmp_path / "m", tmp_path / "s"))
    assert choose_store(tmp_path / "m", None) == tmp_path / "s"
    assert choose_store(tmp_path / "m", tmp_path / "t") == tmp_path / "t"
    assert choose_store(tmp_path / "n", None) == default_store(tmp_path / "n")


def test_a_path_inside_a_mount_finds_it(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "m", tmp_path / "s")
    remember(mount)
    assert recall_around(tmp_path / "m" / "a" / "b") == mount
    assert recall(tmp_path / "m" / "a") is None


def test_only_mounts_whose_store_is_there_are_listed(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    remember(Mount(tmp_path / "m", tmp_path / "s"))
    remember(Mount(tmp_path / "n", tmp_path / "gone"))
    assert list(recall_all()) == [Mount(tmp_path / "m", tmp_path / "s")]


def test_nothing_is_listed_before_anything_was_mounted() -> None:
    assert list(recall_all()) == []


def test_a_damaged_record_is_as_good_as_none(tmp_path: Path) -> None:
    remember(Mount(tmp_path / "m", tmp_path / "s"))
    for record in (tmp_path / "data" / "blobfs" / "mounts").iterdir():
        record.write_bytes(b"\xff{")
    assert recall(tmp_path / "m") is None


@pytest.mark.parametrize(("mount", "store"), [("a", "a"), ("a", "a/s"), ("a/m", "a")])
def test_a_store_and_a_mount_point_that_overlap_are_refused(tmp_path: Path, mount: str, store: str) -> None:
    with pytest.raises(UsageError, match="overlap"):
        choose_store(resolve(tmp_path / mount), tmp_path / store)


def test_links_are_resolved_so_one_place_has_one_name(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert resolve(tmp_path / "link") == tmp_path / "real"
    assert resolve(tmp_path / "link" / ".." / "missing") == tmp_path / "missing"
