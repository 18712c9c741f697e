"""Documents: stored, found, changed, deleted, indexed, and told about."""

from __future__ import annotations

import threading

import pytest

import blobfs
from blobfs.errors import (
    DocumentExists,
    DocumentNotFound,
    IndexExists,
    IndexNotFound,
    InvalidDocument,
    NotADirectory,
    NotEmpty,
    RevisionConflict,
    UsageError,
)
from tests.api.conftest import OpenDevice
from tests.e2e.devices import Server


def get(account: blobfs.Account, doc_id: str) -> blobfs.Document:
    """A document that is there."""
    document = account.get_doc(doc_id)
    assert document is not None
    return document


def test_a_document_is_found_again_after_a_restart(device: OpenDevice) -> None:
    account = device()
    doc = account.create_doc({"title": "Grüße", "n": [1, 2.5, None, True]})
    account.close()
    assert get(device(), doc.doc_id).content == {"title": "Grüße", "n": [1, 2.5, None, True]}


def test_a_chosen_id_is_kept_and_cannot_be_taken_twice(account: blobfs.Account) -> None:
    assert account.create_doc({}, doc_id="mine").doc_id == "mine"
    with pytest.raises(DocumentExists):
        account.create_doc({}, doc_id="mine")


def test_an_id_that_the_server_would_not_take_is_refused(account: blobfs.Account) -> None:
    for doc_id in ("", "a/b", "../x", "root", "x" * 129, "line\n", "ü"):
        with pytest.raises(InvalidDocument):
            account.create_doc({}, doc_id=doc_id)


def test_content_that_is_no_json_object_is_refused(account: blobfs.Account) -> None:
    doc = account.create_doc({})
    bad = ([], "text", {"x": float("nan")}, {"x": 1 << 64}, {1: 2}, {"x": {1}}, {"x": "\ud800"}, {"x": "y" * 600_000})
    for content in bad:
        with pytest.raises(InvalidDocument):
            account.create_doc(content)  # type: ignore[arg-type]
        doc.content = content  # type: ignore[assignment]
        with pytest.raises(InvalidDocument):
            account.put_doc(doc)


def test_a_document_that_is_not_there_is_none(account: blobfs.Account) -> None:
    assert account.get_doc("nothing") is None
    assert account.get_doc("root") is None


def test_a_change_is_dirty_until_it_is_put(account: blobfs.Account) -> None:
    doc = account.create_doc({"a": 1})
    assert not doc.is_dirty()
    doc.content["a"] = 2
    assert doc.is_dirty()
    assert get(account, doc.doc_id).content == {"a": 1}
    account.put_doc(doc)
    assert not doc.is_dirty()
    assert get(account, doc.doc_id).content == {"a": 2}


def test_putting_what_somebody_changed_since_is_refused_and_loses_nothing(account: blobfs.Account) -> None:
    mine = account.create_doc({"a": 1})
    other = get(account, mine.doc_id)
    other.content["a"] = 2
    account.put_doc(other)
    mine.content["a"] = 3
    with pytest.raises(RevisionConflict):
        account.put_doc(mine)
    with pytest.raises(RevisionConflict):
        account.delete_doc(mine)
    assert get(account, mine.doc_id).content == {"a": 2}
    assert mine.content == {"a": 3}


def test_the_upload_in_between_is_no_conflict(account: blobfs.Account) -> None:
    doc = account.create_doc({"a": 1})
    first = doc.revision
    account.sync()
    doc.content["a"] = 2
    account.put_doc(doc)
    assert doc.revision != first


def test_a_deleted_document_is_gone_on_every_device(device: OpenDevice) -> None:
    one, two = device("one"), device("two")
    doc = one.create_doc({"a": 1})
    one.sync()
    two.sync()
    assert get(two, doc.doc_id).content == {"a": 1}
    one.delete_doc(doc)
    assert one.get_doc(doc.doc_id) is None
    with pytest.raises(DocumentNotFound):
        one.delete_doc(doc)
    with pytest.raises(DocumentNotFound):
        one.put_doc(doc)
    one.sync()
    two.sync()
    assert two.get_doc(doc.doc_id) is None


def test_all_documents_come_in_the_order_of_their_ids(account: blobfs.Account) -> None:
    ids = [account.create_doc({"n": number}).doc_id for number in range(450)]
    assert [doc.doc_id for doc in account.get_all_docs()] == sorted(ids)


def test_a_document_has_a_place_in_the_mount(account: blobfs.Account) -> None:
    doc = account.create_doc({"n": 1}, path="a/b/c.txt")
    assert account.create_doc({}, path="/a/b/d").get_paths() == ["a/b/d"]
    assert doc.get_paths() == ["a/b/c.txt"]
    found = account.get_doc_at("a/b/c.txt")
    assert found is not None
    assert found.doc_id == doc.doc_id
    folder = account.get_doc_at("a/b")
    assert folder is not None
    with pytest.raises(UsageError):
        folder.put_attachment(b"bytes")
    with pytest.raises(NotEmpty):
        account.delete_doc(folder)
    with pytest.raises(DocumentExists):
        account.create_doc({}, path="a/b/c.txt")
    with pytest.raises(NotADirectory):
        account.create_doc({}, path="a/b/c.txt/e")
    assert account.get_doc_at("a/b/c.txt/e") is None
    assert len(list(account.get_all_docs())) == 4
    for path in ("", "/", "a//b", "a/../b", "x" * 256, "nul\0"):
        with pytest.raises(InvalidDocument):
            account.create_doc({}, path=path)


