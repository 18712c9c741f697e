"""HTTPS with given certificates."""

import datetime
import ipaddress
import json
import os
import ssl
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from server_process import RunningServer

from blobfs.protocol import authorization_header, parse_invite
from server.routes.ranges import DIRECT


def write_certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(hours=1))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    certificate, key_file = directory / "certificate.pem", directory / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return certificate, key_file


def test_a_server_with_a_certificate_speaks_https_and_nothing_else(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    server = RunningServer(tmp_path / "data", "--tls-certificate", certificate, "--tls-key", key)
    try:
        assert server.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(certificate))
        assert server.process.stdout is not None
        pin = server.process.stdout.readline().removeprefix("key pin ").strip()
        invite = parse_invite(json.loads(server.run("user", "add", "alice", "--json").stdout)["invite"])
        assert (invite.url, invite.pin) == (server.url, pin)
        with httpx.Client(verify=trusting, trust_env=False, timeout=60) as client:
            assert client.get(server.url).json()["version"] == 1
            # Large enough that without TLS the kernel would send the file itself.
            blob, content = f"{server.url}/blobs/alice/large", os.urandom(2 * DIRECT)
            headers = {"Authorization": authorization_header(invite.user, invite.token)}
            assert client.put(blob, content=content, headers=headers).status_code == 201
            assert client.get(blob, headers=headers).content == content
        plain = server.url.replace("https", "http")
        try:
            refused = httpx.get(plain, trust_env=False, timeout=60).status_code >= 400
        except httpx.HTTPError:
            refused = True
        assert refused
    finally:
        assert server.stop() == 0
