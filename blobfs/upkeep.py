"""What goes on while a process, a daemon or a program, has a store open: its engine, its commits, its wrapped secret.

Decides when; what is sent, and that nothing of another account is replaced, is `account.py`'s. Knows neither mounts nor
documents. Invariant: no error of the server's or of the disk ends what runs here.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Final

import trio

from blobfs.account import public_body, publish_secrets
from blobfs.config import SECRETS
from blobfs.errors import BlobfsError, RemoteError
from blobfs.newer import keep_newer
from blobfs.remote.client import RemoteClient
from blobfs.store.secrets import read_secrets
from blobfs.store.settings import Settings
from blobfs.store.store import Store
from blobfs.sync.engine import SyncEngine, SyncOptions
from blobfs.values.documents import Json, dump

TICK_S: Final = 1
_LOOK_S: Final = 60
"""Seconds between two looks whether the wrapped secret is at the server; when it is, a look costs one local read."""

_log: Final = logging.getLogger(__name__)


def make_engine(home: Path, store: Store, client: RemoteClient, options: SyncOptions) -> SyncEngine:
    """The engine of an open store, whose directory is `home`; it does not run yet."""
    return SyncEngine(
        store,
        client,
        options=options,
        secret=lambda: dump(public_body(store.settings, read_secrets(home / SECRETS))),
        keep_secret=partial(keep_newer, home),
    )


async def tick(store: Store) -> None:
    """Bring what was written to the disk, every second, until cancelled."""
    while True:
        await trio.sleep(TICK_S)
        try:
            await trio.to_thread.run_sync(store.tick)
        except (BlobfsError, OSError) as error:
            # A full disk, say: the next close or fsync of a file tells its program.
            _log.warning("the store could not be brought to the disk: %s", error)


class Publisher:
    """Sees that a new device finds the wrapped secret at the server; after a change of passphrase, the new one."""

    def __init__(self, client: RemoteClient, settings: Settings, secrets: Path) -> None:
        self._client, self._settings, self._secrets = client, settings, secrets
        self._now = trio.Event()

    def wake(self) -> None:
        """Something of it was changed: look at once."""
        self._now.set()

    async def answer(self, question: Json) -> Json:
        """As `wake`, for whoever asks over the socket."""
        self.wake()
        return {}

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            self._now = trio.Event()
            try:
                await publish_secrets(self._client, self._settings, read_secrets(self._secrets))
            except RemoteError as error:
                # Nothing that a person must know: the engine meets the same and shows it in the status.
                _log.info("the wrapped secret is not at the server yet: %s", error)
            except BlobfsError as error:
                _log.warning("the wrapped secret cannot be sent: %s", error)
            with trio.move_on_after(_LOOK_S):
                await self._now.wait()
