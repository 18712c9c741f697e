"""Whole trees in and out: `import`, `export`."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from blobfs.screen import Bar
from blobfs.wording import format_time
from tests.door.conftest import PATIENCE_S, AccountServer, Desk, sync, tell, told, wait_until
from tests.door.test_terminal import Terminal
from tests.e2e.devices import tree


def plant(top: Path) -> None:
    """A tree with a bit of everything."""
    (top / "a" / "empty").mkdir(parents=True)
    (top / "a" / "file").write_bytes(os.urandom(300_000))
    os.link(top / "a" / "file", top / "a" / "second name")
    (top / "a" / "link").symlink_to("../nowhere")
    with (top / "sparse").open("wb") as file:
        file.truncate(20 << 20)
        file.seek(10 << 20)
        file.write(b"island")
    os.setxattr(top / "sparse", "user.tag", b"value")
    (top / os.fsdecode(b"odd \xff name")).write_bytes(b"x")
    os.chmod(top / "a", 0o750)
    os.utime(top / "a", ns=(1, 1_000_000_007))


def test_what_goes_in_comes_out_the_same(account: Desk, folder: Path) -> None:
    source, target = account.home / "source", account.home / "plain"
    source.mkdir()
    plant(source)
    told = tell(account, "import", source, folder / "in")
    assert told.startswith("3 files, ")
    assert tree(folder / "in") == tree(source)
    sync(account)
    tell(account, "evict", folder)
    tell(account, "export", folder / "in", target)
    assert tree(target) == tree(source)
    assert os.getxattr(target / "sparse", "user.tag") == b"value"
    assert (target / "sparse").stat().st_blocks < 10_000
    assert (target / "a" / "file").stat().st_nlink == 2


def test_a_file_that_has_the_name_of_an_unfinished_one_is_copied_as_any_other(account: Desk, folder: Path) -> None:
    source, target = account.home / "parts", account.home / "plain parts"
    source.mkdir()
    long = "n" * 60
    names = [long + ".blobfs-part", long + ".blobfs-part2", long + "z", long, "a", "a.blobfs-part"]
    for name in names:
        (source / name).write_text(name)
    tell(account, "import", source, folder / "in")
    assert {path.name: path.read_text() for path in (folder / "in").iterdir()} == {name: name for name in names}
    tell(account, "export", folder / "in", target)
    assert {path.name: path.read_text() for path in target.iterdir()} == {name: name for name in names}


def test_a_second_run_goes_on_and_overwrites_nothing(account: Desk, folder: Path) -> None:
    source = account.home / "again"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "a").write_bytes(b"first")
    tell(account, "import", source, folder / "in")
    (source / "inner" / "b").write_bytes(b"second")
    assert account.run("import", source, folder / "in").returncode == 2
    told = tell(account, "import", source, folder / "in", "--again")
    assert "1 were there already" in told
    assert tree(folder / "in") == tree(source)
    (source / "inner" / "a").write_bytes(b"changed outside")
    done = account.run("import", source, folder / "in", "--again")
    assert (done.returncode, "another file of that name" in done.stderr) == (22, True)
    assert (folder / "in" / "inner" / "a").read_bytes() == b"first"


def test_a_tree_is_not_copied_into_itself(account: Desk, folder: Path) -> None:
    assert account.run("export", folder, account.mount / "out").returncode == 2
    assert account.run("import", account.home, folder / "in").returncode == 2
    assert account.run("import", account.home / "nothing", folder / "in").returncode == 22


def test_an_export_gives_no_program_rights_unless_it_is_asked_to(account: Desk, folder: Path) -> None:
    program = folder / "program"
    program.write_bytes(b"#!/bin/sh\n")
    program.chmod(0o6755)
    (folder / "inner").mkdir()
    (folder / "inner").chmod(0o3755)
    plain, kept = account.home / "harmless", account.home / "kept"
    tell(account, "export", folder, plain)
    assert (plain / "program").stat().st_mode & 0o7777 == 0o755
    assert (plain / "inner").stat().st_mode & 0o7777 == 0o1755
    assert "were there already" in tell(account, "export", folder, plain, "--again")
    tell(account, "export", folder, kept, "--keep-setuid")
    assert (kept / "program").stat().st_mode & 0o7777 == 0o6755


def test_nothing_is_exported_from_what_is_not_mounted(account: Desk, tmp_path: Path) -> None:
    assert account.run("export", tmp_path, tmp_path / "out").returncode == 17


def test_a_special_file_is_named_and_the_others_are_copied(account: Desk, folder: Path) -> None:
    source = account.home / "special"
    source.mkdir()
    os.mkfifo(source / "fifo")
    (source / "file").write_bytes(b"x")
    done = account.run("import", source, folder / "in")
    assert (done.returncode, "fifo: only files" in done.stderr) == (22, True)
    assert (folder / "in" / "file").read_bytes() == b"x"


def test_an_export_onto_a_disk_that_gets_full_ends_with_a_sentence_and_goes_on_later(
    account: Desk, folder: Path, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        (folder / name).write_bytes(os.urandom(1 << 20))
    first, named, sizes, second = export_to_full_disk(account, tmp_path, folder)
    assert "blobfs: the disk of" in first
    assert "is full, with 2 files copied; make some room, then run it again with --again." in first
    assert first.rstrip().endswith("exit 9")
    assert (named.split(), sizes.split()) == (["a", "b"], ["1048576"] * 2)
    assert second == "1 file, 1.0 MiB, 2 were there already.\nthe same\n"


def export_to_full_disk(account: Desk, place: Path, folder: Path) -> list[str]:
    """What is said about a disk of 2.5 MiB on `place/disk`; the names there; the sizes; what is said with more room."""
    disk = place / "disk"
    disk.mkdir()
    script = f"""
        mount -t tmpfs -o size=2560k none {disk} || exit
        "$@"; echo exit $?; echo --
        ls -A {disk}/out; echo --
        stat -c %s {disk}/out/*; echo --
        mount -o remount,size=8m {disk}; "$@" --again
        diff -r {folder} {disk}/out && echo the same
    """
    done = subprocess.run(
        [
            "unshare",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            *account.command("export", folder, disk / "out"),
        ],
        env=account.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        timeout=PATIENCE_S,
        check=False,
    )
    return done.stdout.split("--\n")


def put_far(desk: Desk, server: AccountServer) -> None:
    """Three files in the mount, the second of which is at the server only."""
    desk.up("--connect", server.command("user", "add", "alice")["invite"])
    for name in ("a", "far", "z"):
        (desk.mount / name).write_bytes(os.urandom(200_000))
    sync(desk)
    tell(desk, "evict", desk.mount / "far")


def test_ctrl_c_ends_an_export_that_waits_for_bytes_and_what_is_here_comes_without_them(
    desk: Desk, server: AccountServer
) -> None:
    put_far(desk, server)
    target, process = desk.home / "plain", server.process
    assert process is not None
    # It takes connections and says nothing, as behind a line that was cut.
    process.send_signal(signal.SIGSTOP)
    terminal = Terminal(desk, "export", desk.mount, target)
    try:
        terminal.expect("exporting [")
        wait_until(lambda: (target / "a").exists())
        start = time.monotonic()
        terminal.type("\x03")
        assert terminal.end()[0] == 130
        # Of the 30 s that the mount's process waits for such a server.
        assert time.monotonic() - start < 25
    finally:
        terminal.close()
        process.send_signal(signal.SIGCONT)
    assert os.listdir(target) == ["a"]
    # What the first export asked for comes even though nobody waits for it any more: not after it was evicted.
    wait_until(lambda: is_here(desk, desk.mount / "far"))
    tell(desk, "evict", desk.mount / "far")
    tell(desk, "config", desk.mount, "paused", "on")
    done = desk.run("export", desk.mount, target, "--again")
    assert done.returncode == 22, done.stderr
    assert "/far: sync is paused\n" in done.stderr
    assert "1 file could not be copied; see above, then run it with --again." in done.stderr
    assert sorted(os.listdir(target)) == ["a", "z"]
    tell(desk, "config", desk.mount, "paused", "off")
    assert "2 were there already" in tell(desk, "export", desk.mount, target, "--again")
    assert tree(target).keys() == tree(desk.mount).keys()


def is_here(desk: Desk, file: Path) -> bool:
    """Whether all of a file is in the store once it was read; the store gets it behind the reader."""
    size = len(file.read_bytes())
    return bool(told(desk, "status", file)["here"] == size)


@pytest.mark.long
def test_each_file_does_not_wait_anew_for_a_server_that_is_away(desk: Desk, server: AccountServer) -> None:
    put_far(desk, server)
    tell(desk, "evict", desk.mount)
    server.stop()
    wait_until(lambda: desk.status()["state"] == "offline")
    start = time.monotonic()
    done = desk.run("export", desk.mount, desk.home / "plain")
    assert done.returncode == 22, done.stderr
    assert [line.split("/")[-1].partition(":")[0] for line in done.stderr.splitlines()[:3]] == ["a", "far", "z"]
    assert "/z: its bytes are not here, and the server cannot be reached\n" in done.stderr
    assert time.monotonic() - start < 55
    assert list((desk.home / "plain").iterdir()) == []


def test_what_is_copied_out_of_or_into_a_mount_that_ends_is_not_called_done(desk: Desk) -> None:
    desk.up()
    source = desk.home / "source"
    source.mkdir()
    for number in range(20):
        os.mkfifo(source / f"{number:02}")
    (source / "file").write_bytes(b"in clear nowhere")
    # Named one after the other, on a pipe that takes the first and no more: so the mount ends half-way.
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(4096 - 100))
    importing = subprocess.Popen(
        desk.command("import", source, desk.mount / "in"), env=desk.environment, stderr=writer, stdin=subprocess.DEVNULL
    )
    try:
        os.close(writer)
        wait_until(lambda: (desk.mount / "in").is_dir())
        tell(desk, "umount", desk.mount, "--force")
        with os.fdopen(reader, "rb") as said:
            told = said.read()
        assert importing.wait(PATIENCE_S) == 17, told
    finally:
        importing.kill()
        importing.wait()
    assert b"ended meanwhile; mount it again, then run this again with --again." in told
    assert list(desk.mount.iterdir()) == []


# --- the bar ------------------------------------------------------------------------------------------------------


def test_a_bar_tells_share_rate_and_time_left() -> None:
    bar = Bar("copying", 4 << 20, io.StringIO())
    bar.skip(1 << 20)
    bar.advance(1 << 20)
    line = bar.line(bar.start + 2)
    assert "50 %" in line
    assert "512.0 KiB/s" in line
    assert "4 s left" in line


def test_a_bar_draws_nothing_where_it_could_not_be_taken_back() -> None:
    stream = io.StringIO()
    with Bar("copying", 10, stream) as bar:
        bar.advance(10)
    assert stream.getvalue() == ""


def test_durations_have_two_units() -> None:
    assert [format_time(seconds) for seconds in (-1, 59, 61, 3660)] == ["0 s", "59 s", "1 min 1 s", "1 h 1 min"]


def test_waiting_for_the_server_shows_how_long_it_takes(account: Desk, folder: Path) -> None:
    # So slow that the command is there before the end, however late it starts.
    tell(account, "config", account.mount, "upload-limit", "50K")
    terminal = None
    try:
        (folder / "file").write_bytes(os.urandom(3 << 20))
        terminal = Terminal(account, "sync", account.mount, "--wait", "--timeout", "60")
        terminal.expect("sending [")
        terminal.expect("/s")
        tell(account, "config", account.mount, "upload-limit", "off")
        code, rest = terminal.end()
        assert code == 0, rest
    finally:
        tell(account, "config", account.mount, "upload-limit", "off")
        if terminal is not None:
            terminal.close()


def test_status_names_what_comes_and_what_goes(account: Desk, folder: Path) -> None:
    name = str((folder / "file").relative_to(account.mount))
    # Before there is anything to send: in the time that a command takes to start, all of it could be sent.
    tell(account, "config", account.mount, "upload-limit", "100K")
    try:
        (folder / "file").write_bytes(os.urandom(9 << 20))
        wait_until(lambda: f"  sending {name}: " in tell(account, "status", account.mount))
        tell(account, "config", account.mount, "upload-limit", "off")
        sync(account)
        tell(account, "evict", folder)
        tell(account, "config", account.mount, "download-limit", "100K")
        tell(account, "pin", folder / "file")
        wait_until(lambda: f"  coming  {name}: " in tell(account, "status", account.mount))
    finally:
        tell(account, "config", account.mount, "upload-limit", "off")
        tell(account, "config", account.mount, "download-limit", "off")
        tell(account, "unpin", folder)


# --- completion and manual ------------------------------------------------------------------------------------------


def test_the_completion_for_bash_is_sound_and_completes(account: Desk, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(tell(account, "completion", "bash"))
    code = f'. {script}; COMP_WORDS=(blobfs ver); COMP_CWORD=1; _blobfs; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("versions\n", "")


def test_the_log_is_shown_without_what_a_terminal_obeys(account: Desk) -> None:
    with (account.store / "log").open("a") as log:
        log.write("2026-01-01 00:00:00,000 WARNING blobfs.test: \x1b[2J\n")
    # Not the last line alone: the mount's process writes there, too.
    told = tell(account, "log", account.mount, "-n", "100")
    assert "blobfs.test" in told
    assert "\x1b" not in told


def test_a_second_export_does_not_follow_a_link_that_became_a_folder(account: Desk, folder: Path) -> None:
    outside, target = account.home / "outside", account.home / "linked"
    outside.mkdir()
    (folder / "out").mkdir()
    (folder / "out" / "d").symlink_to(outside)
    tell(account, "export", folder / "out", target)
    # As another device may do between two runs.
    (folder / "out" / "d").unlink()
    (folder / "out" / "d").mkdir()
    (folder / "out" / "d" / "authorized_keys").write_bytes(b"mine now")
    done = account.run("export", folder / "out", target, "--again")
    assert (done.returncode, "is not followed" in done.stderr) == (22, True), done.stderr
    assert list(outside.iterdir()) == []
