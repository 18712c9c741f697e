"""The pin of an invite: a server with that key is the server, whatever its certificate says, and no other one is."""

from __future__ import annotations

import base64
import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blobfs.errors import UsageError, WrongServer
from blobfs.remote.client import RemoteClient
from blobfs.remote.transport import Limits
from tests.sync.kit import Account, trio_test
from tests.threats.test_network import Authority, greeting

LIMITS = Limits(connect_s=60, silence_s=60)


def pin_of(pem: Path) -> str:
    key = x509.load_pem_x509_certificate(pem.read_bytes()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256//" + base64.b64encode(hashlib.sha256(spki).digest()).decode()


@trio_test
async def test_a_server_with_the_pinned_key_is_believed_whatever_its_certificate_says(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "unknown")
    for address, expired in (("127.0.0.1", False), ("127.0.0.2", False), ("127.0.0.1", True)):
        context = authority.context(address, expired=expired)
        pin = pin_of(tmp_path / "server.pem")
        with greeting(context) as (url, heard):
            async with RemoteClient(url, "user", "token", limits=LIMITS, pin=pin) as client:
                await client.greet()
                assert client.transport.key.seen == pin
            assert len(heard) == 1


@trio_test
async def test_a_server_with_another_key_is_named_and_hears_nothing_though_its_certificate_is_good(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path, "right")
    authority.context()
    pin = pin_of(tmp_path / "server.pem")
    for versions in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = authority.context()
        context.maximum_version = versions
        with greeting(context) as (url, heard):
            async with RemoteClient(
                url, "user", "token", limits=LIMITS, ca_file=str(authority.file), pin=pin
            ) as client:
                with pytest.raises(WrongServer, match="does not have the key"):
                    await client.greet()
                assert client.transport.key.seen is None
            assert heard == []


@trio_test
async def test_without_a_pin_the_key_of_a_believed_server_is_known(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "right")
    with greeting(authority.context()) as (url, _):
        async with RemoteClient(url, "user", "token", limits=LIMITS, ca_file=str(authority.file)) as client:
            await client.greet()
            assert client.transport.key.seen == pin_of(tmp_path / "server.pem")


@trio_test
async def test_a_server_without_tls_has_no_key_to_pin(account: Account) -> None:
    with pytest.raises(UsageError, match="only a server at an https address"):
        RemoteClient(account.server.url, "user", "token", pin="sha256//" + "A" * 43 + "=")
