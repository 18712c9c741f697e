"""The first run, and what later runs find."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from blobfs.protocol import parse_invite
from tests.door.conftest import PATIENCE_S, AccountServer, Desk, wait_until


def words_in(output: str) -> list[str]:
    return re.findall(r"\d+\. ([a-z]+)", output)


def test_without_terminal_and_option_a_random_passphrase_is_kept_and_later_runs_just_mount(desk: Desk) -> None:
    first = desk.run("mount", desk.mount, "--store", desk.store, "--background")
    assert first.returncode == 0, first.stderr
    kept = desk.store / "passphrase"
    assert len(words_in(first.stdout)) == 24
    assert str(kept) in first.stdout
    assert "blobfs passwd" in first.stdout
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert desk.status()["state"] in ("mounted", "offline")
    (desk.mount / "note").write_text("kept")
    ended = desk.run("umount", desk.mount)
    assert ended.returncode == 0, ended.stderr
    assert not os.path.ismount(desk.mount)
    second = desk.run("mount", desk.mount, "--background")
    assert second.returncode == 0, second.stderr
    assert words_in(second.stdout) == []
    assert (desk.mount / "note").read_text() == "kept"


def test_everything_in_the_store_is_private(desk: Desk) -> None:
    before = os.umask(0)
    try:
        desk.up()
    finally:
        os.umask(before)
    assert [path for path in (desk.store, *desk.store.rglob("*")) if is_open_to_others(path)] == []


def is_open_to_others(path: Path) -> bool:
    """Not, if it is gone by now: the mount's process and its server make files and take them away all the time."""
    try:
        return bool(path.lstat().st_mode & 0o077)
    except FileNotFoundError:
        return False


def test_the_status_has_what_the_contract_names(desk: Desk) -> None:
    desk.up()
    body = printed_status(desk)
    assert (body["mountpoint"], body["store"]) == (str(desk.mount), str(desk.store))
    assert body["embedded"] is True
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", body["server"])
    assert set(body["pending"]) == {"documents", "bytes"}
    assert Path(f"/proc/{body['pid']}").is_dir()
    assert desk.run("umount", desk.mount).returncode == 0
    after = printed_status(desk)
    assert (after["state"], after["pid"]) == ("not mounted", None)
    assert set(after["pending"]) == {"documents", "bytes"}


def printed_status(desk: Desk) -> dict[str, Any]:
    done = desk.run("status", desk.mount, "--json")
    assert done.returncode == 0, done.stderr
    body: dict[str, Any] = json.loads(done.stdout)
    return body


def test_a_passphrase_comes_from_a_descriptor(desk: Desk) -> None:
    for _ in range(2):
        reading, writing = os.pipe()
        with open(writing, "w") as file:
            file.write("open sesame")
        done = desk.run(
            "mount", desk.mount, "--store", desk.store, "--passphrase-fd", reading, "--background", pass_fds=(reading,)
        )
        os.close(reading)
        assert done.returncode == 0, done.stderr
        assert desk.run("umount", desk.mount).returncode == 0
    assert not (desk.store / "passphrase").exists()


def test_what_an_unfinished_first_run_left_is_started_anew(desk: Desk) -> None:
    desk.store.mkdir()
    (desk.store / "unfinished").write_text("begun\n")
    (desk.store / "secrets.json").write_text("half")
    (desk.store / "server").mkdir()
    (desk.store / "server" / "catalog").write_text("half")
    desk.up()
    assert not (desk.store / "unfinished").exists()


def test_a_directory_with_other_things_is_never_made_a_store(desk: Desk) -> None:
    desk.store.mkdir()
    (desk.store / "thesis.tex").write_text("precious")
    done = desk.run(*desk.mount_arguments("--background"))
    assert done.returncode == 2
    assert os.listdir(desk.store) == ["thesis.tex"]


