"""Blobs over HTTP: bytes, ranges, conditions, lists, flags, deletion, races and cut uploads."""

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from server_process import Account, files_below, random_blobs, wait_until

from blobfs.protocol import DIGEST, MAX_BLOB, authorization_header, digest_header, parse_digest_header


def test_a_blob_comes_back_as_it_went_with_its_digest(account: Account) -> None:
    data = os.urandom(3_000_001)
    created = account.put("b1", data)
    assert created.status_code == 201
    got = account.get("b1")
    assert got.content == data
    assert parse_digest_header(got.headers[DIGEST]) == hashlib.sha256(data).digest()
    head = account.http.head(f"/blobs/{account.name}/b1")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "3000001", b"")
    assert head.headers["etag"] == got.headers["etag"] == created.headers["etag"]
    assert head.headers[DIGEST] == got.headers[DIGEST]


def test_a_blob_stands_at_its_path_as_it_came_and_closed_to_others(account: Account) -> None:
    account.put("blob_id-1", b"as it comes", namespace="ns")
    path = account.server.data / "blobs" / account.name / "ns" / "bl" / "blob_id-1"
    assert path.read_bytes() == b"as it comes"
    assert path.stat().st_mode & 0o777 == 0o600
    assert all(parent.stat().st_mode & 0o777 == 0o700 for parent in list(path.parents)[:6])


def test_an_empty_blob_and_a_short_id_are_blobs(account: Account) -> None:
    assert account.put("x", b"").status_code == 201
    assert account.get("x").content == b""
    assert account.get("x", Range="bytes=0-0").status_code == 416


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-20", 10, 20),
        ("bytes=5-", 5, 99),
        ("bytes=-5", 95, 99),
        ("bytes=90-1000", 90, 99),
        ("bytes=-1000", 0, 99),
        ("BYTES=99-", 99, 99),
        ("bytes=0-99999999999999999", 0, 99),
    ],
)
def test_a_range_is_answered_exactly(account: Account, header: str, first: int, last: int) -> None:
    data = bytes(range(100))
    account.put("r", data)
    got = account.get("r", Range=header)
    assert got.status_code == 206
    assert got.headers["content-range"] == f"bytes {first}-{last}/100"
    assert got.content == data[first : last + 1]
    assert int(got.headers["content-length"]) == len(got.content)


@pytest.mark.parametrize(
    "header",
    ["bytes=100-", "bytes=-0", "bytes=20-10", "bytes=", "bytes=-", "bytes=a-b", "bytes=0-1,3-4", "bytes=1-2-3"],
)
def test_a_range_outside_or_malformed_is_416_with_the_size(account: Account, header: str) -> None:
    account.put("r", bytes(100))
    got = account.get("r", Range=header)
    assert (got.status_code, got.headers["content-range"]) == (416, "bytes */100")
    assert got.json()["error"]["code"] == "bad-range"


def test_an_unknown_unit_and_a_stale_if_range_give_the_whole_blob(account: Account) -> None:
    etag = account.put("r", b"0123456789").headers["etag"]
    assert account.get("r", Range="lines=1-2").status_code == 200
    assert account.get("r", Range="bytes=1-2", If_Range='"other"').content == b"0123456789"
    assert account.get("r", Range="bytes=1-2", If_Range=etag).content == b"12"


def test_a_blob_that_the_client_has_is_304(account: Account) -> None:
    etag = account.put("c", b"x").headers["etag"]
    got = account.get("c", If_None_Match=f'"a", {etag}')
    assert (got.status_code, got.content, got.headers["etag"]) == (304, b"", etag)
    assert account.get("c", If_None_Match='"a"').status_code == 200


def test_bytes_that_are_not_those_of_the_digest_are_refused(account: Account) -> None:
    wrong = digest_header(hashlib.sha256(b"other").digest())
    path = f"/blobs/{account.name}/d"
    answer = account.http.put(path, content=b"data", headers={DIGEST: wrong})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad-digest")
    assert account.http.put(path, content=b"data", headers={DIGEST: "md5=:x:"}).status_code == 400
    assert account.get("d").status_code == 404
    assert account.used() == (0, 0)


def test_a_chunked_upload_is_stored_and_one_too_large_is_not(account: Account) -> None:
    def pieces(number: int) -> Iterator[bytes]:
        for _ in range(number):
            yield bytes(1 << 20)

    assert account.http.put(f"/blobs/{account.name}/c", content=pieces(3)).status_code == 201
    assert account.get("c").content == bytes(3 << 20)
    assert account.http.put(f"/blobs/{account.name}/big", content=pieces(17)).status_code == 413
    assert account.put("big", bytes(MAX_BLOB + 1)).status_code == 413
    assert account.put("most", bytes(MAX_BLOB)).status_code == 201
    assert account.used() == (MAX_BLOB + (3 << 20), 0)


def test_a_second_creator_is_told_that_the_blob_exists(account: Account) -> None:
    assert account.put("e", b"one").status_code == 201
    again = account.put("e", b"two")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "exists")
    assert account.get("e").content == b"one"


