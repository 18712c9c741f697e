"""Who may do what: every route with every kind of token, other accounts, and paths that try to leave theirs."""

import json
import time
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from server_process import Account, RunningServer, change

from blobfs.protocol import authorization_header

# method, path below the account's name, what to send, the scopes that may
READ, CREATE = {"read", "append-only", "write", "admin"}, {"append-only", "write", "admin"}
CHANGE, DROP = {"write", "admin"}, {"write", "admin", "incoming"}
FIRST = {"headers": {"If-None-Match": "*"}, "content": b"x"}
ROUTES: list[tuple[str, str, dict[str, Any], set[str]]] = [
    ("GET", "/blobs/{user}", {}, READ),
    ("GET", "/blobs/{user}?only_count=true", {}, READ),
    ("GET", "/blobs/{user}/b", {}, READ),
    ("HEAD", "/blobs/{user}/b", {}, READ),
    ("POST", "/blobs/{user}/missing", {"json": {"ids": []}}, READ),
    ("POST", "/stream/{user}?direction=download", {"json": {"ids": []}}, READ),
    ("GET", "/documents/{user}", {}, READ),
    ("GET", "/documents/{user}/d/revisions", {}, READ),
    ("HEAD", "/events/{user}", {}, READ),
    ("GET", "/secrets/{user}", {}, READ),
    ("GET", "/usage/{user}", {}, READ),
    ("PUT", "/blobs/{user}/new", {"content": b"x"}, CREATE),
    ("POST", "/stream/{user}?direction=upload", {"content": b""}, CREATE),
    ("POST", "/documents/{user}", {"json": {"changes": [change("n", None, "r1")]}}, CREATE),
    ("PUT", "/secrets/{user}", FIRST, CREATE),
    ("PUT", "/secrets/{user}", {"headers": {"If-Match": '"x"'}, "content": b"x"}, CHANGE),
    ("POST", "/documents/{user}", {"json": {"changes": [change("d", "r0", "r1")]}}, CHANGE),
    ("POST", "/documents/{user}", {"json": {"changes": [change("d", None, "r1", deleted=True)]}}, CHANGE),
    ("POST", "/blobs/{user}/b", {"json": ["PENDING"]}, CHANGE),
    ("DELETE", "/blobs/{user}/none", {}, CHANGE),
    ("GET", "/tokens/{user}", {}, CHANGE),
    ("POST", "/tokens/{user}", {"json": {"label": "new", "lifetime_s": None}}, CHANGE),
    ("DELETE", "/tokens/{user}/999999", {}, CHANGE),
    ("PUT", "/incoming/{user}/m", {"content": b"x"}, DROP),
    ("GET", "/admin/summary", {}, {"admin"}),
    ("GET", "/metrics", {"headers": {"Via": "a proxy, so that the token counts"}}, {"admin"}),
]


@pytest.fixture(scope="module")
def tokens(server: RunningServer) -> dict[str, Account]:
    owner = server.account("access")
    owner.put("b", b"content")
    made = {
        scope: server.token("access", owner.user_id, scope) for scope in ("read", "append-only", "incoming", "admin")
    }
    return made | {"write": owner}


@pytest.mark.parametrize(("method", "path", "sent", "allowed"), ROUTES)
def test_each_route_lets_in_exactly_the_scopes_that_it_is_for(
    tokens: dict[str, Account], method: str, path: str, sent: dict[str, Any], allowed: set[str]
) -> None:
    for scope, account in tokens.items():
        answer = account.http.request(method, path.format(user="access"), **sent)
        if scope in allowed:
            assert answer.status_code not in (401, 403), scope
            assert answer.status_code < 500
        else:
            assert answer.status_code == 403, scope


@pytest.mark.parametrize(("method", "path", "sent", "allowed"), ROUTES)
def test_each_route_refuses_whoever_is_not_the_account(
    server: RunningServer, tokens: dict[str, Account], method: str, path: str, sent: dict[str, Any], allowed: set[str]
) -> None:
    def ask(user: str, authorization: str | None) -> httpx.Response:
        headers = dict(sent.get("headers", {})) | ({"Authorization": authorization} if authorization else {})
        options = {name: value for name, value in sent.items() if name != "headers"}
        return httpx.request(
            method, server.url + path.format(user=user), headers=headers, trust_env=False, timeout=30, **options
        )

    owner = tokens["write"]
    foreign = owner.token
    wrong = [
        None,
        "",
        "Token",
        "Token x",
        "Basic " + authorization_header("access", foreign)[6:],
        "Token " + "A" * 5000,
    ]
    wrong += [authorization_header("access", "wrong"), authorization_header("absent", foreign)]
    wrong += [authorization_header("access", foreign[:-1]), authorization_header("ACCESS", foreign)]
    for authorization in wrong:
        answer = ask("access", authorization)
        assert answer.status_code == 401, authorization
        assert answer.headers["www-authenticate"].startswith("Token")
    other = server.account(f"other{time.monotonic_ns()}")
    there, not_there = (ask(user, authorization_header(other.name, other.token)) for user in ("access", "nobody"))
    assert there.status_code == not_there.status_code == 403
    if method != "HEAD":
        bodies = [answer.json()["error"] for answer in (there, not_there)]
        assert bodies[0]["message"] == bodies[1]["message"]
    assert set(there.headers) == set(not_there.headers)


