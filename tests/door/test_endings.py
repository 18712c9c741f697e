"""Every way in which a mount ends, and what is there afterwards."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.door.conftest import PATIENCE_S, Desk, end, has_ended, read_until, wait_until
from tests.watches import kill_for_good


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order(desk: Desk, number: signal.Signals) -> None:
    process = desk.start(*desk.mount_arguments())
    read_until(process, "end it")
    descriptor = os.open(desk.mount / "note", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"written and not closed")
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    with suppress(OSError):
        # The mount is gone, so this fails; what was written must not depend on it.
        os.close(descriptor)
    assert process.returncode == 0, output
    assert re.search(r"Unmounted .*: .*(on the server|for the server)", output)
    assert not os.path.ismount(desk.mount)
    desk.up()
    assert (desk.mount / "note").read_text() == "written and not closed"


def test_umount_of_the_system_ends_it_in_order(desk: Desk) -> None:
    process = desk.start(*desk.mount_arguments())
    read_until(process, "end it")
    (desk.mount / "note").write_text("kept")
    subprocess.run(["fusermount3", "-u", str(desk.mount)], check=True)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert "Unmounted" in output


def test_umount_ends_it_though_another_mount_namespace_has_a_copy(desk: Desk) -> None:
    desk.up()
    (desk.mount / "note").write_text("kept")
    command = ["unshare", "--map-root-user", "--mount", "--propagation", "private", "sh", "-c", "echo here; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        read_until(holder, "here")
        done = desk.run("umount", desk.mount)
        holder.communicate("\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert "another mount namespace" in (desk.store / "log").read_text()
    desk.up()
    assert (desk.mount / "note").read_text() == "kept"


def test_umount_waits_for_the_process_and_its_server(desk: Desk) -> None:
    desk.up()
    daemon = desk.status()["pid"]
    processes = [os.pidfd_open(pid) for pid in (daemon, *children_of(daemon))]
    assert len(processes) == 2
    try:
        done = desk.run("umount", desk.mount)
        assert done.returncode == 0, done.stderr
        assert all(has_ended(process) for process in processes)
    finally:
        for process in processes:
            os.close(process)


def test_umount_refuses_while_files_are_open_unless_forced(desk: Desk) -> None:
    desk.up()
    descriptor = os.open(desk.mount / "note", os.O_WRONLY | os.O_CREAT)
    refused = desk.run("umount", desk.mount)
    assert refused.returncode == 4
    assert "in use" in refused.stderr
    os.write(descriptor, b"still works")
    forced = desk.run("umount", desk.mount, "--force")
    assert forced.returncode == 0, forced.stderr
    assert not os.path.ismount(desk.mount)
    with suppress(OSError):
        os.close(descriptor)
    desk.up()
    assert (desk.mount / "note").read_text() == "still works"


def test_a_killed_process_leaves_a_mount_that_the_next_run_replaces(desk: Desk) -> None:
    desk.up()
    (desk.mount / "note").write_text("kept")
    daemon = desk.status()["pid"]
    servers = [os.pidfd_open(pid) for pid in children_of(daemon)]
    kill_for_good(daemon)
    wait_until(lambda: all(has_ended(process) for process in servers))
    for process in servers:
        os.close(process)
    assert desk.status()["state"] == "not mounted"
    desk.up()
    assert (desk.mount / "note").read_text() == "kept"


def test_umount_takes_a_dead_mount_away(desk: Desk) -> None:
    desk.up()
    kill_for_good(desk.status()["pid"])
    done = desk.run("umount", desk.mount)
    assert done.returncode == 0, done.stderr
    assert not os.path.ismount(desk.mount)
    assert desk.run("umount", desk.mount).returncode == 17


def test_an_embedded_server_that_dies_is_started_again(desk: Desk) -> None:
    desk.up()
    before = desk.status()
    [server] = children_of(before["pid"])
    end(server)
    wait_until(lambda: bool(set(children_of(before["pid"])) - {server}))
    wait_until(lambda: desk.status()["state"] == "mounted")
    assert desk.status()["server"] == before["server"]


def test_an_embedded_server_whose_port_is_taken_moves(desk: Desk) -> None:
    desk.up()
    before = desk.status()["server"]
    desk.run("umount", desk.mount)
    # Connections of before may not be over for the kernel: without SO_REUSEADDR they would hold the port, too.
    with socket.create_server(("127.0.0.1", int(before.rpartition(":")[2]))):
        desk.up()
        assert desk.status()["server"] != before
        wait_until(lambda: desk.status()["state"] == "mounted")


def test_a_read_only_mount_is_read_and_lets_nothing_be_changed(desk: Desk) -> None:
    desk.up()
    (desk.mount / "file").write_text("before")
    assert desk.run("sync", desk.mount, "--wait").returncode == 0
    (desk.mount / "gone").touch()
    (desk.mount / "gone").unlink()
    assert desk.run("umount", desk.mount).returncode == 0
    desk.up("--read-only")
    assert (desk.mount / "file").read_text() == "before"
    for change in (
        lambda: (desk.mount / "file").write_text("after"),
        lambda: (desk.mount / "other").mkdir(),
        lambda: (desk.mount / "file").unlink(),
        lambda: (desk.mount / "file").chmod(0o600),
        lambda: os.rename(desk.mount / "file", desk.mount / "other"),
        lambda: os.setxattr(desk.mount / "file", "user.tag", b""),
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            change()
    done = desk.run("cp", desk.mount / "file", desk.mount / "copy")
    assert (done.returncode, "without --read-only" in done.stderr) == (22, True)
    assert desk.run("umount", desk.mount).returncode == 0
    desk.up()
    assert os.listdir(desk.mount) == ["file"]
