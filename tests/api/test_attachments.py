"""Attachments: put from anything, read back anywhere, never more of them in memory than a piece."""

from __future__ import annotations

import io
import os
import random
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import blobfs
from blobfs import AttachmentState
from blobfs.errors import DocumentExists, RemoteUnavailable, RevisionConflict, StaleHandle, UsageError
from tests.api.conftest import OpenDevice
from tests.api.test_documents import get
from tests.e2e.devices import PASSPHRASE, Server

MIB = 1 << 20


def read(document: blobfs.Document) -> bytes | None:
    """All bytes of an attachment."""
    file = document.get_attachment()
    if file is None:
        return None
    with file:
        return file.read()


@pytest.mark.parametrize("kind", ["path", "bytes", "file", "pieces"])
def test_an_attachment_comes_from_anything_that_gives_bytes(account: blobfs.Account, tmp_path: Path, kind: str) -> None:
    doc = account.create_doc({})
    for size in (0, 1, 128 << 10, (128 << 10) + 1, 4 * MIB, 9 * MIB + 5):
        data = random.Random(size).randbytes(size)
        doc.put_attachment(source_of(data, kind, tmp_path / "source"))
        assert read(doc) == data
        account.put_doc(doc)
        assert read(doc) == data
        assert read(get(account, doc.doc_id)) == data


def source_of(data: bytes, kind: str, path: Path) -> Any:
    """The bytes as something that can be attached."""
    if kind == "path":
        path.write_bytes(data)
        return path
    if kind == "file":
        file = io.BytesIO(data)
        file.seek(0, io.SEEK_END)
        return file
    if kind == "pieces":
        return (data[at : at + 1000_003] for at in range(0, len(data), 1000_003))
    return memoryview(data)


def test_what_gives_no_bytes_is_refused_and_changes_nothing(account: blobfs.Account) -> None:
    doc = account.create_doc({})
    for source in (5, "nowhere/at-all", io.StringIO("text"), ["text"], None):
        with pytest.raises((UsageError, OSError)):
            doc.put_attachment(source)  # type: ignore[arg-type]
        assert not doc.is_dirty()
        assert doc.get_attachment_state() is AttachmentState.NONE


def test_a_new_attachment_replaces_the_old_one(account: blobfs.Account) -> None:
    doc = account.create_doc({})
    for data in (b"first", b"second and longer", b""):
        doc.put_attachment(b"never put")
        doc.put_attachment(data)
        account.put_doc(doc)
        assert read(get(account, doc.doc_id)) == data
        assert account.desk._store.check() == []
        assert doc.upload_attachment() is AttachmentState.SYNCED


def test_a_deleted_attachment_is_gone_once_the_document_is_put(account: blobfs.Account) -> None:
    doc = account.create_doc({"keep": 1})
    doc.put_attachment(b"bytes")
    account.put_doc(doc)
    doc.delete_attachment()
    assert doc.is_dirty()
    assert read(doc) is None
    assert read(get(account, doc.doc_id)) == b"bytes"
    account.put_doc(doc)
    assert doc.get_attachment_state() is AttachmentState.NONE
    assert doc.upload_attachment() is AttachmentState.NONE
    assert doc.download_attachment() is AttachmentState.NONE
    assert get(account, doc.doc_id).content == {"keep": 1}
    doc.delete_attachment()
    assert not doc.is_dirty()


def test_a_deleted_document_takes_its_attachment_along(account: blobfs.Account) -> None:
    doc = account.create_doc({})
    doc.put_attachment(bytes(MIB))
    account.put_doc(doc)
    account.delete_doc(doc)
    assert account.desk._store.attachments.stored() == 0


def test_content_and_attachment_change_together_or_not_at_all(account: blobfs.Account) -> None:
    doc = account.create_doc({"version": 1})
    doc.put_attachment(b"one")
    account.put_doc(doc)
    late = get(account, doc.doc_id)
    doc.content["version"] = 2
    doc.put_attachment(b"two")
    account.put_doc(doc)
    late.content["version"] = 3
    late.put_attachment(b"three")
    with pytest.raises(RevisionConflict):
        account.put_doc(late)
    assert (get(account, doc.doc_id).content, read(get(account, doc.doc_id))) == ({"version": 2}, b"two")
    assert read(late) == b"three"


def test_a_new_document_comes_with_its_attachment_or_not_at_all(account: blobfs.Account) -> None:
    doc = account.create_doc({"n": 1}, doc_id="both", attachment=b"bytes")
    assert not doc.is_dirty()
    assert read(doc) == b"bytes"
    with pytest.raises(DocumentExists):
        account.create_doc({"n": 2}, doc_id="both", attachment=b"others")
    with pytest.raises(UsageError):
        account.create_doc({"n": 3}, doc_id="other", attachment=["text"])  # type: ignore[list-item]
    assert account.get_doc("other") is None
    assert read(get(account, "both")) == b"bytes"
    assert not account.attaching.staging._live


def test_an_attachment_is_fetched_on_another_device_when_it_is_read(device: OpenDevice) -> None:
    data = random.Random(1).randbytes(9 * MIB)
    one, two = device("one"), device("two")
    doc = one.create_doc({"n": 1})
    doc.put_attachment(data)
    one.put_doc(doc)
    assert doc.upload_attachment() is AttachmentState.SYNCED
    two.sync()
    there = get(two, doc.doc_id)
    assert there.get_attachment_state() is AttachmentState.REMOTE
    file = there.get_attachment()
    assert file is not None
    with file:
        file.seek(-1000, io.SEEK_END)
        assert file.read() == data[-1000:]
        assert two.desk._store.attachments.stored() < MIB
    assert there.get_attachment_state() is AttachmentState.REMOTE
    assert there.download_attachment() is AttachmentState.SYNCED
    assert read(there) == data


