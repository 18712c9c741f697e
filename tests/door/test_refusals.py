"""What cannot be: one sentence, a code of its own, and nothing changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import closing

import pytest

from blobfs.answers.mount import PATIENCE_S
from blobfs.store import schema
from blobfs.store.rekey import DATABASES, connect
from blobfs.unlock import Source, unlock
from tests.door.conftest import AccountServer, Desk, wait_until


def refuses(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("blobfs: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(".\n")
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize("how", [(), ("--background",)])
def test_a_wrong_passphrase(desk: Desk, how: tuple[str, ...]) -> None:
    desk.up()
    desk.run("umount", desk.mount)
    before = (desk.store / "secrets.json").read_bytes()
    desk.passphrase.write_text("open barley\n")
    refuses(desk.run(*desk.mount_arguments(*how)), 3, "passphrase")
    assert (desk.store / "secrets.json").read_bytes() == before
    assert not os.path.ismount(desk.mount)


def test_a_mount_point_with_entries(desk: Desk) -> None:
    desk.mount.mkdir()
    (desk.mount / "file").touch()
    refuses(desk.run(*desk.mount_arguments()), 4, "not empty")
    assert not desk.store.exists()


def test_a_mount_point_that_is_a_file(desk: Desk) -> None:
    desk.mount.touch()
    refuses(desk.run(*desk.mount_arguments()), 4, "not a directory")
    assert not desk.store.exists()


def test_a_store_that_is_mounted_elsewhere(desk: Desk) -> None:
    desk.up()
    done = desk.run("mount", desk.home / "other", "--store", desk.store, "--passphrase-file", desk.passphrase)
    refuses(done, 5, str(desk.mount), "blobfs umount")


def test_a_store_that_another_process_has_open(desk: Desk) -> None:
    desk.up()
    desk.run("umount", desk.mount)
    # As a process that has no control socket would: the lock alone counts. One process, so that it ends as a whole.
    held = subprocess.Popen(["flock", "--no-fork", "-x", str(desk.store / "lock"), "sleep", "600"])
    try:
        wait_until(
            lambda: subprocess.run(["flock", "-n", str(desk.store / "lock"), "true"], check=False).returncode == 1
        )
        for how in ((), ("--background",)):
            refuses(desk.run(*desk.mount_arguments(*how)), 5)
    finally:
        held.terminate()
        held.wait()


def test_a_damaged_store(desk: Desk) -> None:
    desk.up()
    desk.run("umount", desk.mount)
    (desk.store / "documents.db").write_bytes(os.urandom(1 << 16))
    for how in ((), ("--background",)):
        refuses(desk.run(*desk.mount_arguments(*how)), 7)


@pytest.mark.parametrize("invite", ["hello", "blobfs1:", "blobfs1:AAAA", "@/no/such/file"])
def test_what_is_not_an_invite(desk: Desk, invite: str) -> None:
    refuses(desk.run(*desk.mount_arguments("--connect", invite)), 2, "invite")
    assert not desk.store.exists()


def test_a_server_that_is_not_there_for_the_first_connection(desk: Desk, server: AccountServer) -> None:
    invite = server.command("user", "add", "alice")["invite"]
    server.stop()
    refuses(desk.run(*desk.mount_arguments("--connect", invite)), 13, "nothing was made here")
    assert not desk.store.exists()


def test_a_token_that_the_server_does_not_know(desk: Desk, server: AccountServer) -> None:
    invite = server.command("user", "add", "alice")["invite"]
    server.command("token", "revoke", "alice", server.command("token", "list", "alice")[0]["number"])
    refuses(desk.run(*desk.mount_arguments("--connect", invite)), 14)
    assert not desk.store.exists()


def tell_of_itself(desk: Desk) -> None:
    """The device's own card is at the server, so that nothing but what the test writes can wait."""
    wait_until(lambda: "this device" in desk.run("device", desk.mount).stdout)
    assert desk.run("sync", desk.mount, "--wait", "--timeout", "60").returncode == 0


def test_a_server_that_is_not_there_later_is_no_obstacle(desk: Desk, server: AccountServer) -> None:
    desk.up("--connect", server.command("user", "add", "alice")["invite"])
    tell_of_itself(desk)
    desk.run("umount", desk.mount)
    server.stop()
    desk.up()
    (desk.mount / "note").write_text("alone")
    wait_until(lambda: desk.status()["state"] == "offline")
    refuses(desk.run("sync", desk.mount, "--wait", "--timeout", "1"), 13)
    status = desk.status()
    assert status["state"] == "offline"
    assert status["reason"]
    assert status["pending"]["documents"] == 1
    # Paused as well, so that nothing is tried: the limit of time holds all the same.
    desk.run("config", desk.mount, "paused", "on")
    began = time.monotonic()
    refuses(desk.run("sync", desk.mount, "--wait", "--timeout", "1"), 13)
    assert time.monotonic() - began < PATIENCE_S