def test_a_revoked_or_expired_token_is_refused_by_the_next_request(server: RunningServer) -> None:
    owner = server.account("revoked")
    second = server.token("revoked", owner.user_id, "write")
    assert second.put("a", b"x").status_code == 201
    assert server.run("token", "revoke", "revoked", second.number).returncode == 0
    assert second.get("a").status_code == 401
    assert owner.get("a").status_code == 200
    expired = server.token("revoked", owner.user_id, "write", expires_ns=time.time_ns() - 1)
    assert expired.get("a").status_code == 401


BAD_IDS = [
    "..",
    ".",
    "../other",
    "..%2fother",
    "%2e%2e",
    "%2e%2e%2fother",
    "%252e%252e%252f",
    "a%00b",
    "a%0a",
    "a%0d%0aX: y",
    "%2fetc%2fpasswd",
    "a%5cb",
    "a b",
    "a%20",
    "ä",
    "%c3%a4",
    "%ff",
    "%e2%80%ae",
    "a" * 129,
    "a" * 5000,
    "a;b",
    "a'--",
    "a.b",
    "%ef%bc%8e%ef%bc%8e",
]


@pytest.mark.parametrize("bad", BAD_IDS)
def test_no_route_takes_an_id_that_is_none(tokens: dict[str, Account], bad: str) -> None:
    owner = tokens["write"]
    in_query = quote(bad, safe="%")
    asked: list[tuple[str, str, dict[str, Any]]] = []
    for method, path, sent, _ in ROUTES:
        if "{user}" not in path:
            continue
        asked.append((method, path.format(user=bad), sent))
        if path.startswith(("/blobs", "/stream")):
            joint = "&" if "?" in path else "?"
            asked.append((method, path.format(user="access") + f"{joint}namespace={in_query}", sent))
    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        sent = {"json": []} if method == "POST" else {"content": b"x"} if method == "PUT" else {}
        asked.append((method, f"/blobs/access/{bad}", sent))
    asked.append(("PUT", f"/incoming/access/{bad}", {"content": b"x"}))
    asked.append(("GET", f"/documents/access/{bad}/revisions", {}))
    asked.append(("GET", f"/blobs/access?cursor={in_query}", {}))
    for method, path, sent in asked:
        body = json.dumps(sent["json"]).encode() if "json" in sent else sent.get("content", b"")
        status = owner.raw(f"{method} {path.replace(' ', '%20')} HTTP/1.1", f"Content-Length: {len(body)}", body=body)
        assert 400 <= status < 500, (method, path, status)
    outside = [path.name for path in (owner.server.data / "blobs").iterdir()]
    assert all(name == ".staged" or name.isidentifier() or "-" in name for name in outside)


def test_a_prefix_of_another_users_name_opens_nothing(server: RunningServer) -> None:
    bob, bobby = server.account("bob"), server.account("bobby")
    bobby.put("secret", b"bobby's")
    assert bob.http.get("/blobs/bobby/secret").status_code == 403
    for namespace in ("../bobby/default", "../../bobby/default", "/bobby/default"):
        answer = bob.http.post(
            "/stream/bob", params={"direction": "download", "namespace": namespace}, json={"ids": []}
        )
        assert answer.status_code == 400


def test_two_accounts_may_have_one_id_and_see_only_their_own(server: RunningServer) -> None:
    one, two = server.account("tenant1"), server.account("tenant2")
    assert one.put("same", b"one's").status_code == two.put("same", b"two's").status_code == 201
    assert one.http.delete("/blobs/tenant1/same").status_code == 204
    assert (one.get("same").status_code, two.get("same").content) == (404, b"two's")
    assert one.http.post("/blobs/tenant1/missing", json={"ids": ["same"]}).json() == {"missing": ["same"]}
