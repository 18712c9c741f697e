"""`doctor`: what it finds, what it says to do, and what it does not tell."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from blobfs.commands.scrub import Scrubber
from tests.door.conftest import AccountServer, Desk, wait_until
from tests.watches import kill_for_good


def findings(desk: Desk, *more: object) -> tuple[int, dict[str, Any]]:
    done = desk.run("doctor", desk.mount, "--json", *more)
    return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_a_healthy_mount_and_what_becomes_of_it(desk: Desk, server: AccountServer) -> None:
    desk.up("--connect", server.command("user", "add", "alice")["invite"])
    (desk.mount / "secret plans").write_bytes(os.urandom(100_000))
    assert desk.run("sync", desk.mount, "--wait", "--timeout", "60").returncode == 0
    code, found = findings(desk, "--deep")
    assert (code, [name for name, finding in found.items() if finding["ok"] is not True]) == (0, [])

    bundle = desk.home / "bundle.tgz"
    code, _ = findings(desk, "--bundle", bundle)
    assert (code, bundle.stat().st_mode & 0o777) == (0, 0o600)
    with tarfile.open(bundle) as archive:
        text = b"".join(archive.extractfile(name).read() for name in archive.getnames()).decode()  # type: ignore[union-attr]
    assert "mounted" in text
    for private in ("secret plans", str(desk.home), "alice", server.url, "127.0.0.1"):
        assert private not in text
    assert desk.run("doctor", desk.mount, "--bundle", bundle).returncode == 2  # it overwrites nothing

    server.stop()
    code, found = findings(desk)
    assert (code, found["server"]["ok"], bool(found["server"]["advice"])) == (0, None, True)

    desk.store.chmod(0o755)
    code, found = findings(desk)
    assert (code, found["store"]["ok"]) == (23, False)
    assert "--repair" in found["store"]["advice"]
    code, found = findings(desk, "--repair")
    assert (code, found["store"]["ok"], desk.store.stat().st_mode & 0o777) == (0, True, 0o700)

    kill_for_good(desk.status()["pid"])
    code, found = findings(desk, "--passphrase-file", desk.passphrase)
    assert (code, found["mount point"]["ok"], found["databases"]["ok"]) == (0, True, True)
    desk.mount.rmdir()  # nothing is mounted there any more

    (desk.store / "documents.db").write_bytes(b"not a database" * 1000)
    code, found = findings(desk, "--passphrase-file", desk.passphrase)
    assert (code, found["databases"]["ok"]) == (23, False)


def test_without_a_mount_the_machine_is_checked(desk: Desk) -> None:
    done = desk.run("doctor")
    assert (done.returncode, "FUSE" in done.stdout) == (0, True)
    assert desk.run("doctor", desk.home / "never").returncode == 17


@pytest.mark.parametrize(
    ("line", "private"),
    [
        ("cannot open /srv/data/Tax 2025.pdf", "2025"),
        ("connecting to https://cloud.example.org:8443/x failed", "example"),
        ("peer 192.168.17.4:9000 went away", "192.168"),
        ("it is called 'my diary' here", "diary"),
        ("document my-own-id stays here for now", "my-own-id"),
        ("invite blobfs1:eyJ0b2tlbiI6IngifQ", "eyJ0"),
        ("Authorization: Token YWxpY2U6c2VjcmV0c2VjcmV0c2VjcmV0", "YWxpY2U6"),
        ('  "text": "the store /home/alice/x is not there",', "alice"),
    ],
)
def test_a_bundle_does_not_tell_who_or_what(line: str, private: str) -> None:
    assert private in line
    assert private not in Scrubber().scrub(line)


def test_sentences_and_equal_things_stay_recognisable() -> None:
    scrubber = Scrubber()
    line = scrubber.scrub("the server lacks blob " + "ab" * 32)
    assert line.startswith("the server lacks blob <id ")
    assert line == scrubber.scrub("the server lacks blob " + "ab" * 32)
    assert line != Scrubber().scrub("the server lacks blob " + "ab" * 32)
    scrubber.hide(str(Path("/some/mount")), "MOUNT")
    assert scrubber.scrub("/some/mount is in use") == "<MOUNT> is in use"
    trace = '  File "/home/alice/venv/lib/blobfs/fs/filesystem.py", line 12, in read\n'
    assert scrubber.scrub(trace) == "  File <blobfs/fs/filesystem.py>, line 12, in read\n"


def test_what_is_safe_is_repaired_when_it_is_asked_for(desk: Desk, server: AccountServer) -> None:
    desk.up("--connect", server.command("user", "add", "alice")["invite"])
    (desk.mount / "file").write_text("kept")
    assert desk.run("sync", desk.mount, "--wait", "--timeout", "60").returncode == 0
    kill_for_good(desk.status()["pid"])
    second, unfinished = desk.store / "secrets.json.old", desk.store / f".secrets.json.{'0' * 16}"
    second.unlink(missing_ok=True)
    unfinished.touch()
    os.utime(unfinished, (0, 0))
    (desk.store / "documents.db").chmod(0o644)
    (desk.store / "mine.txt").write_text("not of blobfs")
    (desk.store / "mine.txt").chmod(0o600)
    assert (desk.store / "control").exists()
    broken = {"files", "second copy", "socket", "leftovers"}
    before = {path.name for path in desk.store.iterdir()}
    code, found = findings(desk)
    assert code == 23
    assert {name for name, finding in found.items() if finding["ok"] is False} == {"files"}
    assert all("--repair" in found[name]["advice"] for name in broken)
    assert {path.name for path in desk.store.iterdir()} == before
    code, found = findings(desk, "--repair", "--passphrase-file", desk.passphrase)
    assert (code, {name for name in found if found[name]["text"].startswith("repaired")}) == (0, broken)
    assert {path.name for path in desk.store.iterdir()} >= {"mine.txt", "secrets.json", "secrets.json.old"}
    assert findings(desk)[0] == 0

    desk.up()
    assert (desk.mount / "file").read_text() == "kept"


def test_keys_that_the_server_lost_are_missed_and_sent_again(desk: Desk, server: AccountServer) -> None:
    desk.up("--connect", server.command("user", "add", "alice")["invite"])

    def repairs() -> bool:
        """Whether doctor misses and mends it; the daemon looks now and then, too, and may be quicker."""
        with contextlib.closing(sqlite3.connect(server.data / "catalog.db", isolation_level=None)) as catalog:
            catalog.execute("DELETE FROM secrets")
        is_missed = findings(desk)[1]["keys at the server"]["ok"] is False
        return is_missed and findings(desk, "--repair")[1]["keys at the server"]["text"].startswith("repaired")

    wait_until(repairs)
    assert findings(desk)[1]["keys at the server"]["ok"] is True


def test_blobs_that_the_server_lost_are_named_and_sent_again(desk: Desk, server: AccountServer) -> None:
    desk.up("--connect", server.command("user", "add", "alice")["invite"])
    whole, gone = os.urandom(5 << 20), os.urandom(100_000)
    (desk.mount / "folder").mkdir()
    (desk.mount / "folder" / "whole").write_bytes(whole)
    (desk.mount / "gone").write_bytes(gone)
    assert desk.run("sync", desk.mount, "--wait", "--timeout", "60").returncode == 0
    assert desk.run("evict", desk.mount / "gone").returncode == 0
    lost = [path for path in (server.data / "blobs" / "alice").rglob("*") if path.is_file()]
    assert len(lost) == 3
    for path in lost:
        path.unlink()
    with pytest.raises(subprocess.CalledProcessError, match="exit status 6"):  # it found something
        server.command("check", "--repair")

    code, found = findings(desk)
    blobs = found["blobs at the server"]
    assert (code, blobs["ok"], blobs["paths"]) == (23, False, ["folder/whole", "gone"])
    assert blobs["text"] == "the server lacks 3 of 3 blobs that it confirmed before; 2 of them are whole on this device"
    assert "--repair" in blobs["advice"]
    code, found = findings(desk, "--repair")
    blobs = found["blobs at the server"]
    assert (code, blobs["ok"], blobs["paths"]) == (23, False, ["gone"])
    assert "2 were sent again, 1 cannot be made" in blobs["text"]
    bundle = desk.home / "bundle.tgz"
    done = desk.run("doctor", desk.mount, "--bundle", bundle)
    assert "            gone\n" in done.stdout
    with tarfile.open(bundle) as archive:
        text = archive.extractfile("blobfs-doctor/findings.json").read().decode()  # type: ignore[union-attr]
    assert '"gone"' not in text

    assert desk.run("evict", desk.mount / "folder").returncode == 0
    assert (desk.mount / "folder" / "whole").read_bytes() == whole
    (desk.mount / "gone").unlink()
    assert findings(desk)[0] == 0
