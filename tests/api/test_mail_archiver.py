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
from tests.e2e.devices import PASSPHRASE


def messages() -> list[bytes]:
    """Forty messages of four people, with something attached to each."""
    found = []
    for number in range(40):
        message = EmailMessage(policy=email.policy.SMTP)
        message["Message-ID"] = f"<{number}@example.org>"
        message["From"] = f"{('ann', 'bob', 'carl', 'dora')[number % 4]}@example.org"
        message["Subject"] = f"Message {number}"
        message.set_content(f"The text of message {number}.")
        message.add_attachment(bytes([number]) * 50_000, maintype="image", subtype="png", filename="a.png")
        found.append(bytes(message))
    return found


async def archive(account: blobfs.AsyncAccount, raw: bytes) -> bool:
    """Keep a message; False when it is there already."""
    message = email.message_from_bytes(raw, policy=email.policy.default)
    doc_id = hashlib.sha256(message["Message-ID"].encode()).hexdigest()
    content = {"from": message["From"], "subject": message["Subject"], "size": len(raw)}
    try:
        path = f"Mail/{message['From']}/{doc_id[:16]}.eml"
        await account.create_doc(content, doc_id, path=path, attachment=raw)
    except DocumentExists:
        return False
    return True


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_mail_is_archived_once_found_again_and_read_on_another_device(
    invite: str, tmp_path: Path, backend: str
) -> None:
    mail = messages()

    async def keep_all() -> None:
        async with blobfs.create_account(tmp_path / "one", passphrase=PASSPHRASE, invite=invite) as account:
            await account.create_index("by-sender", "from", "subject")
            kept: list[bool] = []

            async def keep(raw: bytes) -> None:
                kept.append(await archive(account, raw))

            for _ in range(2):
                async with anyio.create_task_group() as group:
                    for raw in mail:
                        group.start_soon(keep, raw)
            assert sorted(kept) == [False] * 40 + [True] * 40
            found = await account.get_from_index("by-sender", "ann@*", "*")
            assert len(found) == 10
            await account.sync()
            assert {await doc.get_attachment_state() for doc in found} == {AttachmentState.SYNCED}

    async def read_all() -> list[bytes]:
        async with blobfs.create_account(tmp_path / "two", passphrase=PASSPHRASE, invite=invite) as account:
            await account.sync()
            read = []
            async for doc in account.get_all_docs():
                file = await doc.get_attachment()
                if file is not None:
                    async with file:
                        read.append(await file.read())
            return read

    anyio.run(keep_all, backend=backend)
    assert sorted(anyio.run(read_all, backend=backend)) == sorted(mail)


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
