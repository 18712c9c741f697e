"""The passphrase in the desktop's keyring, and from systemd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection

from blobfs.config import SECRETS, Source
from blobfs.errors import UsageError
from blobfs.keyring import KeyringEntry
from blobfs.store.secrets import write_secrets
from blobfs.unlock import CREDENTIAL, Unlocked, make_body, unlock
from blobfs.values.keys import FLOOR, new_account
from tests.bus import Bus, Keyring
from tests.door.conftest import Desk


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    bus = Bus(tmp_path / "bus")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus.address)
    yield bus
    bus.close()


@pytest.fixture
def keyring(bus: Bus, tmp_path: Path) -> Iterator[Keyring]:
    keyring = Keyring(bus, tmp_path / "keyring")
    yield keyring
    keyring.close()


def test_a_passphrase_is_kept_given_back_replaced_and_forgotten(keyring: Keyring, tmp_path: Path) -> None:
    entry, other = KeyringEntry(tmp_path / "store"), KeyringEntry(tmp_path / "other")
    assert entry.read() is None
    entry.write("open sesame ä")
    entry.write("open barley ä")
    other.write("another")
    assert entry.read() == "open barley ä"
    for path in keyring.home.rglob("*"):
        assert not path.is_file() or b"open barley" not in path.read_bytes()
    assert entry.forget()
    assert not entry.forget()
    assert entry.read() is None
    assert other.read() == "another"


def test_a_keyring_that_may_keep_secrets_in_the_clear_gets_none(bus: Bus, tmp_path: Path) -> None:
    with open_dbus_connection(bus.address) as plaintext:
        reply = plaintext.send_and_get_reply(message_bus.RequestName("org.freedesktop.secrets"))
        assert reply.body == (1,)
        for deed in (KeyringEntry(tmp_path).read, lambda: KeyringEntry(tmp_path).write("open sesame")):
            with pytest.raises(UsageError, match="none that blobfs knows"):
                deed()


def test_without_a_keyring_it_says_what_to_do(bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="leave --keyring out"):
        KeyringEntry(tmp_path).read()
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS")
    with pytest.raises(UsageError, match="leave --keyring out"):
        KeyringEntry(tmp_path).read()


def test_a_store_is_made_opened_changed_and_locked_with_the_keyring(desk: Desk, bus: Bus, keyring: Keyring) -> None:
    desk.environment = desk.environment | {"DBUS_SESSION_BUS_ADDRESS": bus.address}
    desk.up("--keyring")
    new = desk.home / "new"
    new.write_text("open barley\n")
    assert desk.run("passwd", desk.mount, "--keep-keys", "--keyring", "--new-passphrase-file", new).returncode == 0
    assert desk.run("lock").returncode == 0
    done = desk.run("mount", desk.mount, "--background", "--keyring")
    assert done.returncode == 0, done.stderr
    locked = desk.run("lock", "--forget")
    assert locked.returncode == 0, locked.stderr
    assert "forgotten 1 passphrase." in locked.stdout
    assert not os.path.ismount(desk.mount)
    refused = desk.run("mount", desk.mount, "--background", "--keyring")
    assert (refused.returncode, "no passphrase of this store" in refused.stderr) == (2, True)


def test_a_credential_of_systemd_opens_the_store_and_an_option_comes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlocked = Unlocked(*new_account())
    write_secrets(tmp_path / SECRETS, make_body(unlocked, b"open sesame", FLOOR)[0])
    (tmp_path / "given").write_text("open sesame\n")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    with pytest.raises(UsageError, match="no terminal"):
        unlock(tmp_path, Source(), Source())
    (credentials / CREDENTIAL).write_text("open sesame\n")
    assert unlock(tmp_path, Source(), Source()) == unlocked
    (credentials / CREDENTIAL).write_text("open barley\n")
    assert unlock(tmp_path, Source(file=tmp_path / "given"), Source()) == unlocked


def test_the_unit_names_the_credential_or_the_keyring(desk: Desk) -> None:
    desk.up()
    assert desk.run("umount", desk.mount).returncode == 0
    lines = desk.run("unit", desk.mount, "--credential", desk.home / "sealed").stdout.splitlines()
    assert f"LoadCredentialEncrypted=blobfs.passphrase:{desk.home}/sealed" in lines
    lines = desk.run("unit", desk.mount, "--keyring").stdout.splitlines()
    assert next(line for line in lines if line.startswith("ExecStart=")).endswith(" --keyring")