# --- indexes ------------------------------------------------------------------------------------------------------


def test_an_index_finds_documents_by_members_of_members_and_by_prefix(account: blobfs.Account) -> None:
    old = account.create_doc({"from": {"address": "ann@example.org"}, "year": 2023, "seen": True})
    account.create_index("by-sender", "from.address", "year")
    new = account.create_doc({"from": {"address": "ann@example.org"}, "year": 2024})
    bob = account.create_doc({"from": {"address": "bob@example.org"}, "year": 2024})
    account.create_doc({"subject": "nobody's"})

    def found(*values: str | int) -> list[str]:
        return [doc.doc_id for doc in account.get_from_index("by-sender", *values)]

    assert found("ann@example.org", 2024) == [new.doc_id]
    assert found("ann@example.org", "*") == [old.doc_id, new.doc_id]
    assert found("ann*", "*") == [old.doc_id, new.doc_id]
    assert found("*", "*") == [old.doc_id, new.doc_id, bob.doc_id]
    assert found("carl@example.org", 2024) == []
    assert account.get_index_keys("by-sender") == [
        ("ann@example.org", 2023),
        ("ann@example.org", 2024),
        ("bob@example.org", 2024),
    ]


def test_an_index_follows_changes_and_deletions(account: blobfs.Account) -> None:
    account.create_index("by-state", "state")
    doc = account.create_doc({"state": "new"})
    doc.content["state"] = "done"
    account.put_doc(doc)
    assert account.get_from_index("by-state", "new") == []
    assert [found.doc_id for found in account.get_from_index("by-state", "done")] == [doc.doc_id]
    account.delete_doc(doc)
    assert account.get_from_index("by-state", "*") == []


def test_a_prefix_at_the_end_of_unicode_and_a_star_that_is_meant(account: blobfs.Account) -> None:
    account.create_index("by-name", "name")
    names = ["a", "a*", "ab", "a\ud7ff", "a\ue000", "a\U0010ffff", "a\U0010ffff\U0010ffff" * 9, "b"]
    for name in names:
        account.create_doc({"name": name})

    def found(value: str) -> set[str]:
        return {doc.content["name"] for doc in account.get_from_index("by-name", value)}

    assert found("a*") == {name for name in names if name.startswith("a")}
    assert found("a\ud7ff*") == {"a\ud7ff"}
    assert found("a\U0010ffff*") == {name for name in names if name.startswith("a\U0010ffff")}
    assert found("a\\*") == {"a*"}


def test_a_list_is_in_an_index_under_each_of_its_values(account: blobfs.Account) -> None:
    letter = account.create_doc({"words": ["hello", "world", "hello", None, {"a": 1}, [2]], "year": 2024})
    one = account.create_doc({"words": "hello", "year": 2023})
    account.create_index("by-word", "words", "year")
    mixed = account.create_doc({"words": [7, True, "help"], "year": 2022})
    account.create_doc({"words": {"hello": 1}, "year": 2021})
    account.create_doc({"words": ["hello"], "year": [2021]})
    account.create_doc({"words": [], "year": 2021})

    def found(*values: str | int) -> list[str]:
        return [doc.doc_id for doc in account.get_from_index("by-word", *values)]

    assert found("hello", "*") == [one.doc_id, letter.doc_id]
    assert found("hello", 2024) == [letter.doc_id]
    assert found("hel*", "*") == [one.doc_id, letter.doc_id, mixed.doc_id]
    assert found("*", "*") == [mixed.doc_id, one.doc_id, letter.doc_id]
    assert found(7, "*") == [mixed.doc_id]
    assert found('["hello"]', "*") == found("[*", "*") == []
    assert account.get_index_keys("by-word") == [
        (1, 2022), (7, 2022), ("hello", None), ("hello", 2023), ("hello", 2024), ("help", 2022), ("world", 2024),
    ]  # fmt: skip
    letter.content["words"] = ["bye"]
    account.put_doc(letter)
    account.delete_doc(mixed)
    assert found("hello", "*") == [one.doc_id]
    account.delete_index("by-word")
    account.create_index("by-word", "words")
    assert found("bye") == [letter.doc_id]


def test_what_no_index_can_hold_is_an_error_that_says_so(account: blobfs.Account) -> None:
    account.create_index("by-x", "x")
    for value in (None, ["a"], {"a": 1}, b"a", 2**63, float("nan"), float("inf"), "\ud800"):
        with pytest.raises(UsageError, match="an index is asked for"):
            account.get_from_index("by-x", value)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a path is names"):
        account.create_index("bad", 3)  # type: ignore[arg-type]


