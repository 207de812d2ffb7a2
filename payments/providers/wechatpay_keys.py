"""The keys with which WeChat Pay's signatures are checked: public keys from the settings and platform certificates it hands out.

Both kinds stand side by side in one map by exact serial, because a merchant that changes from one to the other gets messages signed
with either for days. Certificates are fetched at start, again every twelve hours, and in between when a serial turns up that nobody
knows, but at most once a minute whoever sends whatever. A merchant made in public-key mode has none: the answer is then 404, and the
public key is all there is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from app.platforms import certificates, rsa
from app.platforms.http import Response
from payments.provider import ProviderError, ProviderNotSent, ProviderUnknown
from payments.providers import wechatpay_v3 as v3

log = structlog.get_logger(__name__)

FETCH_EVERY = timedelta(hours=12)
FETCH_AT_MOST_EVERY = timedelta(minutes=1)

Fetch = Callable[[], Awaitable[Response]]


@dataclass(frozen=True)
class _Certificate:
    key: RSAPublicKey
    until: datetime


class VerificationKeys:
    """The map, and how it is kept fresh.

    Args:
        public_keys: `PUB_KEY_ID_...` -> PEM; the first one is asked for in `Wechatpay-Serial`. May be empty: certificates alone.
        api_v3_key: opens the certificates, which is what authenticates the first ones.
    """

    def __init__(self, public_keys: Mapping[str, str], api_v3_key: str, clock: Callable[[], datetime]) -> None:
        self._public = {key_id: rsa.load_public_key(pem) for key_id, pem in public_keys.items()}
        self._certificates: Mapping[str, _Certificate] = {}
        self._api_v3_key = api_v3_key
        self._clock = clock
        self._fetched_at: datetime | None = None
        self._tried_at: datetime | None = None
        self._fetching: asyncio.Task[None] | None = None

    @property
    def wanted_serial(self) -> str:
        """Which key answers are to be signed with; empty leaves it to WeChat Pay, which then takes a certificate."""
        return next(iter(self._public), "")

    def at(self, now: datetime) -> dict[str, RSAPublicKey]:
        """Return the keys that count at `now`, by serial; a certificate past its end verifies nothing."""
        valid = {serial: each.key for serial, each in self._certificates.items() if now < each.until}
        return {**valid, **self._public}

    def for_sealing(self, now: datetime) -> tuple[str, RSAPublicKey]:
        """Return (serial, key) to seal fields for WeChat Pay with: the public key, else the certificate that lives longest.

        Raises ProviderNotSent when none is held.
        """
        if self._public:
            return next(iter(self._public.items()))
        valid = [(each.until, serial, each.key) for serial, each in self._certificates.items() if now < each.until]
        if not valid:
            raise ProviderNotSent("no key to seal with")
        _, serial, key = max(valid, key=lambda each: each[0])
        return serial, key

    async def keep_fresh(self, fetch: Fetch) -> None:
        """Fetch the certificates when they are old: waited for only when there is no key at all to go on with."""
        now = self._clock()
        if self._fetched_at is not None and now - self._fetched_at < FETCH_EVERY:
            return
        if self.at(now):
            self.refresh_soon(fetch)
        else:
            await self.refresh(fetch)

    async def refresh(self, fetch: Fetch) -> bool:
        """Fetch the certificates, or wait for the fetch under way; at most one a minute. Says whether there was one.

        However many calls meet a new serial at once, one fetch answers them all. Never raises ProviderError.
        """
        fetching = self.refresh_soon(fetch)
        if fetching is None:
            return False
        await asyncio.shield(fetching)  # whoever gives up waiting must not end it for the others
        return True

    def refresh_soon(self, fetch: Fetch) -> asyncio.Task[None] | None:
        """Begin a fetch in the background, or return the one under way; None when there was one within the last minute."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        now = self._clock()
        if self._tried_at is not None and now - self._tried_at < FETCH_AT_MOST_EVERY:
            return None
        self._tried_at = now
        self._fetching = asyncio.create_task(self._fetch(fetch), name="wechatpay-certificates")
        return self._fetching

    async def _fetch(self, fetch: Fetch) -> None:
        try:
            self._take(await fetch())
        except ProviderError as error:
            log.error("wechatpay.certificates_not_fetched", cause=str(error))

    def _take(self, response: Response) -> None:
        """Read the answer of /v3/certificates and put its certificates in place of the old ones, in one step. Raises ProviderUnknown."""
        now = self._clock()
        if response.status == 404 and self._public:  # made in public-key mode: there are none, and that is right
            self._fetched_at = now
            return
        if response.status != 200:
            raise ProviderUnknown(f"certificates: status {response.status}")
        try:
            found = dict(self._read(row, now) for row in orjson.loads(response.body)["data"])
        except (v3.MessageRefused, ValueError, KeyError, TypeError) as error:
            raise ProviderUnknown(f"certificates: {error!r}") from error
        valid = {serial: each for serial, each in found.items() if each is not None}
        trusted = {**self.at(now), **{serial: each.key for serial, each in valid.items()}}
        try:
            v3.verify_message(response.headers, response.body, trusted, now)
        except v3.MessageRefused as refused:
            raise ProviderUnknown(f"certificates: {refused.reason}") from refused
        for serial, each in valid.items():
            certificates.note_expiry("wechatpay", "platform", serial, each.until, now)
            if serial not in self._certificates:
                log.info("wechatpay.certificate_learned", serial=serial, until=each.until.isoformat())
        self._certificates = valid
        self._fetched_at = now

    def _read(self, row: Mapping[str, Any], now: datetime) -> tuple[str, _Certificate | None]:
        pem = v3.decrypt_resource(row["encrypt_certificate"], self._api_v3_key)
        certificate = x509.load_pem_x509_certificate(pem)
        if f"{certificate.serial_number:X}" != str(row["serial_no"]).upper().lstrip("0"):
            raise ValueError("a certificate under another serial")
        if not certificates.is_valid_at(certificate, now):
            return str(row["serial_no"]), None
        return str(row["serial_no"]), _Certificate(rsa.load_public_key(pem.decode()), certificate.not_valid_after_utc)


def read_public_keys(ids: str, pems: str) -> dict[str, str]:
    """Read the settings: one id with its PEM, or, during a change, several ids split by commas with as many PEMs one after the other.

    Raises:
        ValueError: their numbers differ.
    """
    names = [name.strip() for name in ids.split(",") if name.strip()]
    if len(names) <= 1:
        return {names[0]: pems} if names and pems.strip() else {}
    text = pems.replace("\\n", "\n")
    end = "-----END PUBLIC KEY-----"
    blocks = [part + end for part in text.split(end) if part.strip()]
    if len(blocks) != len(names):
        raise ValueError(f"{len(names)} WeChat Pay public key ids, but {len(blocks)} keys")
    return dict(zip(names, blocks, strict=True))
