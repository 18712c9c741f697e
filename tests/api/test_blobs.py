"""Blobs of programs, on real devices of one account and a real server."""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

import blobfs
from blobfs import BlobStatus, Priority
from blobfs.errors import BlobExists, BlobNotFound, CorruptBlob, InvalidFlags, UsageError
from tests.api.conftest import OpenDevice
from tests.e2e.devices import PASSPHRASE, Device, Server, wait_for

MIB = 1 << 20


def read(account: blobfs.Account, blob_id: str, namespace: str = "default") -> bytes:
    with account.blobs.get(blob_id, namespace) as file:
        return file.read()


# --- one device -------------------------------------------------------------------------------------------------


def test_a_blob_is_put_once_read_and_deleted(account: blobfs.Account, tmp_path: Path) -> None:
    blobs, data = account.blobs, os.urandom(5 * MIB)
    (tmp_path / "file").write_bytes(data)
    assert blobs.put("path", tmp_path / "file").size == len(data)
    blobs.put("pieces", iter([b"one ", b"two"]), "mail")
    blobs.put("file", io.BytesIO(b""), "mail")
    with pytest.raises(BlobExists, match="never change"):
        blobs.put("path", b"other")
    assert read(account, "path") == data
    assert (read(account, "pieces", "mail"), read(account, "file", "mail")) == (b"one two", b"")
    with blobs.get("path") as file:
        file.seek(-3, 2)
        assert file.read() == data[-3:]
    assert (blobs.list(), blobs.list("mail"), blobs.namespaces()) == (["path"], ["file", "pieces"], ("default", "mail"))
    blobs.delete("path")
    for call in (blobs.get, blobs.delete, blobs.info, blobs.get_flags):
        with pytest.raises(BlobNotFound):
            call("path")
    blobs.put("path", b"anew")
    assert read(account, "path") == b"anew"


def test_one_id_is_another_blob_in_another_namespace(account: blobfs.Account) -> None:
    account.blobs.put("same", b"first", "one")
    account.blobs.put("same", b"second", "two")
    account.blobs.delete("same", "one")
    assert read(account, "same", "two") == b"second"
    assert (account.blobs.count("one"), account.blobs.count("two"), account.blobs.count("none")) == (0, 1, 0)


def test_what_is_no_id_is_refused_everywhere(account: blobfs.Account) -> None:
    blobs = account.blobs
    for name in ("", "a/b", "..", "a\n", "a b", "x" * 129, "ü", "a.b"):
        for call in (blobs.get, blobs.delete, blobs.status, blobs.fetch, blobs.list, blobs.count):
            with pytest.raises(UsageError, match="letters, digits"):
                call(name)
        for place in ((name, b""), ("a", b"", name)):
            with pytest.raises(UsageError, match="letters, digits"):
                blobs.put(*place)
    assert blobs.namespaces() == ()


def test_blobs_are_no_documents_that_a_listing_shows(account: blobfs.Account) -> None:
    account.blobs.put("hidden", b"bytes")
    assert list(account.get_all_docs()) == []
    document = account.get_doc(account.blobs.info("hidden").doc_id)
    assert document is not None
    assert document.content == {}


def test_flags_are_four_and_lists_can_ask_for_one(account: blobfs.Account) -> None:
    blobs = account.blobs
    for name in ("a", "b", "c"):
        blobs.put(name, b"")
    assert blobs.get_flags("a") == ()
    blobs.set_flags("a", ["PENDING", "FAILED"])
    blobs.set_flags("c", ["PENDING"])
    assert blobs.get_flags("a") == ("PENDING", "FAILED")
    assert (blobs.list(flag="PENDING"), blobs.list(flag="FAILED"), blobs.count(flag="PENDING")) == (
        ["a", "c"],
        ["a"],
        2,
    )
    for flags in (["DONE"], ["pending"], [""], ['"; --']):
        with pytest.raises(InvalidFlags, match="PENDING, PROCESSING"):
            blobs.set_flags("a", flags)
    with pytest.raises(InvalidFlags):
        blobs.list(flag="DONE")
    with pytest.raises(BlobNotFound):
        blobs.set_flags("none", ["PENDING"])
    blobs.set_flags("a", [])
    assert blobs.get_flags("a") == ()


