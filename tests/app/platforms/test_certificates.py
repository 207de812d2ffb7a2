"""Chains of certificates: what counts as issued by a root we hold, and what only looks like it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from app.platforms import certificates

VECTORS = Path(__file__).parent / "vectors"
NOW = datetime(2026, 11, 24, tzinfo=UTC)
KEYS = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in ("root", "class", "leaf", "other")}


def made(name, issuer, *, ca=False, days=(-10, 10), signed_by=None):
    def named(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(KEYS[name].public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(KEYS[signed_by or issuer], hashes.SHA256())
    )


ROOT, CLASS, LEAF = made("root", "root", ca=True), made("class", "root", ca=True), made("leaf", "class")


@pytest.mark.parametrize(
    ("leaf", "between", "roots", "chains"),
    [
        (LEAF, [CLASS], [ROOT], True),
        (LEAF, [LEAF, CLASS], [ROOT], True),  # a file of the whole chain
        (made("leaf", "root"), [], [ROOT], True),
        (LEAF, [], [ROOT], False),
        (LEAF, [CLASS], [], False),
        (LEAF, [CLASS], [made("other", "other", ca=True)], False),
        (LEAF, [made("class", "root")], [ROOT], False),  # its issuer may not issue
        (LEAF, [made("class", "root", ca=True, signed_by="other")], [ROOT], False),  # names fit, the signature does not
        (LEAF, [made("class", "root", ca=True, days=(-10, -1))], [ROOT], False),
        (LEAF, [CLASS], [made("root", "root", ca=True, days=(-10, -1))], False),
        (made("leaf", "class", days=(-10, 0)), [CLASS], [ROOT], False),
        (made("leaf", "class", days=(1, 10)), [CLASS], [ROOT], False),
        (made("other", "other"), [made("other", "other")], [ROOT], False),
    ],
)
def test_chains(leaf, between, roots, chains):
    assert certificates.chains_to_root(leaf, between, roots, NOW) is chains


def test_a_circle_ends():
    one, two = made("class", "other", ca=True), made("other", "class", ca=True)
    assert not certificates.chains_to_root(LEAF, [one, two], [ROOT], NOW)


def test_alipays_published_bundle_is_read_without_what_cannot_be_read():
    """Four certificates; cryptography refuses the one with NULL in its ECDSA parameters."""
    text = (VECTORS / "alipay_root.crt").read_text()
    assert len(certificates.pem_blocks(text)) == 4
    assert len(certificates.read_certificates(text)) in (3, 4)
    crlf = text.replace("\n", "\r\n").replace("\r\n\r\n", "\r\n")
    assert len(certificates.pem_blocks(crlf)) == 4
    leaf = json.loads((VECTORS / "alipay.json").read_text())["app_certificate"]["pem"]
    (app,) = certificates.read_certificates(leaf)
    assert not certificates.is_valid_at(app, NOW)
