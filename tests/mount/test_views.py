"""`/.blobfs/` and the attributes that tell a file's state, through ordinary calls and tools."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import Mounted
from tests.mount.test_files import failure
from tests.mount.test_remote_changes import soon

STATE = "user.blobfs.state"
DOC_ID = "user.blobfs.doc_id"


def doc_id(path: Path) -> str:
    """The id of the document that a file is."""
    return os.getxattr(path, DOC_ID, follow_symlinks=False).decode()


def state(path: Path) -> str:
    """What is known of a file."""
    return os.getxattr(path, STATE).decode()


@pytest.fixture
def views(shared: Mounted) -> Path:
    """The directory of views."""
    return shared.path / ".blobfs"


@pytest.fixture
def text(views: Path, folder: Path) -> Path:
    """The JSON of a file."""
    (folder / "a").write_bytes(b"x")
    return views / "documents" / f"{doc_id(folder / 'a')}.json"


def test_views_are_reachable_and_not_listed(shared: Mounted, views: Path) -> None:
    assert ".blobfs" not in os.listdir(shared.path)
    assert sorted(os.listdir(views)) == ["by-id", "documents"]
    assert views.stat().st_mode == 0o40500
    assert os.path.samefile(views / "documents" / ".." / "..", shared.path)


def test_every_document_is_listed_with_its_text_and_its_place(views: Path, folder: Path) -> None:
    (folder / "a").write_bytes(b"x")
    name = doc_id(folder / "a")
    assert f"{name}.json" in os.listdir(views / "documents")
    assert name in os.listdir(views / "by-id")
    assert "root.json" not in os.listdir(views / "documents")


def test_a_file_is_found_by_its_id_wherever_it_goes(views: Path, folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "a").write_bytes(b"hello")
    link = views / "by-id" / doc_id(folder / "a")
    assert link.read_bytes() == b"hello"
    os.rename(folder / "a", folder / "d" / "b")
    assert link.resolve() == folder / "d" / "b"
    (views / "by-id" / doc_id(folder / "d") / "c").touch()
    assert (folder / "d" / "c").exists()
    (folder / "d" / "b").unlink()
    assert not os.path.lexists(link)
    assert (views / "by-id" / "root").resolve() == views.parent


def test_the_json_of_a_document_is_read_and_written_by_ordinary_tools(text: Path, tmp_path: Path) -> None:
    assert json.loads(text.read_text()) == {}
    text.write_text('{"title": "ä", "tags": [1, 2]}')
    assert json.loads(text.read_text()) == {"title": "ä", "tags": [1, 2]}
    subprocess.run(["bash", "-c", f'echo \'{{"by": "shell"}}\' > {text}'], check=True)
    assert json.loads(text.read_text()) == {"by": "shell"}
    (tmp_path / "new").write_text('{"by": "cp"}')
    subprocess.run(["cp", tmp_path / "new", text], check=True)
    assert subprocess.run(["cat", text], check=True, capture_output=True).stdout == b'{\n  "by": "cp"\n}\n'
    assert text.stat().st_size == len(text.read_bytes())


def test_json_survives_sigkill_once_it_is_closed(mount: Mounted) -> None:
    (mount.path / "a").touch()
    text = mount.path / ".blobfs" / "documents" / f"{doc_id(mount.path / 'a')}.json"
    text.write_text('{"a": 1}')
    mount.stop(signal.SIGKILL)
    mount.start()
    assert json.loads(text.read_text()) == {"a": 1}


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[1]",
        "null",
        "",
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        '{"a": 1} x',
        '{"a": 1e999}',
        "{'a': 1}",
        '{"a": "\\ud800"}',
    ],
)
def test_bad_json_is_refused_and_the_old_is_kept(text: Path, bad: str) -> None:
    text.write_text('{"old": true}')
    before = len('{\n  "old": true\n}\n')
    for end in (os.close, os.fsync):
        assert "EINVAL" in refusals(text, bad.encode(), end)
        assert kept(text, before) == {"old": True}


def kept(text: Path, size: int) -> Any:
    """What it says, once it has this size again: the kernel tells of the last close after it returned.

    Until then whoever opens it has what was refused, and looking into it again and again could keep it open for ever.
    """
    assert soon(lambda: text.stat().st_size == size)
    return json.loads(text.read_text())


def refusals(text: Path, body: bytes, end: Callable[[int], None]) -> list[str]:
    """What is said to a program that replaces a text and ends with `close` or `fsync`."""
    descriptor = os.open(text, os.O_WRONLY | os.O_TRUNC)
    said = [failure(lambda: os.write(descriptor, body)), failure(lambda: end(descriptor))]
    if end is not os.close:
        assert failure(lambda: os.close(descriptor)) == "EINVAL"
    return said


def test_a_text_that_is_too_large_is_refused(text: Path) -> None:
    def write() -> None:
        with open(text, "wb", buffering=0) as file:
            for _ in range(20):
                file.write(b"{" + b" " * (64 << 10))

    assert failure(write) in ("EFBIG", "EINVAL")
    assert kept(text, len("{}\n")) == {}
    assert failure(lambda: os.truncate(text, 0)) == "EINVAL"


def test_writing_in_place_keeps_what_is_not_overwritten(text: Path) -> None:
    text.write_text('{"a": 1}')
    with open(text, "r+") as file:
        body = file.read()
        file.seek(body.index("1"))
        file.write("7")
    assert json.loads(text.read_text()) == {"a": 7}


def test_nothing_can_be_made_moved_or_removed_in_a_view(views: Path, folder: Path, text: Path) -> None:
    top = views.parent
    for call in (
        lambda: (views / "x").touch(),
        lambda: (views / "documents" / "x.json").touch(),
        lambda: (views / "d").mkdir(),
        text.unlink,
        lambda: os.rmdir(views / "documents"),
        lambda: os.rmdir(views),
        lambda: os.rename(views, top / "elsewhere"),
        lambda: os.rename(folder, views),
        lambda: os.rename(text, folder / "b"),
        lambda: os.link(text, folder / "b"),
        lambda: os.chmod(text, 0o644),
        lambda: os.chown(text, 1, 1),
        lambda: os.symlink("a", views / "by-id" / "b"),
    ):
        assert failure(call) in ("EPERM", "ENOTEMPTY")
    assert failure(lambda: os.mkdir(views)) == "EEXIST"
    assert failure(lambda: os.setxattr(text, "user.a", b"b")) == errno.errorcode[errno.EOPNOTSUPP]
    for missing in (views / "x", views / "documents" / "no", views / "documents" / "root.json", views / "by-id" / "no"):
        assert failure(missing.lstat) == "ENOENT"


def test_state_and_id_can_be_asked_but_are_not_listed_or_set(folder: Path) -> None:
    path = folder / "a"
    with open(path, "wb", buffering=0) as file:
        assert state(path) == "LOCAL dirty"
        file.write(b"x")
    assert state(folder) == "NONE dirty"
    assert len(doc_id(path)) == 32
    assert os.listxattr(path) == []
    for name in (STATE, DOC_ID):
        assert failure(lambda name=name: os.setxattr(path, name, b"x")) == "EPERM"
        assert failure(lambda name=name: os.removexattr(path, name)) == "EPERM"
    os.link(path, folder / "a (conflict other 2026-01-02 030405).txt")
    assert state(path) == "LOCAL dirty conflict"


def test_the_text_of_a_document_tells_the_state_of_its_file(folder: Path, text: Path) -> None:
    assert state(text) == state(folder / "a") == "LOCAL dirty"
    assert doc_id(text) == doc_id(folder / "a")
    assert failure(lambda: os.getxattr(text, "user.other")) == "ENODATA"


def test_the_state_follows_what_comes_from_other_devices(mount: Mounted) -> None:
    path = mount.path / "a"
    mount.change_elsewhere("a", b"hello")
    assert soon(path.exists)
    assert state(path) == "LOCAL REMOTE SYNCED"
    with open(path, "r+b", buffering=0) as file:
        file.write(b"j")
        assert state(path) == "LOCAL dirty"
    path.chmod(0o600)
    assert state(path) == "LOCAL dirty"