def test_lists_are_ordered_and_come_in_pages(account: blobfs.Account) -> None:
    for name in ("c", "a", "b"):
        account.blobs.put(name, name.encode())
    blobs = account.blobs
    assert blobs.list() == ["a", "b", "c"]
    assert blobs.list(order_by="date") == blobs.list(order_by="+date") == ["c", "a", "b"]
    assert blobs.list(order_by="-date") == ["b", "a", "c"]
    for order in (None, "date", "-date"):
        page = blobs.list(order_by=order, limit=2)
        assert page.cursor is not None
        rest = blobs.list(order_by=order, limit=2, cursor=page.cursor)
        assert ([*page, *rest], rest.cursor) == (blobs.list(order_by=order), None)
    assert blobs.list(limit=3).cursor is None
    for wrong in ({"order_by": "size"}, {"cursor": "x"}, {"status": "GONE"}, {"limit": 0}):
        with pytest.raises(UsageError):
            blobs.list(**wrong)  # type: ignore[arg-type]


def test_priorities_have_names_and_numbers(account: blobfs.Account) -> None:
    blobs = account.blobs
    assert blobs.put("a", b"").priority is Priority.MEDIUM
    assert blobs.put("b", b"", priority="urgent").priority is Priority.URGENT
    blobs.set_priority("a", 1)
    assert blobs.info("a").priority is Priority.LOW
    for wrong in ("soon", 0, 5, ""):
        with pytest.raises(UsageError, match="low, medium"):
            blobs.set_priority("a", wrong)
        with pytest.raises(UsageError, match="low, medium"):
            blobs.put("c", b"", priority=wrong)
    assert blobs.list() == ["a", "b"]


# --- the server ---------------------------------------------------------------------------------------------------


def test_a_blob_travels_with_its_flags_and_is_fetched_when_it_is_read(device: OpenDevice) -> None:
    one, two, data = device("one"), device("two"), os.urandom(5 * MIB)
    one.blobs.put("item", data, "mail")
    one.blobs.set_flags("item", ["PROCESSED"], "mail")
    assert one.blobs.upload("item", "mail") is BlobStatus.SYNCED
    two.sync()
    assert two.blobs.info("item", "mail").status is BlobStatus.PENDING_DOWNLOAD
    assert two.blobs.list("mail", status="PENDING_DOWNLOAD") == ["item"]
    assert two.blobs.get_flags("item", "mail") == ("PROCESSED",)
    with two.blobs.get("item", "mail") as file:
        file.seek(-5, 2)
        assert file.read() == data[-5:]
    assert two.blobs.status("item", "mail") is BlobStatus.PENDING_DOWNLOAD
    assert two.blobs.fetch("item", "mail") is BlobStatus.SYNCED
    assert read(two, "item", "mail") == data
    two.blobs.delete("item", "mail")
    two.sync()
    one.sync()
    assert one.blobs.list("mail") == []
    two.blobs.put("item", b"the same id again", "mail")
    two.sync()
    one.sync()
    assert read(one, "item", "mail") == b"the same id again"


def test_offline_puts_and_deletions_wait_and_are_sent_later(device: OpenDevice, server: Server) -> None:
    account = device()
    account.blobs.put("gone", b"x")
    account.sync()
    server.stop()
    account.blobs.put("new", b"y")
    account.blobs.put("kept", b"z", local_only=True)
    account.blobs.delete("gone")
    assert account.blobs.status("gone") is BlobStatus.PENDING_DELETE
    assert account.blobs.sync_progress() == {"PENDING_UPLOAD": 1, "LOCAL_ONLY": 1, "PENDING_DELETE": 1}
    account.close()
    account = device()
    assert account.blobs.list(status="PENDING_DELETE") == ["gone"]
    assert account.blobs.list(status=BlobStatus.PENDING_UPLOAD) == ["new"]
    server.start()
    account.sync()
    assert account.blobs.sync_progress("default") == {"SYNCED": 1, "LOCAL_ONLY": 1}
    with pytest.raises(BlobNotFound):
        account.blobs.status("gone")


