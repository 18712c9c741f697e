"""Where a file is, and what stays here: `status PATH`, `pin`, `unpin`, `evict`, `conflicts`, `config`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from blobfs.answers.options import parse_name, parse_size
from blobfs.answers.paths import matches, parts_of
from blobfs.commands.files import format_state
from blobfs.errors import UsageError
from tests.door.conftest import Desk, await_close, read_until, sync, tell, told, wait_until


def test_a_file_that_waits_says_since_when_why_and_what_is_next(account: Desk, folder: Path) -> None:
    tell(account, "config", account.mount, "paused", "on")
    try:
        (folder / "file").write_bytes(b"x" * 5000)
        body = told(account, "status", folder / "file")
        assert (body["state"], body["synced"], body["local"], body["remote"]) == ("waiting", False, True, False)
        assert body["unsent"] == 5000
        assert body["reason"] == "sync is paused"
        assert "paused off" in body["next"]
        assert abs(body["since"] - (folder / "file").stat().st_mtime) < 5
        around = told(account, "status", folder)
        assert "file" in [entry["path"] for entry in around["waiting_files"]]
    finally:
        tell(account, "config", account.mount, "paused", "off")
    sync(account)
    body = told(account, "status", folder / "file")
    assert (body["state"], body["synced"], body["remote"], body["unsent"]) == ("here", True, True, 0)
    assert body["reason"] is None


def test_a_lock_file_stays_here_and_says_so(account: Desk, folder: Path) -> None:
    (folder / ".letter.swp").write_bytes(b"vim")
    body = told(account, "status", folder / ".letter.swp")
    assert body["state"] == "stays here"


def test_evicted_bytes_are_fetched_when_they_are_read(account: Desk, folder: Path) -> None:
    content = os.urandom(5 << 20)
    (folder / "file").write_bytes(content)
    sync(account)
    assert "5.0 MiB of 1 file" in tell(account, "evict", folder)
    assert told(account, "status", folder / "file")["state"] == "server only"
    assert told(account, "status", folder)["files_remote"] == 1
    with (folder / "file").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.read(10) == content[:10]
    # The store gets what was fetched behind the reader.
    wait_until(lambda: told(account, "status", folder / "file")["here"] > 0)
    assert told(account, "status", folder / "file")["state"] == "partly here"
    assert (folder / "file").read_bytes() == content


def test_what_is_not_on_the_server_is_not_evicted(account: Desk, folder: Path) -> None:
    tell(account, "config", account.mount, "paused", "on")
    try:
        (folder / "file").write_bytes(b"precious")
        assert "1 kept, being not on the server yet" in tell(account, "evict", folder)
        assert (folder / "file").read_bytes() == b"precious"
    finally:
        tell(account, "config", account.mount, "paused", "off")


def test_a_pinned_folder_comes_and_stays_with_what_is_put_into_it_later(account: Desk, folder: Path) -> None:
    (folder / "early").write_bytes(os.urandom(300_000))
    sync(account)
    tell(account, "evict", folder)
    tell(account, "pin", folder, "--wait")
    (folder / "late").write_bytes(b"later")
    sync(account)
    assert "2 kept, being pinned" in tell(account, "evict", folder)
    assert os.getxattr(folder / "late", "user.blobfs.state") == b"LOCAL REMOTE SYNCED pinned"
    for name in ("early", "late"):
        body = told(account, "status", folder / name)
        assert (body["local"], body["pinned"], body["pinned_itself"]) == (True, True, False)
    assert str(folder) + "/" in tell(account, "pin", "--list", account.mount).splitlines()
    tell(account, "unpin", folder)
    assert "2 files" in tell(account, "evict", folder)


def test_a_pattern_chooses_files(account: Desk, folder: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.txt"):
        (folder / name).write_bytes(name.encode() * 1000)
    sync(account)
    tell(account, "evict", folder, "--match", "*.jpg")
    assert [told(account, "status", folder / name)["local"] for name in ("a.jpg", "b.jpg", "c.txt")] == [
        False,
        False,
        True,
    ]


def test_conflict_copies_are_listed(account: Desk, folder: Path) -> None:
    assert told(account, "conflicts", folder) == []
    copy = folder / "letter (conflict left 2026-01-02 030405).txt"
    copy.write_bytes(b"mine")
    assert [entry["path"] for entry in told(account, "conflicts", folder)] == [str(copy)]


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ("file", {"letter.txt": "mine"}),
        ("copy", {"letter.txt": "theirs"}),
        ("both", {"letter.txt": "mine", "letter (left 2026-01-02 030405).txt": "theirs"}),
    ],
)
def test_a_conflict_is_settled_with_a_command(account: Desk, folder: Path, keep: str, left: dict[str, str]) -> None:
    file, copy = folder / "letter.txt", folder / "letter (conflict left 2026-01-02 030405).txt"
    file.write_text("mine")
    copy.write_text("theirs")
    sync(account)
    await_close(account, file, copy)
    assert account.run("conflicts", file, "--keep", keep).returncode == 22
    tell(account, "conflicts", copy, "--keep", keep)
    assert {found.name: found.read_text() for found in folder.iterdir()} == left
    assert told(account, "conflicts", folder) == []


def test_what_is_not_there_has_a_sentence_and_a_code(account: Desk, folder: Path) -> None:
    done = account.run("status", folder / "nothing")
    assert (done.returncode, done.stderr) == (22, "blobfs: there is no such file in the mount; check its spelling.\n")
    assert account.run("status", folder / "nothing" / "deeper").returncode == 22
    assert account.run("pin").returncode == 2
    assert account.run("evict", account.home / "elsewhere").returncode == 17


def test_an_option_is_in_force_at_once_and_after_the_next_mount(account: Desk) -> None:
    tell(account, "config", account.mount, "cache-limit", "1.5G")
    tell(account, "device", account.mount, "lap top")
    tell(account, "umount", account.mount)
    account.up()
    values = told(account, "config", account.mount)
    assert (values["cache-limit"], values["device-name"], values["paused"]) == (3 << 29, "lap top", False)
    tell(account, "config", account.mount, "cache-limit", "off")
    assert told(account, "config", account.mount)["cache-limit"] is None
    assert account.run("config", account.mount, "cache-limit", "much").returncode == 2
    assert account.run("config", account.mount, "colour", "red").returncode == 2


def test_a_view_is_shown_again_when_it_changes(account: Desk, folder: Path) -> None:
    (folder / "file").write_bytes(b"x")
    sync(account)
    process = account.start("status", folder / "file", "--watch")
    assert "here, on the server" in read_until(process, "size")
    tell(account, "evict", folder / "file")
    read_until(process, "server only")
    process.send_signal(2)
    wait_until(lambda: process.poll() is not None)
    assert process.returncode == 0


# --- without a mount ----------------------------------------------------------------------------------------------


def test_a_path_cannot_lead_out_of_the_mount() -> None:
    with pytest.raises(UsageError):
        parts_of("a/../../b")
    assert parts_of("a//./\udcff") == [b"a", b"\xff"]


def test_patterns_fit_names_or_with_a_slash_whole_paths() -> None:
    assert matches("a/b.jpg", "*.jpg")
    assert not matches("a.jpg/b", "*.jpg")
    assert matches("a/b.jpg", "a/*.jpg")
    assert not matches("c/b.jpg", "a/*.jpg")


@pytest.mark.parametrize(
    ("text", "size"), [("10", 10), ("1.5G", 3 << 29), ("2 MiB", 2 << 20), ("500k/s", 500 << 10), ("off", None)]
)
def test_sizes_are_read_with_their_units(text: str, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1.55G", "ten", "9" * 30])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_a_name_of_a_device_cannot_write_to_a_terminal() -> None:
    with pytest.raises(UsageError):
        parse_name("left\x1b[2J")


def test_a_name_in_a_state_cannot_write_to_a_terminal() -> None:
    body = json.loads(
        '{"path": "a\\u001b[2J", "kind": "file", "state": "here", "synced": true, "size": 1, "here": 1, "unsent": 0,'
        ' "open": true, "pinned": true, "pinned_itself": true, "since": null}'
    )
    assert "\x1b" not in format_state(body)
