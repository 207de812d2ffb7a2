"""Native push to iPhones through Apple directly: HTTP/2, one call per device, signed by a provider token.

The token is the same in every process, byte for byte, without anybody sharing it: its `iat` is the beginning of the present slice of forty
minutes, and the signature is deterministic (RFC 6979). So Apple, who wants one no older than an hour and no new one within twenty minutes
from a whole team, sees one token that changes every forty minutes, however many workers there are and however often they start.

Repeatable: `apns-id` does not keep Apple from taking the same twice, but `apns-collapse-id` does on the phone: what comes with the same one
replaces what is on the screen. So a repetition shows one notification (it may sound once more).
Apple reports no fate: 200 means taken. Source: Apple, Sending notification requests to APNs; Handling notification responses from APNs.
"""

import asyncio
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import structlog
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pymongo.asynchronous.client_session import AsyncClientSession

from app.platforms.http import VendorUnknown, VendorUnreachable
from app.platforms.http2 import Http2Client
from push.channel import Effect, Envelope, Letter, Refused, Then, TryLater, Unclear, alarms
from push.store import APNS, Store

log = structlog.get_logger(__name__)

TIMEOUT_S = 5
TOKEN_S = 2400
KEPT_OFFLINE = timedelta(hours=12)
MAX_PAYLOAD_BYTES = 4096
_DROPS = "the device is dropped"

# `reason` of Apple's answer -> what follows.
EFFECTS: Mapping[str, Effect] = {
    "Unregistered": Effect("the app is gone from the device (410)", Then.NEXT, "the device is dropped, unless it registered later"),
    "ExpiredToken": Effect("the device has another token by now (410)", Then.NEXT, "the device is dropped, unless it registered later"),
    "BadDeviceToken": Effect("no device, or one of the other environment", Then.NEXT, _DROPS),
    "DeviceTokenNotForTopic": Effect("a device of another app", Then.NEXT, _DROPS, True),
    "TooManyRequests": Effect("too many to one device (429)", Then.LATER),
    "TooManyProviderTokenUpdates": Effect("tokens change too often (429)", Then.LATER, "", True),
    "ServiceUnavailable": Effect("Apple is busy, or restarts (503; any 5xx)", Then.LATER),
    "ExpiredProviderToken": Effect("our token is over an hour old: the clock (403)", Then.LATER, "", True),
    "InvalidProviderToken": Effect("key, key id and team do not fit (403)", Then.NEXT, "", True),
    "TopicDisallowed": Effect("the topic is not ours", Then.NEXT, "", True),
    "PayloadTooLarge": Effect("over 4096 bytes (413)", Then.NEXT, "", True),
    "other": Effect("a refusal of the call itself", Then.NEXT, "", True),
}
_DEAD = frozenset({"Unregistered", "ExpiredToken", "BadDeviceToken", "DeviceTokenNotForTopic"})