def test_what_is_local_only_stays_so_until_it_is_told_otherwise(device: OpenDevice) -> None:
    one, two = device("one"), device("two")
    one.blobs.put("secret", b"mine", local_only=True)
    one.blobs.put("other", b"shared")
    one.sync()
    # The device's own card may come after what the program put.
    wait_for("everything is sent", lambda: one.status().pending_documents == 0)
    assert one.status().pending_bytes == 0
    one.close()
    one = device("one")
    one.sync()
    two.sync()
    assert two.blobs.list() == ["other"]
    assert one.blobs.status("secret") is BlobStatus.LOCAL_ONLY
    with pytest.raises(UsageError, match="stay on this device"):
        one.blobs.upload("secret")
    with pytest.raises(BlobExists, match="the server has"):
        one.blobs.set_local_only("other", True)
    one.blobs.set_local_only("secret", False)
    assert one.blobs.upload("secret") is BlobStatus.SYNCED
    two.sync()
    assert read(two, "secret") == b"mine"


def test_flags_that_two_devices_set_at_once_are_brought_together(device: OpenDevice) -> None:
    one, two = device("one"), device("two")
    one.blobs.put("item", b"x")
    one.blobs.set_flags("item", ["PENDING"])
    one.sync()
    two.sync()
    two.close()
    one.blobs.set_flags("item", ["PROCESSED"])
    one.sync()
    two = device("two")
    two.blobs.set_flags("item", ["FAILED"])
    two.sync()
    one.sync()
    assert one.blobs.get_flags("item") == two.blobs.get_flags("item")
    assert one.blobs.list() == two.blobs.list() == ["item"]


def test_the_same_id_from_two_devices_keeps_both(device: OpenDevice, server: Server) -> None:
    one, two = device("one"), device("two")
    one.sync()
    two.sync()
    server.stop()
    one.blobs.put("item", b"of one")
    two.blobs.put("item", b"of two")
    server.start()
    one.sync()
    two.sync()
    one.sync()
    assert one.blobs.list() == two.blobs.list() == ["item"]
    assert read(one, "item") == read(two, "item")
    (copy,) = one.get_doc_conflicts(one.blobs.info("item").doc_id)
    with copy.get_attachment() as file:  # type: ignore[union-attr]
        assert {file.read(), read(one, "item")} == {b"of one", b"of two"}


def test_fetch_missing_begins_with_what_is_urgent_and_passes_over_what_is_corrupt(
    device: OpenDevice, server: Server
) -> None:
    one, two = device("one"), device("two")
    contents = {name: os.urandom(100_000) for name in ("low", "medium", "urgent", "broken")}
    before = set(stored(server))
    one.blobs.put("broken", contents["broken"])
    one.blobs.upload("broken")
    (path,) = set(stored(server)) - before
    for name in ("low", "medium", "urgent"):
        one.blobs.put(name, contents[name])
    one.sync()
    sealed = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    two.sync()
    two.blobs.set_priority("urgent", Priority.URGENT)
    two.blobs.set_priority("low", "low")
    with two.changes():
        assert two.blobs.fetch_missing() == ["broken"]
    for name in ("low", "medium", "urgent"):
        assert two.blobs.status(name) is BlobStatus.SYNCED
        assert read(two, name) == contents[name]
    with pytest.raises(CorruptBlob):
        two.blobs.fetch("broken")
    two.close()
    two = device("two")
    two.sync()
    info = two.blobs.info("broken")
    assert (info.status, bool(info.reason)) == (BlobStatus.FAILED_DOWNLOAD, True)
    assert two.blobs.fetch_missing() == []
    path.write_bytes(sealed)
    assert two.blobs.fetch("broken") is BlobStatus.SYNCED
    assert read(two, "broken") == contents["broken"]


def stored(server: Server) -> Iterator[Path]:
    """Every blob file of the server."""
    return (path for path in (server.data / "blobs").rglob("*") if path.is_file())


