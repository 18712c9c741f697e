"""Whole trees in and out: `import`, `export`."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

from blobfs.commands.screen import Bar, format_time
from tests.door.conftest import Desk, sync, tell
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
    tell(account, "config", account.mount, "upload-limit", "500K")
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
    told = tell(account, "log", account.mount, "-n", "1")
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