def test_an_attachment_serves_python_libraries_as_a_file(account: blobfs.Account, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("inside.txt", "text in an archive")
    doc = account.create_doc({})
    doc.put_attachment(tmp_path / "archive.zip")
    account.put_doc(doc)
    file = doc.get_attachment()
    assert file is not None
    with file, zipfile.ZipFile(file) as archive:
        assert archive.read("inside.txt") == b"text in an archive"


def test_a_reader_never_mixes_two_versions(account: blobfs.Account) -> None:
    doc = account.create_doc({})
    doc.put_attachment(b"a" * MIB)
    account.put_doc(doc)
    file = doc.get_attachment()
    assert file is not None
    with file:
        assert file.read(10) == b"a" * 10
        doc.put_attachment(b"b" * MIB)
        account.put_doc(doc)
        file.seek(MIB // 2)
        with pytest.raises(StaleHandle):
            file.read(10)


def test_bytes_that_are_not_here_cannot_be_read_offline_and_the_error_says_so(
    device: OpenDevice, server: Server
) -> None:
    one, two = device("one"), device("two")
    doc = one.create_doc({"n": 1})
    doc.put_attachment(b"far away")
    one.put_doc(doc)
    one.sync()
    two.sync()
    two.close()
    server.stop()
    two = device("two")
    there = get(two, doc.doc_id)
    assert there.content == {"n": 1}
    there.content["offline"] = True
    two.put_doc(there)
    there.put_attachment(b"written offline")
    two.put_doc(there)
    assert read(there) == b"written offline"
    with pytest.raises(RemoteUnavailable):
        there.upload_attachment(timeout_s=0.5)
    server.start()
    assert there.upload_attachment() is AttachmentState.SYNCED


def test_an_attachment_that_was_not_put_cannot_be_uploaded(account: blobfs.Account) -> None:
    doc = account.create_doc({})
    doc.put_attachment(b"bytes")
    with pytest.raises(UsageError, match="put_doc"):
        doc.upload_attachment()


def test_async_pieces_make_an_attachment_and_a_failure_in_them_leaves_nothing(account: blobfs.Account) -> None:
    async def pieces(broken: bool) -> AsyncIterator[bytes]:
        for number in range(5):
            await anyio.lowlevel.checkpoint()
            yield bytes([number]) * 700_000
        if broken:
            raise RuntimeError("the source broke")

    async def use() -> None:
        doc = await blobfs.AsyncAccount(account).create_doc({})
        with pytest.raises(RuntimeError):
            await doc.put_attachment(pieces(True))
        assert not await doc.is_dirty()
        await doc.put_attachment(pieces(False))
        both = await blobfs.AsyncAccount(account).create_doc({}, attachment=pieces(False))
        for one in (doc, both):
            file = await one.get_attachment()
            assert file is not None
            async with file:
                assert await file.read() == b"".join(bytes([number]) * 700_000 for number in range(5))

    anyio.run(use, backend="trio")


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_cancelled_upload_ends_at_once(account: blobfs.Account, server: Server, backend: str) -> None:
    server.stop()

    async def use() -> None:
        doc = await blobfs.AsyncAccount(account).create_doc({})
        await doc.put_attachment(b"bytes")
        await blobfs.AsyncAccount(account).put_doc(doc)
        with anyio.fail_after(60), anyio.move_on_after(0.2) as scope:
            await doc.upload_attachment()
        assert scope.cancelled_caught

    anyio.run(use, backend=backend)


def test_a_large_attachment_takes_little_memory(account: blobfs.Account) -> None:
    def pieces() -> Iterator[bytes]:
        for number in range(256):
            yield number.to_bytes(4, "big") * (MIB // 4)

    doc = account.create_doc({})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    doc.put_attachment(pieces())
    account.put_doc(doc)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
    file = doc.get_attachment()
    assert file is not None
    with file:
        file.seek(200 * MIB)
        assert file.read(4) == (200).to_bytes(4, "big")


def test_what_was_put_survives_a_kill_and_what_was_only_staged_costs_nothing(
    server: Server, tmp_path: Path, device: OpenDevice
) -> None:
    account = device("one")
    account.close()
    code = f"""
import os, signal, blobfs
account = blobfs.open_account({str(tmp_path / "one")!r}, passphrase={PASSPHRASE!r}).open()
doc = account.create_doc({{"n": 1}}, doc_id="kept")
doc.put_attachment(b"kept" * 100_000)
account.put_doc(doc)
doc.put_attachment(os.urandom(3_000_000))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == -signal.SIGKILL
    account = device("one")
    assert read(get(account, "kept")) == b"kept" * 100_000
    assert account.desk._store.check() == []


def test_staged_bytes_of_a_forgotten_document_are_given_back(account: blobfs.Account) -> None:
    doc = account.create_doc({})
    doc.put_attachment(os.urandom(MIB))
    del doc
    other = account.create_doc({})
    other.put_attachment(b"next")
    assert len(account.attaching.staging._live) == 1
    account.put_doc(other)
    assert account.desk._store.check() == []
