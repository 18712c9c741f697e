"""The independent reader finds the whole tree in what floor 0 wrote, and refuses what somebody changed."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blobfs.values import crypto, extents, keys, words
from blobfs.values.documents import ROOT, DocId, Document, Kind, Name, dump
from blobfs.values.extents import EXTENT, Attachment, BlobId
from blobfs.values.revisions import DeviceId, Revision
from tests.formats import reader

RECOVERY = bytes(range(100, 132))
PASSPHRASE = "ünï code"
REVISION = Revision.of({DeviceId("0123456789abcdef"): 3})


class Account:
    """An account written to a directory: the secrets file, the blobs as a server lays them out, the documents."""

    def __init__(self, root: Path) -> None:
        account, secret = keys.new_account()
        self.keys = keys.derive_keys(account, secret)
        self.secret = secret
        self.root, self.blobs, self.documents = root, root / "user" / "default", list[dict[str, Any]]()
        self.blobs.mkdir(parents=True)
        self.secrets = root / "secrets.json"
        body = keys.wrap(account, secret, keys.passphrase_bytes(PASSPHRASE), RECOVERY, keys.FLOOR)
        self.secrets.write_bytes(dump(body))

    def put(self, plaintext: bytes) -> BlobId:
        plain = crypto.Plain(self.keys, plaintext)
        place = self.blobs / plain.blob_id[:2] / plain.blob_id
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"".join(plain.seal()))
        return plain.blob_id

    def attach(self, size: int, present: dict[int, bytes], *, padded: bool = False) -> Attachment:
        ids = {index: self.put(extents.pad(data) if padded else data) for index, data in present.items()}
        return extents.build(size, ids, self.put, padded=padded)

    def add(self, document: Document, *, deleted: bool = False, padded: bool = False) -> None:
        sealed = crypto.seal_document(self.keys, document, REVISION, deleted=deleted, padded=padded)
        self.documents.append(
            {
                "doc_id": document.doc_id,
                "seq": len(self.documents) + 1,
                "revision": str(REVISION),
                "deleted": deleted,
                "payload": base64.b64encode(sealed).decode("ascii"),
            }
        )

    def read(self) -> dict[bytes, reader.Entry]:
        account = reader.unlock(self.secrets.read_bytes(), words=words.recovery_words(RECOVERY))
        return reader.read_tree(account, self.blobs, self.documents)


SMALL = b"hello\n"
LARGE = bytes(range(256)) * (EXTENT // 256) + b"tail" * 20_000
FAR = 1100 * EXTENT + 5


@pytest.fixture
def account(tmp_path: Path) -> Account:
    made = Account(tmp_path)
    folder, other = DocId("a" * 32), DocId("b" * 32)
    made.add(Document(folder, Kind.DIRECTORY, (Name(ROOT, b"folder"),), 0o755))
    made.add(Document(other, Kind.DIRECTORY, (Name(folder, b"deeper \xff\xfe"),), 0o700), padded=True)
    names = (Name(other, "größe".encode()), Name(ROOT, b"link"))
    made.add(Document(DocId("c" * 32), names=tuple(sorted(names)), attachment=made.attach(6, {0: SMALL})))
    cut = {0: LARGE[:EXTENT], 1: LARGE[EXTENT:]}
    made.add(Document(DocId("d"), names=(Name(ROOT, b"large"),), attachment=made.attach(len(LARGE), cut)))
    attachment = made.attach(len(LARGE), cut, padded=True)
    made.add(Document(DocId("e"), names=(Name(folder, b"padded"),), attachment=attachment), padded=True)
    made.add(Document(DocId("f"), names=(Name(ROOT, b"empty"),), attachment=extents.EMPTY))
    made.add(Document(DocId("g"), Kind.SYMLINK, (Name(ROOT, b"pointer"),), 0o777, target=b"folder/padded"))
    made.add(Document(DocId("no-name"), content={"kept": "by a program"}, attachment=made.attach(6, {0: SMALL})))
    made.add(Document(DocId("gone")), deleted=True)
    far = made.attach(FAR, {3: bytes(EXTENT - 1) + b"!", 1100: b"a tip"})
    made.add(Document(DocId("h"), names=(Name(ROOT, b"sparse"),), attachment=far))
    return made


def test_the_tree_and_every_byte_come_back(account: Account) -> None:
    tree = account.read()
    deeper = b"folder/deeper \xff\xfe"
    file = deeper + b"/" + "größe".encode()
    assert set(tree) == {
        b"folder", deeper, file, b"folder/padded", b"link", b"large", b"empty", b"pointer", b"no-name", b"sparse",
    }  # fmt: skip
    assert tree[file].content() == tree[b"link"].content() == tree[b"no-name"].content() == SMALL
    assert tree[b"large"].content() == tree[b"folder/padded"].content() == LARGE
    assert tree[b"empty"].content() == b""
    assert tree[b"no-name"].body["content"] == {"kept": "by a program"}
    assert dict(tree[b"sparse"].pieces()) == {3 * EXTENT: bytes(EXTENT - 1) + b"!", 1100 * EXTENT: b"a tip"}


def test_the_passphrase_opens_the_same_account(account: Account) -> None:
    assert reader.unlock(account.secrets.read_bytes(), passphrase=PASSPHRASE).secret == account.secret


def test_the_reader_lays_a_tree_down_as_a_program_of_its_own(account: Account) -> None:
    for name, text in (
        ("words", words.recovery_words(RECOVERY).upper()),
        ("documents", json.dumps(account.documents)),
    ):
        (account.root / name).write_text(text)
    target = account.root / "out"
    target.mkdir()
    places = [account.secrets, account.root / "words", account.blobs, account.root / "documents", target]
    subprocess.run([sys.executable, "-I", reader.__file__, *map(str, places)], check=True, timeout=60)
    assert (target / "large").read_bytes() == (target / "pointer").read_bytes() == LARGE
    assert (target / "link").read_bytes() == SMALL
    assert (target / "sparse").stat().st_size == FAR
    assert sorted(os.listdir(os.fsencode(target / "folder"))) == [b"deeper \xff\xfe", b"padded"]


def test_what_fits_nowhere_is_shown_and_nothing_leads_out(account: Account, tmp_path: Path) -> None:
    def add(doc_id: str, kind: Kind, parent: str, name: bytes, **more: Any) -> None:
        account.add(Document(DocId(doc_id), kind=kind, names=(Name(DocId(parent), name),), **more))

    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    add("a-link", Kind.SYMLINK, ROOT, b"twin", target=os.fsencode(outside))
    add("b-dir", Kind.DIRECTORY, ROOT, b"twin")
    add("file", Kind.FILE, "b-dir", b"planted", attachment=account.attach(3, {0: b"yes"}))
    add("one", Kind.DIRECTORY, "two", b"one")
    add("two", Kind.DIRECTORY, "one", b"two")
    add("orphan", Kind.DIRECTORY, "gone", b"o")
    add("below", Kind.FILE, "orphan", b"below")
    add("under", Kind.FILE, "below", b"u")
    opened = reader.unlock(account.secrets.read_bytes(), passphrase=PASSPHRASE)
    tree = reader.read_tree(opened, account.blobs, account.documents)
    assert sorted(path for path in tree if path.startswith((b"lost", b"twin"))) == [
        b"lost (one)", b"lost (one)/two", b"lost (orphan)", b"lost (orphan)/below", b"lost (under)",
        b"twin", b"twin (b-dir)", b"twin (b-dir)/planted",
    ]  # fmt: skip
    reader.extract(tree, target)
    assert list(outside.iterdir()) == []
    assert (target / "twin (b-dir)" / "planted").read_bytes() == b"yes"


def test_the_reader_refuses_a_changed_blob(account: Account) -> None:
    place = next(path for path in account.blobs.rglob("*") if path.is_file() and path.stat().st_size == 32 + len(SMALL))
    stored = bytearray(place.read_bytes())
    stored[20] ^= 1
    place.write_bytes(stored)
    with pytest.raises(reader.Refused):
        account.read()[b"link"].content()


def test_the_reader_refuses_a_document_under_another_revision(account: Account) -> None:
    account.documents[0]["revision"] = "0123456789abcdef:4"
    with pytest.raises(reader.Refused):
        account.read()


def test_the_reader_shares_no_code_with_blobfs() -> None:
    source = Path(reader.__file__).read_text(encoding="utf-8")
    assert "import blobfs" not in source
    assert "from blobfs" not in source
