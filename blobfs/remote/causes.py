"""What broke on the way to the server, in a sentence: of the errors of httpx, trio and TLS behind one another.

Knows no request. Invariant: a sentence says nothing that the server chose.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

import httpx

TRIES_AGAIN: Final = "blobfs tries again by itself"
_TIMES: Final = (9, 10)
"""What OpenSSL says of a certificate that is not valid yet, or not any more."""


def sentence_of(error: Exception, url: str) -> str:
    """The cause, and what to check where trying again will not help."""
    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
        if cause := _cause(error, ssl.SSLCertVerificationError):
            if getattr(cause, "verify_code", 0) in _TIMES:
                return "the server's certificate is not valid at this time; check this machine's clock, then the server"
            return "the server's certificate is not valid for its address; check the address or the certificate"
        if is_caused_by(error, ssl.SSLError):
            return "what answers at the server's address speaks no TLS; check whether https and the port are right"
        if is_caused_by(error, socket.gaierror):
            return f"the server's name is not known here; {TRIES_AGAIN}, check the network or the address"
        return f"the server cannot be reached; {TRIES_AGAIN}"
    if isinstance(error, httpx.TimeoutException):
        return f"the server does not answer; {TRIES_AGAIN}"
    if isinstance(error, httpx.RemoteProtocolError) and url.startswith("http://"):
        return "the server breaks off in place of an answer; check whether its address must begin with https"
    return f"the connection to the server broke; {TRIES_AGAIN}"


def is_caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether an error of this kind is behind it."""
    return _cause(error, kind) is not None


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The error of this kind that is behind it: httpx and trio wrap what TLS says in errors without its words."""
    seen = 0
    while error is not None and seen < 20:
        if isinstance(error, kind):
            return error
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None
