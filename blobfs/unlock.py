"""Passphrases and recovery words: where they are read from, and what they open.

Owns prompts, files and descriptors that hold a passphrase, and the random passphrase of a store that was made without
a person. Knows nothing of the network or of mounts. Invariant: a passphrase is never taken from an argument or the
environment, never logged, and written to disk only when it was drawn at random here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

from blobfs.asking import ask_hidden
from blobfs.config import PASSPHRASE, SECRETS, Source
from blobfs.errors import BlobfsError, UsageError, WrongPassphrase
from blobfs.newer import adopt, is_newer, read_newer, replace_all
from blobfs.screen import passing
from blobfs.store.secrets import read_secrets
from blobfs.values.documents import Json
from blobfs.values.epochs import claimed_epoch, open_older
from blobfs.values.keys import (
    AccountId,
    Argon2Cost,
    Keys,
    derive_keys,
    passphrase_bytes,
    replace_passphrase,
    unwrap,
    wrap,
)
from blobfs.values.words import recovery_key, recovery_words

MAX_TEXT: Final = 4096
"""Bytes of a passphrase or of recovery words with their spaces."""
TRIES: Final = 3
CREDENTIAL: Final = "blobfs.passphrase"
"""As systemd names it: LoadCredential=blobfs.passphrase:FILE."""
_NOBODY: Final = "there is no terminal to ask for the passphrase on; give --passphrase-file FILE or --passphrase-fd N"


@dataclass(frozen=True, slots=True, repr=False)
class Unlocked:
    """An account's storage secret in the clear. Its repr shows none of it."""

    account: AccountId
    secret: bytes
    older: tuple[bytes, ...] = ()
    """The secrets of the epochs before, oldest first."""

    def keys(self) -> Keys:
        return derive_keys(self.account, self.secret, self.older)

    def __repr__(self) -> str:
        return f"Unlocked(account={self.account!r})"


# --- where a secret text comes from ---------------------------------------------------------------------------


def read_source(source: Source, what: str) -> str:
    """The text in a file or behind a descriptor, without its last line end.

    Raises:
        UsageError: it cannot be read, is empty, too long or not UTF-8.
    """
    try:
        if source.text is not None:
            data = source.text.encode("utf-8", "surrogateescape")
        elif source.fd is not None:
            with open(source.fd, "rb") as file:
                data = file.read(MAX_TEXT + 1)
        else:
            with open(os.fspath(source.file or ""), "rb") as file:
                data = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise UsageError(f"the {what} cannot be read ({error.strerror}); check the file or the descriptor") from None
    try:
        text = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError(f"the {what} is not UTF-8 text; check the file or the descriptor") from None
    if not text or len(data) > MAX_TEXT:
        raise UsageError(f"the {what} is empty or longer than {MAX_TEXT} bytes; check the file or the descriptor")
    return text


def credential() -> Source:
    """The passphrase that systemd has for this service, if any: a file that only the service can read."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory) / CREDENTIAL if directory else None
    return Source(file=path) if path is not None and path.is_file() else Source()


def has_terminal() -> bool:
    """Whether a person is there to be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def choose_passphrase() -> bytes:
    """Ask twice for a passphrase, until both times it is the same."""
    for _ in range(TRIES):
        first = passphrase_bytes(ask_hidden("New passphrase: "))
        if secrets.compare_digest(first, passphrase_bytes(ask_hidden("The same again: "))):
            return first
        print("The two differ.", file=sys.stderr)
    raise UsageError("the two passphrases differed each time; start again")


def new_passphrase(source: Source) -> tuple[bytes, str | None]:
    """The passphrase of a new store, and its text when it was drawn at random: no terminal, no option."""
    if source:
        return passphrase_bytes(read_source(source, "passphrase")), None
    if has_terminal():
        return choose_passphrase(), None
    drawn = secrets.token_urlsafe(24)
    return passphrase_bytes(drawn), drawn


# --- opening --------------------------------------------------------------------------------------------------


def unlock(
    store: Path, passphrase: Source, recovery: Source, fetch: Callable[[], Json | None] = lambda: None
) -> Unlocked:
    """Open the secrets file of `store` with what is given, else the kept random passphrase, else by asking.

    What does not open it may open a newer one, which another device left at the server; that one takes its place then.

    Args:
        fetch: gets the server's secrets file, asked for when nothing that is here opens.
    Raises:
        WrongPassphrase: nothing that was given or typed opens it.
        UsageError: nothing was given, and there is no terminal.
        StoreMissing, StoreDamaged, StoreTooNew: of the secrets file.
        StoreInUse: a newer one opened, and a process has the store open with the old one.
    """
    body, opened = read_secrets(store / SECRETS), list[Json]()

    def newer() -> Iterator[Json]:
        for candidate in (read_newer(store), fetch()):
            if candidate is not None and is_newer(candidate, body):
                opened[:] = [candidate]
                yield candidate

    unlocked = unlock_body(body, passphrase, recovery, store / PASSPHRASE, newer)
    if len(unlocked.older) > claimed_epoch(body):
        adopt(store, opened[0], unlocked.keys())
    return unlocked