@dataclass(frozen=True)
class ApnsKey:
    """What signs the provider token: the .p8 file of a team."""

    private: ec.EllipticCurvePrivateKey
    key_id: str
    team_id: str

    @classmethod
    def from_pem(cls, pem: str, key_id: str, team_id: str) -> "ApnsKey":
        """Raises ValueError: not a P-256 private key."""
        key = load_pem_private_key(pem.encode(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("HALL_APNS_KEY is not a P-256 private key")
        return cls(key, key_id, team_id)

    def token(self, now_s: float) -> str:
        """Return the provider token (JWT, ES256) of a moment; the same for all of its forty minutes."""
        issued_at = int(now_s) // TOKEN_S * TOKEN_S
        signed = f"{_part({'alg': 'ES256', 'kid': self.key_id})}.{_part({'iss': self.team_id, 'iat': issued_at})}"
        der = self.private.sign(signed.encode(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        r, s = decode_dss_signature(der)
        return f"{signed}.{_base64url(r.to_bytes(32) + s.to_bytes(32))}"


class Apns:
    """Channel `apns`: for a person with the native app on an iPhone that registered with Apple's device token."""

    name = "apns"
    repeatable = True
    settles = False

    def __init__(
        self, http: Http2Client, store: Store, key: ApnsKey | None, clock: Callable[[], datetime], *, base_url: str, topic: str
    ) -> None:
        self._http = http
        self._store = store
        self._key = key
        self._clock = clock
        self._url = f"{base_url.rstrip('/')}/3/device/" if base_url and key else ""
        self._topic = topic
        self._token = (-1, "")  # which slice, and its token

    async def prepare(self, letter: Letter) -> Envelope | None:
        if not self._url:  # iPhones are reached through JPush, or not at all
            return None
        devices = [device for device in await self._store.devices(letter.owner_id) if device.get("vendor") == APNS]
        return Envelope(letter, "", extra={"devices": devices}) if devices else None

    async def send(self, envelope: Envelope) -> str:
        """Send to each device; one that took it is enough. Returns the `apns-id` of the first of them."""
        body = payload(envelope.letter)
        outcomes = await asyncio.gather(
            *(self._send_to(device, envelope.letter, body) for device in envelope.extra["devices"]), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, str):
                return outcome
        for kind in (Unclear, TryLater, BaseException):  # what may still come, before what is final
            for outcome in outcomes:
                if isinstance(outcome, kind):
                    raise outcome
        raise Refused("other")

    async def settle(self, envelope: Envelope, error_code: str, session: AsyncClientSession) -> None:
        """Nothing follows for later messages."""

    async def _send_to(self, device: Mapping[str, Any], letter: Letter, body: bytes) -> str:
        headers = {
            "authorization": f"bearer {self._present_token()}",
            "apns-id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{letter.delivery_id}/{device['_id']}")),
            "apns-topic": self._topic,
            "apns-push-type": "alert",
            "apns-priority": "10",
            "apns-expiration": str(int((self._clock() + KEPT_OFFLINE).timestamp())),
            "apns-collapse-id": letter.delivery_id,
            "content-type": "application/json",
        }
        try:
            response = await self._http.request(
                "apns", "POST", self._url + device["_id"], headers=headers, body=body, timeout_s=TIMEOUT_S, shown_path="/3/device/"
            )
        except VendorUnreachable as error:
            raise TryLater("unreachable") from error
        except VendorUnknown as error:
            if error.context.get("cause") == "status":
                raise TryLater("ServiceUnavailable") from error
            raise Unclear(str(error.context.get("cause", "unknown"))) from error
        if response.status == 200:
            return response.header("apns-id") or headers["apns-id"]
        reason, gone_at = _read(response.body)
        effect = EFFECTS.get(reason, EFFECTS["other"])
        if effect.is_alarm:
            alarms.labels(self.name, reason).inc()
            log.error("apns.refused", status=response.status, reason=reason)
        if effect.then is Then.LATER:
            raise TryLater(reason)
        if reason in _DEAD:
            await self._store.drop_dead(device["_id"], gone_at or device["at"])
        raise Refused(reason)

    def _present_token(self) -> str:
        # Apple's clock, not the hall's: that one can be set forward in development.
        now_s = time.time()
        if self._token[0] != int(now_s) // TOKEN_S:
            assert self._key is not None
            self._token = (int(now_s) // TOKEN_S, self._key.token(now_s))
        return self._token[1]


def payload(letter: Letter) -> bytes:
    """Return the JSON for a phone, at most MAX_PAYLOAD_BYTES: a text that is too long is cut."""
    text = letter.short
    while True:
        alert = text if text == letter.short else f"{text}…"
        body = orjson.dumps({"aps": {"alert": alert, "sound": "default"}, "event": letter.event, "link": letter.link})
        if len(body) <= MAX_PAYLOAD_BYTES or not text:
            return body
        text = text[: -max(1, (len(body) - MAX_PAYLOAD_BYTES) // 3)]


def _read(body: bytes) -> tuple[str, datetime | None]:
    """Return reason and, of a 410, since when Apple knows that the device is gone (it gives milliseconds)."""
    try:
        answer = orjson.loads(body)
        reason, timestamp = str(answer["reason"]), answer.get("timestamp")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return "other", None
    known = reason if reason.isascii() and reason.isalpha() and len(reason) <= 40 else "other"
    return known, datetime.fromtimestamp(timestamp / 1000, UTC) if isinstance(timestamp, int) else None


def _part(values: Mapping[str, Any]) -> str:
    return _base64url(orjson.dumps(values))


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
