"""Every error of blobfs, as one tree. Knows nothing of errno, HTTP or exit codes: each border has its own table.

BlobfsError
├── UsageError                  what the user asked for cannot be
├── StoreError                  the local store
│   ├── WrongPassphrase
│   ├── StoreInUse
│   ├── StoreMissing
│   ├── StoreTooNew
│   ├── StoreDamaged
│   └── NoSpace
├── FileError                   what a file operation met; an errno each
│   ├── NotFound  Exists  NotADirectory  IsADirectory  NotEmpty  NameTooLong
│   ├── StaleHandle  InvalidArgument  FileTooBig  NoAttribute  RangeTooSmall
│   ├── NotPermitted  KeptOut  NotSupported  TooManyLinks  DocumentFull
│   └── ReadOnly
├── DocumentError
│   ├── DocumentNotFound  DocumentExists
│   ├── RevisionConflict
│   ├── IndexExists  IndexNotFound
│   └── InvalidDocument
├── IntegrityError              somebody changed what only our devices may write
│   ├── CorruptBlob
│   ├── CorruptDocument
│   ├── CorruptItem             (of the incoming box: anybody who may send can make one)
│   ├── Rollback
│   └── DataMissing
├── DoorError                   mounting, and talking to the daemon that did
│   ├── MountPointUnusable
│   ├── FuseMissing
│   ├── NotMounted
│   ├── ServerFailed            (the embedded one)
│   └── SyncTimeout
└── RemoteError                 the server, or the way to it
    ├── RemoteUnavailable       (retriable)
    ├── AccessDenied
    ├── WrongAccount  WrongServer
    ├── KeysChanged
    ├── QuotaExceeded
    │   └── FileOverQuota
    ├── BlobNotFound  BlobExists  BlobTooLarge  BlobReferred  InvalidFlags
    ├── PreconditionFailed
    └── ProtocolError
"""

from __future__ import annotations

from typing import ClassVar


class BlobfsError(Exception):
    """Base of all. `str()` is one sentence for a person; it holds no key, token, payload or file name."""

    retriable: ClassVar[bool] = False
    """Whether the same call can succeed later with nothing changed by the user."""


class UsageError(BlobfsError):
    """An argument or a setting that cannot be used as given."""


# --- the local store ----------------------------------------------------------------------------------


class StoreError(BlobfsError):
    """The local store cannot be used."""


class WrongPassphrase(StoreError):
    """No slot of the secrets file opens with what was given."""


class StoreInUse(StoreError):
    """Another process owns the store."""


class StoreMissing(StoreError):
    """There is no store at this place."""


class StoreTooNew(StoreError):
    """A newer blobfs wrote this store."""


class StoreDamaged(StoreError):
    """A file of the store is not what blobfs wrote."""


class NoSpace(StoreError):
    """The local disk is full; what was acknowledged before is kept."""

    retriable = True


class BytesAbsent(StoreError):
    """Bytes that are needed are not here; a fetch can bring them."""

    retriable = True

    def __init__(self, content: int, offset: int, length: int) -> None:
        super().__init__("bytes of the file are not on this device")
        self.content = content
        self.offset = offset
        """Where the first missing row begins, in bytes."""
        self.length = length
        """Bytes up to the end of the last missing row."""


# --- file operations ----------------------------------------------------------------------------------


class FileError(BlobfsError):
    """A file operation that cannot be; maps to one errno each."""


class NotFound(FileError):
    """No such name or inode (ENOENT)."""


class Exists(FileError):
    """The name is taken (EEXIST)."""


class NotADirectory(FileError):
    """A directory is needed here (ENOTDIR)."""


class IsADirectory(FileError):
    """A directory cannot be used here (EISDIR)."""


class NotEmpty(FileError):
    """The directory has entries (ENOTEMPTY)."""


class NameTooLong(FileError):
    """A name over 255 bytes (ENAMETOOLONG)."""


class StaleHandle(FileError):
    """The handle's file is gone (ESTALE)."""


class InvalidArgument(FileError):
    """EINVAL."""


class FileTooBig(FileError):
    """Beyond the largest offset that a file can have (EFBIG)."""


