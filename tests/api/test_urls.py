"""`blobfs://` URLs, by way of fsspec as its users call it."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path

import fsspec
import pytest

import blobfs
from blobfs.api.urls import BlobfsFileSystem
from blobfs.errors import UsageError
from tests.api.conftest import OpenDevice
from tests.e2e.devices import PASSPHRASE, Device

MIB = 1 << 20


@pytest.fixture
def fs(account: blobfs.Account) -> BlobfsFileSystem:
    """The filesystem of an open account."""
    return BlobfsFileSystem(account=account, skip_instance_cache=True)


def fail_while_writing(fs: BlobfsFileSystem, path: str) -> None:
    """What a program does that meets an error of its own."""
    with fs.open(path, "wb") as file:
        file.write(b"half of it")
        raise RuntimeError("the program failed")


def test_a_url_opens_a_file_of_the_store(invite: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with blobfs.create_account(store, passphrase=PASSPHRASE, invite=invite) as account:
        account.create_doc({}, path="Tables/2024.csv", attachment=b"name,n\nann,1\n")
    options = {"store": str(store), "passphrase": PASSPHRASE}
    with fsspec.open("blobfs://Tables/2024.csv", "rt", newline="", **options) as file:
        assert list(csv.DictReader(file)) == [{"name": "ann", "n": "1"}]
    with fsspec.open("blobfs://Tables/2025.json", "wt", **options) as file:
        json.dump({"n": 2}, file)
    fs, _ = fsspec.url_to_fs("blobfs://", **options)
    assert fs.glob("blobfs://Tables/*.json") == ["Tables/2025.json"]
    assert json.loads(fs.cat("Tables/2025.json")) == {"n": 2}
    fs.account.close()
    BlobfsFileSystem.clear_instance_cache()


def test_installing_blobfs_tells_fsspec_of_it() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["fsspec.specs"] == {"blobfs": "blobfs.api.urls:BlobfsFileSystem"}


def test_without_a_store_the_error_says_how_to_name_one() -> None:
    with pytest.raises(UsageError, match="storage_options"):
        fsspec.open("blobfs://a").open()


def test_files_and_folders_are_listed_with_sizes_and_kinds(account: blobfs.Account, fs: BlobfsFileSystem) -> None:
    account.create_doc({}, path="d/e/f", attachment=b"12345")
    account.create_doc({}, path="d/g")
    assert [(entry["name"], entry["type"], entry["size"]) for entry in fs.ls("blobfs://d")] == [
        ("d/e", "directory", 0),
        ("d/g", "file", 0),
    ]
    assert fs.ls("", detail=False) == ["d"]
    assert fs.ls("d/g", detail=False) == ["d/g"]
    assert fs.find("") == ["d/e/f", "d/g"]
    assert fs.du("") == 5
    assert fs.modified("d/e/f").year > 2000
    assert fs.info("d/g")["doc_id"] == account.list_folder("d")[1].doc_id
    for missing in ("x", "d/x/y", "d/g/x"):
        assert not fs.exists(missing)
    with pytest.raises(FileNotFoundError):
        fs.info("x")


def test_bytes_are_read_by_range(account: blobfs.Account, fs: BlobfsFileSystem) -> None:
    account.create_doc({}, path="f", attachment=b"0123456789" * MIB)
    account.create_doc({}, path="empty")
    assert fs.cat_file("f", 5, 12) == b"5678901"
    assert fs.cat_file("f", -3) == b"789"
    assert fs.cat_file("empty") == b""
    with fs.open("f") as file:
        assert file.size == 10 * MIB
        file.seek(-1, 2)
        assert file.read() == b"9"
    with pytest.raises(FileNotFoundError):
        fs.open("none")
    fs.mkdir("d")
    for mode in ("rb", "wb"):
        with pytest.raises(IsADirectoryError):
            fs.open("d", mode)


def test_a_file_is_what_it_was_until_its_writer_is_closed(account: blobfs.Account, fs: BlobfsFileSystem) -> None:
    fs.pipe("d/f", b"old")
    with fs.open("d/f", "wb") as file:
        file.write(b"new " * MIB)
        assert fs.cat("d/f") == b"old"
    assert fs.cat("d/f") == b"new " * MIB
    with fs.open("d/f", "ab") as file:
        file.write(b"end")
    assert fs.tail("d/f", 7) == b"new end"
    with pytest.raises(RuntimeError):
        fail_while_writing(fs, "d/f")
    assert fs.tail("d/f", 7) == b"new end"
    with pytest.raises(FileExistsError):
        fs.open("d/f", "xb")
    with pytest.raises(FileExistsError):
        fs.pipe_file("d/f", b"", mode="create")
    assert account.desk._store.check() == []


def test_a_transaction_of_fsspec_makes_all_files_or_none(fs: BlobfsFileSystem) -> None:
    with fs.transaction:
        with fs.open("a", "wb") as file:
            file.write(b"1")
        assert not fs.exists("a")
    assert fs.cat("a") == b"1"
    with pytest.raises(RuntimeError), fs.transaction:
        fail_while_writing(fs, "b")
    assert not fs.exists("b")


def test_files_and_folders_move_copy_and_go(fs: BlobfsFileSystem) -> None:
    fs.pipe({"d/e/f": b"1", "d/g": b"2"})
    doc_id = fs.info("d/e/f")["doc_id"]
    fs.mv("d/e", "h/i")
    assert fs.find("") == ["d/g", "h/i/f"]
    assert fs.info("h/i/f")["doc_id"] == doc_id
    fs.mv("h/i/f", "d/g")
    assert fs.cat("d/g") == b"1"
    fs.copy("d", "copy", recursive=True)
    assert fs.cat("copy/g") == b"1"
    with pytest.raises(OSError, match="entries"):
        fs.rmdir("copy")
    with pytest.raises(NotADirectoryError):
        fs.rmdir("copy/g")
    fs.rm("copy", recursive=True)
    fs.rmdir("h/i")
    assert fs.ls("", detail=False) == ["d", "h"]
    with pytest.raises(FileExistsError):
        fs.mkdir("d")
    with pytest.raises(FileNotFoundError):
        fs.mkdir("x/y", create_parents=False)
    with pytest.raises(FileExistsError):
        fs.makedirs("d", exist_ok=False)
    with pytest.raises(NotADirectoryError):
        fs.makedirs("d/g/x")
    fs.touch("d/new")
    assert fs.size("d/new") == 0


def test_files_go_up_and_down_between_a_disk_and_the_folder(fs: BlobfsFileSystem, tmp_path: Path) -> None:
    (tmp_path / "up" / "d").mkdir(parents=True)
    (tmp_path / "up" / "d" / "f").write_bytes(b"x" * MIB)
    fs.put(str(tmp_path / "up") + "/", "here", recursive=True)
    fs.get("here/", str(tmp_path / "down") + "/", recursive=True)
    assert (tmp_path / "down" / "d" / "f").read_bytes() == b"x" * MIB


def test_another_device_reads_lazily(device: OpenDevice) -> None:
    one, two = device("one"), device("two")
    BlobfsFileSystem(account=one, skip_instance_cache=True).pipe("big", bytes(8 * MIB) + b"end")
    one.sync()
    two.sync()
    assert BlobfsFileSystem(account=two, skip_instance_cache=True).tail("big", 3) == b"end"
    assert two.desk._store.attachments.stored() < MIB


def test_what_a_url_changes_a_mount_shows_at_once(mounted: Device) -> None:
    (mounted.mount / "d").mkdir()
    (mounted.mount / "d" / "f").write_bytes(b"by a tool")
    with blobfs.open_account(mounted.store, passphrase=PASSPHRASE) as visitor:
        fs = BlobfsFileSystem(account=visitor, skip_instance_cache=True)
        assert fs.cat("d/f") == b"by a tool"
        fs.pipe("d/f", b"by a url")
        assert (mounted.mount / "d" / "f").read_bytes() == b"by a url"
        fs.mv("d", "e")
        assert (mounted.mount / "e" / "f").read_bytes() == b"by a url"
        assert not (mounted.mount / "d").exists()
