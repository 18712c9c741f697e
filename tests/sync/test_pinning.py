"""What is pinned comes by itself, and what comes behind a reader."""

from __future__ import annotations

from blobfs.sync.evict import CacheLimits, evict
from blobfs.values.extents import EXTENT
from tests.sync.kit import Account, converge, noise, trio_test, until


@trio_test
async def test_a_pinned_file_comes_and_each_newer_version_of_it(account: Account) -> None:
    data = noise(EXTENT + 5)
    async with account.device("one") as one, account.device("two") as two:
        one.mkdir("d")
        one.write("d/big", data)
        one.write("other", data)
        await converge(one, two)
        two.store.pins.add(two.node("d").doc_id)
        two.engine.keeper.wake()
        await until(lambda: two.node("d/big").stored == len(data))
        one.write("d/big", b"x" * 5000, 3, truncate=False)
        one.write("d/late", b"later")
        await converge(one, two)
        await until(lambda: two.node("d/late").stored == 5)
        await until(lambda: two.node("d/big").stored == len(data))
        assert await two.read("d/big") == data[:3] + b"x" * 5000 + data[5003:]
        assert two.node("other").stored == 0


@trio_test
async def test_a_full_cache_lets_go_of_what_is_not_pinned(account: Account) -> None:
    async with account.device("one") as one:
        for name in ("pinned", "free"):
            one.write(name, noise(EXTENT))
        await one.settle()
        one.store.pins.add(one.node("pinned").doc_id)
        assert evict(one.store, CacheLimits(most=1), one.engine.is_pinned) == EXTENT
        assert (one.node("pinned").stored, one.node("free").stored) == (EXTENT, 0)


@trio_test
async def test_a_pinned_file_that_cannot_be_had_holds_up_no_other(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        one.write("broken", noise(1000))
        one.write("whole", noise(2000))
        await converge(one, two)
        blob_id = next(iter(two.store.attachments.extents(two.node("broken").content).values())).blob_id  # type: ignore[arg-type]
        blobs = [path for path in account.server.data.rglob(str(blob_id)) if path.is_file()]
        for path in blobs:
            path.write_bytes(bytes(path.stat().st_size))
        assert blobs
        for name in ("broken", "whole"):
            two.store.pins.add(two.node(name).doc_id)
        two.engine.keeper.wake()
        await until(lambda: two.node("whole").stored == 2000)
        assert two.node("broken").stored == 0
