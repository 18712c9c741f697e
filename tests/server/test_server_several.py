"""Several server processes on one PostgreSQL and one object store: together they are one server."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from balancer import Balancer
from server_process import Account, RunningServer, blob_id_of, change, wait_until

from tests.ceph import CephCluster
from tests.postgresql import PostgresqlCluster


@pytest.fixture(scope="module")
def three_osds() -> Iterator[CephCluster]:
    cluster = CephCluster(osds=3)
    yield cluster
    cluster.stop()


class Site:
    """One database, one directory of objects, and server processes, each with a data directory of its own."""

    def __init__(self, directory: Path, cluster: PostgresqlCluster) -> None:
        self.directory = directory
        self.catalog_url = cluster.create()
        self.running: list[RunningServer] = []

    def start(self, name: str, store: str = "") -> RunningServer:
        """A process of its own; `store` is the table of the object store, by default a directory."""
        data = self.directory / name
        data.mkdir(mode=0o700, exist_ok=True)
        store = store or f'url = "{(self.directory / "objects").as_uri()}"'
        path = data / "server.toml"
        path.write_text(f'[catalog]\nurl = "{self.catalog_url}"\n[blobs]\n{store}\n')
        path.chmod(0o600)
        server = RunningServer(data, catalog_url=self.catalog_url)
        self.running.append(server)
        return server

    def kill(self, server: RunningServer) -> None:
        self.running.remove(server)
        server.kill()

    def stop(self) -> None:
        for server in self.running:
            assert server.stop() == 0


@pytest.fixture
def site(tmp_path: Path, postgresql: PostgresqlCluster) -> Iterator[Site]:
    place = Site(tmp_path, postgresql)
    yield place
    place.stop()


def run_all(calls: list[Callable[[], None]]) -> None:
    """All of them at once; a failure of one fails the test."""
    failures: list[BaseException] = []

    def run(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []


def also_on(server: RunningServer, account: Account) -> Account:
    """The same account and token at another process."""
    return Account(server, account.name, account.user_id, account.token, account.number)


def test_feed_and_events_cross_processes(site: Site) -> None:
    one, two = site.start("one"), site.start("two")
    here = one.account("me")
    there = also_on(two, here)
    pages = []
    waiting = threading.Thread(target=lambda: pages.append(there.feed(wait=50)))
    waiting.start()
    with there.http.stream("GET", "/events/me") as events:
        lines = events.iter_lines()
        assert next(lines) == ": connected"
        began = time.monotonic()
        assert here.push(change("d", None, "r1"))[0]["status"] == "ok"
        assert "event: change" in itertools.takewhile(lambda line: not line.startswith("data:"), lines)
        waiting.join(60)
        took_s = time.monotonic() - began
    assert pages[0]["cursor"] == "1"
    assert took_s < 40  # a wake-up, not the end of the wait


def test_a_blob_of_one_process_is_a_blob_of_the_other_and_is_created_once(site: Site) -> None:
    one, two = site.start("one"), site.start("two")
    here = one.account("me")
    there = also_on(two, here)
    assert here.put("b", b"content").status_code == 201
    assert there.get("b", Range="bytes=3-").content == b"tent"
    assert there.put("b", b"other").status_code == 409
    assert there.http.delete("/blobs/me/b").status_code == 204
    assert here.get("b").status_code == 404
    barrier = threading.Barrier(8)
    answers: list[list[int]] = []

    def create(account: Account, content: bytes) -> None:
        client, statuses = account.client(), []
        for number in range(10):
            barrier.wait(30)
            statuses.append(client.put(f"/blobs/me/race{number}", content=content).status_code)
        answers.append(statuses)

    run_all([lambda n=n: create((here, there)[n % 2], b"x" * (n + 1)) for n in range(8)])
    assert [sorted(column) for column in zip(*answers, strict=True)] == [[201] + [409] * 7] * 10
    assert one.run("check", "--digests").returncode == 0


def test_quota_holds_across_processes(site: Site) -> None:
    one, two = site.start("one"), site.start("two")
    here = one.account("me", quota=10 * 50_000 + 49_999)
    there = also_on(two, here)
    statuses: list[int] = []

    def put(account: Account, number: int) -> None:
        client = account.client()
        for attempt in range(4):
            answer = client.put(f"/blobs/me/b{number}-{attempt}", content=bytes(50_000))
            statuses.append(answer.status_code)

    run_all([lambda n=n: put((here, there)[n % 2], n) for n in range(8)])
    assert (statuses.count(201), set(statuses)) == (10, {201, 507})
    assert here.used() == (500_000, 0)


def test_a_database_that_goes_away_and_comes_back_is_503_at_worst(site: Site, postgresql: PostgresqlCluster) -> None:
    server = site.start("one")
    account = server.account("me")
    statuses = [account.put("before", b"x").status_code]
    assert postgresql.break_connections(site.catalog_url) > 1
    for number in range(20):
        statuses.append(account.put(f"after{number}", b"x").status_code)
    assert set(statuses) <= {201, 503}
    assert statuses[-1] == 201
    stored = statuses.count(201)
    assert account.http.get("/blobs/me", params={"only_count": "true"}).json() == {"count": stored}
    checked = server.run("check", "--json")
    assert checked.returncode == 0, checked.stdout


class Load:
    """Devices that create blobs and documents at one address until told to stop, and remember what was acknowledged."""

    def __init__(self, url: str, account: Account, devices: int) -> None:
        self.blobs: dict[str, bytes] = {}
        self.documents: set[str] = set()
        self._url = url
        self._headers = {"Authorization": account.http.headers["Authorization"]}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(f"device{n}",)) for n in range(devices)]
        for thread in self._threads:
            thread.start()

    def _run(self, name: str) -> None:
        client = httpx.Client(base_url=self._url, headers=self._headers, timeout=60, trust_env=False)
        for number in itertools.count():
            if self._stop.is_set():
                client.close()
                return
            with contextlib.suppress(httpx.TransportError):
                self._create(client, f"{name}-{number}")

    def _create(self, client: httpx.Client, name: str) -> None:
        content = name.encode() * 500
        blob_id = blob_id_of(content)
        if client.put(f"/blobs/me/{blob_id}", content=content).status_code in (201, 409):
            self.blobs[blob_id] = content
        answer = client.post("/documents/me", json={"changes": [change(name, None, "r1", added=[blob_id])]})
        if answer.status_code == 200 and answer.json()["results"][0]["status"] == "ok":
            self.documents.add(name)

    def go_on(self, more: int) -> None:
        """Return when `more` blobs were acknowledged than now."""
        wanted = len(self.blobs) + more
        wait_until(lambda: len(self.blobs) >= wanted, 120)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)


def test_a_process_and_an_object_daemon_are_killed_under_load_and_nothing_acknowledged_is_lost(
    site: Site, three_osds: CephCluster
) -> None:
    options = ", ".join(f'{name} = "{value}"' for name, value in three_osds.options.items())
    store = f'url = "s3://{three_osds.bucket}/site"\noptions = {{ {options} }}'
    one, two = site.start("one", store), site.start("two", store)
    here = one.account("me")
    balancer = Balancer([int(server.url.rpartition(":")[2]) for server in (one, two)])
    load = Load(balancer.url, here, devices=6)
    try:
        load.go_on(50)
        site.kill(one)
        load.go_on(50)
        three_osds.osds[2].kill()
        load.go_on(50)
    finally:
        load.stop()
        balancer.close()
    there = also_on(two, here)
    site.start("one", store)  # gives up what the killed process had reserved
    wait_until(lambda: there.used()[1] == 0)
    for blob_id, content in load.blobs.items():
        assert there.get(blob_id).content == content
    page = there.feed()
    fed = {document["doc_id"] for document in page["documents"]}
    while page["more"]:
        page = there.feed(since=page["cursor"])
        fed |= {document["doc_id"] for document in page["documents"]}
    assert load.documents <= fed
    checked = two.run("check", "--digests", "--json")
    assert checked.returncode == 0, checked.stdout
