"""Opening an account, or making one, for `with` and for `async with`.

Reuses what the door does for `blobfs mount`: a store that a program made can be mounted, and the other way round.
Knows no documents. Invariant: when opening fails, nothing is left open.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from blobfs import firstrun, unlock
from blobfs.api.account import Account
from blobfs.api.asynchronous import AsyncAccount
from blobfs.api.owner import Owner
from blobfs.api.threads import in_thread
from blobfs.api.visiting import visit
from blobfs.config import PASSPHRASE, Config, Source, is_new, resolve
from blobfs.errors import RemoteUnavailable, StoreInUse, StoreMissing, UsageError
from blobfs.store.store import Store
from blobfs.values.keys import Keys

StorePath = str | os.PathLike[str]
PATIENCE_S: Final = 5.0
"""Seconds for a process that has just begun, or is about to end, to have the store to itself."""
LOOK_S: Final = 0.05


class Opening:
    """An account that is about to be opened: `with` gives an `Account`, `async with` an `AsyncAccount`.

    Both close it at their end. `open()` opens it without either; then close it yourself.
    """

    def __init__(self, open_account: Callable[[], Account]) -> None:
        """Use `open_account` or `create_account`."""
        self._open = open_account
        self._account: Account | None = None

    def open(self) -> Account:
        """Open it now."""
        return self._open()

    def __enter__(self) -> Account:
        self._account = self._open()
        return self._account

    def __exit__(self, *_: object) -> None:
        if self._account is not None:
            self._account.close()

    async def __aenter__(self) -> AsyncAccount:
        self._account = await in_thread(self._open)
        return AsyncAccount(self._account)

    async def __aexit__(self, *_: object) -> None:
        if self._account is not None:
            await in_thread(self._account.close, shielded=True)


def open_account(store: StorePath, *, passphrase: str | None = None, recovery_words: str | None = None) -> Opening:
    """Open the store in a directory, and sync while it is open. Without a server everything but bytes that are not on
    this device works.

    Args:
        passphrase: or the recovery words in its place; neither for a store whose passphrase lies beside it.
    Raises, when it is entered:
        StoreMissing, WrongPassphrase, StoreDamaged, StoreTooNew. UsageError: neither was given.
        StoreInUse: a process works on the store as a whole, such as a change of the passphrase. A mount is no obstacle,
            nor another program that has the account open: that process then does what is asked here.
    """
    path = resolve(Path(store))

    def open_it() -> Account:
        if not path.is_dir() or is_new(path):
            raise StoreMissing(f"there is no store in {path}; create_account makes one")
        if passphrase is None and recovery_words is None and not (path / PASSPHRASE).exists():
            raise UsageError("give the passphrase of the store, or its recovery words")
        try:
            unlocked = unlock.unlock(path, _source(passphrase), _source(recovery_words))
        except StoreInUse:
            # They opened newer keys, which that process takes when it next opens the store.
            return visit(path)
        return _start(path, unlocked.keys())

    return Opening(open_it)


def create_account(store: StorePath, *, passphrase: str, invite: str | None = None) -> Opening:
    """Make a store in a new or empty directory, and open it.

    Args:
        invite: of an account on a server, as `blobfs invite` or the server's keeper gives it. When other devices have
            the account already, `passphrase` is theirs; the first one sets it. Without an invite the store gets a
            server of its own, on this machine.
    Raises, when it is entered:
        UsageError: there is something in the directory, or `invite` is none.
        WrongPassphrase: the account has another one. RemoteUnavailable, AccessDenied: of the server.
    """
    path = resolve(Path(store))

    def create_it() -> Account:
        if not is_new(path):
            raise UsageError(f"there is a store in {path} already; open_account opens it")
        config = Config(mountpoint=path, store=path, passphrase=_source(passphrase), connect=invite)
        made = firstrun.make(config)
        account = _start(path, made.unlocked.keys())
        account.recovery_words = made.words
        return account

    return Opening(create_it)


def _start(store: Path, keys: Keys) -> Account:
    """Own the store, or go to the desk of the process that does."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            owner = Owner(Store.open(store, keys))
            return Account(owner.desk, owner.listeners, owner.close)
        except StoreInUse:
            # It may be neither: its owner is still to open its desk, or has closed it already.
            with contextlib.suppress(StoreInUse, RemoteUnavailable):
                return visit(store)
            if time.monotonic() > deadline:
                raise
        time.sleep(LOOK_S)


def _source(text: str | None) -> Source:
    # As a file has it: the line end that is taken off is this one, not one of the text's own.
    return Source() if text is None else Source(text=text + "\n")
