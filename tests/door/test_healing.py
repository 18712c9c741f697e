"""A mount whose process is killed: mounted again in its place, or left, and nobody's unmounting undone."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from blobfs.errors import UsageError
from blobfs.fs.mountpoint import is_mounted
from blobfs.healing import MOST, STEADY_S, Past, parse, pause_s
from blobfs.mountpoint import is_dead
from tests.door.conftest import Desk, end, has_ended, wait_until
from tests.watches import watch_of


@contextmanager
def _watched(desk: Desk) -> Iterator[tuple[int, int]]:
    """(the process that holds the mount, a descriptor of the one that watches it)."""
    daemon = desk.status()["pid"]
    watch = watch_of(daemon)
    assert watch is not None
    process = os.pidfd_open(watch)
    try:
        yield daemon, process
    finally:
        os.close(process)


@contextmanager
def _held_up(desk: Desk) -> Iterator[int]:
    """The mount's process is dead, and what heals it waits for its passphrase until the end of the block."""
    text = desk.passphrase.read_text()
    desk.passphrase.unlink()
    os.mkfifo(desk.passphrase)
    with _watched(desk) as (daemon, watch):
        end(daemon)
        opened: list[int] = []
        wait_until(lambda: _open_when_read(desk.passphrase, opened))
        with open(opened[0], "w") as passphrase:
            yield watch
            passphrase.write(text)
        wait_until(lambda: has_ended(watch))


def _open_when_read(pipe: Path, opened: list[int]) -> bool:
    with suppress(OSError):  # Nobody has the other end yet.
        opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    return bool(opened)


def _log(desk: Desk) -> str:
    return (desk.store / "log").read_text()


def test_a_killed_mount_is_back_in_its_place_with_the_same_options(desk: Desk) -> None:
    desk.up()
    (desk.mount / "note").write_text("kept")
    assert desk.run("umount", desk.mount).returncode == 0
    desk.up("--read-only")
    for _ in range(2):
        with _watched(desk) as (daemon, watch):
            resident = Path(f"/proc/{watch_of(daemon)}/status").read_text().partition("VmRSS:")[2].split()[0]
            assert int(resident) < 6 << 10
            end(daemon)
            wait_until(lambda watch=watch: has_ended(watch))  # type: ignore[misc]
        assert (desk.mount / "note").read_text() == "kept"
        with pytest.raises(OSError, match="Read-only"):
            (desk.mount / "note").write_text("changed")
        assert desk.status()["pid"] != daemon
    assert "died (SIGKILL)" in _log(desk)
    assert f"time 2 of {MOST}" in _log(desk)


@pytest.mark.parametrize("how", ["umount", "SIGTERM"])
def test_whoever_ends_a_mount_ends_its_watch(desk: Desk, how: str) -> None:
    desk.up()
    with _watched(desk) as (daemon, watch):
        if how == "umount":
            subprocess.run(["fusermount3", "-u", desk.mount], check=True)
        else:
            end(daemon, signal.SIGTERM)
        wait_until(lambda: has_ended(watch))
    assert not is_mounted(desk.mount)
    assert "died" not in _log(desk)


def test_a_dead_mount_that_is_unmounted_while_it_is_healed_stays_away(desk: Desk) -> None:
    desk.up()
    with _held_up(desk):
        assert desk.run("umount", desk.mount).returncode == 0
    assert not is_mounted(desk.mount)
    assert "was taken away meanwhile" in _log(desk)


def test_who_mounts_over_a_dead_mount_while_it_is_healed_keeps_that_mount(desk: Desk) -> None:
    desk.up()
    (desk.mount / "note").write_text("kept")
    other = desk.home / "other passphrase"
    other.write_text(desk.passphrase.read_text())
    with _held_up(desk):
        done = desk.run("mount", desk.mount, "--passphrase-file", other, "--background")
        assert done.returncode == 0, done.stderr
        mine = desk.status()["pid"]
    assert (desk.mount / "note").read_text() == "kept"
    assert desk.status()["pid"] == mine


def test_without_a_passphrase_or_too_often_it_stays_dead_and_the_log_says_so(desk: Desk) -> None:
    desk.up()
    assert desk.run("umount", desk.mount).returncode == 0
    reading, writing = os.pipe()
    os.write(writing, desk.passphrase.read_bytes())
    os.close(writing)
    done = desk.run("mount", desk.mount, "--passphrase-fd", reading, "--background", pass_fds=(reading,))
    os.close(reading)
    assert done.returncode == 0, done.stderr
    with _watched(desk) as (daemon, watch):
        end(daemon)
        wait_until(lambda: has_ended(watch))
    assert is_dead(desk.mount), "a bare directory in its place would be written to"
    assert "not mounted again: there is no terminal to ask for the passphrase on" in _log(desk)
    # With one that was kept, but too often already.
    done = desk.run(*desk.mount_arguments("--heal", f"{Past.now(MOST)},137"))
    assert done.returncode == 137
    assert is_dead(desk.mount)
    assert f"{MOST} times in a row" in _log(desk)


def test_a_mount_that_lasted_is_healed_at_once_and_one_that_did_not_ever_later() -> None:
    past, code = parse("3,1000,139")
    assert (past, code, parse(f"{past},139")) == (Past(3, 1000.0), 139, (past, 139))
    assert past.count(1000 + STEADY_S) == 4
    assert past.count(1001 + STEADY_S) == 1
    assert [pause_s(count) for count in range(1, MOST + 1)] == [0, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("text", ["", "1", "1,2", "a,b,c", "1,2,3,4"])
def test_only_blobfs_itself_asks_for_a_healing(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)
