"""The first run: a new store, of a new account or of one that has other devices already.

Owns the order of the steps and what is taken back when one fails; the rooms below own what each does. Invariant: a
store's directory without the mark `unfinished` is complete, and one with it holds nothing that anybody relies on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from blobfs.account import (
    Remote,
    check_account,
    fetch_secrets,
    keep_passphrase_away,
    load_remote,
    offer_secrets,
    remember_published,
    save_remote,
)
from blobfs.calibration import calibrate
from blobfs.config import PASSPHRASE, SECRETS, UNFINISHED, Config, Source
from blobfs.devices import keep_token, own_token, was_taken
from blobfs.embedded import HOST, add_user
from blobfs.errors import (
    NoSpace,
    PreconditionFailed,
    RemoteUnavailable,
    StoreInUse,
    UsageError,
    WrongAccount,
    WrongPassphrase,
)
from blobfs.protocol import is_pin, parse_invite
from blobfs.remote.causes import TRIES_AGAIN
from blobfs.store.secrets import write_secrets
from blobfs.store.store import Store
from blobfs.sync.story import expect_seen
from blobfs.unlock import (
    MAX_TEXT,
    Unlocked,
    credential,
    has_terminal,
    keep_passphrase,
    make_body,
    new_passphrase,
    open_body,
    unlock_body,
)
from blobfs.values.documents import Json
from blobfs.values.keys import FLOOR, has_passphrase, new_account, replace_passphrase, without_passphrase


@dataclass(frozen=True, slots=True)
class Made:
    """A finished first run."""

    unlocked: Unlocked
    words: str | None
    """The recovery words, when the account was made here; they are kept nowhere."""
    kept: Path | None
    """Where the passphrase lies that nobody chose."""


@dataclass(frozen=True, slots=True, repr=False)
class _Account:
    unlocked: Unlocked
    body: Json
    words: str | None = None
    drawn: str | None = None
    is_shy: bool = False
    """The server has nothing of it that a passphrase opens."""


def make(config: Config) -> Made:
    """Make the store of `config`, embedded or connected; on return it is complete and closed.

    Raises:
        UsageError, WrongPassphrase, ServerFailed, RemoteError kinds, StoreError kinds: the directory is then as before.
    """
    with _building(config.store), _telling_plainly():
        if config.connect is not None:
            remote = read_invite(config.connect, config.pin)
            account = _join_or_found(remote, config)
        else:
            user = f"device-{secrets.token_hex(4)}"
            account, _ = _found(config)
            remote = Remote(url=f"http://{HOST}", user=user, token=add_user(config.server, user), port=0)
        kept = config.store / PASSPHRASE if account.drawn is not None else None
        if kept is not None:
            keep_passphrase(kept, account.drawn or "")
        write_secrets(config.secrets, account.body)
        with contextlib.closing(
            Store.create(config.store, account.unlocked.keys(), device_name=config.device_name or socket.gethostname())
        ) as store:
            if remote.is_embedded:
                save_remote(store.settings, remote)
            else:
                keep_token(store.settings, remote, *trio.run(own_token, remote, store.device))
            expect_seen(store.settings, remote.seen)
            keep_passphrase_away(store.settings, away=account.is_shy or not config.passphrase_at_server)
            if not remote.is_embedded:
                remember_published(store.settings, account.body)
            store.sync()
    return Made(account.unlocked, account.words, kept)


@contextlib.contextmanager
def _telling_plainly() -> Iterator[None]:
    """Sync tries again by itself; a first run does not. And a full disk is the one of the store."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpace("the disk that the store was to be on is full, and nothing was made; make room there") from error
    except RemoteUnavailable as error:
        if type(error) is not RemoteUnavailable:
            raise
        cause, _, advice = str(error).partition("; ")
        advice = advice.removeprefix(TRIES_AGAIN).removeprefix(", ") or "check the network and that the server runs"
        raise RemoteUnavailable(f"{cause}, and nothing was made here; {advice}, then mount again") from error


def reconnect(config: Config, unlocked: Unlocked) -> None:
    """Give a store that exists the server, user and token of another invite for its own account.

    Asks the server only when the invite is news, so that a script may give the same one at each start.

    Raises:
        WrongAccount: the invite is for another account. UsageError: the store has its own, embedded server.
    """
    remote = read_invite(config.connect or "", config.pin)
    with contextlib.closing(Store.open(config.store, unlocked.keys())) as store:
        known = load_remote(store.settings)
        if was_taken(store.settings, remote):
            remote, invite = replace(known, pin=remote.pin or known.pin), remote
        else:
            invite = remote
        if known == remote:
            return
        if known.is_embedded:
            raise UsageError("this store has an embedded server; give --store another place to join another account")
        there = trio.run(fetch_secrets, remote)
        if there is None:
            raise WrongAccount("the account of the invite is still empty; give --store a new place to begin it")
        check_account(there, unlocked.account)
        keep_token(store.settings, invite, *trio.run(own_token, remote, store.device))


