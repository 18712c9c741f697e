"""The secrets file: whole, private, two generations."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from blobfs.errors import StoreDamaged, StoreMissing, UsageError
from blobfs.store.secrets import read_secrets, write_secrets
from blobfs.unlock import keep_passphrase, read_kept


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write_secrets(tmp_path / "secrets.json", {"version": 1, "slots": []})
    assert read_secrets(tmp_path / "secrets.json") == {"version": 1, "slots": []}


def test_the_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_secrets(tmp_path / "secrets.json", {"a": 1})
        write_secrets(tmp_path / "secrets.json", {"a": 2})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_the_generation_before_is_kept_and_serves_when_the_newest_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    write_secrets(path, {"a": 1})
    write_secrets(path, {"a": 2})
    path.write_bytes(path.read_bytes()[:4])
    assert read_secrets(path) == {"a": 1}
    path.unlink()
    assert read_secrets(path) == {"a": 1}


def test_a_torn_newest_generation_never_replaces_the_whole_old_one(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    write_secrets(path, {"a": 1})
    write_secrets(path, {"a": 2})
    path.write_bytes(b"{")
    write_secrets(path, {"a": 3})
    path.write_bytes(b"{")
    assert read_secrets(path) == {"a": 1}


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    for number in range(3):
        write_secrets(tmp_path / "secrets.json", {"a": number})
    assert sorted(os.listdir(tmp_path)) == ["secrets.json", "secrets.json.old"]


def test_a_missing_file_is_a_missing_store(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        read_secrets(tmp_path / "secrets.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 60_000, b'{"a":1,"a":2}', b"x" * (1 << 17)])
def test_a_file_that_is_not_ours_is_named_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secrets.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StoreDamaged):
        read_secrets(path)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    (tmp_path / "secrets.json").symlink_to("elsewhere")
    with pytest.raises(StoreDamaged):
        read_secrets(tmp_path / "secrets.json")


def test_a_fifo_in_its_place_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secrets.json", 0o600)
    with pytest.raises(StoreDamaged):
        read_secrets(tmp_path / "secrets.json")


def test_a_file_open_to_others_is_refused(tmp_path: Path) -> None:
    write_secrets(tmp_path / "secrets.json", {"a": 1})
    (tmp_path / "secrets.json").chmod(0o640)
    with pytest.raises(StoreDamaged, match="chmod 600"):
        read_secrets(tmp_path / "secrets.json")


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "secrets.json").symlink_to("elsewhere")
    write_secrets(tmp_path / "secrets.json", {"a": 1})
    assert read_secrets(tmp_path / "secrets.json") == {"a": 1}
    assert (tmp_path / "elsewhere").read_text() == "precious"


def test_a_kept_passphrase_that_is_open_to_others_or_a_link_is_refused(tmp_path: Path) -> None:
    keep_passphrase(tmp_path / "kept", "drawn at random")
    assert read_kept(tmp_path / "kept") == b"drawn at random"
    (tmp_path / "link").symlink_to("kept")
    with pytest.raises(UsageError, match="owner and type"):
        read_kept(tmp_path / "link")
    (tmp_path / "kept").chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        read_kept(tmp_path / "kept")
