"""Devices of an account: none that the server makes up, none that joins unseen, none that falls silent unseen."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from blobfs.account import Remote, save_remote
from blobfs.answers.devices import DeviceAnswers
from blobfs.devices import Devices, Register, own_token
from blobfs.remote.tokens import list_tokens, make_token
from blobfs.store.cards import Cards
from blobfs.values.cards import Card
from blobfs.values.documents import DocId, Name
from blobfs.values.revisions import DeviceId
from tests.sync.kit import Account, Device, converge, trio_test, until
from tests.threats.evil import Evil, flip, on_feed

DAY_NS = 86400 * 10**9


def tell(device: Device, name: str, age_ns: int = 0) -> None:
    """As a daemon does while it syncs."""
    now_ns = time.time_ns()
    Cards(device.store).write(Card(device.store.device, name, now_ns, now_ns - age_ns, "1", 7))


def names(device: Device) -> set[str]:
    return {card.name for card in Cards(device.store).all()}


@trio_test
async def test_the_server_cannot_make_a_device_or_a_mark_of_revocation(account: Account, evil: Evil) -> None:
    async with account.device("one") as one:
        tell(one, "desk")
        await one.settle()

        def invent(page: list[dict[str, Any]]) -> list[dict[str, Any]]:
            ghosts = [{**entry, "doc_id": "f" * 32} for entry in page] + [flip(entry, 40) for entry in page]
            return page + [{**entry, "doc_id": f"{number:032x}"} for number, entry in enumerate(ghosts)]

        evil.attack = on_feed(invent)
        async with account.device("two", url=evil.url) as two:
            await until(lambda: names(two) == {"desk"} and len(two.engine.status().parked) > 1)
            (card,) = Cards(two.store).all()
            assert (card.device, card.revoked) == (one.store.device, False)
            assert Register(two.store).strangers() == []


@trio_test
async def test_a_device_that_joins_is_named_on_the_others_with_the_day(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        tell(one, "desk")
        await converge(one, two)
        register, days = Register(one.store), [time.strftime("%Y-%m-%d")]
        register.learn()
        assert register.notices() == []
        tell(two, "ghost\x1b[2J" + "x" * 100)
        await converge(two, one)
        register.learn()
        (notice,) = register.notices()
        assert notice.startswith("a new device 'ghost[2J")
        days.append(time.strftime("%Y-%m-%d"))
        assert any(f"joined on {day}" in notice for day in days)
        assert notice.isprintable()
        # Whoever comes later finds both there, and none of them new.
        Register(two.store).learn()
        assert Register(two.store).notices() == []


@trio_test
async def test_a_device_that_writes_without_a_card_is_found(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        tell(one, "desk")
        two.write("f", b"from nowhere")
        await converge(two, one)
        assert Register(one.store).strangers() == [two.store.device]


@trio_test
async def test_a_server_that_holds_back_all_that_a_device_says_cannot_hide_for_how_long(
    account: Account, evil: Evil
) -> None:
    async with account.device("two") as two:
        tell(two, "laptop", age_ns=4 * DAY_NS)
        await two.settle()
        first: dict[str, dict[str, Any]] = {}
        # What it once told of a document it tells again and again; to leave it out would be noticed.
        evil.attack = on_feed(lambda page: [first.setdefault(entry["doc_id"], entry) for entry in page])
        async with account.device("one", url=evil.url) as one:
            await until(lambda: names(one) == {"laptop"})
            register = Register(one.store)
            register.learn()
            assert register.notices() == ["last heard from 'laptop' 4 days ago"]
            tell(two, "laptop")
            await converge(two, one)
            assert register.notices() == ["last heard from 'laptop' 4 days ago"]


@trio_test
async def test_a_mark_of_revocation_and_what_the_device_says_meanwhile_are_both_kept(account: Account) -> None:
    async with account.device("one") as one, account.device("two") as two:
        tell(one, "desk")
        tell(two, "phone")
        await converge(one, two)
        Cards(one.store).revoke(two.store.device)
        (card,) = [card for card in Cards(two.store).all() if card.device == two.store.device]
        Cards(two.store).write(replace(card, name="old phone"))
        await converge(one, two)
        for device in (one, two):
            (card,) = [card for card in Cards(device.store).all() if card.device == two.store.device]
            assert (card.name, card.revoked) == ("old phone", True)
        assert any("this device was revoked" in notice for notice in Register(two.store).notices())


@trio_test
async def test_a_device_that_was_revoked_is_put_out_again_when_a_restored_server_knows_its_token(
    account: Account,
) -> None:
    async with account.device("one") as one, account.device("two") as two:
        lost, _ = await own_token(Remote(account.server.url, account.user, account.token, None), two.store.device)
        (token,) = [token for token in await list_tokens(two.client) if token.label == two.store.device]
        Cards(two.store).write(Card(two.store.device, "phone", token=token.token_id))
        await converge(two, one)
        Cards(one.store).revoke(two.store.device)
        save_remote(one.store.settings, Remote(account.server.url, account.user, account.token, None))
        devices = Devices(one.store, one.engine, one.client)
        await until(lambda: one.engine.is_well)
        await devices.keep()
        assert two.store.device not in [token.label for token in await list_tokens(one.client)]
        assert one.store.device in [token.label for token in await list_tokens(one.client)]
        assert lost.token not in repr(lost)


@trio_test
async def test_a_token_that_bears_the_name_of_a_device_that_was_put_out_is_shown_and_can_be_put_out(
    account: Account,
) -> None:
    async with account.device("one") as one:
        tell(one, "desk")
        gone = DeviceId("e" * 16)
        card = Card(gone, "gone", 1, 1, "1", 9, revoked=True)
        one.store.documents.create(DocId("e" * 32), card.to_content(), 1, uid=0, gid=0)
        parent = one.store.hidden.directory(b"devices")
        one.store.documents.edit(DocId("e" * 32), 1, names=(Name(parent.doc_id, gone.encode()),))
        # Made by a stolen device while it was let in, so that it can come back.
        number, _ = await make_token(one.client, gone, None)
        answers = DeviceAnswers(one.store, one.engine, one.client, Devices(one.store, one.engine, one.client))
        shown = await answers.show({})
        assert number in {entry["id"] for entry in shown["access"]}
        assert (await answers.revoke({"which": str(number)}))["tokens"] == 1
        assert number not in {token.token_id for token in await list_tokens(one.client)}
