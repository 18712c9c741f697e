"""Documents: pushes with references, the feed, its long poll, events, earlier revisions."""

import base64
import http.client
import json
import os
import statistics
import threading
import time

from server_process import Account, change

from blobfs.protocol import MAX_DOCUMENT
from server.catalog import documents
from server.catalog.documents import Change


def test_a_pushed_document_is_in_the_feed_and_again_after_each_change(account: Account) -> None:
    assert [result["status"] for result in account.push(change("a", None, "r1"), change("b", None, "r1"))] == [
        "ok",
        "ok",
    ]
    page = account.feed()
    assert [(doc["doc_id"], doc["seq"], doc["revision"], doc["deleted"]) for doc in page["documents"]] == [
        ("a", 1, "r1", False),
        ("b", 2, "r1", False),
    ]
    assert base64.b64decode(page["documents"][0]["payload"]) == b"sealed"
    assert account.push(change("a", "r1", "r2", deleted=True))[0]["seq"] == 3
    later = account.feed(since=page["cursor"])
    assert [(doc["doc_id"], doc["seq"], doc["deleted"]) for doc in later["documents"]] == [("a", 3, True)]
    assert [doc["seq"] for doc in account.feed()["documents"]] == [2, 3]
    assert account.feed(since=later["cursor"]) == {"documents": [], "cursor": "3", "more": False}


def test_a_change_on_another_base_is_a_conflict_that_shows_the_current_document(account: Account) -> None:
    account.push(change("a", None, "r1"), change("a", "r1", "r2", b"newest"))
    for base in (None, "r1", "r9"):
        (result,) = account.push(change("a", base, "r3"))
        assert (result["status"], result["current"]["revision"]) == ("conflict", "r2")
        assert base64.b64decode(result["current"]["payload"]) == b"newest"
    (result,) = account.push(change("none", "r1", "r2"))
    assert (result["status"], result["current"]) == ("conflict", None)


def test_a_repeated_push_is_ok_again_and_changes_nothing(account: Account) -> None:
    account.put("blob", b"x")
    sent = change("a", None, "r1", added=["blob"])
    assert (
        account.push(sent)[0]
        == account.push(sent)[0]
        == {
            "doc_id": "a",
            "status": "ok",
            "seq": 1,
            "missing": [],
            "current": None,
        }
    )
    assert account.push(change("a", None, "r1", b"other payload"))[0]["status"] == "conflict"
    assert account.feed()["cursor"] == "1"


def test_a_document_whose_blobs_are_missing_is_refused_by_name(account: Account) -> None:
    account.put("here", b"x")
    first, second = account.push(change("a", None, "r1", added=["here", "gone1", "gone2"]), change("b", None, "r1"))
    assert (first["status"], first["missing"]) == ("missing", ["gone1", "gone2"])
    assert second["status"] == "ok"
    assert [doc["doc_id"] for doc in account.feed()["documents"]] == ["b"]


def test_a_blob_stays_while_a_document_or_a_kept_revision_refers_to_it(account: Account) -> None:
    account.put("blob", b"x")
    account.put("blob", b"x", namespace="other")
    account.push(change("a", None, "r1", added=["blob"]))
    url = f"/blobs/{account.name}/blob"
    refused = account.http.delete(url)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "referred")
    account.push(change("a", "r1", "r2", removed=["blob"]))
    assert account.http.delete(url).status_code == 409
    assert account.http.delete(url, params={"namespace": "other"}).status_code == 204


def test_changes_that_break_a_limit_are_invalid_and_the_others_count(account: Account) -> None:
    wrong = [
        change("../x", None, "r1"),
        change("a", None, ""),
        change("a", None, "r 1"),
        change("a", None, "r\n"),
        change("a", None, "r" * 20_000),
        change("a", "r1", "r1"),
        change("a", None, "r1", b""),
        change("a", None, "r1", bytes(MAX_DOCUMENT + 1)),
        change("a", None, "r1") | {"payload": "%%%"},
        change("a", None, "r1", added=["../x"]),
        change("a", None, "r1", added=["x"], removed=["x"]),
        change("a", None, "r1", added=["x"], deleted=True),
    ]
    results = account.push(*wrong, change("good", None, "r1"))
    assert [result["status"] for result in results] == ["invalid"] * len(wrong) + ["ok"]


