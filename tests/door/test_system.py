"""A mount that starts with the machine: systemd's unit and its handshake, mount(8)'s helper."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.commands.system import _quote, from_mount
from blobfs.errors import UsageError
from blobfs.fs.mountpoint import is_automount
from tests.door.conftest import PATIENCE_S, ROOT, Desk, end, read_until, wait_until


@pytest.fixture
def made(desk: Desk) -> Desk:
    """A desk whose store had its first run."""
    desk.up()
    assert desk.run("umount", desk.mount).returncode == 0
    return desk


def test_a_first_run_is_none_of_a_services(desk: Desk) -> None:
    done = desk.run("unit", desk.mount, "--store", desk.store)
    assert (done.returncode, "on a terminal first" in done.stderr) == (6, True)


def test_the_unit_is_one_that_systemd_takes(made: Desk) -> None:
    desk = made
    point = desk.home / "my 100% $private"
    done = desk.run("unit", point, "--store", desk.store, "--passphrase-file", desk.passphrase)
    assert done.returncode == 0, done.stderr
    assert "my 100%% $$private" in done.stdout
    unit = desk.home / "private.service"
    unit.write_text(done.stdout)
    verify = shutil.which("systemd-analyze")
    if verify is not None:
        checked = subprocess.run(
            [verify, "verify", "--man=no", str(unit)], capture_output=True, text=True, env=desk.environment, check=False
        )
        assert [line for line in checked.stderr.splitlines() if "private.service" in line] == []


def test_a_credential_of_systemd_stays_a_specifier(made: Desk) -> None:
    done = made.run("unit", made.mount, "--passphrase-file", "%d/passphrase")
    assert "--passphrase-file %d/passphrase\n" in done.stdout


def test_a_service_manager_is_told_when_the_folder_is_mounted(desk: Desk) -> None:
    path = desk.home / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(os.fspath(path))
        manager.settimeout(PATIENCE_S)
        desk.environment["NOTIFY_SOCKET"] = os.fspath(path)
        process = desk.start(*desk.mount_arguments())
        assert manager.recv(100) == b"READY=1"
    assert os.path.ismount(desk.mount)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    assert not os.path.ismount(desk.mount)


def test_a_killed_mount_is_back_by_itself_under_a_service_manager(made: Desk) -> None:
    """As systemd does it with the unit: started again whenever it ends with a failure, whatever is left behind."""
    desk = made
    text = desk.run("unit", desk.mount, "--store", desk.store, "--passphrase-file", desk.passphrase).stdout
    assert "Restart=on-failure" in text
    command = shlex.split(next(line for line in text.splitlines() if line.startswith("ExecStart=")).partition("=")[2])
    loop = 'until "$@"; do echo again; done'
    with subprocess.Popen(
        ["sh", "-c", loop, "sh", *command], stdout=subprocess.PIPE, text=True, env=desk.environment, cwd="/"
    ) as manager:
        try:
            read_until(manager, "Mounted")
            (desk.mount / "file").write_text("kept")
            former = desk.status()["pid"]
            # A program keeps a file open over it; only that handle is lost.
            held = os.open(desk.mount / "file", os.O_RDONLY)
            end(former)
            read_until(manager, "Mounted")
            assert (desk.mount / "file").read_text() == "kept"
            with pytest.raises(OSError, match="not connected"):
                os.close(held)
            assert desk.status()["pid"] != former
            end(desk.status()["pid"], signal.SIGTERM)
            assert manager.wait(PATIENCE_S) == 0
        finally:
            manager.kill()


def _helper(desk: Desk) -> Path:
    helper = desk.home / "mount.blobfs"
    helper.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from blobfs.cli import main\nsys.exit(main())\n"
    )
    helper.chmod(0o755)
    return helper


def test_mount_calls_it_as_its_helper(made: Desk) -> None:
    desk = made
    helper = _helper(desk)
    options = f"rw,noauto,x-systemd.automount,passphrase_file={desk.passphrase}"
    argv = [str(helper), str(desk.store), str(desk.mount), "-o", options]
    done = subprocess.run(argv, env=desk.environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert os.path.ismount(desk.mount)
    subprocess.run(["umount", str(desk.mount)], check=True)
    refused = subprocess.run([*argv[:-1], "bind"], env=desk.environment, capture_output=True, text=True, check=False)
    assert (refused.returncode, "no mount option bind" in refused.stderr) == (2, True)


if os.geteuid() == 0 and "autofs" in Path("/proc/filesystems").read_text().split():  # Only root can make an automount.

    def test_an_automount_of_systemd_lets_the_helper_through(made: Desk) -> None:
        desk = made
        with _waiting(desk.mount):
            argv = [str(_helper(desk)), str(desk.store), str(desk.mount), "-o", f"passphrase_file={desk.passphrase}"]

            def mount() -> None:
                done = subprocess.run(
                    argv, env=desk.environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
                )
                assert done.returncode == 0, done.stderr

            mount()
            (desk.mount / "file").write_text("through")
            pid = desk.status()["pid"]
            assert os.getsid(pid) == pid, "what ends the process group that mounts would end the folder"
            # Dead, it is only taken away: systemd mounts again for whoever enters next.
            end(pid)
            wait_until(lambda: is_automount(desk.mount))
            mount()
            assert (desk.mount / "file").read_text() == "through"
            assert desk.run("umount", desk.mount).returncode == 0
            assert is_automount(desk.mount)

    @contextlib.contextmanager
    def _waiting(point: Path) -> Iterator[None]:
        """`point` as systemd's automount has it, waiting for this process group; nobody else may enter meanwhile."""
        libc = ctypes.CDLL(None, use_errno=True)
        reading, writing = os.pipe()
        try:
            options = f"fd={writing},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct".encode()
            point.mkdir(exist_ok=True)
            assert libc.mount(b"automount", os.fsencode(point), b"autofs", 0, options) == 0, os.strerror(
                ctypes.get_errno()
            )
            try:
                assert is_automount(point)
                yield
            finally:
                while os.path.ismount(point):
                    assert libc.umount2(os.fsencode(point), 2) == 0  # MNT_DETACH
        finally:
            os.close(reading)
            os.close(writing)


def test_options_of_mount_become_those_of_blobfs(made: Desk) -> None:
    store, mount = str(made.store), str(made.mount)
    told = from_mount([store, mount, "-s", "-o", "defaults,allow_other,ro"])
    assert told == ["mount", mount, "--background", "--store", store, "--allow-other", "--read-only"]


def test_nobody_becomes_a_user_who_is_not_there() -> None:
    with pytest.raises(UsageError):
        from_mount(["none", "/m", "-o", "runas=nobody-of-this-name"])


@pytest.mark.parametrize(
    ("word", "quoted"), [("a", "a"), ("a b", '"a b"'), ('a"b', '"a\\"b"'), ("50%", "50%%"), ("$HOME", "$$HOME")]
)
def test_words_of_a_unit_mean_themselves(word: str, quoted: str) -> None:
    assert _quote(word) == quoted
