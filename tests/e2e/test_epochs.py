"""The passphrase is changed on one device: what that does to the other one, and to whoever has an old copy."""

from __future__ import annotations

import base64
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.devices import PASSPHRASE, Device, Server, blobfs, tree, wait_for, wait_for_version
from tests.formats import reader

MakeDevice = Callable[..., Device]
NEW = "another horse and another battery"


def change(device: Device, *more: str) -> str:
    """Change the passphrase of a device that is down; the new recovery words."""
    new = device.passphrase.with_suffix(".new")
    new.write_text(NEW + "\n")
    done = blobfs(
        "passwd",
        *("--store", str(device.store), "--passphrase-file", str(device.passphrase)),
        *("--new-passphrase-file", str(new), "--guess-time", "0", *more),
    )
    assert done.returncode == 0, done.stderr
    device.passphrase.write_text(NEW + "\n")
    return " ".join(re.findall(r"[0-9]\. ([a-z]+)", done.stdout))


def documents(server: Server) -> list[dict[str, object]]:
    """What the feed would answer."""
    connection = sqlite3.connect(server.data / "catalog.db")
    try:
        rows = connection.execute("SELECT doc_id, revision, deleted, payload FROM documents").fetchall()
    finally:
        connection.close()
    return [
        {"doc_id": row[0], "revision": row[1], "deleted": bool(row[2]), "payload": base64.b64encode(row[3]).decode()}
        for row in rows
    ]


def test_another_device_waits_for_the_new_passphrase_and_then_nothing_is_missing(
    server: Server, device: MakeDevice
) -> None:
    invite = server.add_user("alice")["invite"]
    left, right = device("left", invite), device("right", invite)
    left.up()
    (left.mount / "before").write_bytes(b"written before" * 10_000)
    left.sync()
    right.up()
    wait_for("the file is visible", (right.mount / "before").exists)
    left.down()
    change(left)
    left.up()
    (left.mount / "after").write_bytes(b"written after")
    with open(left.mount / "before", "ab") as file:
        file.write(b", and more")
    left.sync()
    wait_for("it waits for the new keys", lambda: right.status()["state"] == "keys-changed")
    assert "mount again with the new passphrase" in right.status()["reason"]
    assert right.status()["parked"] == []
    assert not (right.mount / "after").exists()
    (right.mount / "meanwhile").write_bytes(b"written while it waited")
    right.down()
    right.up()  # offline, or with the old passphrase, the store opens as before
    wait_for("it waits again", lambda: right.status()["state"] == "keys-changed")
    assert (right.mount / "meanwhile").read_bytes() == b"written while it waited"
    right.down()
    right.passphrase.write_text(NEW + "\n")
    right.up()
    right.sync()
    left.sync()
    wait_for("both are the same", lambda: tree(left.mount) == tree(right.mount))
    assert (right.mount / "before").read_bytes() == b"written before" * 10_000 + b", and more"
    assert {path.name for path in right.mount.iterdir()} == {"before", "after", "meanwhile"}
    (right.mount / "after").write_bytes(b"edited on the right")
    right.sync()
    wait_for_version(left.mount / "after", right.mount / "after")
    assert (left.mount / "after").read_bytes() == b"edited on the right"
    right.down()
    right.passphrase.write_text(PASSPHRASE + "\n")
    with pytest.raises(AssertionError, match="does not open this store"):
        right.up()


def test_a_device_that_was_not_mounted_takes_the_new_keys_with_an_invite(server: Server, device: MakeDevice) -> None:
    invite = server.add_user("alice")["invite"]
    left, right, third = device("left", invite), device("right", invite), device("third", invite)
    left.up()
    right.up()
    (left.mount / "file").write_bytes(b"one")
    left.sync()
    wait_for("the file is visible", (right.mount / "file").exists)
    right.down()
    left.down()
    change(left)
    left.up()
    (left.mount / "file").write_bytes(b"two")
    left.sync()
    right.passphrase.write_text(NEW + "\n")
    right.up()
    third.passphrase.write_text(NEW + "\n")
    third.up()
    for other in (right, third):
        wait_for_version(other.mount / "file", left.mount / "file")
        assert (other.mount / "file").read_bytes() == b"two"


def test_the_old_passphrase_and_an_old_copy_open_nothing_that_was_written_since(
    server: Server, device: MakeDevice, tmp_path: Path
) -> None:
    left = device("left", server.add_user("alice")["invite"])
    left.up()
    (left.mount / "old").write_bytes(b"of the first epoch")
    (left.mount / "edited").write_bytes(b"of the first epoch, too")
    left.sync()
    left.down()
    copy = shutil.copytree(left.store, tmp_path / "copy")
    words = change(left)
    left.up()
    (left.mount / "edited").write_bytes(b"of the second epoch")
    (left.mount / "new").write_bytes(b"of the second epoch, all of it")
    left.sync()
    left.down()
    blobs = server.data / "blobs" / "alice" / "default"
    before = reader.unlock((copy / "secrets.json").read_bytes(), passphrase=PASSPHRASE)
    opened, refused = [], []
    for item in documents(server):
        try:
            opened += reader.read_tree(before, blobs, [item]).keys()
        except reader.Refused:
            refused.append(item["doc_id"])
    # The hidden directory is as old as the account. What is in it, one at a time, is read without a place.
    named = sorted(name for name in opened if not name.startswith(b"lost ("))
    assert (named, len(refused)) == ([b".blobfs", b"old"], 2)
    readable = [path for path in blobs.rglob("*") if path.is_file() and _opens(before, path)]
    assert sorted(len(path.read_bytes()) - 32 for path in readable) == [18, 23]
    for name in ("documents.db", "blobs.db"):
        (copy / name).write_bytes((left.store / name).read_bytes())
    stolen = device("stolen")
    shutil.copytree(copy, stolen.store)
    with pytest.raises(AssertionError, match="cannot be read with this store's key"):
        stolen.up()
    with pytest.raises(reader.Refused):
        reader.unlock((left.store / "secrets.json").read_bytes(), passphrase=PASSPHRASE)
    after = reader.unlock((left.store / "secrets.json").read_bytes(), words=words)
    found = reader.read_tree(after, blobs, documents(server))
    shown = {name: entry for name, entry in found.items() if not name.startswith(b".blobfs")}
    assert {name: entry.content() for name, entry in shown.items()} == {
        b"old": b"of the first epoch",
        b"edited": b"of the second epoch",
        b"new": b"of the second epoch, all of it",
    }


def test_without_the_server_the_keys_stay_and_the_passphrase_alone_can_change(
    server: Server, device: MakeDevice
) -> None:
    left = device("left", server.add_user("alice")["invite"])
    left.up()
    left.sync()
    left.down()
    server.stop()
    before = {path.name: path.read_bytes() for path in left.store.glob("secrets*")}
    with pytest.raises(AssertionError, match="only be changed while the server answers"):
        change(left)
    assert {path.name: path.read_bytes() for path in left.store.glob("secrets*")} == before
    assert change(left, "--keep-keys") == ""
    left.up()


def _opens(account: reader.Account, path: Path) -> bool:
    stored = path.read_bytes()
    try:
        reader.Blobs(account, path.parents[1]).open(path.name, int.from_bytes(stored[8:16], "big"), stored)
    except reader.Refused:
        return False
    return True