def test_a_body_of_another_form_is_400(account: Account) -> None:
    url = f"/documents/{account.name}"
    good = change("a", None, "r1")
    bodies = [[], {}, {"changes": 1}, {"changes": [1]}, {"changes": [{}]}, {"changes": [], "more": 1}]
    bodies += [{"changes": [good | {"extra": 1}]}, {"changes": [good | {"added": [1]}]}]
    bodies += [
        {"changes": [good | {"deleted": 0}]},
        {"changes": [good | {"base": 1}]},
        {"changes": [good | {"doc_id": 1}]},
    ]
    assert [account.http.post(url, json=body).status_code for body in bodies] == [400] * len(bodies)
    raw = [b"", b"{", b"\xff", b'{"changes": [], "changes": []}', b"[" * 100_000, b'{"changes": NaN}', b'"\\ud800"']
    assert [account.http.post(url, content=body).status_code for body in raw] == [400] * len(raw)
    assert account.http.post(url, content=b" " * (9 << 20)).status_code == 413
    assert account.http.post(url, json={"changes": [good] * 1001}).status_code == 413


def test_the_feed_comes_in_pages_bounded_by_number_and_by_bytes(account: Account) -> None:
    for number in range(14):
        account.push(change(f"d{number}", None, "r1", os.urandom(MAX_DOCUMENT)))
    cursor, pages = "0", []
    while True:
        page = account.feed(since=cursor)
        pages.append([doc["seq"] for doc in page["documents"]])
        cursor = page["cursor"]
        if not page["more"]:
            break
    assert sum(pages, []) == list(range(1, 15))  # noqa: RUF017
    assert len(pages) == 3
    page = account.feed(since="3", limit=2)
    assert ([doc["seq"] for doc in page["documents"]], page["more"]) == ([4, 5], True)


def test_a_page_tells_how_many_documents_come_after_it_to_whoever_asks(account: Account) -> None:
    for number in range(5):
        account.push(change(f"d{number}", None, "r1"))
    assert [account.feed(limit=limit, count=True)["left"] for limit in (1, 4, 5)] == [4, 1, 0]
    assert "left" not in account.feed(limit=1)
    assert "left" not in account.feed(since="5", count=True)


def test_a_cursor_from_the_future_starts_over_and_a_malformed_one_is_400(account: Account) -> None:
    account.push(change("a", None, "r1"))
    assert len(account.feed(since="77")["documents"]) == 1
    for query in ("since=x", "since=-1", "since=", "limit=0", "limit=x", "wait=x", "wait=nan", "wait=-1", "wait=inf"):
        assert account.http.get(f"/documents/{account.name}?{query}").status_code == 400, query


def test_a_long_poll_ends_with_a_push_through_this_process_at_once(account: Account) -> None:
    rounds = 40
    poll = http.client.HTTPConnection(account.http.base_url.host, account.http.base_url.port, timeout=60)
    headers = {"Authorization": account.http.headers["Authorization"]}
    waits = []
    for number in range(rounds):
        poll.request("GET", f"/documents/{account.name}?since={number}&wait=50", headers=headers)
        account.push(change(f"d{number}", None, "r1"))
        pushed = time.monotonic()
        assert json.loads(poll.getresponse().read())["cursor"] == str(number + 1)
        waits.append(time.monotonic() - pushed)
    poll.close()
    # Looking once a second would make it half of one. Most of them: the machine may stand still for a while.
    assert statistics.median(waits) < 0.25


def test_a_long_poll_ends_with_a_push_through_another_process(account: Account) -> None:
    pages: list[dict[str, object]] = []
    thread = threading.Thread(target=lambda: pages.append(account.feed(since="0", wait="30", count="true")))
    thread.start()
    with account.server.catalog.writing() as connection:
        documents.push(connection, account.user_id, [Change("a", None, "r1", False, b"x", (), ())])
    thread.join(60)
    assert pages[0]["cursor"] == "1"
    assert pages[0]["left"] == 0


