"""The server's certificate, as far as clients must be told of it: the pin of its key, and whether they need that.

Must not know the network. Invariant: what cannot be read here is said in a sentence before anybody connects.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from server.errors import ConfigBad


def read_pin(certificate: Path) -> tuple[str, bool]:
    """(the pin of the key, whether the certificate is its own issuer, so that no authority vouches for it).

    Raises:
        ConfigBad: the file holds no certificate.
    """
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        spki = found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except OSError as error:
        raise ConfigBad(f"The certificate {certificate} cannot be read: {error.strerror}.") from error
    except Exception as error:
        raise ConfigBad(f"The file {certificate} holds no certificate with a key that can be used.") from error
    pin = "sha256//" + base64.b64encode(hashlib.sha256(spki).digest()).decode("ascii")
    return pin, found.issuer == found.subject
