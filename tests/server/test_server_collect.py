"""Collecting, checking, repairing and removing, with the commands and on a running server."""

import json
from pathlib import Path

from server_process import Account, RunningServer, change, files_below


def collect(server: RunningServer, *arguments: object) -> dict[str, int]:
    done = server.run("collect", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


NOW = ("--grace-days", 0, "--retention-days", 0)


def own_server(directory: Path) -> RunningServer:
    return RunningServer(directory / "data")


def test_only_what_nothing_refers_to_is_collected_and_only_after_the_grace_time(tmp_path: Path) -> None:
    server = own_server(tmp_path)
    try:
        account = server.account("collected")
        for name in ("live", "old", "loose"):
            account.put(name, b"12345")
        account.put("mine", b"12345", namespace="other")
        account.push(change("d", None, "r1", added=["live", "old"]))
        account.push(change("d", "r1", "r2", removed=["old"]))
        assert collect(server, "--grace-days", 1, "--retention-days", 1)["blobs"] == 0
        assert collect(server, *NOW, "--dry-run")["blobs"] == 1
        assert account.get("loose").status_code == 200
        # The earlier revision goes first; the blob that only it named gets a grace time from then on.
        done = collect(server, "--grace-days", 0.5, "--retention-days", 0)
        assert (done["blobs"], done["revisions"], done["revision_bytes"]) == (0, 1, 6)
        assert collect(server, *NOW)["blobs"] == 2
        assert [account.get(name).status_code for name in ("live", "old", "loose")] == [200, 404, 404]
        assert account.http.get("/blobs/collected/mine?namespace=other").status_code == 200
        assert account.used() == (5 + 5 + 6, 0)
        assert len(files_below(server.data / "blobs")) == 2
        assert account.push(change("e", None, "r1", added=["loose"]))[0]["status"] == "missing"
        account.push(change("d", "r2", "r3", deleted=True))
        assert [collect(server, *NOW)["blobs"] for _ in range(2)] == [0, 1]
        assert server.run("check", "--digests").returncode == 0
    finally:
        assert server.stop() == 0


def test_check_finds_each_kind_of_damage_and_repair_leaves_it_clean(tmp_path: Path) -> None:
    server = own_server(tmp_path)
    try:
        account = server.account("damaged")
        for name in ("gone000", "cut0000", "flip000", "good000"):
            account.put(name, b"0123456789")
        account.push(change("d", None, "r1", added=["gone000"]))
        root = server.data / "blobs" / "damaged" / "default"
        paths = {path.name: path for path in files_below(root)}
        paths["gone000"].unlink()
        paths["cut0000"].write_bytes(b"01234")
        paths["flip000"].write_bytes(b"0123456780")
        (root / "st").mkdir(parents=True)
        (root / "st/stray00").write_bytes(b"x")
        assert account.get("gone000").status_code == 503
        assert account.get("cut0000").status_code == 503
        found = json.loads(server.run("check", "--json").stdout)
        assert not found["clean"]
        assert (found["missing"], found["damaged"]) == (["damaged/default/gone000"], ["damaged/default/cut0000"])
        assert found["stray"] == ["damaged/default/stray00"]
        assert server.run("check", "--digests", "--repair").returncode == 6
        found = json.loads(server.run("check", "--digests", "--json").stdout)
        assert found["dangling"] == ["damaged/d/gone000"]
        assert [found[kind] for kind in ("missing", "damaged", "stray", "usage")] == [[]] * 4
        # A device that has the blobs sends them again, and all is well.
        missing = account.http.post("/blobs/damaged/missing", json={"ids": ["gone000", "cut0000", "good000"]}).json()
        assert missing == {"missing": ["gone000", "cut0000"]}
        assert account.put("gone000", b"0123456789").status_code == 201
        assert server.run("check", "--digests").returncode == 0
    finally:
        assert server.stop() == 0


def test_a_removed_user_leaves_nothing_and_a_new_one_of_that_name_inherits_nothing(server: RunningServer) -> None:
    account = server.account("leaver")
    account.put("b", b"data")
    account.push(change("d", None, "r1"))
    assert server.run("user", "remove", "leaver").returncode == 5
    assert account.get("b").status_code == 200
    assert server.run("user", "remove", "leaver", "--delete-data").returncode == 0
    assert account.get("b").status_code == 401
    assert not (server.data / "blobs" / "leaver").exists()
    successor: Account = server.account("leaver")
    assert successor.user_id != account.user_id
    assert account.get("b").status_code == 401
    assert successor.feed()["documents"] == []
    assert successor.http.get("/blobs/leaver").json()["blobs"] == []
    listed = json.loads(server.run("user", "list", "--json").stdout)
    assert next(row for row in listed if row["user"] == "leaver")["used"] == 0
