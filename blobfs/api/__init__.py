"""The document API, for programs; docs/API.md shows it. `blobfs` itself has these names too, imported when used."""

from blobfs.api.account import Account, AccountStatus, PastRevision
from blobfs.api.asynchronous import AsyncAccount, AsyncChanges, AsyncDocument, AsyncEvents
from blobfs.api.blobs import BlobInfo, BlobList, Blobs, Priority
from blobfs.api.blobs_async import AsyncBlobs
from blobfs.api.changes import Changes
from blobfs.api.desk import Listed
from blobfs.api.document import AttachmentState, Document
from blobfs.api.events import Event, EventKind, Events
from blobfs.api.incoming import Failure, Incoming, Item
from blobfs.api.incoming_async import AsyncIncoming
from blobfs.api.opening import Opening, create_account, open_account
from blobfs.api.shelf import BlobStatus

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
    "create_account",
    "open_account",
]