def test_an_account_that_is_full_says_so_of_each_blob(server: Server, tmp_path: Path) -> None:
    invite = server.add_user("small", "--quota", "100000")["invite"]
    with blobfs.create_account(tmp_path / "small", passphrase=PASSPHRASE, invite=invite) as account:
        account.blobs.put("big", os.urandom(1_000_000))
        wait_for("the refusal", lambda: account.blobs.status("big") is BlobStatus.FAILED_UPLOAD)
        assert "that the account on the server has left" in account.blobs.info("big").reason
        account.blobs.delete("big")
        account.blobs.put("fits", b"small")
        assert account.blobs.upload("fits") is BlobStatus.SYNCED


def test_uploads_go_by_priority(device: OpenDevice, server: Server) -> None:
    account = device()
    account.blobs.put("first", b"")
    account.sync()
    server.stop()
    # Seen together: who looked when only some were there could be slow enough to meet the server again.
    with account.desk._store.transaction():
        for name, priority in (("low", 1), ("medium", "medium"), ("urgent", Priority.URGENT), ("raised", "low")):
            account.blobs.put(name, os.urandom(1000), priority=priority)
        account.blobs.set_priority("raised", "high")
    names = {account.blobs.info(name).doc_id: name for name in account.blobs.list()}
    server.start()
    account.sync()
    with contextlib.closing(sqlite3.connect(server.data / "catalog.db")) as catalog:
        rows = catalog.execute("SELECT doc_id FROM documents ORDER BY seq").fetchall()
    assert [names[row[0]] for row in rows if row[0] in names] == ["first", "urgent", "raised", "medium", "low"]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_async_programs_have_the_same(account: blobfs.Account, backend: str) -> None:
    blobs = blobfs.AsyncBlobs(account.blobs)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async def use() -> None:
        await blobs.put("item", pieces(), "mail", priority="high")
        await blobs.put("other", b"bytes", "mail", local_only=True)
        with pytest.raises(BlobExists):
            await blobs.put("item", pieces(), "mail")
        assert await blobs.upload("item", "mail", timeout_s=30) is BlobStatus.SYNCED
        async with await blobs.get("item", "mail") as file:
            assert await file.read() == b"one two"
        await blobs.set_flags("item", ["PENDING"], "mail")
        assert await blobs.get_flags("item", "mail") == ("PENDING",)
        assert await blobs.list("mail", order_by="-date", limit=1) == ["other"]
        assert (await blobs.count("mail"), await blobs.namespaces()) == (2, ("mail",))
        await blobs.set_priority("item", "low", "mail")
        assert (await blobs.info("item", "mail")).priority is Priority.LOW
        await blobs.set_local_only("other", False, "mail")
        await blobs.send_missing("mail")
        assert await blobs.fetch_missing("mail") == []
        assert await blobs.fetch("other", "mail") is await blobs.status("other", "mail") is BlobStatus.SYNCED
        assert await blobs.sync_progress() == {"SYNCED": 2}
        await blobs.delete("item", "mail")
        await blobs.delete("other", "mail")

    anyio.run(use, backend=backend)


# --- through a mount ----------------------------------------------------------------------------------------------


def test_blobs_through_a_mount_are_in_no_directory_of_it(invite: str, tmp_path: Path) -> None:
    mounted = Device(tmp_path, "mounted", invite)
    try:
        mounted.up()
        with blobfs.open_account(mounted.store, passphrase=PASSPHRASE) as account:
            account.blobs.put("item", b"bytes", priority="high")
            account.blobs.put("here", b"only", local_only=True)
            account.blobs.set_flags("item", ["PENDING"])
            assert account.blobs.upload("item") is BlobStatus.SYNCED
            assert read(account, "item") == b"bytes"
            assert account.blobs.list(flag="PENDING") == ["item"]
            assert account.blobs.sync_progress() == {"SYNCED": 1, "LOCAL_ONLY": 1}
            with pytest.raises(BlobExists):
                account.blobs.put("item", b"other")
            account.blobs.set_local_only("here", False)
            assert account.blobs.upload("here") is BlobStatus.SYNCED
            account.blobs.delete("item")
            assert os.listdir(mounted.mount) == []
    finally:
        mounted.close()
