"""Who has the old passphrase and an old copy of the store, and the server besides: the newer epoch is not theirs."""

from __future__ import annotations

import base64
import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from blobfs.config import NEWER as KEPT
from blobfs.config import SECRETS as FILE_NAME
from blobfs.config import Source
from blobfs.errors import CorruptBlob, StoreDamaged, WrongPassphrase
from blobfs.newer import keep_newer
from blobfs.store.secrets import write_secrets
from blobfs.store.store import Store
from blobfs.sync.status import SyncState
from blobfs.unlock import unlock
from blobfs.values import crypto, framing
from blobfs.values.documents import Document, dump, load
from blobfs.values.epochs import seal_older
from blobfs.values.extents import EXTENT, FRAME, BlobId
from blobfs.values.keys import FLOOR, derive_keys, wrap
from blobfs.values.words import recovery_words
from tests.sync.kit import ACCOUNT, KEYS, Account, converge, trio_test, until
from tests.sync.test_epochs import FILE, NEWER, SECRETS
from tests.threats.evil import Answer, Asked, Evil, on_feed

OLD = KEYS


def forge(blob_id: str, length: int) -> bytes:
    """A blob of this name, of other bytes, as who has the old keys can seal it."""
    head, cipher = framing.preamble(length), crypto._blob_cipher(OLD, BlobId(blob_id))
    last = framing.frame_count(length) - 1
    sizes = [min(FRAME, length - index * FRAME) for index in range(last + 1)]
    return head + b"".join(
        cipher.encrypt(crypto._FRAME_NONCE.pack(index, index == last), b"!" * size, head)
        for index, size in enumerate(sizes)
    )


@pytest.mark.parametrize("length", [700, EXTENT + 300_000])
@trio_test
async def test_who_has_old_keys_cannot_put_bytes_into_files_of_any_epoch(
    account: Account, evil: Evil, length: int
) -> None:
    before, after = random.Random(1).randbytes(length), random.Random(2).randbytes(length)
    async with account.device("one") as one:
        one.write("before", before)
        await one.settle()
    async with account.device("one", keys=NEWER, secret=FILE) as one:
        one.write("after", after)
        await one.settle()

    def attack(asked: Asked, answer: Answer) -> Answer:
        if not asked.is_blob:
            return answer
        path = next(account.server.data.rglob(asked.blob_id))
        forged = forge(asked.blob_id, int.from_bytes(path.read_bytes()[8:16], "big"))
        first, _, last = asked.headers.get("range", f"bytes=0-{len(forged) - 1}").removeprefix("bytes=").partition("-")
        return Answer(answer.status, answer.headers, forged[int(first) : int(last or len(forged)) + 1])

    async with account.device("two", url=evil.url, keys=NEWER, secret=FILE) as two:
        await until(lambda: two.exists("after"))
        evil.attack = attack
        for name in ("before", "after"):
            for offset in (0, length - 500):
                with pytest.raises(CorruptBlob):
                    await two.read(name, offset, 400)
        evil.attack = None
        assert (await two.read("before"), await two.read("after")) == (before, after)


@trio_test
async def test_who_has_old_keys_cannot_replace_what_was_written_with_newer_ones(account: Account, evil: Evil) -> None:
    async with (
        account.device("one", keys=NEWER, secret=FILE) as one,
        account.device("two", url=evil.url, keys=NEWER, secret=FILE) as two,
    ):
        one.write("f", b"of the newer epoch")
        await converge(one, two)
        assert await two.read("f") == b"of the newer epoch"
        node = one.node("f")
        base = one.store.documents.base(node.doc_id)
        assert base is not None
        for deleted in (False, True):
            revision = base.revision.advanced(one.store.device)
            forged = Document(node.doc_id, names=base.document.names, attachment=None)
            payload = crypto.seal_document(OLD, forged, revision, deleted=deleted)
            entry = {"doc_id": node.doc_id, "seq": 0, "revision": str(revision), "deleted": deleted}
            entry["payload"] = base64.b64encode(payload).decode()

            def inject(documents: list[Any], entry: Any = entry) -> list[Any]:
                return [*documents, entry]

            evil.attack = on_feed(inject)
            one.write(f"beside {deleted}", b"goes on")
            await one.settle()
            await until(lambda deleted=deleted: two.exists(f"beside {deleted}"))
            await until(lambda: any("old keys only" in entry.reason for entry in two.engine.status().parked))
            assert await two.read("f") == b"of the newer epoch"


