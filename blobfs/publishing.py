"""The wrapped secret's way to the server while a mount lasts: a new device finds it there.

Decides when; what is sent, and that nothing of another account is replaced, is `account.py`'s.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import trio

from blobfs.account import publish_secrets
from blobfs.errors import BlobfsError
from blobfs.remote.client import RemoteClient
from blobfs.store.secrets import read_secrets
from blobfs.store.settings import Settings
from blobfs.values.documents import Json

_LOOK_S: Final = 60
"""Seconds between two looks whether it is there; when it is, a look costs one local read."""

_log: Final = logging.getLogger(__name__)


class Publisher:
    """Sees that the server has it; after a change of passphrase, the new one."""

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
        """Look, for ever."""
        while True:
            self._now = trio.Event()
            try:
                await publish_secrets(self._client, self._settings, read_secrets(self._secrets))
            except BlobfsError as error:
                # Nothing that a person must know: the engine meets the same and shows it in the status.
                _log.warning("the wrapped secret is not at the server yet: %s", error)
            with trio.move_on_after(_LOOK_S):
                await self._now.wait()
