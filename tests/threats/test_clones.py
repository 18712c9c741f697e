"""A store that exists twice, by a copied virtual machine or a backup of the device: no bytes are lost."""

from __future__ import annotations

import shutil

from tests.sync.kit import Account, converge, trio_test, until
from tests.threats.evil import Answer, Asked, Evil


def lose_answers(evil: Evil) -> list[Answer]:
    """From now on no device hears what became of what it sent; the answers that it does not get."""
    lost = list[Answer]()

    def lose(asked: Asked, answer: Answer) -> Answer:
        if not asked.is_push:
            return answer
        lost.append(answer)
        return Answer(503)

    evil.attack = lose
    return lost


@trio_test
async def test_a_cloned_store_that_writes_on_loses_nobodys_bytes(account: Account) -> None:
    async with account.device("one") as one:
        one.write("f.txt", b"base")
        await one.settle()
    shutil.copytree(account.directory / "one", account.directory / "clone")
    async with account.device("one") as one:
        one.write("f.txt", b"by the original")
        await one.settle()
    async with account.device("clone") as clone:
        clone.engine.pause()
        clone.write("f.txt", b"by the clone")
        clone.engine.resume()
        await clone.settle()
    async with account.device("fresh") as fresh:
        await fresh.settle()
        tree = await fresh.tree()
        assert sorted(data for _, _, data in tree.values()) == [b"by the clone", b"by the original"]


@trio_test
async def test_a_lost_answer_makes_no_conflict_though_the_file_was_edited_on(account: Account, evil: Evil) -> None:
    async with account.device("one", url=evil.url) as one:
        one.write("f.txt", b"base")
        await one.settle()
        lost = []

        def lose(asked: Asked, answer: Answer) -> Answer:
            if asked.is_push and not lost:
                lost.append(answer)
                one.write("f.txt", b"edited on")
                return Answer(503)
            return answer

        evil.attack = lose
        one.write("f.txt", b"answer lost")
        await until(lambda: bool(lost))
        one.engine.retry()
        await one.settle()
        async with account.device("two") as two:
            await converge(two, one)
            assert sorted(two.paths()) == ["f.txt"]
            assert await two.read("f.txt") == b"edited on"


@trio_test
async def test_a_restart_before_the_answer_makes_no_conflict_though_the_file_was_edited_on(
    account: Account, evil: Evil
) -> None:
    async with account.device("one", url=evil.url) as one:
        await one.settle()
        lost = lose_answers(evil)
        one.write("f.txt", b"answer lost")
        one.write("empty", b"")
        one.write("same", b"as it was sent")
        await until(lambda: any(len(answer.json()["results"]) >= 3 for answer in lost))
        one.write("f.txt", b"edited on")
    evil.attack = None
    async with account.device("one", url=evil.url) as one, account.device("two") as two:
        await converge(one, two)
        assert sorted(two.paths()) == ["empty", "f.txt", "same"]
        assert await two.read("f.txt") == b"edited on"


@trio_test
async def test_what_was_deleted_before_its_first_answer_was_lost_stays_deleted_after_a_restart(
    account: Account, evil: Evil
) -> None:
    async with account.device("one", url=evil.url) as one:
        await one.settle()
        lost = lose_answers(evil)
        one.write("f.txt", b"not for long")
        await until(lambda: bool(lost))
        one.remove("f.txt")
    evil.attack = None
    async with account.device("one", url=evil.url) as one, account.device("two") as two:
        await converge(one, two)
        assert one.paths() == two.paths() == {}