def read_invite(text: str, pin: str | None = None) -> Remote:
    """The server, account and token of an invite, or of a file that holds one when `text` is `@FILE`.

    Args:
        pin: of the server's key, in place of the one in the invite.
    Raises:
        UsageError: no such file, not an invite, or not a pin.
    """
    if text.startswith("@"):
        try:
            with open(text[1:], encoding="ascii", errors="replace") as file:
                text = file.read(MAX_TEXT)
        except OSError as error:
            raise UsageError(f"the file with the invite cannot be read ({error.strerror}); check its path") from None
    try:
        invite = parse_invite(text)
    except ValueError:
        raise UsageError(
            "this is not an invite; copy the whole text that begins with blobfs1: or blobfs2:, as `blobfs invite DIR` "
            "prints it"
        ) from None
    if pin is not None and not (is_pin(pin) and invite.url.startswith("https://")):
        raise UsageError("a pin is sha256//BASE64, as `blobfs-server` prints it, and for a server with https only")
    remote = Remote(url=invite.url, user=invite.user, token=invite.token, port=None, pin=pin or invite.pin)
    return replace(remote, seen=dict(invite.seen))


def _found(config: Config) -> tuple[_Account, bytes]:
    """A new account, and its passphrase."""
    passphrase, drawn = new_passphrase(config.passphrase or credential())
    unlocked = Unlocked(*new_account())
    # What was drawn at random is beyond guessing at any cost.
    cost = calibrate(config.guess_s) if drawn is None else FLOOR
    body, words = make_body(unlocked, passphrase, cost)
    return _Account(unlocked, body, words, drawn), passphrase


def _join_or_found(remote: Remote, config: Config) -> _Account:
    """The account that the server has the wrapped secret of; or a new one, unless another device is first."""
    there = trio.run(fetch_secrets, remote)
    if there is not None and not has_passphrase(there):
        return _join_by_words(there, config)
    if there is not None:
        return _Account(unlock_body(there, config.passphrase, config.recovery), there)
    account, passphrase = _found(config)
    body = account.body if config.passphrase_at_server else without_passphrase(account.body)
    try:
        trio.run(offer_secrets, remote, body)
    except PreconditionFailed:
        return _join_winner(remote, passphrase)
    return account


def _join_by_words(there: Json, config: Config) -> _Account:
    """The account opens with the recovery words alone; on this device a passphrase opens it from now on."""
    if not config.recovery and not has_terminal():
        raise UsageError("the server keeps no passphrase of this account; give its recovery words with --recovery-file")
    unlocked = unlock_body(there, Source(), config.recovery)
    passphrase, drawn = new_passphrase(config.passphrase or credential())
    cost = calibrate(config.guess_s) if drawn is None else FLOOR
    return _Account(unlocked, replace_passphrase(there, unlocked.secret, passphrase, cost), drawn=drawn, is_shy=True)


def _join_winner(remote: Remote, passphrase: bytes) -> _Account:
    """Another device put its secret there since we looked: that is the account now."""
    there = trio.run(fetch_secrets, remote)
    if there is None:
        raise PreconditionFailed("the account's secret came and went on the server; try again")
    try:
        return _Account(open_body(there, passphrase=passphrase), there)
    except WrongPassphrase:
        raise WrongPassphrase(
            "another device set this account up at this moment, with another passphrase; mount again with that one"
        ) from None


# --- the directory -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _building(store: Path) -> Iterator[None]:
    """A marked directory for the block; the mark goes when it ends well, everything goes when it does not."""
    existed = store.is_dir()
    try:
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        store.chmod(0o700)
        mark = os.open(store / UNFINISHED, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"{store} cannot be made ({error.strerror}); give --store another place") from None
    try:
        _own(store, mark)
        try:
            _empty(store)
            yield
        except BaseException:
            _empty(store)
            (store / UNFINISHED).unlink()
            if not existed:
                store.rmdir()
            raise
        (store / UNFINISHED).unlink()
    finally:
        os.close(mark)


def _own(store: Path, mark: int) -> None:
    """Be the only first run in `store`. Whoever waited for one that ended well must not begin another."""
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreInUse(f"another process is setting up the store {store} at this moment; wait for it") from None
    if os.fstat(mark).st_nlink == 0:
        raise StoreInUse(f"another process has just set up the store {store}; mount again")
    if any(name.startswith(SECRETS) for name in os.listdir(store)) and not _was_marked(mark):
        (store / UNFINISHED).unlink()
        raise StoreInUse(f"another process has just set up the store {store}; mount again")
    os.write(mark, b"The first run did not finish; the next one starts anew.\n")


def _was_marked(mark: int) -> bool:
    # Only a first run that had begun wrote into its mark; an empty one was made a moment ago, by us.
    return os.fstat(mark).st_size > 0


def _empty(store: Path) -> None:
    """Remove what an unfinished first run left; the mark itself last, for whoever is interrupted in here."""
    for entry in os.scandir(store):
        if entry.name == UNFINISHED:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
