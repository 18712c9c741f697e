"""What senders leave, from the command to the file: a real server, mounts, and a sender who has an address only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.devices import Device, Server, blobfs, wait_for


@pytest.fixture
def device(tmp_path: Path, server: Server) -> Iterator[Device]:
    """A mounted device."""
    made = Device(tmp_path, "one", server.add_user("user")["invite"])
    made.up()
    yield made
    made.close()


def send(tmp_path: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """As a sender, who has no store and no account."""
    home = tmp_path / "sender"
    home.mkdir(exist_ok=True)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "BLOBFS"))}
    return blobfs("drop", *argv, env=plain | {"HOME": str(home)})


def test_a_file_that_a_sender_leaves_is_in_the_mount_soon(device: Device, tmp_path: Path) -> None:
    address = blobfs("drop-address", str(device.mount), "--days", "1")
    assert address.returncode == 0, address.stderr
    assert address.stdout.startswith("blobfsdrop1:")
    assert ": a drop address, never used" in blobfs("device", str(device.mount)).stdout
    (tmp_path / "address").write_text(address.stdout)
    data = os.urandom(300_000)
    (tmp_path / "report.pdf").write_bytes(data)
    hostile = tmp_path / "a\x1b[2J\u202e\n.txt"
    hostile.write_bytes(b"its name is what a terminal would obey")
    sent = send(tmp_path, str(tmp_path / "report.pdf"), str(hostile), "--to", f"@{tmp_path / 'address'}")
    assert (sent.returncode, sent.stdout) == (0, "left report.pdf\nleft a\ufffd[2J\ufffd\ufffd.txt\n"), sent.stderr
    assert blobfs("sync", str(device.mount)).returncode == 0
    wait_for("the file", lambda: (device.mount / "Incoming" / "report.pdf").exists())
    assert (device.mount / "Incoming" / "report.pdf").read_bytes() == data


def test_a_sender_is_told_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    refused = send(tmp_path, str(tmp_path / "file"), "--to", "blobfsdrop1:eyJ")
    assert (refused.returncode, "copy all of it" in refused.stderr) == (2, True)
    refused = send(tmp_path, str(tmp_path / "file"), "--to", f"@{tmp_path / 'none'}")
    assert (refused.returncode, "cannot be read" in refused.stderr) == (2, True)
