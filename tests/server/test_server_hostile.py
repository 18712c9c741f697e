"""What no client of ours sends: the answer is a 4xx or a closed connection, and the server goes on."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_process import Account


@pytest.mark.parametrize(
    ("line", "headers"),
    [
        ("GET /blobs/{user}/b HTTP/1.1", ["Range: bytes=" + "0-0," * 5000]),
        ("GET /blobs/{user}/b HTTP/1.1", ["Range: bytes=" + "9" * 5000 + "-"]),
        ("PUT /blobs/{user}/x HTTP/1.1", ["Content-Length: -1"]),
        ("PUT /blobs/{user}/x HTTP/1.1", ["Content-Length: 1e3"]),
        ("PUT /blobs/{user}/x HTTP/1.1", ["Content-Length: 5", "Content-Length: 6"]),
        ("PUT /blobs/{user}/x HTTP/1.1", ["Content-Length: 5", "Transfer-Encoding: chunked"]),
        ("PUT /blobs/{user}/x HTTP/1.1", ["Content-Length: " + "9" * 40]),
        ("PUT /blobs/{user}/x HTTP/1.1", ["Content-Length: 999999999999999"]),
        ("PUT /blobs/{user}/x HTTP/1.1", []),
        ("PUT /blobs/{user}/x HTTP/1.1", ["Transfer-Encoding: gzip"]),
        ("PATCH /blobs/{user}/x HTTP/1.1", []),
        ("TRACE / HTTP/1.1", []),
        ("OPTIONS * HTTP/1.1", []),
        ("CONNECT host:80 HTTP/1.1", []),
        ("GET http://other/blobs/{user}/none HTTP/1.1", []),
        ("GET /nothing HTTP/1.1", []),
        ("GET /usage/{user}/x HTTP/1.1", []),
        ("POST /usage/{user} HTTP/1.1", ["Content-Length: 0"]),
        ("GET /blobs/{user}/ HTTP/1.1", []),
        ("GET //blobs/{user} HTTP/1.1", []),
        ("GET /blobs/{user}?limit=" + "9" * 9000 + " HTTP/1.1", []),
        ("GET /blobs/{user}?limit=\u00e9 HTTP/1.1", []),
        ("GET /blobs/{user}?limit=%ff&order_by=%00 HTTP/1.1", []),
        ("GET /blobs/{user}?order_by=date&cursor=99999999999999999999.x HTTP/1.1", []),
        ("GET /blobs/{user}?order_by=date&cursor=9223372036854775808.x HTTP/1.1", []),
        ("GET /documents/{user}?since=\u0663 HTTP/1.1", []),
        ("GET /events/{user} HTTP/1.1", ["Last-Event-ID: x"]),
        ("POST /documents/{user} HTTP/1.1", ["Content-Length: \u0663"]),
        ("GET /" + "a" * 70_000 + " HTTP/1.1", []),
        ("GET /blobs/{user}/none HTTP/1.1", [f"X-{number}: y" for number in range(200)]),
        ("GET /blobs/{user}/none HTTP/1.1", ["X: " + "y" * 200_000]),
        ("GET /blobs/{user}/none HTTP/1.1", ["Upgrade: websocket", "Connection: Upgrade"]),
        ("nonsense", []),
    ],
)
def test_a_malformed_request_is_a_4xx(account: Account, line: str, headers: list[str]) -> None:
    status = account.raw(line.format(user=account.name), *headers)
    # A head far too long may meet a closed connection before it is sent.
    assert 400 <= status < 500 or (status == 0 and len("".join(headers)) > 100_000)
    assert account.http.get("/healthz").status_code == 200


def test_a_head_without_end_is_cut_off(account: Account) -> None:
    assert account.raw("GET / HTTP/1.1", "X: " + "y" * 1_000_000, end="") in (0, 400)


def test_the_allowed_methods_are_named(account: Account) -> None:
    answer = account.http.patch(f"/blobs/{account.name}/b")
    assert answer.status_code == 405
    assert {part.strip() for part in answer.headers["allow"].split(",")} == {"GET", "HEAD", "PUT", "POST", "DELETE"}
    assert answer.json()["error"]["code"] == "method-not-allowed"


def test_every_error_has_a_code_a_sentence_and_the_id_of_the_header(account: Account) -> None:
    answer = account.get("none")
    body = answer.json()["error"]
    assert set(body) == {"code", "message", "request_id"}
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["message"].endswith(".")


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
CHANGE = st.fixed_dictionaries(
    {
        "doc_id": ANY_JSON | st.just("d"),
        "base": ANY_JSON,
        "revision": ANY_JSON | st.just("r"),
        "deleted": st.booleans() | ANY_JSON,
        "payload": st.just("eA==") | ANY_JSON,
        "added": st.lists(st.text(max_size=5) | ANY_JSON, max_size=3),
        "removed": st.lists(st.text(max_size=5) | ANY_JSON, max_size=3),
    }
)
BODIES = (
    ANY_JSON
    | st.fixed_dictionaries({"ids": ANY_JSON})
    | st.fixed_dictionaries({"changes": st.lists(CHANGE, max_size=3)})
)


@given(body=BODIES)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_no_json_body_makes_the_server_fail(account: Account, body: object) -> None:
    for path in ("/documents/{}", "/blobs/{}/missing", "/stream/{}?direction=download", "/blobs/{}/flags"):
        assert account.http.post(path.format(account.name), json=body).status_code < 500


@given(body=st.binary(max_size=200))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_no_bytes_make_a_stream_or_a_push_fail(account: Account, body: bytes) -> None:
    for path in ("/stream/{}?direction=upload", "/documents/{}"):
        assert account.http.post(path.format(account.name), content=body).status_code < 500


@given(
    name=st.sampled_from(["namespace", "limit", "cursor", "order_by", "filter_flag", "deleted", "only_count"]),
    value=st.text(max_size=30),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_no_query_makes_a_list_fail(account: Account, name: str, value: str) -> None:
    params = {"order_by": "date"} | {name: value.encode("utf-8", "replace").decode()}
    assert account.http.get(f"/blobs/{account.name}", params=params).status_code < 500
