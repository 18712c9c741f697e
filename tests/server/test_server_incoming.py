"""The incoming box at the server: reservations that expire, and floods that stop nobody else."""

import time

import pytest
from server_process import Account, RunningServer

from server import quota
from server.quota import MAX_INCOMING, Place
from server.service import DROP_BURST, DROPS_PER_S


def reserve(account: Account, expect: str, older: str | None = None) -> int:
    query = {"namespace": "MX", "expect": expect} | ({} if older is None else {"older": older})
    return account.http.post(f"/blobs/{account.name}/item", json=["PROCESSING"], params=query).status_code


def test_a_reservation_expires_by_the_servers_clock_and_one_device_gets_it_then(account: Account) -> None:
    assert account.http.put(f"/incoming/{account.name}/item", content=b"x").status_code == 201
    assert reserve(account, "PENDING") == 204
    assert reserve(account, "PENDING") == 412
    assert reserve(account, "PROCESSING", "900") == 412
    while reserve(account, "PROCESSING", "0.2") == 412:
        pass
    # It has begun anew with that.
    assert reserve(account, "PROCESSING", "900") == 412
    for wrong in ("-1", "soon", "nan"):
        assert reserve(account, "PROCESSING", wrong) == 400


def test_a_flood_of_a_sender_stops_no_device_of_the_account(server: RunningServer, account: Account) -> None:
    sender = server.token(account.name, account.user_id, "incoming")
    began = time.monotonic()
    answers = [sender.http.get(f"/blobs/{account.name}").status_code for _ in range(DROP_BURST + 50)]
    took_s = time.monotonic() - began
    assert set(answers) <= {403, 429}
    # On a machine that is slower than the rate, all of them.
    assert answers.count(403) <= DROP_BURST + DROPS_PER_S * took_s + 1
    assert account.put("b", b"x").status_code == 201


def test_what_waits_in_the_box_has_a_bound_of_its_own(server: RunningServer) -> None:
    account = server.account("incoming-small", quota=4000)
    url = f"/incoming/{account.name}"
    assert account.http.put(f"{url}/one", content=bytes(900)).status_code == 201
    assert account.http.put(f"{url}/two", content=bytes(101)).status_code == 507
    assert account.put("b", bytes(3000)).status_code == 201


def test_an_item_of_a_length_that_nobody_announced_is_stopped_at_the_bound_of_the_box(server: RunningServer) -> None:
    account = server.account("incoming-chunked", quota=4000)
    url = f"/incoming/{account.name}"
    assert account.http.put(f"{url}/large", content=iter([bytes(600), bytes(401)])).status_code == 507
    assert account.http.put(f"{url}/one", content=iter([bytes(600), bytes(300)])).status_code == 201
    assert account.http.put(f"{url}/two", content=iter([bytes(101)])).status_code == 507
    assert account.http.put(f"{url}/fits", content=iter([bytes(60), bytes(40)])).status_code == 201
    assert account.used() == (1000, 0)
    assert account.http.put(f"/blobs/{account.name}/own", content=iter([bytes(2000)])).status_code == 201


@pytest.mark.parametrize("namespace", ["MX", "default"])
def test_the_box_has_room_for_a_bounded_number_of_items(
    server: RunningServer, account: Account, namespace: str
) -> None:
    place = Place(account.user_id, account.name, namespace)
    with server.catalog.writing() as connection:
        answers = quota.reserve(connection, place, [(f"i{number}", 0) for number in range(MAX_INCOMING + 1)])
        taken = [answer for answer in answers if isinstance(answer, quota.Reservation)]
        connection.rollback()
    assert len(taken) == MAX_INCOMING + (namespace == "default")
