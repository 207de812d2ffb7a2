"""Alipay's certificate mode: our certificate and the root in the settings, Alipay's own certificate learned as it changes.

An answer names the certificate it is signed with (`alipay_cert_sn`). An unknown one is fetched and accepted only when it carries that
name, is valid, and chains to the root we hold; who can read our connection can therefore still not sign for Alipay.
"""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from app.kernel.errors import ProviderUnavailable
from app.platforms import alipay_protocol as protocol
from app.platforms import certificates, rsa

log = structlog.get_logger(__name__)

DOWNLOAD = "alipay.open.app.alipaycert.download"
# Whoever sends whatever: a name nobody knows costs at most one call a minute. Names in notices (anybody can send one) and names in
# answers to our own calls are counted apart, so that a flood of the first cannot keep us from learning the second.
FETCH_AT_MOST_EVERY = timedelta(minutes=1)
NOTE_EVERY = timedelta(hours=6)

Fetch = Callable[[str], Awaitable[bytes]]  # serial -> raw answer of DOWNLOAD; raises ProviderUnavailable


@dataclass(frozen=True)
class _Held:
    key: RSAPublicKey
    until: datetime


class AlipayCertificates:
    """The three certificates of the settings, and what was learned since.

    Raises (on construction):
        protocol.Unreadable, ValueError: one of them cannot be read.
    """

    def __init__(self, *, app_cert: str, root_cert: str, public_cert: str, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._app = x509.load_pem_x509_certificate(_first(app_cert))
        self._roots = certificates.read_certificates(root_cert)
        # Files from the console hold the authority above the certificate too; a download may leave it out.
        self._between = [*certificates.read_certificates(public_cert)[1:], *certificates.read_certificates(app_cert)[1:]]
        self.parameters = {
            "app_cert_sn": protocol.serial_of(self._app),
            "root_cert_sn": protocol.root_certificate_sn(root_cert),
        }
        leaf = x509.load_pem_x509_certificate(_first(public_cert))
        self._given = protocol.serial_of(leaf)
        self._held = {protocol.serial_of(leaf): _Held(rsa.load_public_key(_first(public_cert).decode()), leaf.not_valid_after_utc)}
        self._named = ""  # by a notice, not fetched yet
        self._tried_at: dict[str, datetime] = {}  # "answer", "notice" -> when one was last fetched for it
        self._fetching: asyncio.Task[None] | None = None
        self._noted_at: datetime | None = None

    @property
    def keys(self) -> dict[str, RSAPublicKey]:
        """Alipay's keys by certificate serial, without learned ones whose certificate has ended.

        The one of the settings stays: the operator put it there, and the metric of days left tells that it is over.
        """
        now = self._clock()
        self._note_expiry(now)
        return {serial: held.key for serial, held in self._held.items() if serial == self._given or now < held.until}

    def want(self, serial: str) -> bool:
        """Remember a serial somebody signed with; say whether it is worth fetching (not held, and it looks like one)."""
        if not self._is_news(serial):
            return False
        self._named = serial
        return True

    def _is_news(self, serial: str) -> bool:
        return serial not in self._held and len(serial) == 32 and serial.isalnum()

    async def learn(self, fetch: Fetch, serial: str = "") -> bool:
        """Fetch a certificate and say whether that was tried; a fetch under way is waited for first.

        Args:
            serial: that an answer to a call of ours names; empty for the one that a notice named.
        """
        if self._fetching is not None and not self._fetching.done():
            await asyncio.shield(self._fetching)
            if serial in self._held:
                return True
        fetching = self.learn_soon(fetch, serial)
        if fetching is None:
            return False
        await asyncio.shield(fetching)  # whoever gives up waiting must not end it for the others
        return True

    def learn_soon(self, fetch: Fetch, serial: str = "") -> asyncio.Task[None] | None:
        """Begin a fetch in the background, or return the one under way; None when there is nothing to fetch or it is too soon."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        now, source = self._clock(), "answer" if serial else "notice"
        serial = serial or self._named
        last = self._tried_at.get(source)
        if not self._is_news(serial) or (last is not None and now - last < FETCH_AT_MOST_EVERY):
            return None
        self._tried_at[source] = now
        self._named = ""
        self._fetching = asyncio.create_task(self._fetch(fetch, serial), name="alipay-certificate")
        return self._fetching

    async def _fetch(self, fetch: Fetch, serial: str) -> None:
        try:
            self._take(serial, await fetch(serial), self._clock())
        except ProviderUnavailable as error:
            log.error("alipay.certificate_not_fetched", cause=str(error.context.get("cause", "")))
        except (protocol.Unreadable, ValueError, KeyError) as error:
            log.error("alipay.certificate_refused", serial=serial, cause=str(error))

    def _take(self, serial: str, raw: bytes, now: datetime) -> None:
        """Accept the certificate in an answer of DOWNLOAD, or raise ValueError."""
        content = orjson.loads(protocol.signed_part(raw, DOWNLOAD.replace(".", "_") + "_response"))
        if content.get("code") != "10000":
            raise ValueError(f"download refused: {content.get('sub_code')}")
        try:
            pem = base64.b64decode(content["alipay_cert_content"], validate=True).decode()
        except (binascii.Error, TypeError) as error:
            raise ValueError("no certificate in the answer") from error
        found = certificates.read_certificates(pem)
        leaf = next((each for each in found if protocol.serial_of(each) == serial), None)
        if leaf is None:
            raise ValueError("a certificate of another serial")
        if not certificates.chains_to_root(leaf, [*found, *self._between], self._roots, now):
            raise ValueError("it does not chain to the root")
        key = leaf.public_key()
        if not isinstance(key, RSAPublicKey):
            raise ValueError("not an RSA certificate")
        # The answer itself is mostly signed with this very certificate; what it is signed with must fit in any case.
        protocol.verify_answer(raw, DOWNLOAD, {**self.keys, serial: key})
        self._held = {**self._held, serial: _Held(key, leaf.not_valid_after_utc)}
        self._noted_at = None
        log.info("alipay.certificate_learned", serial=serial, until=leaf.not_valid_after_utc.isoformat())

    def _note_expiry(self, now: datetime) -> None:
        if self._noted_at is not None and now - self._noted_at < NOTE_EVERY:
            return
        self._noted_at = now
        ends: list[tuple[str, str, datetime]] = [("app", self.parameters["app_cert_sn"], self._app.not_valid_after_utc)]
        ends += [("alipay", serial, held.until) for serial, held in self._held.items()]
        for kind, serial, until in ends:
            certificates.note_expiry("alipay", kind, serial, until, now)


class OneKey:
    """Key mode in the same words: one Alipay public key from the console, nothing to learn."""

    parameters: Mapping[str, str] = {}

    def __init__(self, public_key: str) -> None:
        self.keys = {"": rsa.load_public_key(public_key)}

    def want(self, serial: str) -> bool:
        return False

    async def learn(self, fetch: Fetch, serial: str = "") -> bool:
        return False

    def learn_soon(self, fetch: Fetch, serial: str = "") -> None:
        return None


def _first(pem: str) -> bytes:
    blocks = certificates.pem_blocks(pem)
    if not blocks:
        raise protocol.Unreadable("no certificate in the text")
    return blocks[0]
