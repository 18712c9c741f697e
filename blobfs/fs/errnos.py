"""What a program is told when a request fails: our errors as errno, and the line in the log that goes with it.

Knows no FUSE. Invariant: each failure that is not the caller's own is logged once, and here.
"""

from __future__ import annotations

import errno
import logging
from typing import Final

from blobfs import errors

log = logging.getLogger(__name__)

ERRNO: Final[dict[type[BaseException], int]] = {
    errors.NotFound: errno.ENOENT,
    errors.Exists: errno.EEXIST,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.StaleHandle: errno.ESTALE,
    errors.InvalidArgument: errno.EINVAL,
    errors.FileTooBig: errno.EFBIG,
    errors.NoAttribute: errno.ENODATA,
    errors.RangeTooSmall: errno.ERANGE,
    errors.NotPermitted: errno.EPERM,
    errors.KeptOut: errno.EACCES,  # what such programs meet all the time: they go on to the next file, and say nothing
    errors.NotSupported: errno.EOPNOTSUPP,
    errors.TooManyLinks: errno.EMLINK,
    errors.DocumentFull: errno.ENOSPC,
    errors.ReadOnly: errno.EROFS,
    errors.NoSpace: errno.ENOSPC,
    errors.QuotaExceeded: errno.EDQUOT,
    errors.RemoteUnavailable: errno.ENETUNREACH,  # "Network is unreachable" says more than "Input/output error"
    errors.BlobfsError: errno.EIO,
    MemoryError: errno.ENOMEM,
}
"""Looked up along the MRO: the most specific class counts. Anything that is not in here is EIO, with a traceback."""


def errno_of(error: Exception) -> int:
    """The errno of an error. Whatever is not the caller's own fault is logged."""
    for kind in type(error).__mro__:
        number = ERRNO.get(kind)
        if number is not None:
            if not isinstance(error, errors.FileError):
                log.warning("%s: %s", errno.errorcode[number], error or type(error).__name__)
            return number
    log.error("a request failed for a reason nobody thought of", exc_info=error)
    return errno.EIO
