"""The process: start, address, end, exit codes, parents, SIGKILL, and the commands beside it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from server_process import ROOT, Account, RunningServer, blob_id_of, change, command, files_below, run, wait_until

from blobfs.protocol import authorization_header, parse_invite
from tests.ports import Port

PATIENT: Any = {"trust_env": False, "timeout": 60}
"""For httpx, which gives a server 5 seconds else."""


@pytest.fixture
def own(data: Path) -> Iterator[RunningServer]:
    running = RunningServer(data)
    yield running
    if running.process.poll() is None:
        running.kill()


def test_a_user_added_while_the_server_runs_can_use_it_at_once(own: RunningServer) -> None:
    arguments = command("user", "add", "alice", "--data", own.data, "--quota", 1000, "--json")
    added = subprocess.run(arguments, cwd=ROOT, text=True, capture_output=True, timeout=60, check=False)
    assert added.returncode == 0, added.stderr
    answer = json.loads(added.stdout)
    invite = parse_invite(answer["invite"])
    assert set(answer) == {"user", "token", "invite"}
    assert (invite.url, invite.user, invite.token) == (own.url, "alice", answer["token"])
    headers = {"Authorization": authorization_header(invite.user, invite.token)}
    with httpx.Client(base_url=invite.url, headers=headers, **PATIENT) as client:
        assert client.put("/blobs/alice/b", content=b"x").status_code == 201
        assert client.put("/blobs/alice/c", content=bytes(1000)).status_code == 507
    tokens = json.loads(own.run("token", "list", "alice", "--json").stdout)
    assert answer["token"] not in json.dumps(tokens)
    assert not any(answer["token"].encode() in path.read_bytes() for path in files_below(own.data))


def test_a_service_manager_is_told_when_connections_are_accepted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        running = RunningServer(data)
        try:
            assert manager.recv(100) == b"READY=1"
            assert httpx.get(f"{running.url}/healthz", **PATIENT).status_code == 200
        finally:
            assert running.stop() == 0


def test_a_user_added_before_any_server_ran_gets_the_default_address(data: Path) -> None:
    answer = json.loads(run("user", "add", "bob", "--data", data, "--json").stdout)
    assert parse_invite(answer["invite"]).url == "http://127.0.0.1:8090"
    given = run("token", "add", "bob", "--data", data, "--url", "https://example.org/x/", "--scope", "read", "--json")
    assert parse_invite(json.loads(given.stdout)["invite"]).url == "https://example.org/x"
    assert json.loads(given.stdout)["scopes"] == ["read"]


def test_the_same_port_serves_again_after_a_stop_and_keeps_everything(data: Path) -> None:
    port = Port()
    first = RunningServer(data, "--port", port.number)
    try:
        account = first.account("keeper")
        account.put("b", b"kept")
        account.push(change("d", None, "r1", added=["b"]))
        token = account.token
    finally:
        assert first.stop() == 0
    again = RunningServer(data, "--port", port.number)
    try:
        assert again.url == first.url
        headers = {"Authorization": authorization_header("keeper", token)}
        with httpx.Client(base_url=again.url, headers=headers, **PATIENT) as client:
            assert client.get("/blobs/keeper/b").content == b"kept"
            assert client.get("/documents/keeper").json()["cursor"] == "1"
    finally:
        assert again.stop() == 0


def test_what_cannot_be_is_one_sentence_and_an_exit_code(own: RunningServer, tmp_path: Path) -> None:
    port = urlsplit(own.url).port
    plain_file = tmp_path / "file"
    plain_file.write_text("x")
    own.account("there")
    refused = {
        3: [run("--data", tmp_path / "other", "--port", port)],
        4: [
            run("--data", own.data, "--port", 0),
            run("--data", plain_file, "--port", 0),
            run("usage", "--data", plain_file),
        ],
        5: [
            own.run("user", "add", "there"),
            own.run("user", "remove", "absent"),
            own.run("token", "revoke", "there", 99),
        ],
        2: [
            run(),
            run("--data", tmp_path, "--port", "x"),
            run("--data", tmp_path, "--port", 70000),
            own.run("user", "add", "../x"),
            own.run("user", "add", "x", "--quota", "-1"),
            own.run("user", "add", "x", "--url", "ftp://x"),
            own.run("token", "add", "there", "--scope", "all"),
        ],
    }
    for code, results in refused.items():
        for result in results:
            assert result.returncode == code, (code, result.args, result.stderr)
            assert "Traceback" not in result.stderr
            assert result.stdout == ""
            if code != 2:
                assert result.stderr.startswith("blobfs-server: ")
                assert result.stderr.count("\n") == 1


def test_sigterm_ends_long_polls_and_event_streams_at_once(own: RunningServer) -> None:
    account = own.account("waiting")
    headers = {"Authorization": account.http.headers["Authorization"]}
    poll = http.client.HTTPConnection(account.http.base_url.host, account.http.base_url.port, timeout=60)
    with account.http.stream("GET", "/events/waiting") as events:
        lines = events.iter_lines()
        assert next(lines) == ": connected"
        poll.request("GET", "/documents/waiting?wait=50", headers=headers)
        wait_until(lambda: "blobfs_waiting_requests 2.0" in httpx.get(f"{own.url}/metrics", **PATIENT).text)
        started = time.monotonic()
        own.process.send_signal(signal.SIGTERM)
        list(lines)
    assert poll.getresponse().status == 200
    poll.close()
    assert own.close() == 0
    assert time.monotonic() - started < 40


def test_whoever_is_cut_off_at_the_end_leaves_no_traceback_in_the_log(data: Path) -> None:
    with (data.parent / "log").open("w+") as log:
        own = RunningServer(data, log=log)
        account = own.account("waiting")
        # An upload that never ends, which the first signal waits for and the second does not.
        head = f"PUT /blobs/waiting/half HTTP/1.1\r\nHost: x\r\nAuthorization: {account.http.headers['Authorization']}"
        address = (account.http.base_url.host, account.http.base_url.port or 0)
        with account.http.stream("GET", "/events/waiting") as events, socket.create_connection(address) as upload:
            lines = events.iter_lines()
            assert next(lines) == ": connected"
            upload.sendall(head.encode() + b"\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
            assert upload.recv(100).startswith(b"HTTP/1.1 100")
            own.process.send_signal(signal.SIGTERM)
            list(lines)
            own.process.send_signal(signal.SIGTERM)
            assert own.process.wait(60) == 0
        own.close()
        log.seek(0)
        assert "Traceback" not in log.read()


STARTER = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline(), end="", flush=True)
sys.stdin.read()
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_an_embedded_server_does_not_outlive_a_killed_parent(data: Path) -> None:
    arguments = command("--data", data, "--host", "127.0.0.1", "--port", 0, "--exit-with-parent")
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        pid, text = parent.stdout.readline().split(" ", 1)
        assert text.startswith("listening on ")
        parent.kill()
        parent.wait(60)
        wait_until(lambda: not is_running(int(pid)))


THREAD_STARTER = """
import subprocess, sys, threading, time
started = []
def start():
    child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
    started.append(child)
    print(child.pid, child.stdout.readline(), end="", flush=True)