def test_a_long_poll_without_news_ends_empty(account: Account) -> None:
    assert account.feed(since="0", wait="0.2") == {"documents": [], "cursor": "0", "more": False}


def test_events_tell_of_changes_from_the_last_event_id_on(account: Account) -> None:
    account.push(change("a", None, "r1"))
    with account.http.stream("GET", f"/events/{account.name}", headers={"Last-Event-ID": "0"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        seen = [next(lines) for _ in range(5)]
        assert seen[2:] == ["id: 1", "event: change", 'data: {"cursor": "1"}']
        account.push(change("a", "r1", "r2"))
        assert "id: 2" in [next(lines) for _ in range(3)]


def test_earlier_revisions_are_kept_newest_first(account: Account) -> None:
    account.push(*(change("a", f"r{number}" if number else None, f"r{number + 1}") for number in range(5)))
    url = f"/documents/{account.name}/a/revisions"
    answer = account.http.get(url).json()
    assert [kept["revision"] for kept in answer["revisions"]] == ["r5", "r4", "r3", "r2", "r1"]
    first = account.http.get(url, params={"limit": "2"}).json()
    rest = account.http.get(url, params={"cursor": first["cursor"]}).json()
    assert [kept["seq"] for kept in first["revisions"] + rest["revisions"]] == [5, 4, 3, 2, 1]
    assert rest["cursor"] is None
    assert account.http.get(f"/documents/{account.name}/none/revisions").status_code == 404


def test_a_feed_reader_beside_many_pushers_misses_nothing(account: Account) -> None:
    writers, each = 6, 25

    def push(number: int) -> None:
        client = account.client()
        for index in range(each):
            body = {"changes": [change(f"w{number}-{index}-{half}", None, "r1") for half in (0, 1)]}
            assert client.post(f"/documents/{account.name}", json=body).status_code == 200

    threads = [threading.Thread(target=push, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    cursor, seen = "0", []
    while len(seen) < 2 * writers * each:
        page = account.feed(since=cursor, wait="20", limit="7")
        assert page["documents"]
        seen += [doc["seq"] for doc in page["documents"]]
        cursor = page["cursor"]
    for thread in threads:
        thread.join()
    assert seen == list(range(1, 2 * writers * each + 1))


def test_secrets_are_replaced_only_by_whoever_names_them(account: Account) -> None:
    url = f"/secrets/{account.name}"
    assert account.http.get(url).status_code == 404
    assert account.http.put(url, content=b"one").status_code == 412
    assert account.http.put(url, content=b"one", headers={"If-Match": '"x"'}).status_code == 412
    first = account.http.put(url, content=b"one", headers={"If-None-Match": "*"})
    assert first.status_code == 201
    assert account.http.put(url, content=b"two", headers={"If-None-Match": "*"}).status_code == 412
    second = account.http.put(url, content=b"three", headers={"If-Match": first.headers["etag"]})
    assert second.status_code == 204
    got = account.http.get(url)
    assert (got.content, got.headers["etag"]) == (b"three", second.headers["etag"])
    assert account.http.get(url, headers={"If-None-Match": got.headers["etag"]}).status_code == 304
    assert account.http.put(url, content=bytes(70_000), headers={"If-None-Match": "*"}).status_code == 413
    assert account.used() == (5, 0)


def test_what_a_sender_drops_is_pending_in_the_incoming_namespace(account: Account) -> None:
    sender = account.server.token(account.name, account.user_id, "incoming")
    assert sender.http.put(f"/incoming/{account.name}/mail", content=b"hello").status_code == 201
    assert sender.http.put(f"/incoming/{account.name}/mail", content=b"again").status_code == 409
    listed = account.http.get(f"/blobs/{account.name}?namespace=MX&filter_flag=PENDING").json()
    assert listed["blobs"] == ["mail"]
    assert account.http.get(f"/blobs/{account.name}/mail?namespace=MX").content == b"hello"


def test_clients_that_went_away_leave_room_for_others_to_wait(account: Account) -> None:
    for _ in range(140):  # more than may wait at once
        with account.http.stream("GET", f"/events/{account.name}") as answer:
            assert answer.status_code == 200
