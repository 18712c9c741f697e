"""blobfs: an end-to-end encrypted folder whose files are fetched when used.

For programs: `open_account` and `create_account` (docs/API.md). They are imported when they are used, so that importing
`blobfs.protocol` loads nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blobfs import errors
    from blobfs.api import (
        Account,
        AccountStatus,
        AsyncAccount,
        AsyncBlobs,
        AsyncChanges,
        AsyncDocument,
        AsyncEvents,
        AsyncIncoming,
        AttachmentState,
        BlobInfo,
        BlobList,
        Blobs,
        BlobStatus,
        Changes,
        Document,
        Event,
        EventKind,
        Events,
        Failure,
        Incoming,
        Item,
        Listed,
        Opening,
        PastRevision,
        Priority,
        create_account,
        open_account,
    )

__version__ = "0.1.0"

__all__ = [
    "Account",
    "AccountStatus",
    "AsyncAccount",
    "AsyncBlobs",
    "AsyncChanges",
    "AsyncDocument",
    "AsyncEvents",
    "AsyncIncoming",
    "AttachmentState",
    "BlobInfo",
    "BlobList",
    "BlobStatus",
    "Blobs",
    "Changes",
    "Document",
    "Event",
    "EventKind",
    "Events",
    "Failure",
    "Incoming",
    "Item",
    "Listed",
    "Opening",
    "PastRevision",
    "Priority",
    "__version__",
    "create_account",
    "errors",
    "open_account",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'blobfs' has no attribute {name!r}")
    if name == "errors":
        return importlib.import_module("blobfs.errors")
    return getattr(importlib.import_module("blobfs.api"), name)
