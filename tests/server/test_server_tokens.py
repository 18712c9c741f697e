"""Devices let each other in and out: tokens by the protocol, whatever is asked, and what ends with a token."""

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from server_process import Account, RunningServer, change

from blobfs.protocol import INVITE_LABEL, MAX_LIFETIME_S, MAX_TOKENS
from server import auth
from server.auth import Action, Principal
from server.catalog import accounts
from server.errors import OverQuota, Unauthorized
from server.routes import tokens


def ask_for(account: Account, label: str = "d" * 16, lifetime_s: int | None = None) -> Account:
    """Another device of the account, with a token that this one asked for."""
    answer = account.http.post(f"/tokens/{account.name}", json={"label": label, "lifetime_s": lifetime_s})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    return Account(account.server, account.name, account.user_id, made["token"], made["id"])


def listed(account: Account) -> list[dict[str, Any]]:
    answer = account.http.get(f"/tokens/{account.name}")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["tokens"])


def revoke(account: Account, number: int | str) -> int:
    return account.http.delete(f"/tokens/{account.name}/{number}").status_code


def test_a_token_made_by_a_device_is_as_good_and_is_listed_without_its_text(account: Account) -> None:
    second = ask_for(account, "0123456789abcdef")
    assert second.put("b", b"x").status_code == 201
    shown = listed(second)
    assert [entry["is_own"] for entry in shown] == [False, True]
    assert shown[1]["label"] == "0123456789abcdef"
    assert shown[1]["scopes"] == ["write"]
    assert abs(shown[1]["seen_s"] - time.time()) < 60
    assert second.token not in str(shown)


def test_a_revoked_device_is_refused_by_the_next_request_and_the_others_go_on(account: Account) -> None:
    second = ask_for(account)
    assert revoke(account, second.number) == 204
    assert second.get("b").status_code == 401
    assert second.http.post(f"/tokens/{account.name}", json={"label": "x", "lifetime_s": None}).status_code == 401
    assert revoke(account, second.number) == 404
    assert [entry["id"] for entry in listed(account)] == [account.number]


def test_an_invite_ends_with_its_time_and_is_forgotten_then(account: Account) -> None:
    invite = ask_for(account, INVITE_LABEL, 1)
    time_is_over = invite.number
    with account.server.catalog.writing() as connection:
        connection.exec_driver_sql(f"UPDATE tokens SET expires_ns = 1 WHERE id = {time_is_over}")
    assert invite.get("b").status_code == 401
    ask_for(account)
    assert time_is_over not in [entry["id"] for entry in listed(account)]


def test_the_unused_invites_of_a_revoked_device_go_with_it_and_devices_that_joined_stay(account: Account) -> None:
    second = ask_for(account, "a" * 16)
    unused, used = ask_for(second, INVITE_LABEL, 600), ask_for(second, INVITE_LABEL, 600)
    joined = ask_for(used, "b" * 16)
    assert revoke(joined, used.number) == 204
    assert revoke(account, second.number) == 204
    assert unused.get("x").status_code == 401
    assert joined.get("x").status_code == 404


def test_nobody_revokes_a_token_that_may_do_more_or_of_another_account(server: RunningServer, account: Account) -> None:
    admin = server.token(account.name, account.user_id, "admin")
    other = server.account(f"other{time.monotonic_ns()}")
    assert revoke(account, admin.number) == 403
    assert revoke(account, other.number) == 404
    assert other.http.delete(f"/tokens/{account.name}/{account.number}").status_code == 403
    assert revoke(admin, account.number) == 204


@pytest.mark.parametrize("number", ["x", "-1", "9" * 19, "1e3", "0", "%31", "²"])
def test_what_is_no_token_is_not_found_or_no_id(account: Account, number: str) -> None:
    assert revoke(account, number) in (400, 404)
    assert len(listed(account)) == 1


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"label": "a"},
        {"label": "a", "lifetime_s": None, "scopes": ["admin"]},
        {"label": "a", "lifetime_s": None, "scope": "admin"},
        {"label": "a", "lifetime_s": None, "scope": ["write"]},
        {"label": "", "lifetime_s": None},
        {"label": "a b", "lifetime_s": None},
        {"label": "a" * 129, "lifetime_s": None},
        {"label": 7, "lifetime_s": None},
        *({"label": "a", "lifetime_s": lifetime} for lifetime in (0, -1, 1.5, True, "9", MAX_LIFETIME_S + 1, 1 << 80)),
    ],
)
def test_what_asks_for_no_token_of_a_device_gets_none(account: Account, body: Any) -> None:
    assert account.http.post(f"/tokens/{account.name}", json=body).status_code == 400
    assert len(listed(account)) == 1


