"""What the merchant signs with: its API key and the serial of the certificate that belongs to it, two of each during a change.

A merchant certificate lives five years, and two may be live at once. Who gives the certificates too gets the days left as a metric,
and the change by itself: the first one that is valid signs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.platforms import certificates, rsa

NOTE_EVERY = timedelta(hours=6)


@dataclass(frozen=True)
class Signer:
    """A key and the serial WeChat Pay knows it by. `since`, `until`: of its certificate; without one it always counts."""

    serial: str
    key: RSAPrivateKey
    since: datetime = datetime.min.replace(tzinfo=UTC)
    until: datetime = datetime.max.replace(tzinfo=UTC)


def read_signers(serials: str, keys: str, merchant_certificates: str = "") -> tuple[Signer, ...]:
    """Read the settings: one serial and its private key, or several split by commas with as many PEM keys one after the other.

    Args:
        merchant_certificates: PEM, optional, in any order; each must be of one of the serials and fit its key.

    Raises:
        rsa.KeyUnreadable, ValueError: their numbers differ, or a certificate does not belong to them. Never holds a key.
    """
    names = [name.strip().upper() for name in serials.split(",") if name.strip()]
    texts = _key_blocks(keys) if len(names) > 1 else [keys]
    if len(names) > 1 and len(texts) != len(names):
        raise ValueError(f"{len(names)} merchant serials, but {len(texts)} merchant keys")
    found = [Signer(name, rsa.load_private_key(text)) for name, text in zip(names or [""], texts, strict=True)]
    for certificate in certificates.read_certificates(merchant_certificates):
        serial = f"{certificate.serial_number:X}"
        at = next((n for n, each in enumerate(found) if each.serial.lstrip("0") == serial), None)
        if at is None:
            raise ValueError(f"a merchant certificate of another serial: {serial}")
        found[at] = _with_certificate(found[at], certificate)
    return tuple(found)


class MerchantKeys:
    """The signers in the order of the settings, and which of them signs now."""

    def __init__(self, signers: Sequence[Signer], clock: Callable[[], datetime]) -> None:
        self._signers = signers
        self._clock = clock
        self._noted_at: datetime | None = None

    def current(self) -> Signer:
        """Return the first signer whose certificate is valid now; when none is, the last, and the metric tells."""
        now = self._clock()
        self._note_expiry(now)
        return next((each for each in self._signers if each.since <= now < each.until), self._signers[-1])

    def _note_expiry(self, now: datetime) -> None:
        if self._noted_at is not None and now - self._noted_at < NOTE_EVERY:
            return
        self._noted_at = now
        for each in self._signers:
            if each.until.year < datetime.max.year:
                certificates.note_expiry("wechatpay", "merchant", each.serial, each.until, now)


def _with_certificate(signer: Signer, certificate: x509.Certificate) -> Signer:
    if certificate.public_key() != signer.key.public_key():
        raise ValueError(f"the merchant certificate {signer.serial} does not fit its key")
    return Signer(signer.serial, signer.key, certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _key_blocks(text: str) -> list[str]:
    """Split PEM private keys that stand one after the other."""
    begin = "-----BEGIN "
    return [begin + part for part in text.replace("\\n", "\n").split(begin) if part.strip()]