def test_a_second_device_needs_only_invite_and_passphrase(desk: Desk, server: AccountServer) -> None:
    invite = server.command("user", "add", "alice")["invite"]
    desk.up("--connect", invite)
    other = desk.home / "other"
    done = desk.run(
        "mount", other, "--store", desk.home / "second", "--passphrase-file", desk.passphrase, "--background",
        "--connect", invite,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert words_in(done.stdout) == []
    made = [parse_invite(text) for text in (invite, desk.run("invite", other).stdout)]
    assert (made[0].url, made[0].user) == (made[1].url, made[1].user)
    assert made[0].token != made[1].token


def test_recovery_words_join_a_new_device(desk: Desk, server: AccountServer) -> None:
    invite = server.command("user", "add", "alice")["invite"]
    first = desk.run(*desk.mount_arguments("--background", "--connect", invite))
    assert first.returncode == 0, first.stderr
    (desk.home / "words").write_text(" ".join(words_in(first.stdout)) + "\n")
    done = desk.run(
        "mount", desk.home / "other", "--store", desk.home / "second", "--recovery-file", desk.home / "words",
        "--background", "--connect", invite,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_wrong_passphrase_joins_nothing_and_makes_nothing(desk: Desk, server: AccountServer) -> None:
    invite = server.command("user", "add", "alice")["invite"]
    desk.up("--connect", invite)
    desk.passphrase.write_text("open barley\n")
    done = desk.run(
        "mount", desk.home / "other", "--store", desk.home / "second", "--passphrase-file", desk.passphrase,
        "--background", "--connect", invite,
    )  # fmt: skip
    assert done.returncode == 3
    assert "does not open" in done.stderr
    assert not (desk.home / "second").exists()
    assert not (desk.home / "other").exists()


def test_an_invite_of_another_account_does_not_take_a_store_over(desk: Desk, server: AccountServer) -> None:
    desk.up("--connect", server.command("user", "add", "alice")["invite"])
    desk.run("umount", desk.mount)
    done = desk.run(*desk.mount_arguments("--background", "--connect", server.command("user", "add", "bob")["invite"]))
    assert done.returncode == 21
    desk.up()
    assert desk.status()["user"] == "alice"


def test_a_new_token_of_the_same_account_is_taken(desk: Desk, server: AccountServer) -> None:
    desk.up("--connect", server.command("user", "add", "alice")["invite"])
    desk.run("umount", desk.mount)
    for number in (entry["number"] for entry in server.command("token", "list", "alice")):
        server.command("token", "revoke", "alice", number)
    invite = server.command("token", "add", "alice", "--expires-days", "1")["invite"]
    for _ in range(2):
        # A script may give the same invite at each start, though its token was given up for the device's own.
        desk.up("--connect", invite)
        assert desk.run("sync", desk.mount, "--wait", "--timeout", "60").returncode == 0
        wait_until(lambda: len(server.command("token", "list", "alice")) == 1)
        desk.run("umount", desk.mount)


def test_two_devices_that_begin_one_account_at_once_end_in_one_account(desk: Desk, server: AccountServer) -> None:
    invite = server.command("user", "add", "alice")["invite"]
    places = [(desk.mount, desk.store), (desk.home / "other", desk.home / "second")]
    arguments = ("--passphrase-file", desk.passphrase, "--background", "--connect", invite)
    started = [desk.start("mount", mount, "--store", store, *arguments) for mount, store in places]
    outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert sorted(len(words_in(output)) for output in outputs) == [0, 24]
    bodies = [json.loads((store / "secrets.json").read_bytes()) for _, store in places]
    assert bodies[0] == bodies[1]


def test_a_changed_passphrase_reaches_the_server_and_the_next_device(desk: Desk, server: AccountServer) -> None:
    invite = server.command("user", "add", "alice")["invite"]
    desk.up("--connect", invite)
    new = desk.home / "new"
    new.write_text("open barley\n")
    words = ("passwd", desk.mount, "--passphrase-file", desk.passphrase, "--new-passphrase-file", new)
    refused = desk.run(*words)
    assert refused.returncode == 5
    assert "unmount it first" in refused.stderr
    done = desk.run(*words, "--keep-keys")
    assert done.returncode == 0, done.stderr
    place = ("mount", desk.home / "other", "--store", desk.home / "second", "--background", "--connect", invite)
    wait_until(lambda: desk.run(*place, "--passphrase-file", new).returncode == 0)
    assert desk.run("umount", desk.home / "other").returncode == 0
    assert desk.run("umount", desk.mount).returncode == 0
    assert desk.run(*desk.mount_arguments("--background")).returncode == 3