@trio_test
async def test_a_claim_of_newer_keys_stops_sync_and_nothing_else_and_only_while_it_is_made(
    account: Account, evil: Evil
) -> None:
    claims = [
        dump(load(FILE) | {"epoch": 2, "older": load(FILE)["older"] * 2}),
        dump(load(FILE) | {"version": 3}),
        dump(load(FILE) | {"epoch": "many"}),
    ]
    async with account.device("one", keys=NEWER, secret=FILE) as one:
        one.write("f", b"here")
        await one.settle()
    states = set()
    for claim in claims:

        def attack(asked: Asked, answer: Answer, claim: bytes = claim) -> Answer:
            return Answer(answer.status, answer.headers, claim) if asked.is_secret else answer

        evil.attack = attack
        async with account.device("one", url=evil.url, keys=NEWER, secret=FILE) as one:
            await until(lambda one=one: one.engine.status().state not in (SyncState.STARTING, SyncState.CONNECTED))
            states.add(one.engine.status().state)
            one.write("f", b"edited")
            assert await one.read("f") == b"edited"
            evil.attack = None
            one.engine.retry()
            await one.settle()
    assert states == {SyncState.KEYS_CHANGED, SyncState.INCOMPATIBLE}


def test_a_newer_file_is_taken_only_when_the_stores_own_secret_is_where_it_was_among_the_older_ones(
    place: Path,
) -> None:
    store, old, new = place / "store", place / "old", place / "new"
    with contextlib.closing(Store.create(store, OLD, device_name="test")):
        pass
    write_secrets(store / FILE_NAME, wrap(ACCOUNT, SECRETS[0], b"old", bytes(32), FLOOR))
    old.write_text(recovery_words(bytes(32)))
    new.write_text(recovery_words(bytes([1]) * 32))
    stranger = b"s" * 32

    def offer(*older: bytes) -> None:
        chain = seal_older(ACCOUNT, older, SECRETS[1])
        keep_newer(store, wrap(ACCOUNT, SECRETS[1], b"new", bytes([1]) * 32, FLOOR, older=chain))
        assert (store / KEPT).exists()

    for older in (stranger,), (stranger, SECRETS[0]), (stranger, stranger):
        offer(*older)
        with pytest.raises(StoreDamaged, match="not those of this store"):
            unlock(store, Source(), Source(file=new))
        assert not (store / KEPT).exists()
        with pytest.raises(WrongPassphrase):
            unlock(store, Source(), Source(file=new))
        assert unlock(store, Source(), Source(file=old)).keys() == OLD
    offer(SECRETS[0], stranger)
    unlocked = unlock(store, Source(), Source(file=new))
    with contextlib.closing(Store.open(store, unlocked.keys())):
        pass
    with pytest.raises(WrongPassphrase):
        unlock(store, Source(), Source(file=old))


def test_a_file_of_an_older_epoch_or_of_another_account_is_not_even_kept(place: Path) -> None:
    store = place / "store"
    store.mkdir()
    write_secrets(store / FILE_NAME, load(FILE))
    for body in (wrap(ACCOUNT, SECRETS[0], b"old", bytes(32), FLOOR), load(FILE), load(FILE) | {"account": "cd" * 16}):
        keep_newer(store, body)
        assert not (store / KEPT).exists()
    assert derive_keys(ACCOUNT, SECRETS[1], SECRETS[:1]) == NEWER
