"""Calling WeChat Pay: requests signed over the bytes that leave, answers verified over the bytes that came, failures named.

The order of work on an answer: status, signature, content. An error may come unsigned: it steers what is done next and proves nothing.
"""

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson
import structlog

from app.platforms import rsa
from app.platforms.http import HttpClient, Response, VendorUnknown, VendorUnreachable, date_offset_s
from payments import metrics
from payments.provider import NotEnoughFunds, ProviderNotSent, ProviderRefused, ProviderUnknown
from payments.providers import wechatpay_v3 as v3
from payments.providers.wechatpay_keys import VerificationKeys

log = structlog.get_logger(__name__)

NAME = "wechatpay"
TIMEOUT_S = 6
# A call whose answer bears an unknown serial waits for this one.
CERTIFICATES_TIMEOUT_S = 3

# Codes are compared without underscores: old pages spell them so.
_UNKNOWN_CODES = {"SYSTEMERROR", "SERVICEUNAVAILABLE", "BANKERROR"}
_NOT_DONE_CODES = {"RATELIMITEXCEEDED", "RATELIMITEXCEED", "FREQUENCYLIMITED", "FREQUENCYLIMITEXCEED"}
_NO_FUNDS_CODES = {"NOTENOUGH"}


class WeChatPayClient:
    """One merchant number, signed for with one API certificate.

    Args:
        base_url: the host, or a standby or proxy of it; a path in it is signed with the rest.
    """

    def __init__(
        self,
        http: HttpClient,
        keys: VerificationKeys,
        *,
        base_url: str,
        mch_id: str,
        merchant_serial: str,
        merchant_key: str,
        clock: Callable[[], datetime],
    ) -> None:
        self.keys = keys
        self.key = rsa.load_private_key(merchant_key)
        self.clock_offset_s: float | None = None
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._mch_id = mch_id
        self._serial = merchant_serial
        self._clock = clock

    async def call(self, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        """Make a call and return its verified answer (`{}` for 204).

        Raises:
            ProviderRefused, ProviderNotSent, ProviderUnknown.
        """
        await self.keys.keep_fresh(self.fetch_certificates)
        response = await self.send(method, path, body)
        if response.status in (200, 204):
            await self._verify(response)
            return _json_object(response.body) if response.status == 200 else {}
        if response.status < 400:
            raise ProviderUnknown(f"status {response.status}")  # 202: not settled yet; 3xx: not WeChat Pay
        try:
            code = str(_json_object(response.body).get("code", ""))
        except ProviderUnknown:
            code = ""
        log.warning("wechatpay.refused", status=response.status, code=code, vendor_request_id=response.header("Request-ID"))
        if response.status == 429 or plain(code) in _NOT_DONE_CODES:
            raise ProviderNotSent(code or "429")
        if plain(code) in _NO_FUNDS_CODES:
            raise NotEnoughFunds(code)
        if plain(code) in _UNKNOWN_CODES or not code:
            raise ProviderUnknown(f"status {response.status} {code}")
        raise ProviderRefused(code)

    async def fetch_certificates(self) -> Response:
        return await self.send("GET", "/v3/certificates", b"", timeout_s=CERTIFICATES_TIMEOUT_S)

    async def learn_keys(self) -> bool:
        return await self.keys.refresh(self.fetch_certificates)

    async def send(self, method: str, path: str, body: bytes, *, timeout_s: float = TIMEOUT_S) -> Response:
        """Send one signed request and return the answer as it came, unverified. Raises ProviderNotSent, ProviderUnknown."""
        url = self._base_url + path
        headers = {
            "Authorization": self.authorization(method, url, body),
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        if self.keys.wanted_serial:
            headers["Wechatpay-Serial"] = self.keys.wanted_serial  # selects the key the answer is signed with
        try:
            response = await self._http.request(
                NAME,
                method,
                url,
                headers=headers,
                body=body or None,
                timeout_s=timeout_s,
                repeatable=True,  # everything here is told apart by the number in it, not by how often it comes
            )
        except VendorUnreachable as error:
            raise ProviderNotSent(str(error.context.get("cause", "unreachable"))) from error
        except VendorUnknown as error:
            raise ProviderUnknown(str(error.context.get("cause", "unknown"))) from error
        self._note_clock(response)
        return response

    def authorization(self, method: str, url: str, body: bytes = b"") -> str:
        """Return the Authorization header for a request to this URL, exactly as it will be sent."""
        return v3.authorization(
            self.key,
            mch_id=self._mch_id,
            serial=self._serial,
            method=method,
            url=url,
            body=body,
            timestamp=int(self._clock().timestamp()),
            nonce=secrets.token_hex(16),
        )

    async def _verify(self, response: Response) -> None:
        for last_try in (False, True):
            now = self._clock()
            try:
                return v3.verify_message(response.headers, response.body, self.keys.at(now), now)
            except v3.UnknownSerial as refused:
                if last_try or not await self.learn_keys():
                    raise _not_trusted(refused) from refused
            except v3.MessageRefused as refused:
                raise _not_trusted(refused) from refused

    def _note_clock(self, response: Response) -> None:
        offset_s = date_offset_s(response, self._clock())
        if offset_s is not None:
            self.clock_offset_s = offset_s
            metrics.clock_offset.labels(NAME).set(offset_s)


def _not_trusted(refused: v3.MessageRefused) -> ProviderUnknown:
    metrics.answers_refused.labels(NAME, refused.reason).inc()
    # Its own probe is answered by refusing it; anything else is a mistake of ours or an attack.
    tell = log.info if isinstance(refused, v3.SignatureProbe) else log.error
    tell("wechatpay.answer_not_trusted", reason=refused.reason)
    return ProviderUnknown(f"answer not trusted: {refused.reason}")


def plain(code: str) -> str:
    return code.replace("_", "").upper()


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ProviderUnknown("not JSON") from error
    if not isinstance(value, dict):
        raise ProviderUnknown("not an object")
    return value
