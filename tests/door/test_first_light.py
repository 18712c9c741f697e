"""The thread that everything hangs on: mount, write, sync, a second device, the same bytes."""

from __future__ import annotations

import os

from tests.door.conftest import AccountServer, Desk, wait_until


def join(desk: Desk, invite: str) -> None:
    done = desk.run(
        "mount", desk.home / "other", "--store", desk.home / "second", "--passphrase-file", desk.passphrase,
        "--background", "--connect", invite,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def sees_the_same(desk: Desk, invite: str) -> None:
    content = os.urandom(300_000)
    (desk.mount / "folder").mkdir()
    (desk.mount / "folder" / "file").write_bytes(content)
    done = desk.run("sync", desk.mount, "--wait", "--timeout", "60")
    assert (done.returncode, done.stdout) == (0, "everything is on the server\n"), done.stderr
    assert desk.status()["pending"] == {"documents": 0, "bytes": 0}
    join(desk, invite)
    there = desk.home / "other" / "folder" / "file"
    wait_until(there.exists)
    assert there.read_bytes() == content


def test_a_second_device_of_an_embedded_server_sees_the_same(desk: Desk) -> None:
    desk.up()
    sees_the_same(desk, desk.run("invite", desk.mount).stdout.strip())


def test_a_second_device_of_a_server_of_its_own_sees_the_same(desk: Desk, server: AccountServer) -> None:
    invite = server.command("user", "add", "alice")["invite"]
    desk.up("--connect", invite)
    sees_the_same(desk, invite)