def test_what_no_document_can_hold_is_an_error_that_says_so(account: blobfs.Account) -> None:
    for content in ([1], {1: 2}, {"a": b"x"}, {"a": float("nan")}, {"a": 2**64}, {"a": "\ud800"}):
        with pytest.raises(InvalidDocument, match="the content of a document is"):
            account.create_doc(content)  # type: ignore[arg-type]
    with pytest.raises(InvalidDocument, match="an id of a document is"):
        account.create_doc({}, doc_id="a b")


def test_an_index_survives_a_restart_and_goes_when_it_is_deleted(device: OpenDevice) -> None:
    account = device()
    account.create_index("by-x", "x")
    account.create_index("by-x", "x")
    with pytest.raises(IndexExists):
        account.create_index("by-x", "y")
    doc = account.create_doc({"x": 1})
    account.close()
    account = device()
    assert account.list_indexes() == {"by-x": ("x",)}
    assert [found.doc_id for found in account.get_from_index("by-x", 1)] == [doc.doc_id]
    account.delete_index("by-x")
    with pytest.raises(IndexNotFound):
        account.get_from_index("by-x", 1)


def test_a_path_is_never_taken_for_sql(account: blobfs.Account) -> None:
    for path in ("", "a..b", "a'b", 'a"b', "a.b)--", "a[0]", "$"):
        with pytest.raises(UsageError):
            account.create_index("bad", path)


def test_stars_stand_at_the_end_only(account: blobfs.Account) -> None:
    account.create_index("two", "a", "b")
    for values in (("x*", "y"), ("*", 1), ("x",)):
        with pytest.raises(UsageError):
            account.get_from_index("two", *values)


# --- conflicts, revisions, news -----------------------------------------------------------------------------------


def test_two_edits_of_one_member_are_both_kept_and_can_be_resolved(device: OpenDevice, server: Server) -> None:
    one, two = device("one"), device("two")
    doc = one.create_doc({"title": "first", "here": 0, "there": 0}, doc_id="note")
    one.sync()
    two.sync()
    two.close()
    doc.content.update(title="from one", here=1)
    one.put_doc(doc)
    one.sync()
    one.close()
    server.stop()
    two = device("two")
    theirs = get(two, "note")
    theirs.content.update(title="from two", there=1)
    two.put_doc(theirs)
    server.start()
    two.sync()
    one = device("one")
    one.sync()
    for account in (one, two):
        assert get(account, "note").content["title"] == "from one"
        assert [copy.content["title"] for copy in account.get_doc_conflicts("note")] == ["from two"]
    doc = get(one, "note")
    doc.content["title"] = "both"
    one.resolve_doc(doc, one.get_doc_conflicts("note"))
    one.sync()
    two.sync()
    for account in (one, two):
        assert get(account, "note").content["title"] == "both"
        assert account.get_doc_conflicts("note") == []
        assert len(list(account.get_all_docs())) == 1


def test_edits_of_different_members_on_two_devices_become_one_document(device: OpenDevice, server: Server) -> None:
    one, two = device("one"), device("two")
    doc = one.create_doc({"a": 0, "b": 0}, doc_id="note")
    one.sync()
    two.sync()
    server.stop()
    theirs = get(two, "note")
    doc.content["a"], theirs.content["b"] = 1, 1
    one.put_doc(doc)
    two.put_doc(theirs)
    server.start()
    one.sync()
    two.sync()
    one.sync()
    assert get(one, "note").content == get(two, "note").content == {"a": 1, "b": 1}
    assert one.get_doc_conflicts("note") == []


def test_earlier_revisions_can_be_read(account: blobfs.Account) -> None:
    doc = account.create_doc({"n": 1})
    for number in (2, 3):
        account.sync()
        doc.content["n"] = number
        account.put_doc(doc)
    account.sync()
    assert [revision.content["n"] for revision in account.get_revisions(doc.doc_id)] == [3, 2, 1]


def test_changes_of_both_devices_are_told(device: OpenDevice) -> None:
    one, two = device("one"), device("two")
    with one.changes() as here, two.changes() as there:
        doc = one.create_doc({})
        assert next(here) == doc.doc_id
        assert next(there) == doc.doc_id


def test_who_waits_for_changes_is_released_when_the_account_is_closed(account: blobfs.Account) -> None:
    changes = account.changes()
    told: list[str] = []
    waiting = threading.Thread(target=lambda: told.extend(changes))
    waiting.start()
    account.close()
    waiting.join(10)
    assert not waiting.is_alive()
    assert told == []


def test_a_closed_account_says_so(account: blobfs.Account) -> None:
    doc = account.create_doc({})
    account.close()
    account.close()
    for call in (lambda: account.create_doc({}), lambda: account.get_doc("x"), doc.get_attachment, account.sync):
        with pytest.raises(UsageError, match="closed"):
            call()
