"""Noise in ranges, frames, queries and bodies, under a token that is good: a 4xx, and what was said before counts."""

import json
import statistics
import time
import tracemalloc
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from server_process import Account, RunningServer, blob_id_of

from blobfs.protocol import ITEM_HEADER, MAX_BLOB, BadStream, authorization_header, pack_item_header, unpack_item_header
from server.errors import BadRange
from server.routes.ranges import is_match, parse_range

checked = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
NUMBERS = st.integers(-2, 30) | st.sampled_from([1 << 63, 1 << 64, 10**18, 10**19, 10**30, -1])
ODD = ["9" * 5000, "\u0663", "-0", "1e5", "NaN", "inf", "1e400", "\0", "%00", "../x"]
TEXT = st.text(max_size=30) | st.sampled_from(ODD)
FIXED = st.builds(ITEM_HEADER.pack, st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**64 - 1))


# --- ranges -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        TEXT,
        st.builds("bytes={}-{}".format, NUMBERS, NUMBERS),
        st.builds("bytes={}-".format, NUMBERS),
        st.builds("bytes=-{}".format, NUMBERS),
        st.lists(st.builds("{}-{}".format, NUMBERS, NUMBERS), max_size=4).map(lambda parts: "bytes=" + ",".join(parts)),
        st.text("bytes=-, \t0129", max_size=20).map(lambda text: "bytes=" + text),
    ),
    st.none() | st.sampled_from(['"x"', 'W/"x"', "*"]) | TEXT,
    st.integers(0, 20),
)
@example("bytes=0-0,1-1", None, 5)
@example("bytes=-0", None, 5)
@example("bytes=0-", None, 0)
def test_a_range_of_any_form_is_bytes_of_the_blob_or_refused(header: str, if_range: str | None, size: int) -> None:
    try:
        found = parse_range(header, if_range, '"x"', size)
    except BadRange:
        return
    is_match(header, '"x"')
    if found is not None:
        first, last = found
        assert 0 <= first <= last < size
        assert "," not in header


# --- frames -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(
    st.binary(min_size=10, max_size=10)
    | st.builds(ITEM_HEADER.pack, *[st.integers(0, 255)] * 2, st.integers(0, 2**64 - 1))
)
def test_a_frame_of_any_form_claims_no_more_than_a_blob(fixed: bytes) -> None:
    try:
        _, id_length, length = unpack_item_header(fixed)
    except BadStream:
        return
    assert 1 <= id_length <= 128
    assert length <= MAX_BLOB


@checked
@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=12) | st.just(b"b"), st.binary(max_size=40)), max_size=4),
    st.binary(max_size=40) | FIXED,
)
def test_what_came_whole_before_noise_is_stored_and_the_noise_is_refused(
    account: Account, items: list[tuple[bytes, bytes]], noise: bytes
) -> None:
    good = [(blob_id_of(data), data) for _, data in items]
    assume(not noise or noise[0] != 0 or len(noise) < 10)
    body = b"".join(ITEM_HEADER.pack(0, len(name), len(data)) + name + data for name, data in items)
    body += b"".join(pack_item_header(name, len(data)) + data for name, data in good) + noise
    answer = account.http.post(f"/stream/{account.name}?direction=upload", content=body)
    assert answer.status_code == (400 if noise else 200)
    for name, data in good:
        assert account.get(name).content == data


def test_a_claim_of_the_largest_item_holds_no_room_once_its_sender_is_gone(account: Account) -> None:
    before = account.used()
    for name, length in (("x" * 64, MAX_BLOB), ("y" * 64, MAX_BLOB + 1), ("z" * 64, 2**64 - 1)):
        body = ITEM_HEADER.pack(0, len(name), length) + name.encode() + b"x" * 1000
        assert account.http.post(f"/stream/{account.name}?direction=upload", content=body).status_code == 400
    assert account.used() == before


# --- queries and bodies -----------------------------------------------------------------------------------

