"""What the catalog promises, tried on each database product, and with several processes' worth of connections."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from blobfs.protocol import UploadStatus
from server import check, collect, quota
from server.auth import hash_token
from server.backends.interface import Staged
from server.backends.memory import MemoryBlobsBackend
from server.catalog import accounts, blobs, documents
from server.catalog.blobs import Blob, Selection
from server.catalog.documents import Accepted, Change, Conflict, Missing
from server.catalog.engine import Catalog
from server.catalog.schema import VERSION
from server.errors import AccountExists, CatalogTooNew, DataUnusable
from server.quota import Arrival, Place, Reservation


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog.db'}"
    return str(request.getfixturevalue("postgresql").create())


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    opened = Catalog(url)
    yield opened
    opened.close()


@pytest.fixture
def backend() -> MemoryBlobsBackend:
    return MemoryBlobsBackend()


def account(catalog: Catalog, name: str = "me", limit: int | None = None) -> Place:
    with catalog.writing() as connection:
        return Place(accounts.add_account(connection, name, limit), name, "default")


def stage(backend: MemoryBlobsBackend, data: bytes) -> Staged:
    staged = backend.stage()
    staged.write(data)
    backend.sync([staged])
    return staged


def let_in(catalog: Catalog, backend: MemoryBlobsBackend, place: Place, **contents: bytes) -> list[UploadStatus]:
    with catalog.writing(durable=False) as connection:
        wanted = [(name, len(data)) for name, data in contents.items()]
        answers = quota.reserve(connection, place, wanted, catalog.owner)
    results = []
    for answer, data in zip(answers, contents.values(), strict=True):
        if isinstance(answer, UploadStatus):
            results.append(answer)
            continue
        blob = Blob(answer.blob_id, len(data), hash_token(str(data)), 0)
        with catalog.writing() as connection:
            results += quota.settle(connection, backend, [Arrival(answer, stage(backend, data), blob)])
    return results


def change(doc_id: str, base: str | None, revision: str, *added: str, removed: tuple[str, ...] = ()) -> Change:
    return Change(doc_id, base, revision, False, revision.encode(), added, removed)


def push(catalog: Catalog, place: Place, *changes: Change) -> list[documents.Outcome]:
    with catalog.writing() as connection:
        return documents.push(connection, place.user_id, changes)


def feed(catalog: Catalog, place: Place, since: int = 0) -> list[tuple[str, int]]:
    with catalog.reading() as connection:
        return [(each.doc_id, each.seq) for each in documents.feed(connection, place.user_id, since, 1000)]


def counters(catalog: Catalog, name: str = "me") -> tuple[int, int, int]:
    with catalog.reading() as connection:
        found = accounts.find_account(connection, name)
    return found.used, found.reserved, found.blobs


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What each call answers, all of them running at once; a failure of one is raised."""
    answers: list[Any] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(index: int) -> None:
        barrier.wait(30)
        try:
            answers[index] = calls[index]()
        except Exception as error:
            answers[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def test_accounts_and_tokens_come_and_go(catalog: Catalog) -> None:
    place = account(catalog)
    with catalog.writing() as connection:
        number = accounts.add_token(connection, place.user_id, hash_token("t"), "write", "laptop", None)
    with pytest.raises(AccountExists):
        account(catalog)
    with catalog.reading() as connection:
        token = accounts.find_token(connection, hash_token("t"))
        assert token is not None
        assert (token.user, token.token_id, token.label, token.hash) == ("me", number, "laptop", hash_token("t"))
        assert accounts.find_token(connection, hash_token("u")) is None
    with catalog.writing() as connection:
        accounts.close_account(connection, place.user_id)
    with catalog.reading() as connection:
        assert accounts.find_token(connection, hash_token("t")) is None
    with catalog.writing() as connection:
        accounts.forget_account(connection, place.user_id)
    assert account(catalog).user_id > place.user_id


def test_a_reader_sees_one_moment_and_a_failed_transaction_leaves_nothing(catalog: Catalog) -> None:
    place = account(catalog)
    with catalog.reading() as connection:
        before = documents.last_seq(connection, place.user_id)
        push(catalog, place, change("a", None, "r1"))
        assert list(documents.feed(connection, place.user_id, 0, 10)) == []
        assert documents.last_seq(connection, place.user_id) == before

    def fail() -> None:
        with catalog.writing() as connection:
            documents.push(connection, place.user_id, [change("b", None, "r1")])
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert feed(catalog, place) == [("a", 1)]


def test_blobs_are_listed_by_bytes_of_their_ids_and_by_date(catalog: Catalog, backend: MemoryBlobsBackend) -> None:
    place = account(catalog)
    names = ["b", "B", "a-", "a_", "_", "-", "0", "aa", "A"]
    for name in names:
        assert let_in(catalog, backend, place, **{name: b"x"}) == [UploadStatus.CREATED]
    selection = Selection(place.user_id, "default")
    with catalog.reading() as connection:
        assert blobs.list_by_id(connection, selection, "", 100) == sorted(names)
        assert blobs.list_by_id(connection, selection, "a-", 2) == ["a_", "aa"]
        by_date = blobs.list_by_date(connection, selection, None, False, 100)
        assert [name for _, name in by_date] == names
        assert blobs.list_by_date(connection, selection, by_date[3], False, 100) == by_date[4:]
        assert blobs.list_by_date(connection, selection, by_date[3], True, 100) == by_date[2::-1]
        assert blobs.count(connection, Selection(place.user_id, "default", flag=1)) == 0
    with catalog.writing() as connection:
        blobs.set_flags(connection, place.user_id, "default", "b", 1, expected=0)
    with catalog.reading() as connection:
        assert blobs.list_by_id(connection, Selection(place.user_id, "default", flag=1), "", 9) == ["b"]


def test_of_two_creators_on_two_connections_one_wins(catalog: Catalog, url: str, backend: MemoryBlobsBackend) -> None:
    place, other = account(catalog), Catalog(url)
    for number in range(8):
        calls = [lambda c=c, b=b, n=number: let_in(c, backend, place, **{f"b{n}": b}) for c, b in
                 ((catalog, b"one"), (other, b"two"), (catalog, b"three"), (other, b"four"))]  # fmt: skip
        answers = [answer for (answer,) in together(*calls)]
        assert sorted(answers) == [UploadStatus.CREATED] + [UploadStatus.EXISTS] * 3
    other.close()
    assert counters(catalog)[1:] == (0, 8)
    assert check.check(catalog, backend, digests=False, repair=False)["clean"]


def test_quota_holds_whoever_reserves_at_once(catalog: Catalog, url: str, backend: MemoryBlobsBackend) -> None:
    place, other = account(catalog, limit=1050), Catalog(url)
    calls = [
        lambda c=c, n=number: let_in(c, backend, place, **{f"b{n}": bytes(100)})
        for number, c in enumerate([catalog, other] * 8)
    ]
    created = [answer for (answer,) in together(*calls)].count(UploadStatus.CREATED)
    for number in range(16):
        created += let_in(catalog, backend, place, **{f"c{number}": bytes(100)}).count(UploadStatus.CREATED)
    other.close()
    assert created == 10
    assert counters(catalog) == (1000, 0, 10)


def test_sequence_numbers_are_seen_in_the_order_of_commits(catalog: Catalog, url: str) -> None:
    place, other = account(catalog), Catalog(url)
    seen: list[int] = []
    done = threading.Event()

    def follow() -> None:
        while not (done.is_set() and feed(catalog, place, seen[-1] if seen else 0) == []):
            seen.extend(seq for _, seq in feed(catalog, place, seen[-1] if seen else 0))

    def write(catalog: Catalog, name: str) -> None:
        for number in range(25):
            push(catalog, place, change(f"{name}{number}", None, "r1"))

    follower = threading.Thread(target=follow)
    follower.start()
    together(*(lambda c=c, n=n: write(c, n) for c, n in ((catalog, "a"), (other, "b"), (other, "c"))))
    done.set()
    follower.join(60)
    other.close()
    # A number that commits after a higher one was shown would be missing here.
    assert seen == list(range(1, 76))


def test_a_push_is_judged_and_its_references_keep_blobs(catalog: Catalog, backend: MemoryBlobsBackend) -> None:
    place = account(catalog)
    let_in(catalog, backend, place, x=b"x", y=b"y")
    assert push(catalog, place, change("d", None, "r1", "x", "none")) == [Missing(("none",))]
    assert push(catalog, place, change("d", None, "r1", "x")) == [Accepted(1)]
    assert push(catalog, place, change("d", None, "r1", "x")) == [Accepted(1)]
    (conflict,) = push(catalog, place, change("d", None, "r2"))
    assert isinstance(conflict, Conflict)
    assert conflict.current is not None
    assert conflict.current.payload == b"r1"
    assert push(catalog, place, change("d", "r1", "r2", "y", removed=("x",))) == [Accepted(2)]
    with catalog.reading() as connection:
        assert [each.seq for each in documents.revisions(connection, place.user_id, "d", None)] == [2, 1]
    done = collect.collect(catalog, backend, grace_s=0, retention_s=3600, dry_run=False)
    assert (done.blobs, done.revisions) == (0, 0)
    foreseen = collect.collect(catalog, backend, grace_s=0, retention_s=0, dry_run=True)
    assert (foreseen.revisions, foreseen.revision_bytes) == (1, 2)
    done = collect.collect(catalog, backend, grace_s=0, retention_s=0)
    assert (done.blobs, done.revisions) == (0, 1)  # the grace time of the blob begins only now
    done = collect.collect(catalog, backend, grace_s=0, retention_s=0)
    assert (done.blobs, done.revisions) == (1, 0)
    assert [key.blob_id for key, _ in backend.list()] == ["y"]
    assert check.check(catalog, backend, digests=False, repair=False)["clean"]


def test_deletion_and_creation_of_one_id_may_race(catalog: Catalog, url: str, backend: MemoryBlobsBackend) -> None:
    place, other = account(catalog), Catalog(url)

    def delete(catalog: Catalog) -> None:
        with catalog.writing() as connection:
            accounts.lock_account(connection, place.user_id)
            if blobs.find(connection, place.user_id, "default", "b") is not None:
                blobs.delete_one(connection, place.user_id, "default", "b", "default")
        with catalog.writing(durable=False) as connection:
            collect.unlink(connection, backend)

    for _ in range(15):
        together(
            lambda: let_in(catalog, backend, place, b=b"x"),
            lambda: delete(other),
            lambda: delete(catalog),
            lambda: let_in(other, backend, place, b=b"x"),
        )
        assert check.check(catalog, backend, digests=False, repair=False)["clean"]
    other.close()


def test_what_a_dead_process_reserved_is_given_up_and_what_a_live_one_reserved_is_not(
    catalog: Catalog, url: str, backend: MemoryBlobsBackend
) -> None:
    place, other = account(catalog, limit=100), Catalog(url)
    owners = [each.owners() for each in (catalog, other, catalog)]
    for opened, name in ((catalog, "mine"), (other, "theirs")):
        with opened.writing() as connection:
            (answer,) = quota.reserve(connection, place, [(name, 30)], opened.owner)
            assert isinstance(answer, Reservation)
    long_ago = time.time_ns() - 10**12
    if owners[2] is None:
        assert owners == [None, None, None]
        other.close()
        assert counters(catalog)[1] == 60
        return
    assert owners[2] == {catalog.owner, other.owner}
    for _ in range(2):
        with catalog.writing() as connection:
            assert quota.recover(connection, backend, long_ago, set(), catalog.owners()) == 0
    other.close()
    end = time.monotonic() + 60
    while catalog.owners() != {catalog.owner}:
        assert time.monotonic() < end, "the other process still seems to live"
    with catalog.writing() as connection:
        assert quota.recover(connection, backend, long_ago, set(), catalog.owners()) == 1
    assert counters(catalog)[1] == 30


def test_an_upload_that_was_given_up_by_mistake_still_keeps_to_the_quota(
    catalog: Catalog, backend: MemoryBlobsBackend
) -> None:
    place = account(catalog, limit=100)
    with catalog.writing() as connection:
        first, second = quota.reserve(connection, place, [("a", 60), ("b", 40)])
        assert isinstance(first, Reservation)
        assert isinstance(second, Reservation)
        quota.recover(connection, backend, time.time_ns(), set())
    for reservation, size, wanted in ((first, 60, "created"), (second, 41, "quota"), (second, 40, "created")):
        arrival = Arrival(reservation, stage(backend, bytes(size)), Blob(reservation.blob_id, size, bytes(32), 0))
        with catalog.writing() as connection:
            assert quota.settle(connection, backend, [arrival]) == [wanted]
    assert counters(catalog) == (100, 0, 2)


# A file of SQLite has one process, by the data directory's lock; to make a new one WAL, SQLite waits for nobody.
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_several_processes_may_open_a_new_catalog_at_once(url: str) -> None:
    opened = together(*[lambda: Catalog(url)] * 4)
    for catalog in opened:
        with catalog.reading() as connection:
            assert accounts.list_accounts(connection) == []
        catalog.close()


def test_a_catalog_of_version_1_is_brought_up_to_date(url: str, backend: MemoryBlobsBackend) -> None:
    old = Catalog(url)
    place = account(old)
    with old.writing() as connection:
        connection.execute(text("ALTER TABLE reservations DROP COLUMN owner"))
        connection.execute(text("ALTER TABLE tokens DROP COLUMN seen_ns"))
        connection.execute(text("ALTER TABLE tokens DROP COLUMN made_by"))
        connection.execute(text("ALTER TABLE blobs DROP COLUMN flagged_ns"))
        connection.execute(text("UPDATE schema_version SET version = 1"))
    old.close()
    catalog = Catalog(url)
    assert let_in(catalog, backend, place, b=b"x") == [UploadStatus.CREATED]
    with catalog.writing() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalar_one() == VERSION
        connection.execute(text("UPDATE schema_version SET version = 1000"))
    catalog.close()
    with pytest.raises(CatalogTooNew):
        Catalog(url)


@pytest.mark.parametrize("wrong", ["mysql://localhost/x", "nonsense", "postgresql://u@/x?host=/nowhere"])
def test_a_catalog_that_cannot_be_is_told_in_a_sentence(wrong: str) -> None:
    with pytest.raises(DataUnusable, match=r"^[A-Z][^\n]*\.$"):
        Catalog(wrong)
