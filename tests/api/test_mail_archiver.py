"""A small program as docs/API.md lets one write it: it archives mail, finds it again, reads it on another device."""

from __future__ import annotations

import email
import email.policy
import hashlib
import threading
from email.message import EmailMessage
from pathlib import Path

import anyio
import pytest

import blobfs
from blobfs import AttachmentState
from blobfs.errors import DocumentExists, RevisionConflict
from tests.api.conftest import OpenDevice
from tests.api.test_incoming import leave
from tests.e2e.devices import PASSPHRASE


def messages() -> list[bytes]:
    """Twenty messages of four people, with two things attached to each."""
    found = []
    for number in range(20):
        message = EmailMessage(policy=email.policy.SMTP)
        message["Message-ID"] = f"<{number}@example.org>"
        message["From"] = f"{('ann', 'bob', 'carl', 'dora')[number % 4]}@example.org"
        message["Date"] = f"{number + 1:02} Jan 2024 10:00:00 +0000"
        message["Subject"] = f"Message {number}"
        message.set_content(f"The text of message {number}.")
        for name in ("a.png", "b.png"):
            message.add_attachment(name.encode() * 5_000, maintype="image", subtype="png", filename=name)
        found.append(bytes(message))
    return found


class Archive:
    """Mail as documents: headers to be found by, the message as the file, what is attached to it as attachments."""

    def __init__(self, account: blobfs.AsyncAccount) -> None:
        self._account = account

    async def prepare(self) -> None:
        """See that mail can be found; may be called at each start."""
        await self._account.create_index("by-sender", "headers.from", "headers.date")
        await self._account.make_folder("Mail")

    async def keep(self, raw: bytes) -> bool:
        """Keep a message with all that is attached to it; False when it is there already."""
        message = email.message_from_bytes(raw, policy=email.policy.default)
        doc_id = hashlib.sha256(str(message["Message-ID"]).encode()).hexdigest()
        date = message["Date"].datetime.date().isoformat()
        headers = {"from": str(message["From"]), "subject": str(message["Subject"]), "date": date}
        try:
            path = f"Mail/{headers['from']}/{doc_id[:16]}.eml"
            doc = await self._account.create_doc({"headers": headers}, doc_id, path=path, attachment=raw)
        except DocumentExists:
            # A run before this one may have ended between the message and its parts.
            there = await self._account.get_doc(doc_id)
            if there is None or there.content.get("complete"):
                return False
            doc = there
        for part in message.iter_attachments():
            await doc.put_attachment(part.get_payload(decode=True), name=part.get_filename() or "part")
        doc.content["complete"] = True
        try:
            await self._account.put_doc(doc)
        except RevisionConflict:
            return False  # Somebody else completed it meanwhile.
        return True

    async def take_incoming(self) -> int:
        """Keep what senders left; how many messages."""

        async def save(item: blobfs.Item, raw: bytes) -> None:
            await self.keep(raw)

        async def process(item: blobfs.Item) -> bytes:
            raw = item.read()
            if not email.message_from_bytes(raw, policy=email.policy.default)["Message-ID"]:
                raise ValueError("no mail")
            return raw

        return await self._account.incoming.consume(process, save)

    async def find(self, sender: str, date: str = "*") -> list[blobfs.AsyncDocument]:
        """Messages of a sender, oldest first."""
        return await self._account.get_from_index("by-sender", sender, date)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_mail_is_archived_once_found_again_and_read_on_another_device(
    invite: str, tmp_path: Path, backend: str
) -> None:
    mail = messages()

    async def keep_all() -> None:
        async with blobfs.create_account(tmp_path / "one", passphrase=PASSPHRASE, invite=invite) as account:
            archive, kept = Archive(account), list[bool]()
            await archive.prepare()

            async def keep(raw: bytes) -> None:
                kept.append(await archive.keep(raw))

            # A first run that is given up in the middle, and two that go over all of it.
            with anyio.CancelScope() as given_up:
                for raw in mail[:5]:
                    await archive.keep(raw)
                given_up.cancel()
                await archive.keep(mail[5])
            for _ in range(2):
                async with anyio.create_task_group() as group:
                    for raw in mail[5:]:
                        group.start_soon(keep, raw)
            assert kept.count(True) == 15
            found = await archive.find("ann@*")
            assert [doc.content["headers"]["subject"] for doc in found] == [f"Message {n}" for n in range(0, 20, 4)]
            assert [doc.content for doc in await archive.find("bob@example.org", "2024-01-02")] == [
                {"headers": {"from": "bob@example.org", "subject": "Message 1", "date": "2024-01-02"}, "complete": True}
            ]
            await account.sync()
            assert {await doc.get_attachment_state("b.png") for doc in found} == {AttachmentState.SYNCED}

    async def read_all() -> list[bytes]:
        async with blobfs.create_account(tmp_path / "two", passphrase=PASSPHRASE, invite=invite) as account:
            await Archive(account).prepare()
            await account.sync()
            read = []
            for sender in await account.list_folder("Mail"):
                for doc in await Archive(account).find(sender.name):
                    assert await doc.list_attachments() == {"a.png": 25_000, "b.png": 25_000}
                    file = await doc.get_attachment()
                    assert file is not None
                    async with file:
                        read.append(await file.read())
            return read

    anyio.run(keep_all, backend=backend)
    assert sorted(anyio.run(read_all, backend=backend)) == sorted(mail)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_mail_that_senders_leave_is_archived_and_other_things_are_not(device: OpenDevice, backend: str) -> None:
    plain = device()
    address, mail = plain.incoming.address(days=1), messages()[:2]
    for name, raw in (("1.eml", mail[0]), ("noise", b"noise"), ("2.eml", mail[1]), ("again.eml", mail[0])):
        leave(address, name, raw)

    async def take() -> None:
        archive = Archive(blobfs.AsyncAccount(plain))
        await archive.prepare()
        assert await archive.take_incoming() == 3
        assert len(await archive.find("*")) == 2

    anyio.run(take, backend=backend)
    assert [failure.reason for failure in plain.incoming.failures()] == ["ValueError: no mail"]


def test_many_threads_count_in_one_document_and_lose_nothing(device: OpenDevice) -> None:
    account = device()
    doc_id = account.create_doc({"count": 0}).doc_id

    def count() -> None:
        left = 25
        while left:
            doc = account.get_doc(doc_id)
            assert doc is not None
            doc.content["count"] += 1
            doc.put_attachment(str(doc.content["count"]).encode())
            try:
                account.put_doc(doc)
            except RevisionConflict:
                continue
            left -= 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    doc = account.get_doc(doc_id)
    assert doc is not None
    assert doc.content == {"count": 100}
    file = doc.get_attachment()
    assert file is not None
    with file:
        assert file.read() == b"100"
    account.sync()
    assert account.desk._store.check() == []
