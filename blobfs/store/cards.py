"""The cards of the account's devices: hidden documents below `devices`, each named by its device's id.

Invariant: only the card of this device is ever made here; of another one's nothing but `revoked` is changed.
"""

from __future__ import annotations

import os
import secrets
import time
from typing import Final

from blobfs.errors import NotFound
from blobfs.store.store import Store
from blobfs.values.cards import Card
from blobfs.values.documents import DocId, Kind, Name
from blobfs.values.nodes import Node
from blobfs.values.revisions import DeviceId, is_device

_DIRECTORY: Final = b"devices"
_MOST: Final = 10_000
"""Cards that are looked at: a bound on what a hostile device can make the others do."""


class Cards:
    """The cards in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[Card]:
        """Every card, by device."""
        with self._store.transaction():
            directory = self._store.hidden.find(_DIRECTORY)
            if directory is None or directory.kind is not Kind.DIRECTORY:
                return []
            entries = self._store.tree.entries(directory.inode, 0, _MOST)
            names = {os.fsdecode(entry.name): entry.node for entry in entries}
            found = [self._read(DeviceId(name), node) for name, node in names.items() if is_device(name)]
        return sorted(found, key=lambda card: card.device)

    def find(self, device: DeviceId) -> Card | None:
        """The card of a device; None: it has none."""
        node = self._store.hidden.find(_DIRECTORY, device.encode("ascii"))
        return None if node is None else self._read(device, node)

    def _read(self, device: DeviceId, node: Node) -> Card:
        return Card.of(device, self._store.documents.content(node.doc_id))

    def write(self, card: Card) -> None:
        """Make the card of this device, or change it; one that is so already is left alone."""
        name = self._store.device.encode("ascii")
        with self._store.transaction():
            node = self._store.hidden.find(_DIRECTORY, name)
            if node is None:
                parent, doc_id = self._store.hidden.directory(_DIRECTORY), DocId(secrets.token_hex(16))
                content, now_ns, owner = card.to_content(), time.time_ns(), {"uid": os.geteuid(), "gid": os.getegid()}
                self._store.documents.create(doc_id, content, now_ns, **owner)
                self._store.documents.edit(doc_id, now_ns, names=(Name(parent.doc_id, name),))
            elif self._read(self._store.device, node) != card:
                self._edit(node, card)

    def revoke(self, device: DeviceId) -> None:
        """Mark the card of another device. Raises NotFound: it has none."""
        with self._store.transaction():
            node = self._store.hidden.find(_DIRECTORY, device.encode("ascii"))
            if node is None:
                raise NotFound("there is no device of this id")
            content = self._store.documents.content(node.doc_id)
            if content.get("revoked") is not True:
                self._store.documents.edit(node.doc_id, time.time_ns(), content=content | {"revoked": True})

    def _edit(self, node: Node, card: Card) -> None:
        former = self._store.documents.content(node.doc_id)
        # What a newer version of blobfs keeps in a card stays there.
        content = {name: value for name, value in former.items() if name != "revoked"} | card.to_content()
        self._store.documents.edit(node.doc_id, time.time_ns(), content=content)