def test_of_two_racing_creators_exactly_one_wins(account: Account) -> None:
    clients = [account.client(), account.client()]
    for round_ in range(40):
        barrier = threading.Barrier(2)
        statuses: dict[int, int] = {}

        def create(number: int, path: str, barrier: threading.Barrier, statuses: dict[int, int]) -> None:
            barrier.wait(10)
            statuses[number] = clients[number].put(path, content=bytes([number]) * 5000).status_code

        path = f"/blobs/{account.name}/race{round_}"
        threads = [threading.Thread(target=create, args=(number, path, barrier, statuses)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses.values()) == [201, 409]
        winner = next(number for number, status in statuses.items() if status == 201)
        assert account.http.get(path).content == bytes([winner]) * 5000


@pytest.mark.parametrize("coding", ["Content-Length: 2000000", "Transfer-Encoding: chunked"])
def test_a_cut_upload_leaves_nothing(account: Account, coding: str) -> None:
    address = urlsplit(account.server.url)
    with socket.create_connection((address.hostname, address.port)) as sock:
        head = f"PUT /blobs/{account.name}/cut HTTP/1.1\r\nHost: x\r\n{coding}\r\n"
        head += f"Authorization: {authorization_header(account.name, account.token)}\r\n\r\n"
        sock.sendall(head.encode() + b"186A0\r\n" + bytes(100_000))
        wait_until(lambda: account.used()[1] > 0)
    wait_until(lambda: account.used() == (0, 0))
    assert account.get("cut").status_code == 404
    assert files_below(account.server.data / "blobs" / ".staged") == []
    assert account.put("cut", b"whole").status_code == 201


def test_a_list_goes_page_by_page_in_every_order(account: Account) -> None:
    ids = [f"id{number}" for number in (3, 1, 4, 5, 9, 2, 6)]
    for blob_id in ids:
        account.put(blob_id, b"")

    def listed(**params: str) -> list[str]:
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = account.http.get(f"/blobs/{account.name}", params={"limit": "3"} | params | cursor).json()
            found += page["blobs"]
            if page["cursor"] is None:
                return found
            assert len(page["blobs"]) == 3
            cursor = {"cursor": page["cursor"]}

    assert listed() == sorted(ids)
    assert listed(order_by="date") == listed(order_by="+date") == ids
    assert listed(order_by="-date") == ids[::-1]
    assert account.http.get(f"/blobs/{account.name}?order_by=+date").json()["blobs"] == ids
    assert account.http.get(f"/blobs/{account.name}?only_count=true").json() == {"count": 7}
    assert listed(namespace="other") == []


def test_deleted_blobs_are_listed_until_they_are_created_again(account: Account) -> None:
    account.put("a", b"1")
    account.put("b", b"2")
    assert account.http.delete(f"/blobs/{account.name}/a").status_code == 204
    assert account.http.delete(f"/blobs/{account.name}/a").status_code == 404
    url = f"/blobs/{account.name}"
    assert account.http.get(url, params={"deleted": "true"}).json()["blobs"] == ["a"]
    assert account.http.get(url, params={"deleted": "false"}).json()["blobs"] == ["b"]
    assert account.get("a").status_code == 404
    assert account.put("a", b"again").status_code == 201
    assert account.http.get(url, params={"deleted": "true"}).json()["blobs"] == []
    assert account.get("a").content == b"again"


def test_flags_are_replaced_filtered_and_compared(account: Account) -> None:
    for blob_id in ("a", "b"):
        account.put(blob_id, b"")
    url = f"/blobs/{account.name}/a"
    assert account.http.get(url, params={"only_flags": "true"}).json() == []
    assert account.http.post(url, json=["PENDING", "FAILED"]).status_code == 204
    assert account.http.get(url, params={"only_flags": "1"}).json() == ["PENDING", "FAILED"]
    listed = account.http.get(f"/blobs/{account.name}", params={"filter_flag": "PENDING"}).json()
    assert listed["blobs"] == ["a"]
    taken = [account.http.post(url, json=["PROCESSING"], params={"expect": "PENDING,FAILED"}) for _ in range(2)]
    assert [answer.status_code for answer in taken] == [204, 412]
    assert account.http.post(url, json=["NO"]).status_code == 406
    assert account.http.post(f"/blobs/{account.name}/none", json=[]).status_code == 404
    assert account.http.get(f"/blobs/{account.name}", params={"filter_flag": "NO"}).status_code == 406


def test_missing_names_those_that_are_not_there(account: Account) -> None:
    account.put("missing", b"a blob may have this name")
    assert account.get("missing").status_code == 200
    ids = ["missing", "z", *(f"id{number}" for number in range(1500)), "z"]
    answer = account.http.post(f"/blobs/{account.name}/missing", json={"ids": ids})
    assert answer.json() == {"missing": ids[1:-1]}


def test_a_reader_of_a_blob_that_is_deleted_meanwhile_gets_all_of_it(account: Account) -> None:
    data = os.urandom(MAX_BLOB)
    account.put("long", data)
    with account.http.stream("GET", f"/blobs/{account.name}/long") as answer:
        pieces = answer.iter_raw(65536)
        got = next(pieces)
        assert account.client().delete(f"/blobs/{account.name}/long").status_code == 204
        got += b"".join(pieces)
    assert got == data


def test_deleting_blobs_prunes_their_directories(account: Account) -> None:
    for blob_id, data in random_blobs(5, 10):
        account.put(blob_id, data)
        assert account.http.delete(f"/blobs/{account.name}/{blob_id}").status_code == 204
    assert not (account.server.data / "blobs" / account.name).exists()
    assert account.used() == (0, 0)
