"""The key that a server proves to have in the TLS handshake, and the pin that stands for it.

Knows nothing of HTTP. A pin takes the place of authority, name and date of a certificate: whoever has the key that the
invite names is the server, whatever a certificate claims of itself. Invariant: a key that is not the pinned one ends
the handshake before a byte of a request, and so a token, is sent.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class WrongKey(ssl.SSLCertVerificationError):
    """The server proved to have another key than the pinned one."""


class ServerKey:
    """What is known of the server's key."""

    def __init__(self, pin: str | None) -> None:
        self.pin = pin
        """The only one to be believed; None: the certificate counts."""
        self.seen: str | None = None
        """The pin of the last server that was met; None: none yet, or one without TLS."""

    def context(self, ca_file: str | None) -> ssl.SSLContext:
        """For connections to servers with this key only."""
        context = ssl.create_default_context(cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.pin is not None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        meet = self._meet

        class Checked(ssl.SSLObject):
            def do_handshake(self) -> None:
                super().do_handshake()
                meet(self.getpeercert(binary_form=True))

        hooked: Any = context  # typeshed takes the hook for one of the class; it is looked up on the context
        hooked.sslobject_class = Checked
        return context

    def _meet(self, certificate: bytes | None) -> None:
        seen = _pin_of(certificate)
        if self.pin is not None and seen != self.pin:
            raise WrongKey("the server has another key than the pinned one")
        self.seen = seen


def _pin_of(certificate: bytes | None) -> str | None:
    """The pin of a certificate's key; None when it holds none that can be read."""
    try:
        key = x509.load_der_x509_certificate(certificate or b"").public_key()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception:  # whatever a hostile certificate makes the parser say, its key is not the pinned one
        return None
    return "sha256//" + base64.b64encode(hashlib.sha256(spki).digest()).decode("ascii")
