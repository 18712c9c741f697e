"""Programs and a mount of the same store: one truth, whoever writes it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import blobfs
from blobfs import AttachmentState
from blobfs.errors import IndexNotFound, RemoteUnavailable, RevisionConflict, WrongPassphrase
from tests.api.test_attachments import read
from tests.api.test_documents import get
from tests.e2e.devices import PASSPHRASE, Device, wait_for

MIB = 1 << 20


@pytest.fixture
def visitor(mounted: Device) -> Iterator[blobfs.Account]:
    """The account of the mounted device, as a program opens it."""
    with blobfs.open_account(mounted.store, passphrase=PASSPHRASE) as account:
        yield account


def test_a_wrong_passphrase_opens_no_mounted_store_either(mounted: Device) -> None:
    with pytest.raises(WrongPassphrase), blobfs.open_account(mounted.store, passphrase="wrong"):
        pass


def test_a_document_and_its_attachment_are_a_file_at_once(mounted: Device, visitor: blobfs.Account) -> None:
    doc = visitor.create_doc({"n": 1}, doc_id="letter")
    assert (mounted.mount / "letter").read_bytes() == b""
    doc.put_attachment(b"first " * 100_000)
    assert (mounted.mount / "letter").read_bytes() == b""
    visitor.put_doc(doc)
    wait_for("the bytes", lambda: (mounted.mount / "letter").read_bytes() == b"first " * 100_000)
    assert doc.upload_attachment() is AttachmentState.SYNCED
    visitor.delete_doc(doc)
    wait_for("the file is gone", lambda: not (mounted.mount / "letter").exists())


def test_a_document_with_a_path_shows_in_folders_that_the_mount_has_listed_before(
    mounted: Device, visitor: blobfs.Account
) -> None:
    assert os.listdir(mounted.mount) == []
    visitor.create_doc({}, path="Mail/2024/first")
    wait_for("the folder", lambda: os.listdir(mounted.mount) == ["Mail"])
    assert os.listdir(mounted.mount / "Mail" / "2024") == ["first"]
    assert not (mounted.mount / "Mail" / "2024" / "second").exists()
    visitor.create_doc({}, path="Mail/2024/second", attachment=b"bytes")
    wait_for("the file", lambda: (mounted.mount / "Mail" / "2024" / "second").exists())
    assert (mounted.mount / "Mail" / "2024" / "second").read_bytes() == b"bytes"
    assert sorted(os.listdir(mounted.mount / "Mail" / "2024")) == ["first", "second"]


def test_a_file_is_a_document_at_once(mounted: Device, visitor: blobfs.Account) -> None:
    (mounted.mount / "folder").mkdir()
    (mounted.mount / "folder" / "file").write_bytes(b"written by a program that knows nothing of documents")
    files = [doc for doc in visitor.get_all_docs() if doc.get_attachment_state()]
    assert [read(doc) for doc in files] == [b"written by a program that knows nothing of documents"]
    files[0].content["tag"] = "seen"
    visitor.put_doc(files[0])
    with open(mounted.mount / "folder" / "file", "ab") as file:
        file.write(b"!")
    files[0].content["tag"] = "late"
    with pytest.raises(RevisionConflict):
        visitor.put_doc(files[0])
    assert get(visitor, files[0].doc_id).content == {"tag": "seen"}
    assert read(get(visitor, files[0].doc_id)) == b"written by a program that knows nothing of documents!"


def test_indexes_conflicts_revisions_and_status_travel_too(visitor: blobfs.Account) -> None:
    visitor.create_index("by-x", "x", "y")
    doc = visitor.create_doc({"x": "a", "y": 1})
    assert [found.doc_id for found in visitor.get_from_index("by-x", "a*", "*")] == [doc.doc_id]
    assert visitor.get_index_keys("by-x") == [("a", 1)]
    assert visitor.list_indexes() == {"by-x": ("x", "y")}
    visitor.delete_index("by-x")
    with pytest.raises(IndexNotFound):
        visitor.get_index_keys("by-x")
    assert visitor.get_doc_conflicts(doc.doc_id) == []
    visitor.sync()
    assert [past.content for past in visitor.get_revisions(doc.doc_id)] == [{"x": "a", "y": 1}]
    wait_for("it is connected", lambda: visitor.status().state == "connected")
    # The device's own card may come after what the program put.
    wait_for("everything is sent", lambda: visitor.status().pending_documents == 0)


def test_bytes_that_are_not_here_are_fetched_by_the_mount(visitor: blobfs.Account, invite: str, tmp_path: Path) -> None:
    data = os.urandom(6 * MIB)
    doc = visitor.create_doc({})
    doc.put_attachment(data)
    visitor.put_doc(doc)
    doc.upload_attachment()
    other = Device(tmp_path, "other", invite)
    try:
        other.up()
        with blobfs.open_account(other.store, passphrase=PASSPHRASE) as account:
            account.sync()
            there = get(account, doc.doc_id)
            assert there.get_attachment_state() is AttachmentState.REMOTE
            assert read(there) == data
            assert there.download_attachment() is AttachmentState.SYNCED
    finally:
        other.close()


def test_changes_are_told_between_programs(mounted: Device, visitor: blobfs.Account) -> None:
    with (
        blobfs.open_account(mounted.store, passphrase=PASSPHRASE) as other,
        other.changes() as changes,
    ):
        doc = visitor.create_doc({})
        assert next(changes) == doc.doc_id


def test_changes_through_the_mount_are_told_to_programs(mounted: Device, visitor: blobfs.Account) -> None:
    with visitor.changes() as changes:
        (mounted.mount / "file").write_text("1")
        told = get(visitor, next(changes))
        wait_for("the bytes", lambda: read(get(visitor, told.doc_id)) == b"1")
        visitor.sync()
        while changes.take() is not None:
            pass
        os.rename(mounted.mount / "file", mounted.mount / "renamed")
        assert next(changes) == told.doc_id
        (mounted.mount / "renamed").unlink()
        assert next(changes) == told.doc_id


def test_what_a_dead_program_staged_is_given_back(mounted: Device, visitor: blobfs.Account) -> None:
    code = f"""
import os, signal, blobfs
account = blobfs.open_account({str(mounted.store)!r}, passphrase={PASSPHRASE!r}).open()
doc = account.create_doc({{}}, doc_id="left")
doc.put_attachment(os.urandom(3_000_000))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60)
    left = get(visitor, "left")
    assert left.get_attachment_state() is AttachmentState.NONE
    left.put_attachment(b"another's")
    visitor.put_doc(left)
    assert (mounted.mount / "left").read_bytes() == b"another's"


def test_when_the_mount_ends_programs_are_told(mounted: Device, visitor: blobfs.Account) -> None:
    visitor.create_doc({}, doc_id="kept")
    changes = visitor.changes()
    mounted.down()
    assert set(changes) <= {"kept"}
    with pytest.raises(RemoteUnavailable, match="ended"):
        visitor.get_doc("kept")
    with blobfs.open_account(mounted.store, passphrase=PASSPHRASE) as account:
        assert get(account, "kept").content == {}
