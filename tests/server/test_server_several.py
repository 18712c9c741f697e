"""Several server processes on one PostgreSQL and one object store: together they are one server."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from server_process import Account, RunningServer, blob_id_of, change, wait_until

from tests.postgresql import PostgresqlCluster


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgresqlCluster]:
    cluster = PostgresqlCluster()
    yield cluster
    cluster.stop()


class Site:
    """One database, one directory of objects, and server processes, each with a data directory of its own."""

    def __init__(self, directory: Path, cluster: PostgresqlCluster) -> None:
        self.directory = directory
        self.catalog_url = cluster.create()
        self.running: list[RunningServer] = []

    def start(self, name: str) -> RunningServer:
        data = self.directory / name
        data.mkdir(mode=0o700, exist_ok=True)
        objects = (self.directory / "objects").as_uri()
        (data / "server.toml").write_text(f'[catalog]\nurl = "{self.catalog_url}"\n[blobs]\nurl = "{objects}"\n')
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
    waiting = threading.Thread(target=lambda: pages.append(there.feed(wait=30)))
    waiting.start()
    with there.http.stream("GET", "/events/me") as events:
        lines = events.iter_lines()
        assert next(lines) == ": connected"
        began = time.monotonic()
        assert here.push(change("d", None, "r1"))[0]["status"] == "ok"
        assert "event: change" in itertools.takewhile(lambda line: not line.startswith("data:"), lines)
        waiting.join(30)
        took_s = time.monotonic() - began
    assert pages[0]["cursor"] == "1"
    assert took_s < 15  # a wake-up, not the end of the wait


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


def test_of_two_processes_one_is_killed_under_load_and_nothing_acknowledged_is_lost(site: Site) -> None:
    one, two = site.start("one"), site.start("two")
    here = one.account("me")
    there = also_on(two, here)
    kept: dict[str, bytes] = {}
    documents: set[str] = set()
    stop = threading.Event()

    def load(name: str) -> None:
        # As behind one address: whoever gets no answer from one process asks the other.
        homes = itertools.cycle([account.client() for account in (here, there)])
        client = next(homes)
        for number in itertools.count():
            if stop.is_set():
                return
            content = f"{name}-{number}".encode() * 500
            blob_id = blob_id_of(content)
            try:
                stored = client.put(f"/blobs/me/{blob_id}", content=content).status_code in (201, 409)
                pushed = client.post(
                    "/documents/me", json={"changes": [change(f"{name}-{number}", None, "r1", added=[blob_id])]}
                )
            except httpx.TransportError:
                client = next(homes)
                continue
            if stored:
                kept[blob_id] = content
            if pushed.status_code == 200 and pushed.json()["results"][0]["status"] == "ok":
                documents.add(f"{name}-{number}")

    threads = [threading.Thread(target=load, args=(f"t{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(kept) > 60, 60)
    site.kill(one)
    then = len(kept)
    wait_until(lambda: len(kept) > then + 60, 60)
    stop.set()
    for thread in threads:
        thread.join(60)
    site.start("one")  # gives up what the killed process had reserved
    assert there.used()[1] == 0
    for blob_id, content in kept.items():
        assert there.get(blob_id).content == content
    page = there.feed()
    fed = {document["doc_id"] for document in page["documents"]}
    while page["more"]:
        page = there.feed(since=page["cursor"])
        fed |= {document["doc_id"] for document in page["documents"]}
    assert documents <= fed
    checked = two.run("check", "--digests", "--json")
    assert checked.returncode == 0, checked.stdout