def unlock_body(
    body: Json,
    passphrase: Source,
    recovery: Source,
    kept: Path | None = None,
    newer: Callable[[], Iterable[Json]] = tuple,
) -> Unlocked:
    """`unlock` for a secrets file that is in memory; `kept` is where a random passphrase may lie."""
    attempt = partial(_open, body, newer)
    if recovery:
        return attempt(recovery=recovery_key(read_source(recovery, "recovery words")))
    passphrase = passphrase or credential()
    if passphrase:
        return attempt(passphrase=passphrase_bytes(read_source(passphrase, "passphrase")))
    if kept is not None and kept.exists():
        return attempt(passphrase=read_kept(kept))
    if not has_terminal():
        raise UsageError(_NOBODY)
    return _ask(attempt)


def _ask(attempt: Callable[..., Unlocked]) -> Unlocked:
    for left in reversed(range(TRIES)):
        typed = ask_hidden("Passphrase (or the recovery words): ")
        try:
            # Nobody's passphrase is 24 words of the list by chance, and a person in need looks for no option.
            if len(typed.split()) == 24:
                return attempt(recovery=recovery_key(typed))
            return attempt(passphrase=passphrase_bytes(typed))
        except (WrongPassphrase, UsageError) as error:
            if not left:
                raise
            print(f"{str(error).capitalize()}.", file=sys.stderr)
    raise AssertionError("the last try returns or raises")


def _open(
    body: Json,
    newer: Callable[[], Iterable[Json]],
    *,
    passphrase: bytes | None = None,
    recovery: bytes | None = None,
) -> Unlocked:
    # The store's own first: what the server claims to be newer may ask for a costly hash.
    for candidate in chain([body], newer()):
        with contextlib.suppress(WrongPassphrase), passing("trying what opens the store"):
            return open_body(candidate, passphrase=passphrase, recovery=recovery)
    what = "passphrase does" if passphrase is not None else "recovery words do"
    raise WrongPassphrase(f"the {what} not open this store; try again, nothing was changed")


def open_body(body: Json, *, passphrase: bytes | None = None, recovery: bytes | None = None) -> Unlocked:
    """All secrets of a secrets file. Raises as `unwrap`."""
    account, secret = unwrap(body, passphrase=passphrase, recovery=recovery)
    return Unlocked(account, secret, open_older(body, secret))


# --- the random passphrase beside the store ----------------------------------------------------------------------


def keep_passphrase(path: Path, text: str) -> None:
    """Write a random passphrase where only its owner can read it; on return it survives power loss."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_kept(path: Path) -> bytes:
    """The random passphrase that was kept at `path`. Raises UsageError when it is not a private file of ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); check its owner and type") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
        os.close(descriptor)
        raise UsageError(f"{path} is not a private file of yours; check its owner, then chmod 600 it")
    return passphrase_bytes(read_source(Source(fd=descriptor), "kept passphrase"))


# --- making and changing -----------------------------------------------------------------------------------------


def make_body(unlocked: Unlocked, passphrase: bytes, cost: Argon2Cost) -> tuple[Json, str]:
    """A secrets file for `unlocked`, and the recovery words that open it too."""
    recovery = secrets.token_bytes(32)
    with passing("locking the keys up"):
        return wrap(unlocked.account, unlocked.secret, passphrase, recovery, cost), recovery_words(recovery)


def opens_with(store: Path, passphrase: bytes) -> bool:
    """Whether `passphrase` is the one that opens `store` now."""
    try:
        with passing("comparing with the passphrase of now"):
            unwrap(read_secrets(store / SECRETS), passphrase=passphrase)
    except WrongPassphrase:
        return False
    return True


def change_passphrase(store: Path, unlocked: Unlocked, passphrase: bytes, cost: Argon2Cost) -> None:
    """Make `passphrase` the one that opens `store`; keys and recovery words stay, a kept random passphrase goes.

    On return neither generation of the secrets file opens with the old passphrase.
    """
    with passing("locking the keys up"):
        body = replace_passphrase(read_secrets(store / SECRETS), unlocked.secret, passphrase, cost)
        opened_again = open_body(body, passphrase=passphrase)
    if opened_again != unlocked:
        raise BlobfsError("the new secrets file does not open, so the old one was kept; try again")
    replace_all(store, body)
