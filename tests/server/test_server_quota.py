"""Quota: exact whatever runs at once, for every way in, and given back."""

import threading
from collections.abc import Iterator

from server_process import RunningServer, change


def test_of_many_parallel_uploads_exactly_as_many_as_fit_are_stored(server: RunningServer) -> None:
    account = server.account("quota-parallel", quota=5 * 100_000 + 99_999)
    barrier = threading.Barrier(16)
    statuses: list[int] = []

    def put(number: int) -> None:
        client = account.client()
        barrier.wait(20)
        statuses.append(client.put(f"/blobs/{account.name}/b{number}", content=bytes(100_000)).status_code)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A reservation counts while it lasts, so no more than five; those refused may come again.
    for number in range(16):
        statuses.append(account.put(f"again{number}", bytes(100_000)).status_code)
    assert statuses.count(201) == 5
    assert set(statuses) == {201, 507}
    assert account.used() == (500_000, 0)


def test_a_chunked_body_is_stopped_at_the_quota_and_fits_up_to_its_last_byte(server: RunningServer) -> None:
    account = server.account("quota-chunked", quota=2_500_000)

    def pieces(total: int) -> Iterator[bytes]:
        while total:
            size = min(total, 100_000)
            total -= size
            yield bytes(size)

    url = f"/blobs/{account.name}/c"
    refused = account.http.put(url, content=pieces(2_500_001))
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "over-quota")
    assert account.used() == (0, 0)
    assert account.http.put(url, content=pieces(2_500_000)).status_code == 201
    assert account.used() == (2_500_000, 0)


def test_streams_documents_revisions_secrets_and_drops_all_count(server: RunningServer) -> None:
    account = server.account("quota-all", quota=1000)
    assert account.upload([("a", bytes(400)), ("b", bytes(400)), ("c", bytes(400))]) == ["created", "created", "quota"]
    results = account.push(change("d", None, "r1", bytes(100)), change("d", "r1", "r2", bytes(101)))
    assert [result["status"] for result in results] == ["ok", "quota"]
    assert account.push(change("d", "r1", "r2", bytes(60)))[0]["status"] == "ok"
    assert account.used() == (960, 0)
    secrets = account.http.put(f"/secrets/{account.name}", content=bytes(41), headers={"If-None-Match": "*"})
    assert secrets.status_code == 507
    assert account.http.put(f"/incoming/{account.name}/m", content=bytes(41)).status_code == 507
    assert account.http.put(f"/incoming/{account.name}/m", content=bytes(40)).status_code == 201
    assert account.used() == (1000, 0)


def test_deleting_gives_room_back_and_a_full_account_can_delete_documents(server: RunningServer) -> None:
    account = server.account("quota-back", quota=100)
    account.push(change("d", None, "r1", bytes(50)))
    assert account.put("a", bytes(50)).status_code == 201
    assert account.put("b", bytes(1)).status_code == 507
    assert account.push(change("d", "r1", "r2", bytes(20), deleted=True))[0]["status"] == "ok"
    assert account.push(change("d", "r2", "r3", bytes(20), deleted=True))[0]["status"] == "quota"
    assert account.http.delete(f"/blobs/{account.name}/a").status_code == 204
    assert account.put("b", bytes(30)).status_code == 201
    assert account.used() == (100, 0)


def test_a_quota_that_is_lowered_stops_growth_and_deletes_nothing(server: RunningServer) -> None:
    account = server.account("quota-lowered")
    account.put("a", bytes(1000))
    assert server.run("quota", "set", account.name, "10").returncode == 0
    assert account.put("b", b"x").status_code == 507
    assert account.get("a").status_code == 200
    assert server.run("quota", "set", account.name, "none").returncode == 0
    assert account.put("b", b"x").status_code == 201


def test_an_account_is_told_what_it_holds_and_may_hold(server: RunningServer) -> None:
    account = server.account("quota-told", quota=1000)
    assert account.http.get("/usage/quota-told").json() == {"used": 0, "quota": 1000, "objects": 0}
    account.put("a", bytes(300))
    account.push(change("d", None, "r1", bytes(50)))
    assert account.http.get("/usage/quota-told").json() == {"used": 350, "quota": 1000, "objects": 1}
    assert server.run("quota", "set", account.name, "10").returncode == 0
    assert account.http.get("/usage/quota-told").json()["quota"] == 10
    assert server.run("quota", "set", account.name, "none").returncode == 0
    assert account.http.get("/usage/quota-told").json()["quota"] is None
