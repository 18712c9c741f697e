"""What `test_soledad.py` asks for and no other test here shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import blobfs
from blobfs import AttachmentState, BlobStatus
from tests.api.conftest import OpenDevice
from tests.api.test_attachments import read
from tests.api.test_documents import get
from tests.e2e.devices import PASSPHRASE, Server

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def account(session_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[blobfs.Account]:
    """One account for all tests that leave each other alone."""
    invite = session_server.add_user("acceptance")["invite"]
    store = tmp_path_factory.mktemp("acceptance") / "store"
    with blobfs.create_account(store, passphrase=PASSPHRASE, invite=invite) as opened:
        yield opened


def test_an_attachment_is_put_without_a_server_and_sent_when_there_is_one(device: OpenDevice, server: Server) -> None:
    account = device()
    server.stop()
    doc = account.create_doc({})
    doc.put_attachment(b"written on a train")
    account.put_doc(doc)
    assert doc.get_attachment_state() is AttachmentState.LOCAL
    assert read(doc) == b"written on a train"
    doc.put_attachment(b"and replaced there")
    account.put_doc(doc)
    server.start()
    assert doc.upload_attachment() is AttachmentState.SYNCED
    assert read(get(account, doc.doc_id)) == b"and replaced there"


def test_a_document_without_an_attachment_answers_none_to_every_call(account: blobfs.Account) -> None:
    doc = account.create_doc({})
    assert doc.get_attachment() is None
    assert doc.get_attachment_state() is AttachmentState.NONE
    assert doc.upload_attachment() is AttachmentState.NONE
    assert doc.download_attachment() is AttachmentState.NONE
    doc.delete_attachment()
    account.put_doc(doc)
    assert doc.get_attachment() is None
    assert not doc.is_dirty()


def test_a_document_that_is_stored_no_more_is_dirty(account: blobfs.Account) -> None:
    doc = account.create_doc({})
    account.delete_doc(get(account, doc.doc_id))
    assert doc.is_dirty()


def test_more_blobs_than_a_statement_has_variables_are_listed_counted_and_deleted(account: blobfs.Account) -> None:
    names = [f"blob-{number:04}" for number in range(1001)]
    with account.desk._store.transaction():
        for name in names:
            account.blobs.put(name, b"", "many", local_only=True)
    assert account.blobs.list("many") == names
    assert account.blobs.count("many") == len(names)
    assert account.blobs.sync_progress("many") == {"LOCAL_ONLY": len(names)}
    with account.desk._store.transaction():
        for name in names:
            account.blobs.delete(name, "many")
    account.sync()
    assert account.blobs.sync_progress("many") == {}


def test_names_of_calls_and_of_our_own_parts_are_ids_like_others(account: blobfs.Account) -> None:
    names = ["send_missing", "fetch_missing", "default", "attachments", "lock", "-", "_"]
    for name in names:
        account.blobs.put(name, name.encode(), namespace=name)
        account.create_doc({"name": name}, doc_id=name)
    account.sync()
    for name in names:
        assert account.blobs.status(name, name) is BlobStatus.SYNCED
        with account.blobs.get(name, name) as file:
            assert file.read() == name.encode()
        assert get(account, name).content == {"name": name}


def test_no_class_passes_over_what_its_parent_sets_up() -> None:
    trees = [ast.parse(path.read_text()) for room in ("blobfs", "server") for path in (ROOT / room).rglob("*.py")]
    classes = {node.name: node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}

    def setup(node: ast.ClassDef) -> ast.FunctionDef | None:
        found = (part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
        return next(found, None)

    passed_over = []
    for name, node in classes.items():
        parents = [classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
        own = setup(node)
        if own is not None and any(setup(parent) is not None for parent in parents):
            calls = [ast.unparse(part.func) for part in ast.walk(own) if isinstance(part, ast.Call)]
            if "super().__init__" not in calls:
                passed_over.append(name)
    assert passed_over == []
