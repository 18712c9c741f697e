"""What one account can take from the others: requests per second, and memory for bodies. And counting all of it."""

import time
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from server_process import RunningServer, change

from blobfs.protocol import authorization_header
from server.errors import TooManyRequests, Unavailable
from server.limits import SHARE, Bodies, Rates, step
from server.meter import KEPT, METHODS, Meter


def test_a_burst_passes_and_then_only_the_rate() -> None:
    now = [0.0]
    rates = Rates(per_s=2, burst=10, clock=lambda: now[0])
    for _ in range(10):
        rates.take(1)
    with pytest.raises(TooManyRequests):
        rates.take(1)
    rates.take(2)
    now[0] = 1.0
    rates.take(1)
    rates.take(1)
    with pytest.raises(TooManyRequests):
        rates.take(1)
    now[0] = 1000.0
    for _ in range(10):
        rates.take(1)
    with pytest.raises(TooManyRequests):
        rates.take(1)


def test_no_account_holds_more_than_its_share_and_all_no_more_than_there_is() -> None:
    bodies = Bodies(400)
    with bodies.hold(1) as one:
        one.grow(400 // SHARE)
        with pytest.raises(TooManyRequests):
            one.grow(1)
        with bodies.hold(2) as two, bodies.hold(3) as three, bodies.hold(4) as four, bodies.hold(5) as five:
            for held in (two, three, four):
                held.grow(100)
            with pytest.raises(Unavailable):
                five.grow(1)
        assert bodies.total == 100
    assert bodies.total == 0
    with bodies.hold(1) as again:
        again.grow(100)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("narrow")
    config = directory / "server.toml"
    config.write_text(
        "[limits]\nrequests_per_second = 0.1\nburst = 20\njson_bytes = 33554432\n[metrics]\nloopback = false"
    )
    running = RunningServer(directory / "data", "--config", config)
    yield running
    assert running.stop() == 0
    assert running.run("check").returncode == 0


def test_many_requests_take_less_memory_each() -> None:
    assert step(1) == step(16) == 1 << 20
    assert 128 * step(128) <= 2 * 16 * step(16)


def test_an_account_over_its_rate_is_refused_and_others_are_not(narrow: RunningServer) -> None:
    fast, slow = narrow.account("fast"), narrow.account("slow")
    began, passed = time.monotonic(), 0
    while (refused := fast.get("none")).status_code == 404:
        passed += 1
    assert 20 <= passed <= 21 + 0.1 * (time.monotonic() - began)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "too-many-requests"
    assert int(refused.headers["retry-after"]) > 0
    assert slow.get("none").status_code == 404


def test_unfinished_bodies_of_one_account_stop_at_its_share_and_are_forgotten_with_it(narrow: RunningServer) -> None:
    greedy, other = narrow.account("greedy"), narrow.account("other")
    full = b'{"changes": [' + b" " * (7 << 20)

    def unfinished() -> Iterator[bytes]:
        yield full
        # The second request comes while this one is half-way: 7 MiB and 7 MiB are over the 8 MiB of one account.
        answers.append(other.http.post("/documents/other", content=full).status_code)
        answers.append(greedy.client().post("/documents/greedy", content=full).status_code)
        yield b"]}"

    answers: list[int] = []
    assert greedy.http.post("/documents/greedy", content=unfinished()).status_code == 200
    assert answers == [400, 429]
    assert greedy.push(change("d", None, "r1"))[0]["status"] == "ok"


def metrics(server: RunningServer, **headers: str) -> httpx.Response:
    return httpx.get(f"{server.url}/metrics", headers=headers, trust_env=False, timeout=30)


def test_metrics_are_prometheus_text_with_bounded_labels(server: RunningServer) -> None:
    account = server.account("measured")
    account.put("a", b"x")
    for nonsense in ("/blobs/measured/none", "/no/such/route", "/blobs/measured/%ff"):
        account.http.get(nonsense)
    account.http.request("BREW", "/blobs/measured/none")
    answer = metrics(server)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert families["blobfs_users"].samples[0].value >= 1
    assert families["blobfs_used_bytes"].samples[0].value >= 1
    samples = families["blobfs_requests"].samples
    routes = {sample.labels["route"] for sample in samples}
    assert {"/blobs/{user}/{blob_id}", "-"} <= routes
    assert all(route == "-" or route.startswith("/") for route in routes)
    assert {sample.labels["method"] for sample in samples} <= METHODS | {"other"}
    for secret in ("measured", "none", "BREW", account.token):
        assert secret not in answer.text
    buckets = [sample.value for sample in families["blobfs_request_seconds"].samples if sample.name.endswith("_bucket")]
    assert buckets


def test_metrics_are_for_this_machine_and_for_admins(server: RunningServer, narrow: RunningServer) -> None:
    assert metrics(server).status_code == 200
    for header in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
        assert metrics(server, **{header: "127.0.0.1"}).status_code == 401
    assert metrics(narrow).status_code == 401
    owner = narrow.account("operator")
    assert metrics(narrow, Authorization=authorization_header(owner.name, owner.token)).status_code == 403
    admin = narrow.token("operator", owner.user_id, "admin")
    assert metrics(narrow, Authorization=authorization_header(admin.name, admin.token)).status_code == 200


def test_failures_are_remembered_for_an_hour_and_not_without_bound() -> None:
    meter = Meter()
    for number in range(KEPT + 10):
        meter.count("/", "GET", 503, 0.1, str(number))
    meter.count("/", "GET", 404, 0.1, "no failure")
    kept = list(meter.failures())
    assert len(kept) == KEPT
    assert kept[0].request_id == str(KEPT + 9)
