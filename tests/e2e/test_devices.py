"""Devices of one account: an invite for each, a list on all, and one that is put out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from blobfs.protocol import MAX_WAIT_S, parse_invite
from tests import administration
from tests.e2e.devices import Device, Server, blobfs, wait_for

MakeDevice = Callable[..., Device]


def listed(device: Device) -> dict[str, Any]:
    """What `device --json` prints."""
    done = blobfs("device", str(device.mount), "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def names(device: Device) -> set[str]:
    return {entry["name"] for entry in listed(device)["devices"]}


def invite(device: Device) -> str:
    done = blobfs("invite", str(device.mount))
    assert done.returncode == 0, done.stderr
    assert "expires" in done.stderr
    return done.stdout.strip()


def rename(device: Device, name: str) -> None:
    done = blobfs("device", str(device.mount), "--rename", name)
    assert done.returncode == 0, done.stderr


def test_a_device_joins_is_named_listed_and_put_out_at_once_and_the_others_go_on(
    server: Server, device: MakeDevice
) -> None:
    left = device("left", server.add_user("alice")["invite"])
    left.up()
    wait_for("the first card", lambda: len(names(left)) == 1)
    rename(left, "desk")
    (left.mount / "file").write_text("shared\n")
    left.sync()
    text = invite(left)
    right = device("right", text)
    right.up()
    assert (right.mount / "file").read_text() == "shared\n"
    wait_for("both cards here", lambda: len(names(left)) == 2)
    rename(right, "phone")
    wait_for("the new names on both", lambda: names(left) == names(right) == {"desk", "phone"})
    this = [entry["name"] for entry in listed(right)["devices"] if entry["this"]]
    assert this == ["phone"]
    assert all(abs(entry["seen"] - time.time()) < 600 for entry in listed(left)["devices"])
    wait_for("a notice", lambda: any("phone" in notice for notice in left.status()["notices"]))
    # The invite is used up: its token is gone, and each device has one of its own.
    wait_for("the invite is gone", lambda: _labels(server) == sorted(["first", *_ids(left)]))
    third = device("third", text)
    done = blobfs(
        "mount", str(third.mount), "--store", str(third.store), "--connect", text,
        "--passphrase-file", str(third.passphrase), "--background",
    )  # fmt: skip
    assert done.returncode == 14, done.stderr

    began = time.monotonic()
    done = blobfs("device", str(left.mount), "--revoke", "phone")
    assert done.returncode == 0, done.stderr
    assert "blobfs passwd" in done.stdout
    wait_for("it is out", lambda: right.status()["state"] == "refused")
    # Told, and not found out with the next question.
    assert time.monotonic() - began < MAX_WAIT_S - 10
    assert "revoked" in right.status()["reason"]
    assert (right.mount / "file").read_text() == "shared\n"
    (right.mount / "later").write_text("only here\n")
    assert {entry["name"]: entry["revoked"] for entry in listed(left)["devices"]} == {"desk": False, "phone": True}
    (left.mount / "more").write_text("goes on\n")
    left.sync()
    assert not (left.mount / "later").exists()

    # Let in again, it brings what it has, and is revoked no more.
    right.down()
    right.invite = invite(left)
    right.up()
    right.sync()
    wait_for("it is back", lambda: (left.mount / "later").exists() and (right.mount / "more").exists())
    wait_for("its card says so", lambda: not any(entry["revoked"] for entry in listed(left)["devices"]))


def _labels(server: Server) -> list[str]:
    return sorted(entry["label"] for entry in administration.answer("token", "list", "alice", "--data", server.data))


def _ids(device: Device) -> list[str]:
    return [entry["id"] for entry in listed(device)["devices"]]


def test_an_invite_nobody_used_is_listed_and_can_be_taken_back(server: Server, device: MakeDevice) -> None:
    left = device("left", server.add_user("alice")["invite"])
    left.up()
    wait_for("the card", lambda: len(names(left)) == 1)
    text = invite(left)
    assert parse_invite(text).token not in blobfs("device", str(left.mount)).stdout
    (entry,) = [entry for entry in listed(left)["access"] if entry["label"] == "invite"]
    assert entry["seen"] is None
    assert 6.9 * 86400 < entry["expires"] - time.time() < 7.1 * 86400
    done = blobfs("device", str(left.mount), "--revoke", str(entry["id"]))
    assert done.returncode == 0, done.stderr
    right = device("right", text)
    done = blobfs(
        "mount", str(right.mount), "--store", str(right.store), "--connect", text,
        "--passphrase-file", str(right.passphrase), "--background",
    )  # fmt: skip
    assert done.returncode == 14, done.stderr
    done = blobfs("device", str(left.mount), "--revoke", "nobody")
    assert done.returncode == 2
    done = blobfs("device", str(left.mount), "--revoke", _ids(left)[0])
    assert done.returncode == 2
