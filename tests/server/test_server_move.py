"""Moving an installation: files to objects, SQLite to PostgreSQL, and back; whole, repeatable, never over another."""

import json
from pathlib import Path

from server_process import Account, RunningServer, change, files_below, run

from tests.postgresql import PostgresqlCluster


def configure(path: Path, **tables: str) -> Path:
    data = path.with_suffix("")
    text = f'data = "{data}"\n' + "".join(f'[{table}]\nurl = "{url}"\n' for table, url in tables.items())
    path.write_text(text + "[listen]\nport = 0\n")
    path.chmod(0o600)
    return path


def test_everything_moves_to_postgresql_and_objects_and_back(tmp_path: Path, postgresql: PostgresqlCluster) -> None:
    files = configure(tmp_path / "files.toml")
    catalog_url = postgresql.create()
    objects = configure(tmp_path / "objects.toml", catalog=catalog_url, blobs=(tmp_path / "objects").as_uri())
    back = configure(tmp_path / "back.toml")

    old = RunningServer(tmp_path / "files", "--config", files)
    me = old.account("me", quota=10_000)
    me.put("b", b"content")
    me.put("m", b"mail", namespace="MX")
    me.push(change("d", None, "r1", added=["b"]), change("d", "r1", "r2"))
    refused = run("copy", "--config", files, "--to", objects)
    assert (refused.returncode, refused.stderr.count("\n")) == (4, 1)
    assert old.stop() == 0

    moved = run("copy", "--config", files, "--to", objects, "--json")
    assert moved.returncode == 0, moved.stderr
    assert (json.loads(moved.stdout)["copied"], json.loads(moved.stdout)["missing"]) == (2, [])
    assert run("copy", "--config", files, "--to", objects).returncode == 5  # never over accounts that are there
    assert run("check", "--digests", "--config", objects).returncode == 0
    new = RunningServer(tmp_path / "objects", "--config", objects, catalog_url=catalog_url)
    there = Account(new, "me", me.user_id, me.token, me.number)
    assert there.get("b").content == b"content"
    assert there.feed()["cursor"] == "2"
    assert there.used() == (len(b"content") + len(b"mail") + 2 * len(b"sealed"), 0)
    assert new.account("another").user_id > me.user_id
    assert there.put("c", b"new").status_code == 201
    assert new.stop() == 0

    assert run("copy", "--config", objects, "--to", back).returncode == 0
    again = RunningServer(tmp_path / "back", "--config", back)
    assert Account(again, "me", me.user_id, me.token, me.number).get("c").content == b"new"
    assert again.stop() == 0
    assert run("check", "--digests", "--config", back).returncode == 0


def test_blobs_alone_are_copied_while_the_server_runs_and_damage_is_named(tmp_path: Path) -> None:
    files = configure(tmp_path / "files.toml")
    catalog = f"sqlite:///{tmp_path / 'files' / 'catalog.db'}"
    target = configure(tmp_path / "target.toml", catalog=catalog, blobs=(tmp_path / "objects").as_uri())
    server = RunningServer(tmp_path / "files", "--config", files)
    me = server.account("me")
    for name in ("whole", "hurt", "gone"):
        me.put(name, name.encode())
    for path in files_below(tmp_path / "files" / "blobs"):
        if path.name == "hurt":
            path.write_bytes(b"hUrt")
        if path.name == "gone":
            path.unlink()
    for copied, present in ((1, 0), (0, 1)):
        done = run("copy", "--config", files, "--to", target, "--json")
        assert done.returncode == 6
        answer = json.loads(done.stdout)
        assert (answer["copied"], answer["present"]) == (copied, present)
        assert sorted(answer["missing"]) == ["me/default/gone", "me/default/hurt"]
    assert [path.read_bytes() for path in files_below(tmp_path / "objects")] == [b"whole"]
    server.stop()
