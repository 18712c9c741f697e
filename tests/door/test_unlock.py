"""Passphrases: where they come from, what they open, how they change."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from blobfs.config import PASSPHRASE, SECRETS, Source
from blobfs.errors import StoreMissing, UsageError, WrongPassphrase
from blobfs.store.secrets import write_secrets
from blobfs.unlock import Unlocked, change_passphrase, keep_passphrase, make_body, new_passphrase, read_source, unlock
from blobfs.values.documents import load
from blobfs.values.keys import FLOOR, new_account, unwrap


def pipe(data: bytes) -> Source:
    reading, writing = os.pipe()
    with open(writing, "wb") as file:
        file.write(data)
    return Source(fd=reading)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Unlocked, str]:
    store = tmp_path_factory.mktemp("store")
    unlocked = Unlocked(*new_account())
    body, words = make_body(unlocked, b"open sesame", FLOOR)
    write_secrets(store / SECRETS, body)
    return store, unlocked, words


def test_a_descriptor_opens_the_store(made: tuple[Path, Unlocked, str]) -> None:
    store, unlocked, _ = made
    assert unlock(store, pipe(b"open sesame\n"), Source()) == unlocked


def test_a_file_opens_the_store(made: tuple[Path, Unlocked, str], tmp_path: Path) -> None:
    store, unlocked, _ = made
    (tmp_path / "p").write_bytes(b"open sesame\r\n")
    assert unlock(store, Source(file=tmp_path / "p"), Source()) == unlocked


def test_the_recovery_words_open_the_store(made: tuple[Path, Unlocked, str]) -> None:
    store, unlocked, words = made
    assert unlock(store, Source(), pipe(words.upper().replace(" ", "\n").encode())) == unlocked


def test_a_wrong_passphrase_is_named_so(made: tuple[Path, Unlocked, str]) -> None:
    with pytest.raises(WrongPassphrase, match="the passphrase does not open this store"):
        unlock(made[0], pipe(b"open barley"), Source())


def test_the_words_of_another_account_are_named_wrong(made: tuple[Path, Unlocked, str]) -> None:
    _, words = make_body(made[1], b"x", FLOOR)
    with pytest.raises(WrongPassphrase, match="the recovery words do not open this store"):
        unlock(made[0], Source(), pipe(words.encode()))


def test_a_kept_random_passphrase_opens_without_asking(made: tuple[Path, Unlocked, str], tmp_path: Path) -> None:
    _, unlocked, _ = made
    passphrase, drawn = new_passphrase_without_terminal()
    body, _ = make_body(unlocked, passphrase, FLOOR)
    write_secrets(tmp_path / SECRETS, body)
    keep_passphrase(tmp_path / PASSPHRASE, drawn)
    assert stat.S_IMODE((tmp_path / PASSPHRASE).stat().st_mode) == 0o600
    assert unlock(tmp_path, Source(), Source()) == unlocked


def new_passphrase_without_terminal() -> tuple[bytes, str]:
    passphrase, drawn = new_passphrase(Source())
    assert drawn is not None
    assert len(drawn) >= 32
    return passphrase, drawn


def test_a_kept_passphrase_that_others_can_read_is_refused(made: tuple[Path, Unlocked, str], tmp_path: Path) -> None:
    write_secrets(tmp_path / SECRETS, make_body(made[1], b"x", FLOOR)[0])
    (tmp_path / PASSPHRASE).write_text("x")
    (tmp_path / PASSPHRASE).chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        unlock(tmp_path, Source(), Source())


def test_without_option_and_terminal_it_says_which_option(made: tuple[Path, Unlocked, str]) -> None:
    with pytest.raises(UsageError, match="--passphrase-file"):
        unlock(made[0], Source(), Source())


def test_a_store_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        unlock(tmp_path, pipe(b"x"), Source())


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff\xfe", b"x" * 5000])
def test_a_source_without_a_usable_text_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        read_source(pipe(data), "passphrase")


def test_a_descriptor_that_is_not_open_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_source(Source(fd=987), "passphrase")


def test_a_changed_passphrase_leaves_no_copy_that_the_old_one_opens(
    made: tuple[Path, Unlocked, str], tmp_path: Path
) -> None:
    _, unlocked, _ = made
    body, words = make_body(unlocked, b"old", FLOOR)
    write_secrets(tmp_path / SECRETS, body)
    keep_passphrase(tmp_path / PASSPHRASE, "old")
    change_passphrase(tmp_path, unlocked, b"new", FLOOR)
    assert unlock(tmp_path, pipe(b"new"), Source()) == unlocked
    assert unlock(tmp_path, Source(), pipe(words.encode())) == unlocked
    assert not (tmp_path / PASSPHRASE).exists()
    for generation in tmp_path.iterdir():
        with pytest.raises(WrongPassphrase):
            unwrap(load(generation.read_bytes()), passphrase=b"old")


def test_a_printed_unlocked_account_shows_no_secret(made: tuple[Path, Unlocked, str]) -> None:
    unlocked = made[1]
    assert unlocked.secret.hex() not in repr(unlocked)
    assert repr(unlocked.secret) not in repr(unlocked)
