"""Blobs of a server that changes, swaps, cuts or hides them: reads are right or fail, and the user hears why."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import trio

from blobfs.errors import BlobfsError, CorruptBlob, DataMissing, IntegrityError, RemoteUnavailable
from blobfs.sync.siblings import SMALL
from blobfs.sync.status import SyncState
from blobfs.values.extents import EXTENT, FRAME
from tests.sync.kit import FAST, Account, Device, converge, trio_test
from tests.sync.test_failures import read_in_the_end
from tests.threats.evil import Answer, Asked, Evil, drip, on_blobs

_TAG = 16
_SEALED = FRAME + _TAG
DATA = os.urandom(3 * FRAME + 777)


async def _expect_refusal(device: Device, path: str, kinds: type[BlobfsError] | tuple[type[BlobfsError], ...]) -> str:
    """A read fails with one of these, nothing of it was kept, and status says so; the sentence."""
    with pytest.raises(kinds) as caught:
        await device.read(path)
    assert device.node(path).stored == 0
    status = device.engine.status()
    assert status.state is SyncState.CONNECTED
    reasons = [entry.reason for entry in status.parked if entry.doc_id == device.node(path).doc_id]
    assert any(str(caught.value) in reason for reason in reasons), status
    return str(caught.value)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "cut at the last frame": lambda body: body[: 3 * _SEALED],
    "cut at the first frame": lambda body: body[:_SEALED],
    "cut to nothing": lambda body: b"",
    "cut by a byte": lambda body: body[:-1],
    "a byte more": lambda body: body + b"\0",
    "a frame more": lambda body: body + body[:_SEALED],
    "frames reversed": lambda body: body[_SEALED : 2 * _SEALED] + body[:_SEALED] + body[2 * _SEALED :],
    "a frame twice": lambda body: body[:_SEALED] * 2 + body[2 * _SEALED :],
    "a frame dropped, zeros added": lambda body: body[_SEALED:] + bytes(_SEALED),
    "first bit": lambda body: bytes([body[0] ^ 1]) + body[1:],
    "last bit": lambda body: body[:-1] + bytes([body[-1] ^ 0x80]),
    "a tag": lambda body: body[:FRAME] + bytes(_TAG) + body[_SEALED:],
    "zeros": lambda body: bytes(len(body)),
    "plaintext in place of the sealed bytes": lambda body: DATA.ljust(len(body), b"\0"),
}


@trio_test
async def test_every_change_of_a_blob_fails_the_read_and_is_named_and_other_files_go_on(
    account: Account, evil: Evil, caplog: pytest.LogCaptureFixture
) -> None:
    async with account.device("one") as one, account.device("two", url=evil.url) as two:
        one.write("f", DATA)
        one.write("other", b"other" * 1000)
        await converge(one, two)
        for what, change in CHANGES.items():
            evil.attack = on_blobs(change)
            with caplog.at_level(logging.WARNING, logger="blobfs"):
                sentence = await _expect_refusal(two, "f", CorruptBlob)
            assert sentence in caplog.text, what
            caplog.clear()
        evil.attack = None
        assert await two.read("f") == DATA
        assert await two.read("other") == b"other" * 1000


@trio_test
async def test_any_flipped_bit_of_a_small_blob_fails_the_read(account: Account, evil: Evil) -> None:
    async with account.device("one") as one, account.device("two", url=evil.url) as two:
        one.write("f", b"12345678")
        await converge(one, two)
        for bit in range(8 * (8 + _TAG)):

            def change(body: bytes, bit: int = bit) -> bytes:
                spoilt = bytearray(body)
                spoilt[bit // 8] ^= 1 << bit % 8
                return bytes(spoilt)

            evil.attack = on_blobs(change)
            with pytest.raises(CorruptBlob):
                await two.read("f")
        evil.attack = None
        assert await two.read("f") == b"12345678"


@trio_test
async def test_blobs_of_other_files_extents_and_versions_are_refused_in_every_pairing(
    account: Account, evil: Evil
) -> None:
    async with account.device("one") as one, account.device("two", url=evil.url) as two:
        # Too large to come together with their neighbours, by a request that this attack lets through.
        size = SMALL + 1000
        first, second = os.urandom(size), os.urandom(size)
        one.write("v", first)
        one.write("a", os.urandom(size))
        one.write("b", os.urandom(size))
        await one.settle()
        old = {name: _only_id(one, name) for name in ("v",)}
        one.write("v", second)
        await converge(one, two)
        ids = {name: _only_id(one, name) for name in ("a", "b", "v")} | {"old v": old["v"]}
        for wanted, given in itertools.permutations(ids, 2):
            if wanted == "old v":
                continue

            def swap(asked: Asked, answer: Answer, wanted: str = wanted, given: str = given) -> Answer:
                if not asked.is_blob or asked.blob_id != ids[wanted]:
                    return answer
                path = asked.path.replace(ids[wanted], ids[given])
                return evil.ask(replace(asked, path=path))

            evil.attack = swap
            await _expect_refusal(two, wanted, CorruptBlob)
        evil.attack = None
        assert await two.read("v") == second


def _only_id(device: Device, path: str) -> str:
    content = device.node(path).content
    assert content is not None
    blob_id = device.store.attachments.extents(content)[0].blob_id
    assert blob_id is not None
    return blob_id


@trio_test
async def test_a_blob_that_the_server_denies_is_missing_data_and_no_deletion(account: Account, evil: Evil) -> None:
    async with account.device("one") as one, account.device("two", url=evil.url) as two:
        one.write("f", DATA)
        await converge(one, two)
        for status in (404, 410):
            evil.attack = lambda asked, answer, status=status: Answer(status) if asked.is_blob else answer
            if status == 404:
                sentence = await _expect_refusal(two, "f", DataMissing)
                assert "device" in sentence
            else:
                with pytest.raises(BlobfsError):
                    await two.read("f")
        evil.attack = None
        await converge(two, one)
        assert await one.read("f") == await two.read("f") == DATA


@trio_test
async def test_a_write_into_bytes_that_come_corrupted_fails_and_changes_nothing(account: Account, evil: Evil) -> None:
    # What is written is sent only when everything is: sending it needs the bytes around it, which would fail as well.
    patient = replace(FAST, quiet_s=3600, max_wait_s=3600)
    async with account.device("one") as one, account.device("two", url=evil.url, options=patient) as two:
        one.write("f", DATA)
        await converge(one, two)
        evil.attack = on_blobs(lambda body: bytes(len(body)))
        two.write("f", b"whole row", len(DATA) + EXTENT, truncate=False)
        with pytest.raises(CorruptBlob):
            await two.read("f", 0, 10)
        evil.attack = None
        await converge(two, one)
        data = await one.read("f")
        assert data[: len(DATA)] == DATA
        assert data.endswith(b"whole row")


@trio_test
async def test_an_endless_body_and_a_slow_drip_end_at_the_deadline(account: Account, evil: Evil) -> None:
    hurried = replace(FAST, fetch_deadline_s=1)
    async with (
        account.device("one") as one,
        account.device("two", url=evil.url) as two,
        account.device("three", url=evil.url, options=hurried) as three,
    ):
        one.write("f", DATA)
        one.write("g", DATA[:100])
        await converge(one, two, three)

        def endless(asked: Asked, answer: Answer) -> Answer:
            return replace(answer, body=b"", stream=itertools.repeat(bytes(64 << 10))) if asked.is_blob else answer

        evil.attack = endless
        with pytest.raises(IntegrityError):
            await two.read("f")

        def slow(asked: Asked, answer: Answer) -> Answer:
            return replace(answer, body=b"", stream=drip(answer.body[:1])) if asked.is_blob else answer

        evil.attack = slow
        # Each byte keeps the connection from being given up: only the reader's own deadline is left.
        with pytest.raises(RemoteUnavailable, match="in time"):
            await three.read("f")
        evil.attack = None
        assert await two.read("g") == DATA[:100]
        assert await read_in_the_end(three, "g") == DATA[:100]


@trio_test
async def test_a_file_that_was_attacked_before_is_fetched_again(account: Account, evil: Evil) -> None:
    async with account.device("one") as one, account.device("two", url=evil.url) as two:
        one.write("f", DATA)
        await converge(one, two)
        evil.attack = on_blobs(lambda body: body[::-1])
        async with trio.open_nursery() as nursery:

            async def fail() -> None:
                with pytest.raises(CorruptBlob):
                    await two.read("f")

            for _ in range(5):
                nursery.start_soon(fail)
        evil.attack = None
        assert await two.read("f") == DATA
