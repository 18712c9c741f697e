"""Every error of the server, as one tree. Knows nothing of statuses (`app.py`) or exit codes (`cli.py`).

ServerError
├── BadRequest                  what was asked for cannot be meant
│   ├── BadDigest  BadRange  InvalidFlags  LengthRequired
├── Unauthorized  Forbidden     who asked
├── NotFound
├── BlobExists  BlobReferred  PreconditionFailed
├── TooLarge  TooManyRequests
├── OverQuota  DiskFull  Unavailable
├── AccountExists  AccountMissing  AccountNotEmpty
└── ConfigBad  DataUnusable  DataInUse  CatalogTooNew  PortBusy
"""

from __future__ import annotations


class ServerError(Exception):
    """Base of all. `str()` is one sentence for a person; it holds no token, payload or path of the server's."""


class BadRequest(ServerError):
    """A request that breaks the protocol."""


class BadDigest(BadRequest):
    """The bytes that came are not those that the digest header names."""


class BadRange(BadRequest):
    """A range that the blob does not have, or that is no range."""

    def __init__(self, size: int) -> None:
        super().__init__(f"The range does not lie within the {size} bytes of the blob.")
        self.size = size
        """Bytes of the whole blob."""


class InvalidFlags(BadRequest):
    """A flag that the server does not know."""


class LengthRequired(BadRequest):
    """A request whose body has to say its length."""


class Unauthorized(ServerError):
    """No token, or one that is unknown, expired or revoked."""


class Forbidden(ServerError):
    """The token is good, but not for this."""


class NotFound(ServerError):
    """Nothing of this name is here."""


class BlobExists(ServerError):
    """A blob of this id is here already."""


class BlobReferred(ServerError):
    """A live document, or a kept revision of one, refers to the blob."""


class PreconditionFailed(ServerError):
    """What was to be replaced is not what is here."""


class TooLarge(ServerError):
    """A body over its limit."""


class TooManyRequests(ServerError):
    """The account has too many requests open, or sends them too fast."""


class OverQuota(ServerError):
    """The account's quota has no room for it."""


class DiskFull(ServerError):
    """The server's disk has no room."""


class Unavailable(ServerError):
    """A passing fault of the server's disk or catalog."""


class AccountExists(ServerError):
    """The name is taken."""


class AccountMissing(ServerError):
    """No account, or no token, of this name."""


class AccountNotEmpty(ServerError):
    """The account holds data, and nobody said that it may go."""


class ConfigBad(ServerError):
    """The configuration cannot be used."""


class DataUnusable(ServerError):
    """The data directory cannot be used."""


class DataInUse(DataUnusable):
    """Another server process owns the data directory."""


class CatalogTooNew(DataUnusable):
    """A newer server wrote this catalog."""


class PortBusy(ServerError):
    """The address cannot be listened on."""