def test_an_account_has_a_bounded_number_of_tokens(server: RunningServer, account: Account) -> None:
    principal = Principal(account.user_id, account.name, account.number, frozenset(Action))
    with server.catalog.writing() as connection:
        for number in range(MAX_TOKENS - 1):
            digest = auth.hash_token(f"{account.name}{number}")
            accounts.add_token(connection, account.user_id, digest, "write", "x", None)
        with pytest.raises(OverQuota):
            tokens.make(connection, principal, b"x" * 32, {"label": "one-more", "lifetime_s": None, "scope": "write"})
    assert (
        account.http.post(f"/tokens/{account.name}", json={"label": "a", "lifetime_s": None}).json()["error"]["code"]
        == "over-quota"
    )


def test_a_token_that_is_revoked_while_it_asks_makes_none(server: RunningServer, account: Account) -> None:
    second = ask_for(account)
    asking = Principal(account.user_id, account.name, second.number, frozenset(Action))
    assert revoke(account, second.number) == 204
    with server.catalog.writing() as connection, pytest.raises(Unauthorized):
        tokens.make(connection, asking, b"y" * 32, {"label": "late", "lifetime_s": None, "scope": "write"})
    assert [entry["label"] for entry in listed(account)] == [""]


def by_a_device(account: Account, second: Account) -> None:
    assert revoke(account, second.number) == 204


def by_the_keeper(account: Account, second: Account) -> None:
    assert account.server.run("token", "revoke", account.name, second.number).returncode == 0


def by_time(account: Account, second: Account) -> None:
    with account.server.catalog.writing() as connection:
        connection.exec_driver_sql(f"UPDATE tokens SET expires_ns = 1 WHERE id = {second.number}")


@pytest.mark.parametrize("end", [by_a_device, by_the_keeper, by_time])
def test_what_waits_with_a_token_ends_with_it_and_nobody_elses_does(
    account: Account, end: Callable[[Account, Account], None]
) -> None:
    second = ask_for(account)
    waits = {"params": {"wait": 50}, "timeout": 60}
    answers: dict[str, httpx.Response] = {}
    heard: list[str] = []
    listening = threading.Event()

    def poll(name: str, who: Account) -> None:
        answers[name] = who.client().get(f"/documents/{account.name}", **waits)

    def listen() -> None:
        with second.client().stream("GET", f"/events/{account.name}", timeout=60) as response:
            for line in response.iter_lines():
                heard.append(line)
                listening.set()

    threads = [threading.Thread(target=poll, args=pair) for pair in (("revoked", second), ("other", account))]
    threads.append(threading.Thread(target=listen))
    for thread in threads:
        thread.start()
    assert listening.wait(30)
    while account.http.get("/healthz").status_code == 200 and _waiting(account) < 3:
        pass
    start = time.monotonic()
    end(account, second)
    for thread in (threads[0], threads[2]):
        thread.join(60)
    assert time.monotonic() - start < 40
    assert answers["revoked"].status_code == 401
    assert not any("change" in line for line in heard)
    assert threads[1].is_alive()
    account.push(change("d", None, "r1"))
    threads[1].join(60)
    assert [entry["doc_id"] for entry in answers["other"].json()["documents"]] == ["d"]


def _waiting(account: Account) -> int:
    admin = account.server.token(account.name, account.user_id, "admin")
    return int(admin.http.get("/admin/summary").json()["process"]["waiting_requests"])


def test_a_device_makes_a_token_with_which_things_can_be_left_and_nothing_else(account: Account) -> None:
    wanted = {"label": "drop", "lifetime_s": None, "scope": "incoming"}
    made = account.http.post(f"/tokens/{account.name}", json=wanted).json()
    sender = Account(account.server, account.name, account.user_id, made["token"], made["id"])
    assert sender.http.put(f"/incoming/{account.name}/item", content=b"x").status_code == 201
    assert sender.get("item").status_code == 403
    assert sender.http.post(f"/tokens/{account.name}", json=wanted).status_code == 403
    assert listed(account)[1]["scopes"] == ["incoming"]