class NoAttribute(FileError):
    """No such extended attribute (ENODATA)."""


class RangeTooSmall(FileError):
    """The extended attribute does not fit (ERANGE)."""


class NotPermitted(FileError):
    """EPERM."""


class KeptOut(FileError):
    """The program may read what is on this device only, and of this file something is not (EACCES)."""


class TooManyLinks(FileError):
    """EMLINK."""


class DocumentFull(FileError):
    """The names and attributes of one file are at their limit (ENOSPC, as on disks whose inodes are full)."""


class NotSupported(FileError):
    """EOPNOTSUPP."""


class ReadOnly(FileError):
    """EROFS."""


# --- documents ----------------------------------------------------------------------------------------


class DocumentError(BlobfsError):
    """A document operation that cannot be."""


class DocumentNotFound(DocumentError):
    """No document of this id, or it was deleted."""


class DocumentExists(DocumentError):
    """A document of this id is there already."""


class RevisionConflict(DocumentError):
    """The document changed since it was read."""


class InvalidDocument(DocumentError):
    """Content that is not a JSON object, or breaks a limit."""


class IndexExists(DocumentError):
    """An index of this name is over other paths."""


class IndexNotFound(DocumentError):
    """No index of this name."""


# --- integrity ----------------------------------------------------------------------------------------


class IntegrityError(BlobfsError):
    """What came from outside is not what a device of this account wrote, or not the newest of it."""


class CorruptBlob(IntegrityError):
    """A blob failed authentication: changed, cut, extended, reordered, or another blob's bytes."""


class CorruptDocument(IntegrityError):
    """A sealed document failed authentication, or its plaintext breaks the format."""


class CorruptItem(IntegrityError):
    """What somebody left in the incoming box was not sealed for this account under this id, or was changed."""


class Rollback(IntegrityError):
    """A revision that does not follow from what this device has seen."""


class DataMissing(IntegrityError):
    """The server lacks a blob that a live document names."""


# --- the door -------------------------------------------------------------------------------------------


class DoorError(BlobfsError):
    """Mounting, unmounting, or talking to the process that holds a mount."""


class MountPointUnusable(DoorError):
    """The directory cannot be mounted on, or not be unmounted now."""


class FuseMissing(DoorError):
    """This machine offers no /dev/fuse, or not to this user."""


class NotMounted(DoorError):
    """No blobfs process answers for this directory."""


class ServerFailed(DoorError):
    """The embedded server did not start."""


class SyncTimeout(DoorError):
    """The time given to `sync --wait` was over before the server had confirmed everything."""


# --- the server and the way to it -----------------------------------------------------------------------


class RemoteError(BlobfsError):
    """The server answered with an error, or not at all."""


class RemoteUnavailable(RemoteError):
    """No answer, a broken one, or a passing fault of the server's."""

    retriable = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """What the server asked for in `Retry-After`, if it did."""


class AccessDenied(RemoteError):
    """The token is unknown, expired, revoked, or lacks the right."""


class WrongAccount(RemoteError):
    """The server's data belongs to another account than this store."""


class WrongServer(RemoteError):
    """The server's key is not the one that this device was told."""


class KeysChanged(RemoteError):
    """The account is in a newer epoch than this store has keys of."""


class QuotaExceeded(RemoteError):
    """The account's quota, or the server's disk, has no room."""


class FileOverQuota(QuotaExceeded):
    """One file is larger than the room that the account has left; nothing of it was sent."""


class BlobNotFound(RemoteError):
    """No blob of this id, on the server or among those of a program."""


class BlobExists(RemoteError):
    """A blob of this id is there already, on the server or among those of a program."""


class BlobTooLarge(RemoteError):
    """More bytes than the server takes in one blob."""


class BlobReferred(RemoteError):
    """A live document refers to the blob, so it stays."""


class InvalidFlags(RemoteError):
    """A flag that nobody knows."""


class PreconditionFailed(RemoteError):
    """Another device was first: what was to be replaced is not what is there."""


class ProtocolError(RemoteError):
    """An answer that breaks the protocol or its limits."""
