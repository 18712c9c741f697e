"""Further attachments of a document, each under a name of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

import blobfs
from blobfs import AttachmentState
from blobfs.errors import InvalidDocument, RevisionConflict, UsageError
from tests.api.conftest import OpenDevice
from tests.api.test_documents import get
from tests.e2e.devices import PASSPHRASE, Device, wait_for

MIB = 1 << 20


def read(document: blobfs.Document, name: str) -> bytes | None:
    """All bytes of a further attachment."""
    file = document.get_attachment(name)
    if file is None:
        return None
    with file:
        return file.read()


@pytest.fixture
def letter(account: blobfs.Account) -> blobfs.Document:
    """A document with its own attachment and two further ones."""
    doc = account.create_doc({"n": 1}, doc_id="letter", attachment=b"the letter")
    doc.put_attachment(b"a plan " * MIB, "plan.pdf")
    doc.put_attachment(b"a photo", "photo.jpeg")
    account.put_doc(doc)
    return doc


def test_a_document_has_several_attachments_and_each_has_its_bytes(
    account: blobfs.Account, letter: blobfs.Document
) -> None:
    for doc in (letter, get(account, "letter")):
        assert doc.list_attachments() == {"photo.jpeg": 7, "plan.pdf": 7 * MIB}
        assert read(doc, "") == b"the letter"
        assert read(doc, "plan.pdf") == b"a plan " * MIB
        assert read(doc, "photo.jpeg") == b"a photo"
        assert read(doc, "none") is None
        assert doc.get_attachment_state("none") is AttachmentState.NONE


def test_nothing_is_stored_before_the_document_is_put(account: blobfs.Account, letter: blobfs.Document) -> None:
    letter.content["n"] = 2
    letter.put_attachment(b"new", "plan.pdf")
    letter.put_attachment(b"more", "more")
    letter.delete_attachment("photo.jpeg")
    assert letter.is_dirty()
    assert letter.list_attachments() == {"more": 4, "plan.pdf": 3}
    assert (read(letter, "plan.pdf"), read(letter, "more"), read(letter, "photo.jpeg")) == (b"new", b"more", None)
    assert letter.get_attachment_state("more") is AttachmentState.LOCAL
    assert letter.get_attachment_state("photo.jpeg") is AttachmentState.NONE
    with pytest.raises(UsageError, match="put_doc"):
        letter.upload_attachment("more")
    assert get(account, "letter").list_attachments() == {"photo.jpeg": 7, "plan.pdf": 7 * MIB}
    account.put_doc(letter)
    assert not letter.is_dirty()
    assert get(account, "letter").list_attachments() == {"more": 4, "plan.pdf": 3}
    assert account.desk._store.check() == []


def test_who_did_not_see_an_attachment_come_cannot_overwrite(account: blobfs.Account, letter: blobfs.Document) -> None:
    late = get(account, "letter")
    letter.put_attachment(b"more", "more")
    account.put_doc(letter)
    late.put_attachment(b"mine", "more")
    with pytest.raises(RevisionConflict):
        account.put_doc(late)
    assert read(get(account, "letter"), "more") == b"more"


@pytest.mark.parametrize("name", [".", "..", "a/b", "nul\0", "x" * 256])
def test_a_name_that_no_file_can_have_is_refused(account: blobfs.Account, name: str) -> None:
    doc = account.create_doc({})
    with pytest.raises(InvalidDocument, match="name"):
        doc.put_attachment(b"bytes", name)
    assert not doc.is_dirty()


def test_further_attachments_are_no_documents_of_their_own(account: blobfs.Account, letter: blobfs.Document) -> None:
    assert [doc.doc_id for doc in account.get_all_docs()] == ["letter"]
    account.delete_doc(letter)
    assert account.desk._store.attachments.stored() == 0
    assert account.desk._store.hidden.find(b"attachments", b"letter") is None


def test_another_device_has_them_and_fetches_each_when_it_is_read(device: OpenDevice) -> None:
    one, two = device("one"), device("two")
    doc = one.create_doc({}, doc_id="letter")
    doc.put_attachment(b"x" * MIB, "a")
    doc.put_attachment(b"y" * MIB, "b")
    one.put_doc(doc)
    assert doc.upload_attachment("a") is AttachmentState.SYNCED
    assert doc.get_attachment_state("b") is AttachmentState.SYNCED
    two.sync()
    there = get(two, "letter")
    assert there.list_attachments() == {"a": MIB, "b": MIB}
    assert there.get_attachment_state("a") is AttachmentState.REMOTE
    assert there.download_attachment("a") is AttachmentState.SYNCED
    assert there.get_attachment_state("b") is AttachmentState.REMOTE
    assert read(there, "b") == b"y" * MIB


def test_two_devices_that_attach_different_things_are_in_no_conflict(device: OpenDevice) -> None:
    one, two = device("one"), device("two")
    one.create_doc({}, doc_id="letter")
    one.sync()
    two.sync()
    for account, name in ((one, "first"), (two, "second")):
        doc = get(account, "letter")
        doc.put_attachment(name.encode(), name)
        account.put_doc(doc)
    for account in (one, two, one):
        account.sync()
    for account in (one, two):
        doc = get(account, "letter")
        assert {name: read(doc, name) for name in doc.list_attachments()} == {"first": b"first", "second": b"second"}
        assert account.get_doc_conflicts("letter") == []


def test_listeners_hear_of_the_document_whose_attachment_came(device: OpenDevice) -> None:
    one, two = device("one"), device("two")
    doc = one.create_doc({}, doc_id="letter")
    one.sync()
    two.sync()
    with two.changes() as changes:
        doc.put_attachment(b"bytes", "plan")
        one.put_doc(doc)
        one.sync()
        two.sync()
        assert next(changes) == "letter"


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_async_programs_have_the_same(account: blobfs.Account, letter: blobfs.Document, backend: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"piece "
        yield b"by piece"

    async def use() -> None:
        async_account = blobfs.AsyncAccount(account)
        doc = await async_account.get_doc("letter")
        assert doc is not None
        await doc.put_attachment(pieces(), "more")
        await doc.delete_attachment("photo.jpeg")
        await async_account.put_doc(doc)
        assert await doc.list_attachments() == {"more": 14, "plan.pdf": 7 * MIB}
        assert await doc.upload_attachment("more", timeout_s=30) is AttachmentState.SYNCED
        assert await doc.download_attachment("more") is await doc.get_attachment_state("more")
        file = await doc.get_attachment("more")
        assert file is not None
        async with file:
            assert await file.read() == b"piece by piece"

    anyio.run(use, backend=backend)


def test_a_mount_shows_them_beside_its_other_views_and_they_go_with_the_file(mounted: Device) -> None:
    with blobfs.open_account(mounted.store, passphrase=PASSPHRASE) as visitor:
        doc = visitor.create_doc({}, doc_id="letter", attachment=b"the letter")
        doc.put_attachment(b"a plan", "plan.pdf")
        visitor.put_doc(doc)
        place = mounted.mount / ".blobfs" / "attachments" / "letter"
        assert (place / "plan.pdf").read_bytes() == b"a plan"
        (place / "plan.pdf").write_bytes(b"another plan")
        (place / "by hand").write_bytes(b"a file")
        wait_for("the bytes", lambda: read(get(visitor, "letter"), "plan.pdf") == b"another plan")
        assert get(visitor, "letter").list_attachments() == {"by hand": 6, "plan.pdf": 12}
        visitor.sync(30)
        (mounted.mount / "letter").unlink()
        visitor.sync(30)
    mounted.down()
    mounted.up()
    wait_for("they go", lambda: not place.exists())
