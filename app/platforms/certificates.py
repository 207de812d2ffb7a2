"""Certificates of the platforms: which one is meant, whether it chains to a root we hold, and how long it still lives.

Only what the payment providers need: RSA leaf certificates under a known bundle of roots. No revocation lists: neither provider
publishes one; a certificate that is to be trusted no more is taken out of the settings.
"""

import re
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from prometheus_client import Gauge

# An alarm belongs on this one at 60 days: a new certificate takes the operator's hand.
days_left = Gauge(
    "hall_certificate_days_left",
    "Days until a certificate used with a platform ends",
    ["provider", "kind", "serial"],
    multiprocess_mode="livemin",
)

_PEM_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+?-----END CERTIFICATE-----")
_LONGEST_CHAIN = 5


def pem_blocks(text: str) -> list[bytes]:
    """Return the certificates of a text, each as PEM; line ends may be LF, CRLF or written out as `\\n`."""
    plain = text.replace("\\n", "\n").replace("\r\n", "\n").replace("\r", "\n")
    return [block.encode() for block in _PEM_BLOCK.findall(plain)]


def read_certificates(text: str) -> list[x509.Certificate]:
    """Return the certificates of a bundle, without those that `cryptography` cannot read (Alipay's bundle holds one)."""
    found = []
    for block in pem_blocks(text):
        try:
            found.append(x509.load_pem_x509_certificate(block))
        except ValueError:
            continue
    return found


def chains_to_root(
    leaf: x509.Certificate, between: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: datetime
) -> bool:
    """Say whether `leaf` is valid at `now` and was issued, directly or through `between`, by one of `roots`.

    Every issuer must itself be valid and a certificate authority; a root is trusted because it stands in our settings.
    """
    current = leaf
    for _ in range(_LONGEST_CHAIN):
        if not is_valid_at(current, now):
            return False
        if any(_issued(root, current) and is_valid_at(root, now) for root in roots):
            return True
        issuer = next((each for each in between if each != current and _issued(each, current)), None)
        if issuer is None:
            return False
        current = issuer
    return False


def is_valid_at(certificate: x509.Certificate, now: datetime) -> bool:
    """Say whether `now` (aware) is within the certificate's life; its last moment is outside."""
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def note_expiry(provider: str, kind: str, serial: str, until: datetime, now: datetime) -> None:
    """Tell the operator how long a certificate still lives."""
    days_left.labels(provider, kind, serial).set(round((until - now).total_seconds() / 86400, 2))


def _issued(issuer: x509.Certificate, subject: x509.Certificate) -> bool:
    try:
        subject.verify_directly_issued_by(issuer)
        return bool(issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return False
