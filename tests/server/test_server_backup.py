"""Backup and restore as docs/OPERATIONS.md tells: the catalog first, then the blobs, while devices go on writing."""

import contextlib
import json
import shutil
import sqlite3
import threading
from pathlib import Path

from server_process import Account, RunningServer, blob_id_of, change, run, wait_until


def write_on(account: Account, name: str, stop: threading.Event, done: list[str]) -> None:
    client = account.client()
    number = 0
    while not stop.is_set():
        number += 1
        content = f"{name}-{number}".encode()
        blob_id = blob_id_of(content)
        client.put(f"/blobs/{account.name}/{blob_id}", content=content)
        made = [change(f"{name}-{number}", None, "r1", content, added=[blob_id])]
        if client.post(f"/documents/{account.name}", json={"changes": made}).status_code == 200:
            done.append(blob_id)


def test_a_backup_taken_under_load_restores_to_a_server_that_lacks_nothing_it_names(tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data")
    account = server.account("me", quota=10_000_000)
    stop, done = threading.Event(), list[str]()
    writers = [threading.Thread(target=write_on, args=(account, f"w{n}", stop, done)) for n in range(3)]
    for writer in writers:
        writer.start()
    try:
        wait_until(lambda: len(done) > 30, 60)
        before = list(done)
        (tmp_path / "backup").mkdir()
        with (
            contextlib.closing(sqlite3.connect(tmp_path / "data/catalog.db")) as source,
            contextlib.closing(sqlite3.connect(tmp_path / "backup/catalog.db")) as target,
        ):
            source.backup(target)
        wait_until(lambda: len(done) > len(before) + 20, 60)  # so that there are blobs which the catalog does not know
        shutil.copytree(tmp_path / "data/blobs", tmp_path / "backup/blobs", ignore=shutil.ignore_patterns(".staged"))
    finally:
        stop.set()
        for writer in writers:
            writer.join(60)
    assert server.stop() == 0

    shutil.copytree(tmp_path / "backup", tmp_path / "restored")
    found = json.loads(run("check", "--digests", "--repair", "--json", "--data", tmp_path / "restored").stdout)
    assert found["stray"]
    assert [found[kind] for kind in ("missing", "damaged", "usage", "dangling")] == [[], [], [], []]
    restored = RunningServer(tmp_path / "restored")
    me = Account(restored, "me", account.user_id, account.token, account.number)
    page = me.feed()
    contents = {document["doc_id"].encode() for document in page["documents"]}
    assert {blob_id_of(content) for content in contents} >= set(before)
    for content in contents:
        assert me.get(blob_id_of(content)).content == content
    assert restored.stop() == 0
    assert run("check", "--digests", "--data", tmp_path / "restored").returncode == 0
