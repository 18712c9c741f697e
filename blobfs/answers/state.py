"""What there is to say of a mount as a whole, put together from the rooms that know a part of it.

Changes nothing, and asks no server. Of several threads.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Final

import blobfs
from blobfs.account import Remote
from blobfs.answers.paths import path_of_document
from blobfs.config import Config
from blobfs.devices import Devices
from blobfs.status import MOUNTED, Pending, Status
from blobfs.store.store import Store
from blobfs.sync.engine import SyncEngine
from blobfs.sync.status import SyncState
from blobfs.values.documents import DocId

COPIED: Final = (
    "a newer blobfs wrote this store: it shows what was here, and neither sends nor takes anything; update blobfs"
)


class State:
    """The state of one mount."""

    def __init__(
        self, config: Config, store: Store, engine: SyncEngine, devices: Devices, remote: Remote, *, is_copy: bool
    ) -> None:
        """`is_copy`: of a store that a newer blobfs wrote."""
        self._config, self._store, self._engine = config, store, engine
        self._devices, self._remote, self._is_copy = devices, remote, is_copy

    def now(self) -> Status:
        """As it is now. From any thread; counting what waits takes time when it is much."""
        sync = self._engine.status()
        told = sync.to_json()
        usage = self._engine.allowance.last
        return Status(
            state=MOUNTED if sync.state is SyncState.CONNECTED else sync.state.value,
            reason=COPIED if self._is_copy else sync.reason or None,
            mountpoint=os.fspath(self._config.mountpoint),
            store=os.fspath(self._config.store),
            pid=os.getpid(),
            server=self._remote.url,
            user=self._remote.user,
            embedded=self._remote.is_embedded,
            device=self._store.settings.get("device_name"),
            pending=Pending(sync.pending_documents, sync.pending_bytes),
            documents=self._store.tree.count(),
            stored_bytes=self._store.attachments.stored(),
            transfers=[entry | {"path": self._path(entry["doc_id"])} for entry in told["transfers"]],
            parked=[entry | {"path": self._path(entry["doc_id"])} for entry in told["parked"]],
            last_contact=told["last_contact"],
            version=blobfs.__version__,
            usage=None if usage is None else asdict(usage),
            notices=self._devices.notices(),
            since=told["since"],
            reading=told["reading"],
        )

    def _path(self, doc_id: str | None) -> str | None:
        """In the mount; None for what has no name in it."""
        return None if doc_id is None else path_of_document(self._store, DocId(doc_id))