thread = threading.Thread(target=start)
thread.start()
thread.join()
sys.stdin.read()
started[0].terminate()
print(started[0].wait(), flush=True)
"""


def test_an_embedded_server_outlives_the_thread_that_started_it(data: Path) -> None:
    arguments = command("--data", data, "--port", 0, "--exit-with-parent")
    parent = subprocess.Popen(
        [sys.executable, "-c", THREAD_STARTER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdout:
        url = parent.stdout.readline().split("listening on ")[1].strip()
        end = time.monotonic() + 1.5  # longer than between two looks at the parent
        while time.monotonic() < end:
            assert httpx.get(f"{url}/healthz", **PATIENT).status_code == 200
        parent.stdin.close()
        assert parent.stdout.readline() == "0\n"
        assert parent.wait(60) == 0


def test_sigkill_during_many_uploads_leaves_a_clean_catalog_and_all_that_was_acknowledged(data: Path) -> None:
    acknowledged: dict[str, bytes] = {}
    for round_ in range(2):
        running = RunningServer(data)
        account = running.account(f"killed{round_}")

        def upload(number: int, account: Account = account) -> None:
            with account.client() as client:
                while True:
                    data_ = os.urandom(300_000 if number % 4 == 0 else 2000)
                    name = blob_id_of(data_)
                    try:
                        if number % 4 == 1:
                            items = [(blob_id_of(piece), piece) for piece in (os.urandom(500) for _ in range(50))]
                            if account.upload(items) == ["created"] * 50:
                                acknowledged.update((f"{account.name}/{key}", piece) for key, piece in items)
                        elif client.put(f"/blobs/{account.name}/{name}", content=data_).status_code == 201:
                            acknowledged[f"{account.name}/{name}"] = data_
                        if number % 4 == 2:
                            acknowledged.pop(f"{account.name}/{name}", None)
                            client.delete(f"/blobs/{account.name}/{name}")
                    except httpx.HTTPError:
                        return

        threads = [threading.Thread(target=upload, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        # Some of them are deleted at once: one for each of six threads is none to be counted on.
        enough = 100 * (round_ + 1) + 6
        try:
            wait_until(lambda enough=enough: len(acknowledged) > enough)
        finally:
            running.process.kill()
        for thread in threads:
            thread.join()
        running.close()
    restarted = RunningServer(data)
    try:
        checked = restarted.run("check", "--digests", "--json")
        assert checked.returncode == 0, checked.stdout
        assert json.loads(checked.stdout)["clean"] is True
        assert files_below(data / "blobs" / ".staged") == []
        for name, content in acknowledged.items():
            user, blob_id = name.split("/")
            path = data / "blobs" / user / "default" / blob_id[:2] / blob_id
            assert path.read_bytes() == content
        assert len(acknowledged) > 200
        assert all(row["user"] for row in json.loads(restarted.run("usage", "--json").stdout))
    finally:
        assert restarted.stop() == 0


def test_everything_in_the_data_directory_is_closed_to_others(own: RunningServer) -> None:
    own.account("modes").put("b", b"x")
    for path in [own.data, *own.data.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_page_for_everyone_tells_version_and_limits_and_nothing_of_accounts(own: RunningServer) -> None:
    about = httpx.get(own.url, **PATIENT).json()
    assert set(about) == {"server", "version", "features", "limits"}
    assert about["version"] == 1
    assert httpx.get(f"{own.url}/healthz", **PATIENT).json() == {"status": "ok"}
