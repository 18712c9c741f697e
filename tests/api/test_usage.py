"""The usage that Soledad's attachments page gives, on a real server, under every kind of program."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

import blobfs
from blobfs import AttachmentState
from tests.e2e.devices import PASSPHRASE


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_document_gets_an_attachment_and_both_are_uploaded(invite: str, tmp_path: Path, backend: str) -> None:
    async def use() -> None:
        async with blobfs.create_account(tmp_path / "store", passphrase=PASSPHRASE, invite=invite) as account:
            doc = await account.create_doc({})
            assert await doc.get_attachment_state() == AttachmentState.NONE
            assert not await doc.is_dirty()
            await doc.put_attachment(b"the bytes")
            assert await doc.get_attachment_state() & AttachmentState.LOCAL
            assert await doc.is_dirty()
            await account.put_doc(doc)
            assert not await doc.is_dirty()
            state = await doc.upload_attachment()
            assert state & AttachmentState.REMOTE
            assert state == AttachmentState.SYNCED == AttachmentState.LOCAL | AttachmentState.REMOTE
            file = await doc.get_attachment()
            assert file is not None
            async with file:
                assert await file.read() == b"the bytes"

    anyio.run(use, backend=backend)


def test_the_same_without_async(invite: str, tmp_path: Path) -> None:
    with blobfs.create_account(tmp_path / "store", passphrase=PASSPHRASE, invite=invite) as account:
        doc = account.create_doc({})
        assert doc.get_attachment_state() is AttachmentState.NONE
        assert not doc.is_dirty()
        doc.put_attachment(b"the bytes")
        assert doc.get_attachment_state() & AttachmentState.LOCAL
        assert doc.is_dirty()
        account.put_doc(doc)
        assert not doc.is_dirty()
        assert doc.upload_attachment() is AttachmentState.SYNCED
        file = doc.get_attachment()
        assert file is not None
        with file:
            assert file.read() == b"the bytes"
