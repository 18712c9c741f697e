"""Events: what happens in an account, told to whoever waits."""

from __future__ import annotations

import threading

import anyio
import pytest

import blobfs
from blobfs import EventKind
from tests.api.conftest import OpenDevice
from tests.api.test_documents import get
from tests.e2e.devices import Server


def first(events: blobfs.Events, kind: EventKind) -> blobfs.Event:
    """The next event of a kind."""
    return next(event for event in events if event.kind is kind)


def test_a_change_is_told_with_its_document(account: blobfs.Account) -> None:
    with account.events() as events:
        doc = account.create_doc({})
        assert first(events, EventKind.CHANGE).doc_id == doc.doc_id


def test_progress_and_another_state_are_told_with_a_status(account: blobfs.Account, server: Server) -> None:
    account.sync()
    with account.events() as events:
        server.stop()
        account.create_doc({})
        waits, is_offline = False, False  # whichever is told first, and whatever of the device's own card
        while not (waits and is_offline):
            event = next(events)
            if event.kind is EventKind.PROGRESS:
                assert event.status is not None
                waits = event.status.pending_documents >= 1
            elif event.kind is EventKind.STATE:
                assert event.status is not None
                is_offline = (event.status.state, bool(event.status.reason)) == ("offline", True)
        server.start()
        while (now := first(events, EventKind.PROGRESS).status) is None or now.pending_documents:
            pass


def test_a_conflict_is_told_with_the_document_that_holds_it(device: OpenDevice, server: Server) -> None:
    one, two = device("one"), device("two")
    doc = one.create_doc({"n": 0}, doc_id="letter")
    one.sync()
    two.sync()
    two.close()
    doc.content["n"] = 1
    one.put_doc(doc)
    one.sync()
    server.stop()
    two = device("two")
    with two.events() as events:
        theirs = get(two, "letter")
        theirs.content["n"] = 2
        two.put_doc(theirs)
        server.start()
        conflict = first(events, EventKind.CONFLICT)
    assert [copy.doc_id for copy in two.get_doc_conflicts("letter")] == [conflict.doc_id]


def test_whoever_waits_is_told_when_the_account_is_closed(device: OpenDevice) -> None:
    account = device("one")
    events = account.events()
    waiting = threading.Thread(target=list, args=(events,))
    waiting.start()
    account.close()
    waiting.join(30)
    assert not waiting.is_alive()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_async_programs_wait_and_may_give_up(account: blobfs.Account, backend: str) -> None:
    async def use() -> None:
        async_account = blobfs.AsyncAccount(account)
        async with async_account.events() as events:
            with anyio.move_on_after(0.2) as scope:
                while True:
                    await anext(events)
            assert scope.cancelled_caught
            doc = await async_account.create_doc({})
            async for event in events:
                if event.kind is EventKind.CHANGE:
                    assert event.doc_id == doc.doc_id
                    break
            await events.aclose()
            assert [event async for event in events if event.kind is EventKind.CHANGE] == []

    anyio.run(use, backend=backend)
