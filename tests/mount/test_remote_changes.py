"""What other devices change shows in the mount, although the kernel remembers names, attributes and bytes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.mount.conftest import Mounted

SOON_S = 60


def soon(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true before the kernel's own timeouts could be the reason."""
    end = time.monotonic() + SOON_S
    while not condition():
        if time.monotonic() > end:
            return False
        os.sched_yield()
    return True


def test_a_file_made_elsewhere_appears_where_the_kernel_knew_that_there_was_none(mount: Mounted) -> None:
    path = mount.path / "a"
    assert not path.exists()
    mount.change_elsewhere("a", b"hello")
    assert soon(path.exists)
    assert path.read_bytes() == b"hello"
    assert os.listdir(mount.path) == ["a"]


def test_bytes_changed_elsewhere_replace_those_in_the_page_cache(mount: Mounted) -> None:
    path = mount.path / "a"
    for body in (b"first", b"other", b"a longer one", b"s"):
        mount.change_elsewhere("a", body)
        assert soon(lambda body=body: _content(path) == body)
        assert path.stat().st_size == len(body)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def test_a_file_deleted_elsewhere_disappears(mount: Mounted) -> None:
    path = mount.path / "a"
    mount.change_elsewhere("a", b"x" * 5000)
    assert soon(path.exists)
    with open(path, "rb", buffering=0) as file:
        assert file.read(10) == b"x" * 10
        mount.change_elsewhere("a", b"")
        assert soon(lambda: not path.exists())
        assert os.listdir(mount.path) == []
        assert os.pread(file.fileno(), 10, 4995) == b"x" * 5
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_a_file_deleted_elsewhere_comes_back_when_it_is_written_here(mount: Mounted) -> None:
    path = mount.path / "a"
    mount.change_elsewhere("a", b"x" * 5000)
    assert soon(path.exists)
    with open(path, "r+b", buffering=0) as before, open(path, "ab", buffering=0) as after:
        before.write(b"1")
        mount.change_elsewhere("a", b"")
        after.write(b"2")
        os.fsync(after.fileno())
        assert soon(path.exists)
        assert path.samefile(f"/proc/self/fd/{before.fileno()}")
        assert os.fstat(before.fileno()).st_nlink == 1
    mount.stop(signal.SIGKILL)
    mount.start("--allow-other")
    assert path.read_bytes() == b"1" + b"x" * 4999 + b"2"


def test_du_counts_bytes_once_they_were_fetched(mount: Mounted) -> None:
    path = mount.path / "a"
    path.write_bytes(os.urandom(600_000))
    body = path.read_bytes()
    mount.evict()
    assert mount.stop() == 0
    mount.start("--allow-other")
    assert (path.stat().st_size, path.stat().st_blocks) == (600_000, 0)
    assert path.read_bytes() == body
    assert soon(lambda: path.stat().st_blocks * 512 >= 600_000)


def test_du_counts_bytes_no_more_once_they_were_evicted(mount: Mounted) -> None:
    path = mount.path / "a"
    path.write_bytes(os.urandom(600_000))
    assert path.stat().st_blocks * 512 >= 600_000
    mount.evict()
    assert soon(lambda: path.stat().st_blocks == 0)
    assert path.stat().st_size == 600_000
