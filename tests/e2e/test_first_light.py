"""One file from the mount to the server and back on a second device, and what must survive on the way."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e.devices import DEADLINE_S, Device, Server, contents, tree, wait_for, wait_for_version

MakeDevice = Callable[..., Device]


def test_a_file_arrives_on_the_second_device_and_its_edit_comes_back(server: Server, device: MakeDevice) -> None:
    invite = server.add_user("alice")["invite"]
    left, right = device("left", invite), device("right", invite)
    left.up()
    (left.mount / "hello.txt").write_text("hello from the left\n")
    left.sync()
    right.up()
    wait_for("the file is visible", (right.mount / "hello.txt").exists)
    assert (right.mount / "hello.txt").read_text() == "hello from the left\n"
    with open(right.mount / "hello.txt", "a") as file:
        file.write("and from the right\n")
    wait_for_version(left.mount / "hello.txt", right.mount / "hello.txt")
    assert (left.mount / "hello.txt").read_text() == "hello from the left\nand from the right\n"


def test_what_is_written_into_a_file_while_the_other_device_deletes_it_is_on_both(
    server: Server, device: MakeDevice
) -> None:
    invite = server.add_user("alice")["invite"]
    left, right = device("left", invite), device("right", invite)
    left.up()
    body = bytearray(os.urandom(9 << 20))
    (left.mount / "outer" / "inner").mkdir(parents=True)
    (left.mount / "outer" / "inner" / "large").write_bytes(body)
    left.sync()
    right.up()
    wait_for("the file is visible", (right.mount / "outer" / "inner" / "large").exists)
    with open(right.mount / "outer" / "inner" / "large", "r+b", buffering=0) as file:
        shutil.rmtree(left.mount / "outer")
        wait_for("the folder is gone", lambda: not (right.mount / "outer").exists())
        os.pwrite(file.fileno(), b"written later", 5 << 20)
    body[5 << 20 : (5 << 20) + 13] = b"written later"
    assert (right.mount / "outer" / "inner" / "large").read_bytes() == body
    wait_for("it is back", (left.mount / "outer" / "inner" / "large").exists)
    assert (left.mount / "outer" / "inner" / "large").read_bytes() == body


def test_reading_a_little_of_a_large_file_moves_little(server: Server, device: MakeDevice) -> None:
    invite = server.add_user("alice")["invite"]
    left, right = device("left", invite), device("right", invite)
    left.up()
    content = random.Random(1).randbytes(64 << 20)
    (left.mount / "large").write_bytes(content)
    left.sync(120)
    right.up()
    wait_for("the file is visible", (right.mount / "large").exists)
    assert (right.mount / "large").stat().st_size == len(content)
    with open(right.mount / "large", "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(file.fileno(), 4096, 40 << 20) == content[40 << 20 :][:4096]
    assert (right.mount / "large").stat().st_blocks * 512 < 1 << 20


@contextmanager
def unpacking(source: Path, target: Path) -> Iterator[tuple[subprocess.Popen[bytes], threading.Event]]:
    """A tar that copies a tree: one half, and the other once the event is set, so that it cannot be done before."""
    packed = subprocess.run(["tar", "-c", "-C", str(source), "."], check=True, capture_output=True).stdout
    half, rest = len(packed) // 2, threading.Event()
    command = ["tar", "-x", "-C", str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:

        def feed() -> None:
            assert program.stdin is not None
            with suppress(BrokenPipeError), program.stdin:
                program.stdin.write(packed[:half])
                program.stdin.flush()
                rest.wait()
                program.stdin.write(packed[half:])

        feeding = threading.Thread(target=feed)
        feeding.start()
        try:
            yield program, rest
        finally:
            program.kill()
            rest.set()
            feeding.join()


def test_a_source_tree_survives_a_kill_in_the_middle_and_is_the_same_on_both(
    server: Server, device: MakeDevice, tmp_path: Path
) -> None:
    invite = server.add_user("alice")["invite"]
    left, right = device("left", invite), device("right", invite)
    source = tmp_path / "source"
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    source.mkdir()
    for part in ("email", "json", "asyncio", "unittest", "xml", "encodings"):
        subprocess.run(["cp", "-a", str(stdlib / part), str(source / part)], check=True)
    left.up()
    copy = ["cp", "-a", str(source), str(left.mount / "tree")]
    (left.mount / "tree").mkdir()
    daemon = left.pid()
    with unpacking(source, left.mount / "tree") as (program, rest):
        wait_for("a part is copied", lambda: sum(path.is_file() for path in left.mount.rglob("*")) >= 60)
        left.kill(daemon)
        rest.set()
        assert program.wait(DEADLINE_S) != 0
    left.up()
    whole = contents(source)
    wrong = [name for name, content in contents(left.mount / "tree").items() if whole[name] != content]
    # Only the file that tar had open when the daemon died may be less than whole.
    assert len(wrong) <= 1
    assert len(contents(left.mount / "tree")) >= 60
    subprocess.run(["rm", "-rf", str(left.mount / "tree")], check=True)
    subprocess.run(copy, check=True)
    left.kill()
    left.up()
    assert tree(left.mount / "tree") == tree(source)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-C", str(left.mount / "tree")]
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "everything"], ["fsck", "--no-progress"]):
        subprocess.run(git + step, check=True, capture_output=True)
    left.sync(180)
    right.up()
    right.sync(180)
    wait_for("the tree is the same", lambda: (right.mount / "tree" / ".git" / "HEAD").exists(), 120)
    assert tree(right.mount / "tree") == tree(left.mount / "tree")


def test_what_was_written_while_the_server_was_away_arrives_later(server: Server, device: MakeDevice) -> None:
    invite = server.add_user("alice")["invite"]
    left, right = device("left", invite), device("right", invite)
    left.up()
    right.up()
    server.stop(signal.SIGKILL)
    (left.mount / "offline").write_text("written alone")
    assert (left.mount / "offline").read_text() == "written alone"
    server.start()
    left.sync()
    wait_for("the file is visible", (right.mount / "offline").exists)
    assert (right.mount / "offline").read_text() == "written alone"


def test_everything_closed_before_a_kill_is_sent_after_it(server: Server, device: MakeDevice) -> None:
    invite = server.add_user("alice")["invite"]
    left, right = device("left", invite), device("right", invite)
    left.up()
    contents = {f"file{number}": os.urandom(100_000) for number in range(30)}
    for name, content in contents.items():
        (left.mount / name).write_bytes(content)
    left.kill()
    left.up()
    left.sync()
    right.up()
    right.sync()
    wait_for("all files are visible", lambda: set(os.listdir(right.mount)) == set(contents))
    assert {name: (right.mount / name).read_bytes() for name in contents} == contents


def test_no_name_and_no_content_stands_in_any_file_of_store_or_server(
    server: Server, device: MakeDevice, tmp_path: Path
) -> None:
    left = device("left", server.add_user("alice")["invite"])
    left.up()
    planted = b"planted-canary-0123456789"
    (left.mount / planted.decode()).write_bytes(planted * 1000)
    os.setxattr(left.mount / planted.decode(), "user.note", planted)
    os.symlink(planted, left.mount / "link")
    left.sync()
    (left.mount / ("unsent-" + planted.decode())).write_bytes(planted * 40_000)
    left.kill()
    server.stop(signal.SIGKILL)
    files = [path for root in (left.store, server.data) for path in root.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if planted in path.read_bytes() or planted in path.name.encode()] == []
