"""Real daemons with kernel mounts before a server that does evil or is restored from a backup."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable

import pytest

from tests.e2e.conftest import device, server
from tests.e2e.devices import Device, Server, blobfs, wait_for
from tests.threats.evil import evil_before, on_blobs

__all__ = ["device", "server"]
MakeDevice = Callable[..., Device]


def test_a_program_gets_eio_or_the_right_bytes_and_status_and_log_say_why(server: Server, device: MakeDevice) -> None:
    invite = server.add_user("alice")
    left = device("left", invite["invite"])
    left.up()
    (left.mount / "file").write_bytes(b"the right bytes" * 10_000)
    (left.mount / "other").write_bytes(b"beside" * 1000)
    left.sync()
    with evil_before(f"http://127.0.0.1:{server.port}") as evil:
        right = device("right", _pointed_at(invite["invite"], evil.url))
        right.up()
        right.sync()
        evil.attack = on_blobs(lambda body: bytes([body[0] ^ 1]) + body[1:])
        for name in ("file", "other"):
            with pytest.raises(OSError, match="Input/output") as caught:
                (right.mount / name).read_bytes()
            assert caught.value.errno == errno.EIO
        status = right.status()
        assert status["state"] == "mounted"
        assert len(status["parked"]) == 2
        assert all("failed authentication" in entry["reason"] for entry in status["parked"])
        log = "".join(path.read_text() for path in right.store.glob("log*"))
        assert "failed authentication" in log
        assert "Traceback" not in log
        evil.attack = None
        assert (right.mount / "file").read_bytes() == b"the right bytes" * 10_000
        (right.mount / "new").write_bytes(b"goes on")
        right.sync()
        right.down()
    assert blobfs("status", str(left.mount)).returncode == 0


def _pointed_at(invite: str, url: str) -> str:
    from blobfs.protocol import pack_invite, parse_invite

    return pack_invite(parse_invite(invite)._replace(url=url))


def test_the_way_back_from_a_restored_backup_loses_nothing(server: Server, device: MakeDevice) -> None:
    left = device("left", server.add_user("alice")["invite"])
    left.up()
    (left.mount / "old").write_bytes(b"old")
    left.sync()
    server.stop()
    shutil.copytree(server.data, server.data.parent / "backup")
    server.start()
    (left.mount / "lost").mkdir()
    (left.mount / "lost" / "file").write_bytes(os.urandom(300_000))
    (left.mount / "old").write_bytes(b"newer")
    left.sync()
    server.stop()
    shutil.rmtree(server.data)
    shutil.move(server.data.parent / "backup", server.data)
    server.start()
    blobfs("sync", str(left.mount))
    wait_for("the loss is noticed", lambda: left.status()["state"] == "rolled-back")
    assert "blobfs recover" in left.status()["reason"]
    done = blobfs("sync", str(left.mount), "--wait", "--timeout", "20")
    assert done.returncode == 20
    assert "restored from a backup" in done.stderr
    (left.mount / "meanwhile").write_bytes(b"local work goes on")
    done = blobfs("recover", str(left.mount))
    assert done.returncode == 0, done.stderr
    left.sync()
    assert left.status()["state"] == "mounted"
    right = device("right", _invite(left))
    right.up()
    right.sync()
    assert sorted(os.listdir(right.mount)) == ["lost", "meanwhile", "old"]
    for path in ("old", "lost/file", "meanwhile"):
        assert (right.mount / path).read_bytes() == (left.mount / path).read_bytes()


def _invite(device: Device) -> str:
    done = blobfs("invite", str(device.mount))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