def test_a_full_quota_lets_the_mount_go_on_and_is_named(desk: Desk, server: AccountServer) -> None:
    desk.up("--connect", server.command("user", "add", "alice")["invite"])
    tell_of_itself(desk)
    server.command("quota", "set", "alice", 1000)
    (desk.mount / "note").write_bytes(os.urandom(100_000))
    refuses(desk.run("sync", desk.mount, "--wait", "--timeout", "60"), 15)
    status = desk.status()
    assert status["state"] == "over-quota"
    assert status["reason"]
    assert status["pending"] == {"documents": 1, "bytes": 100_000}
    assert len((desk.mount / "note").read_bytes()) == 100_000
    server.command("quota", "set", "alice", "none")
    assert desk.run("sync", desk.mount, "--wait", "--timeout", "60").returncode == 0


def test_df_shows_what_the_quota_leaves(desk: Desk, server: AccountServer) -> None:
    desk.up("--connect", server.command("user", "add", "alice", "--quota", str(32 << 20))["invite"])
    wait_until(lambda: bool(desk.status()["usage"]))
    disk = os.statvfs(desk.mount)
    assert disk.f_blocks * disk.f_frsize == 32 << 20
    (desk.mount / "note").write_bytes(os.urandom(5 << 20))
    assert desk.run("sync", desk.mount, "--wait").returncode == 0
    wait_until(lambda: os.statvfs(desk.mount).f_bavail * disk.f_frsize < 27 << 20)
    assert "of 32.0 MiB used" in desk.run("status", desk.mount).stdout
    assert "of 32.0 MiB used" in desk.run("doctor", desk.mount).stdout
    server.stop()
    assert os.statvfs(desk.mount).f_bavail * disk.f_frsize < 27 << 20


def test_a_revoked_token_lets_the_mount_go_on_and_is_named(desk: Desk, server: AccountServer) -> None:
    desk.up("--connect", server.command("user", "add", "alice")["invite"])
    # The first one is the invite's; the second one is the device's own.
    server.command("token", "revoke", "alice", server.command("token", "list", "alice")[1]["number"])
    (desk.mount / "note").write_text("alone")
    refuses(desk.run("sync", desk.mount, "--wait", "--timeout", "60"), 14)
    assert desk.status()["state"] == "refused"
    assert (desk.mount / "note").read_text() == "alone"


def test_a_machine_without_fusermount3(desk: Desk) -> None:
    unshare = shutil.which("unshare") or ""
    done = subprocess.run(
        [unshare, "--user", *desk.command(*desk.mount_arguments())],
        env=desk.environment | {"PATH": str(desk.home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    refuses(done, 12, "fusermount3 is missing", "install the package fuse3")
    assert not desk.store.exists()


def test_a_first_run_on_a_full_disk(desk: Desk) -> None:
    script = (
        'mount -t tmpfs -o size=200k none "$1" || exit; shift; "$@"; code=$?; ls -A "$OLDPWD/small" >&2; exit $code'
    )
    small = desk.home / "small"
    small.mkdir()
    command = desk.command("mount", desk.mount, "--store", small / "s", "--passphrase-file", desk.passphrase)
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(small), *command],
        env=desk.environment | {"OLDPWD": str(desk.home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    refuses(done, 9, "is full", "nothing was made")


def test_a_store_of_a_newer_blobfs_is_refused_and_shown_read_only_where_it_says_so(desk: Desk) -> None:
    desk.up()
    (desk.mount / "note").write_text("kept")
    desk.run("umount", desk.mount)
    keys = unlock(desk.store, Source(file=desk.passphrase), Source()).keys()
    for name, page in DATABASES:
        with closing(connect(desk.store / name, page, keys)) as connection:
            connection.execute("PRAGMA user_version = 99")
            connection.execute(f"PRAGMA application_id = {0x62660000 | schema.VERSION}")
    before = {name: (desk.store / name).read_bytes() for name, _ in DATABASES}
    refuses(desk.run(*desk.mount_arguments()), 8, "a newer blobfs", "mount it with --read-only")
    desk.up("--read-only")
    assert (desk.mount / "note").read_text() == "kept"
    status = desk.status()
    assert (status["state"], status["reason"].split(":")[0]) == ("paused", "a newer blobfs wrote this store")
    refuses(desk.run("config", desk.mount, "paused", "off"), 22, "a newer blobfs")
    assert desk.run("umount", desk.mount).returncode == 0
    assert {name: (desk.store / name).read_bytes() for name, _ in DATABASES} == before
    assert not [path for path in desk.home.iterdir() if "-read-" in path.name]
