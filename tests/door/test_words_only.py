"""A server that keeps nothing at which a passphrase could be guessed: new devices join with the recovery words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from blobfs.account import fetch_secrets
from blobfs.firstrun import read_invite
from blobfs.store.secrets import read_secrets
from blobfs.values.keys import has_passphrase
from tests.door.conftest import AccountServer, Desk, wait_until


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Desk]:
    """A second device."""
    (tmp_path / "second").mkdir()
    desk = Desk(tmp_path / "second")
    yield desk
    desk.close()


def at_server(invite: str) -> bool:
    """Whether the passphrase opens what the server has."""
    body = trio.run(fetch_secrets, read_invite(invite))
    assert body is not None
    return has_passphrase(body)


def words_in(output: str) -> str:
    """The recovery words that a command showed."""
    words = re.findall(r"\d\. (\w+)", output)
    assert len(words) == 24
    return " ".join(words)


def test_an_account_keeps_its_passphrase_from_the_server_and_devices_join_with_the_words(
    desk: Desk, other: Desk, server: AccountServer
) -> None:
    invite = server.command("user", "add", "alice")["invite"]
    first = desk.run(*desk.mount_arguments("--background", "--connect", invite, "--no-passphrase-at-server"))
    assert first.returncode == 0, first.stderr
    words = words_in(first.stdout)
    (desk.mount / "letter").write_text("for both")
    assert desk.run("sync", desk.mount, "--wait").returncode == 0
    assert not at_server(invite)
    assert has_passphrase(read_secrets(desk.store / "secrets.json"))

    join = other.mount_arguments("--background", "--connect", invite)
    refused = other.run(*join)
    assert refused.returncode == 2
    assert "--recovery-file" in refused.stderr
    (other.home / "words").write_text(words)
    joined = other.run(*join, "--recovery-file", other.home / "words")
    assert joined.returncode == 0, joined.stderr
    assert (other.mount / "letter").read_text() == "for both"
    assert other.run("sync", other.mount, "--wait").returncode == 0
    assert not at_server(invite)
    assert other.run("umount", other.mount).returncode == 0
    other.up()
    assert (other.mount / "letter").read_text() == "for both"


def test_the_option_takes_the_passphrase_away_from_the_server_and_gives_it_back(
    desk: Desk, server: AccountServer
) -> None:
    invite = server.command("user", "add", "alice")["invite"]
    desk.up("--connect", invite)
    assert at_server(invite)
    for value, is_there in (("off", False), ("on", True)):
        assert desk.run("config", desk.mount, "passphrase-at-server", value).returncode == 0
        wait_until(lambda is_there=is_there: at_server(invite) is is_there)  # type: ignore[misc]


def test_after_a_change_of_keys_the_others_need_the_new_words_and_set_a_passphrase(
    desk: Desk, other: Desk, server: AccountServer
) -> None:
    invite = server.command("user", "add", "alice")["invite"]
    words, new = other.home / "words", desk.home / "new"
    first = desk.run(*desk.mount_arguments("--background", "--connect", invite, "--no-passphrase-at-server"))
    words.write_text(words_in(first.stdout))
    other.up("--connect", invite, "--recovery-file", words)
    for each in (desk, other):
        assert each.run("umount", each.mount).returncode == 0
    new.write_text("open barley\n")
    change = ("--passphrase-file", desk.passphrase, "--new-passphrase-file", new)
    done = desk.run("passwd", "--store", desk.store, *change)
    assert done.returncode == 0, done.stderr
    assert not at_server(invite)

    words.write_text(words_in(done.stdout))
    other.up("--connect", invite, "--recovery-file", words)
    assert other.run("umount", other.mount).returncode == 0
    own = ("--recovery-file", words, "--new-passphrase-file", other.passphrase, "--keep-keys")
    assert other.run("passwd", "--store", other.store, *own).returncode == 0
    other.up()
    assert other.run("sync", other.mount, "--wait").returncode == 0
    assert not at_server(invite)
