"""A new epoch for an account: another storage secret, passphrase and recovery words, and local databases to match.

Owns the order of the steps. Invariant: whatever step a crash or a lost answer follows, the store opens, with the old
passphrase or with the new one, and everything is in it; and of two devices that do this at once, the server takes one.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import trio

from blobfs.account import Remote, connect, load_remote, move_remote, public_body, remember_published, replace_secrets
from blobfs.config import SECRETS, SERVER, SERVER_LOG
from blobfs.embedded import EmbeddedServer
from blobfs.errors import BlobfsError, RemoteUnavailable
from blobfs.newer import replace_all
from blobfs.store import rekey
from blobfs.store.secrets import read_secrets
from blobfs.store.settings import Settings
from blobfs.store.store import Store, make_room
from blobfs.unlock import Unlocked, open_body
from blobfs.values.documents import Json
from blobfs.values.epochs import seal_older
from blobfs.values.keys import Argon2Cost, Keys, wrap
from blobfs.values.words import recovery_words

_LOOK_S: Final = 0.1
_AWAY: Final = (
    "the account's keys can only be changed while the server answers; try again when it does, or change the "
    "passphrase alone with --keep-keys"
)
_STOPPED: Final = (
    "\nStopped while the server was given the new keys; nothing was changed here. If it took them, a mount says so; "
    "then the new passphrase opens the account, and another `passwd` shows new recovery words."
)


def begin_epoch(
    store: Path, unlocked: Unlocked, passphrase: bytes, tell: Callable[[str], None], cost: Argon2Cost
) -> None:
    """Begin a new epoch that `passphrase` opens, on the server and in `store`, which no process may have open.

    The server comes first: what stops this before the store's own file is replaced leaves a store as it is on any
    other device, which takes the new keys at its next mount.

    Args:
        tell: is given the new recovery words, as soon as they are good for something.
    Raises:
        StoreInUse, NoSpace, KeysChanged, RemoteError kinds: nothing was changed here.
    """
    from blobfs.screen import passing

    secret, recovery = secrets.token_bytes(32), secrets.token_bytes(32)
    older = (*unlocked.older, unlocked.secret)
    fresh, sealed = Unlocked(unlocked.account, secret, older), seal_older(unlocked.account, older, secret)
    with passing("locking new keys up with the new passphrase"):
        body = wrap(unlocked.account, secret, passphrase, recovery, cost, older=sealed)
        opened_again = open_body(body, passphrase=passphrase)
    if opened_again != fresh:
        raise BlobfsError("the new secrets file does not open, so the old one was kept; try again")
    with contextlib.closing(Store.open(store, unlocked.keys(), show)) as opened:
        rekey.require_room(store)
        try:
            with passing("giving the server the new keys"):
                trio.run(_replace, store, opened.settings, read_secrets(store / SECRETS), body)
        except RemoteUnavailable as error:
            raise RemoteUnavailable(_AWAY) from error
        except KeyboardInterrupt:
            print(_STOPPED, end="", file=sys.stderr)
            raise
    replace_all(store, body)
    tell(recovery_words(recovery))
    with contextlib.closing(Store.open(store, fresh.keys(), show)) as opened:
        remember_published(opened.settings, body)


def renew(store: Path, keys: Keys) -> None:
    """Finish a change of keys of the databases, if one is due, and show how far it is on a terminal."""
    if not keys.older:
        return
    make_room(store)
    if any(found is not keys for found in rekey.find(store, keys)):
        Store.open(store, keys, show).close()


def show(path: Path, size: int, work: Callable[[], None]) -> None:
    """Run `work`, which gives the database at `path` a new key, under a bar on standard error."""
    from blobfs.screen import Bar

    # Not by `join`: in CPython 3.11 one that Ctrl-C interrupts takes the thread for ended.
    failure, ended = list[BaseException](), threading.Event()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)
        finally:
            ended.set()

    thread, was_interrupted = threading.Thread(target=run, name="rekey"), False
    thread.start()
    with Bar(f"new keys for {path.name}", size) as bar:
        while True:
            try:
                while not ended.wait(_LOOK_S):
                    bar.reach(min(size, rekey.progress(path)), size)
                break
            except KeyboardInterrupt:
                # It waits: whoever comes next must not find the database locked.
                was_interrupted = True
                bar.say("This database is finished first; what is left is done at the next mount.")
    thread.join()
    if failure:
        raise failure[0]
    if was_interrupted:
        raise KeyboardInterrupt


async def _replace(store: Path, settings: Settings, ours: Json, fresh: Json) -> None:
    async with _served(store, settings) as remote, connect(remote) as client:
        await replace_secrets(client, ours, public_body(settings, fresh))


@contextlib.asynccontextmanager
async def _served(store: Path, settings: Settings) -> AsyncIterator[Remote]:
    """The server of the store, the embedded one running for the block."""
    remote = load_remote(settings)
    if remote.port is None:
        yield remote
        return
    server = EmbeddedServer(store / SERVER, store / SERVER_LOG, remote.port)
    await server.start()
    try:
        yield move_remote(settings, remote, server.url, server.port)
    finally:
        await server.stop()
