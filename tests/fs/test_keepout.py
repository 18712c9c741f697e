"""Programs on the list are told apart by what the kernel calls them, and turned away only where bytes are absent."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from blobfs.errors import KeptOut
from blobfs.fs.filesystem import FileSystem
from blobfs.fs.keepout import LOG_S, KeepOut, names_of
from blobfs.values.nodes import ROOT_INODE
from tests.fs.conftest import Remote


@contextmanager
def running(program: Path) -> Iterator[int]:
    """A process of this name, which waits; its id."""
    if not program.exists():
        shutil.copy("/bin/cat", program)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # It answers, so the kernel knows it by its own name.
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.read(1)
        yield process.pid
        process.stdin.close()


@pytest.mark.parametrize("name", ["tumblerd", "evince-thumbnailer", "tracker-extract-3", "localsearch-extractor-3"])
def test_thumbnailers_and_indexers_are_on_the_list(name: str, tmp_path: Path) -> None:
    with running(tmp_path / name) as pid:
        assert KeepOut().turns_away(pid)
    assert not KeepOut().turns_away(pid)


def test_a_program_is_known_by_its_file_when_its_process_has_another_name(tmp_path: Path) -> None:
    with running(tmp_path / "tumblerd"):
        (tmp_path / "pool-1").symlink_to("tumblerd")
        with running(tmp_path / "pool-1") as pid:
            assert names_of(pid) == ["pool-1", "tumblerd"]
            assert KeepOut().turns_away(pid)


def test_a_script_is_known_by_its_name_though_the_kernel_cuts_that(tmp_path: Path) -> None:
    script = tmp_path / "an-indexer-with-a-long-name"
    script.write_text("#!/bin/sh\nwhile read -r line; do echo; done\n")
    script.chmod(0o700)
    keep_out = KeepOut()
    with running(script) as pid:
        assert names_of(pid)[0] == "an-indexer-with"
        assert not keep_out.turns_away(pid)
        keep_out.patterns = ["an-indexer-with-a-long-name"]
        assert keep_out.turns_away(pid)


def test_whoever_is_not_on_the_list_or_cannot_be_seen_is_let_in() -> None:
    keep_out = KeepOut()
    assert not any(keep_out.turns_away(pid) for pid in (os.getpid(), 0, -1, (1 << 22) + 1))
    keep_out.patterns = ["*"]
    assert keep_out.turns_away(os.getpid())
    assert not keep_out.turns_away(0)
    keep_out.patterns = []
    assert not keep_out.turns_away(os.getpid())


def test_the_log_names_a_program_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    keep_out = KeepOut(lambda: now[0])
    keep_out.patterns = ["*"]
    caplog.set_level("INFO")
    for now[0] in (0.0, 1.0, LOG_S - 1, LOG_S):
        assert keep_out.turns_away(os.getpid())
    assert [record.getMessage().count("keep-out") for record in caplog.records] == [1, 1]


def test_only_bytes_that_are_not_here_are_refused(fs: FileSystem, remote: Remote) -> None:
    remote.put(b"far", b"x" * 1000)
    remote.put(b"empty", b"", doc_id="nothing")
    fs.keep_out.patterns = ["*"]
    with pytest.raises(KeptOut):
        fs.admit(fs.lookup(ROOT_INODE, b"far").inode, os.getpid())
    fs.admit(fs.lookup(ROOT_INODE, b"far").inode, 0)
    fs.admit(fs.lookup(ROOT_INODE, b"empty").inode, os.getpid())
    near = fs.create(ROOT_INODE, b"near", 0o644, 0, 0).inode
    fs.admit(near, os.getpid())


def test_a_file_that_is_mostly_holes_is_whole(fs: FileSystem, remote: Remote) -> None:
    async def run() -> None:
        inode = fs.create(ROOT_INODE, b"sparse", 0o644, 0, 0).inode
        await fs.write(inode, 50 << 20, b"end")
        await fs.flush(inode)
        fs.keep_out.patterns = ["*"]
        fs.admit(inode, os.getpid())
        await fs.release(inode)

    trio.run(run)
    assert remote.fetches == []


def test_nobody_who_opens_files_for_people_is_on_the_list(tmp_path: Path) -> None:
    for name in ("cat", "nautilus", "thunar", "dolphin", "rsync", "vim", "python3", "evince", "totem", "git"):
        with running(tmp_path / name) as pid:
            assert not KeepOut().turns_away(pid)