QUERIES = [
    ("GET", "/blobs/{}", ("namespace", "limit", "cursor", "order_by", "filter_flag", "deleted", "only_count")),
    ("GET", "/blobs/{}/b", ("namespace", "only_flags")),
    ("POST", "/blobs/{}/b", ("namespace", "expect", "older")),
    ("DELETE", "/blobs/{}/none", ("namespace",)),
    ("PUT", "/blobs/{}/b", ("namespace",)),
    ("GET", "/documents/{}", ("since", "limit", "wait")),
    ("GET", "/documents/{}/d/revisions", ("limit", "cursor", "before")),
    ("POST", "/stream/{}", ("direction", "namespace")),
    ("HEAD", "/events/{}", ("since",)),
    ("GET", "/usage/{}", ("days",)),
    ("GET", "/tokens/{}", ("limit",)),
]


@checked
@given(st.sampled_from(QUERIES), st.integers(0, 9), TEXT | NUMBERS.map(str))
@example(QUERIES[2], 2, "1e400")
@example(QUERIES[2], 2, "-1e-400")
@example(QUERIES[0], 2, "9223372036854775808")
@example(QUERIES[5], 0, "9" * 18)
def test_no_query_makes_any_route_fail(account: Account, route: Any, which: int, value: str) -> None:
    method, path, names = route
    name = names[which % len(names)]
    # What would wait is asked for nothing.
    value = "0" if name == "wait" else value
    url = f"{path.format(account.name)}?{name}={quote(value.encode('utf-8', 'replace'))}"
    body = {"json": ["PENDING"]} if path.endswith("/b") and method == "POST" else {"content": b"x"}
    answer = account.http.request(method, url, **({} if method in ("GET", "HEAD", "DELETE") else body))  # type: ignore[arg-type]
    assert answer.status_code < 500, (url, answer.text)


@pytest.mark.parametrize("value", [1e400, -1, 0, 2**63, 10**30, True, 1.5, "1", [], float("1e308")])
def test_no_lifetime_overflows(account: Account, value: Any) -> None:
    text = json.dumps({"label": "d", "lifetime_s": value}).replace("Infinity", "1e400")
    assert account.http.post(f"/tokens/{account.name}", content=text).status_code == 400


def test_ids_that_differ_by_case_are_two_blobs_and_two_documents(account: Account) -> None:
    assert account.put("Aa", b"one").status_code == account.put("aA", b"two").status_code == 201
    assert (account.get("Aa").content, account.get("aA").content) == (b"one", b"two")
    assert account.get("aa").status_code == account.get("AA").status_code == 404


# --- time -------------------------------------------------------------------------------------------------


def test_the_time_of_an_answer_tells_nobody_whether_an_account_or_a_blob_is_there(
    server: RunningServer, account: Account
) -> None:
    """Medians of turns that are mixed, and a ratio that only another amount of work can reach."""
    other = server.account("victim-of-clocks")
    other.put("there", b"x" * 100)
    headers = {"Authorization": authorization_header(other.name, "x" * 43)}
    nobody = {"Authorization": authorization_header("nobody-at-all", "x" * 43)}
    asked: dict[str, list[tuple[str, dict[str, str]]]] = {
        "another's blob": [(f"/blobs/{other.name}/there", {}), (f"/blobs/{other.name}/none", {})],
        "another account": [(f"/blobs/{other.name}/there", {}), ("/blobs/nobody-at-all/there", {})],
        "a wrong token": [(f"/blobs/{other.name}/there", headers), ("/blobs/nobody-at-all/there", nobody)],
    }
    for what, pair in asked.items():
        times: list[list[float]] = [[], []]
        answers = set()
        for turn in range(150):
            which = turn % 2
            path, head = pair[which]
            began = time.perf_counter()
            answer = account.http.get(path, headers=head)
            times[which].append(time.perf_counter() - began)
            answers.add((answer.status_code, answer.json()["error"]["message"]))
        assert len(answers) == 1, what
        slow, fast = sorted(map(statistics.median, times), reverse=True)
        assert slow < 3 * fast + 0.005, (what, slow, fast)


def test_huge_claims_cost_a_decoder_no_memory() -> None:
    tracemalloc.start()
    try:
        for size in (0, 5, 1 << 62):
            for header in ("bytes=" + "9" * 4000 + "-", "bytes=" + "0-0," * 2000, "bytes=0-" + "9" * 19):
                try:
                    parse_range(header, None, '"x"', size)
                except BadRange:
                    continue
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
