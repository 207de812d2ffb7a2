"""The certificate that a stand-in shows over TLS: made from a seed, always the same for the same one, so that nothing of it needs to be kept."""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

_HOSTS = ("127.0.0.1", "localhost")
_STARTS = datetime(2026, 1, 1, tzinfo=UTC)
_LIVES = timedelta(days=20 * 365)


def host_certificate(seed: bytes) -> tuple[str, str]:
    """Return certificate and private key (PEM) of this machine for a seed of 32 bytes. Ed25519 signs without chance, hence the same bytes."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost (sandbox)")])
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(int.from_bytes(seed[:8]) | 1)
        .not_valid_before(_STARTS)
        .not_valid_after(_STARTS + _LIVES)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(_HOSTS[0])), x509.DNSName(_HOSTS[1])]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, None)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def server_context(seed: bytes) -> ssl.SSLContext:
    """Return what a server needs to show the certificate of a seed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # ssl takes a file alone; mode 0600, gone at once
        file.write("".join(host_certificate(seed)))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
