"""The document API, for programs; docs/API.md shows it. `blobfs` itself has these names too, imported when used."""

from blobfs.api.account import Account, AccountStatus, PastRevision
from blobfs.api.asynchronous import AsyncAccount, AsyncChanges, AsyncDocument
from blobfs.api.changes import Changes
from blobfs.api.desk import Listed
from blobfs.api.document import AttachmentState, Document
from blobfs.api.opening import Opening, create_account, open_account

__all__ = [
    "Account",
    "AccountStatus",
    "AsyncAccount",
    "AsyncChanges",
    "AsyncDocument",
    "AttachmentState",
    "Changes",
    "Document",
    "Listed",
    "Opening",
    "PastRevision",
    "create_account",
    "open_account",
]
