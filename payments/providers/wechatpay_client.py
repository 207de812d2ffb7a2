"""Calling WeChat Pay: requests signed over the bytes that leave, answers verified over the bytes that came, failures named.

The order of work on an answer: status, signature, content. An error may come unsigned: it steers what is done next and proves nothing.
"""

import secrets
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import orjson
import structlog

from app.platforms.http import HttpClient, Response, VendorUnknown, VendorUnreachable, date_offset_s, is_host_away
from payments import metrics
from payments.provider import NotEnoughFunds, ProviderNotSent, ProviderRefused, ProviderUnknown
from payments.providers import wechatpay_v3 as v3
from payments.providers.wechatpay_keys import VerificationKeys
from payments.providers.wechatpay_merchant import MerchantKeys, Signer

log = structlog.get_logger(__name__)

NAME = "wechatpay"
TIMEOUT_S = 6
# A call whose answer bears an unknown serial waits for this one.
CERTIFICATES_TIMEOUT_S = 3
# So long the standby host is asked first after the other has failed, so that not every call pays for the failure.
STANDBY_FOR = timedelta(minutes=1)

# Codes are compared without underscores: old pages spell them so.
_UNKNOWN_CODES = {"SYSTEMERROR", "SERVICEUNAVAILABLE", "BANKERROR"}
_NOT_DONE_CODES = {"RATELIMITEXCEEDED", "RATELIMITEXCEED", "FREQUENCYLIMITED", "FREQUENCYLIMITEXCEED"}
_NO_FUNDS_CODES = {"NOTENOUGH"}


class WeChatPayClient:
    """One merchant number.

    Args:
        base_url: the host, or a proxy of it; a path in it is signed with the rest.
        standby_url: another host of the same API (the signed text holds no host); empty: none. What failed to reach the first, or
            came back as a 5xx, goes there with the same content: everything here is told apart by the number in it.
    """

    def __init__(
        self,
        http: HttpClient,
        keys: VerificationKeys,
        *,
        merchant: MerchantKeys,
        base_url: str,
        standby_url: str,
        mch_id: str,
        timeout_s: float,
        clock: Callable[[], datetime],
    ) -> None:
        self.keys = keys
        self.clock_offset_s: float | None = None
        self._http = http
        self._merchant = merchant
        self._hosts = [url.rstrip("/") for url in (base_url, standby_url) if url]
        self._first_failed_at: datetime | None = None
        self._mch_id = mch_id
        self._timeout_s = timeout_s
        self._clock = clock

    @property
    def signer(self) -> Signer:
        """What signs now: requests, and what the client SDK takes."""
        return self._merchant.current()

    async def call(self, method: str, path: str, body: bytes = b"", *, serial: str = "") -> dict[str, Any]:
        """Make a call and return its verified answer (`{}` for 204).

        Args:
            serial: of the key that fields in the body are sealed with.

        Raises:
            ProviderRefused, ProviderNotSent, ProviderUnknown.
        """
        await self.keys.keep_fresh(self.fetch_certificates)
        response = await self.send(method, path, body, serial=serial)
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
        if response.is_repeat and method != "GET":
            raise ProviderUnknown(f"{code} to a repetition")  # the first one, cut off, may have worked all the same: a query tells
        raise ProviderRefused(code)

    async def fetch_certificates(self) -> Response:
        return await self.send("GET", "/v3/certificates", b"", timeout_s=CERTIFICATES_TIMEOUT_S)

    async def learn_keys(self) -> bool:
        return await self.keys.refresh(self.fetch_certificates)

    async def send(self, method: str, path: str, body: bytes, *, timeout_s: float = 0, serial: str = "") -> Response:
        """Send one signed request, to the standby host when the first is away; return the answer as it came, unverified.

        Args:
            timeout_s: for both hosts together; 0: the client's own.

        Raises:
            ProviderNotSent, ProviderUnknown.
        """
        ends_at = time.monotonic() + (timeout_s or self._timeout_s)
        unknown = False  # once a host may have done it, "not sent" to the next one does not undo that
        for host, is_last in self._hosts_in_turn():
            try:
                left_s = max(0.05, ends_at - time.monotonic())
                response = await self._send_to(host, method, path, body, left_s, serial or self.keys.wanted_serial)
            except (VendorUnreachable, VendorUnknown) as error:
                unknown = unknown or isinstance(error, VendorUnknown)
                if is_host_away(error):
                    self._note_away(host)
                    if not is_last:
                        log.warning("wechatpay.host_away", host=host, cause=error.context.get("cause"))
                        continue
                cause = str(error.context.get("cause", "unknown" if unknown else "unreachable"))
                raise (ProviderUnknown(cause) if unknown else ProviderNotSent(cause)) from error
            self._note_clock(response)
            return response
        raise AssertionError("unreachable")

    def _hosts_in_turn(self) -> list[tuple[str, bool]]:
        failed = self._first_failed_at
        is_resting = failed is not None and self._clock() - failed < STANDBY_FOR
        hosts = self._hosts[::-1] if is_resting else self._hosts
        return [(host, host is hosts[-1]) for host in hosts]

    def _note_away(self, host: str) -> None:
        if len(self._hosts) > 1:
            self._first_failed_at = self._clock() if host == self._hosts[0] else None

    async def _send_to(
        self, host: str, method: str, path: str, body: bytes, timeout_s: float, serial: str
    ) -> Response:
        url = host + path

        def headers() -> dict[str, str]:
            signed = {
                "Authorization": self.authorization(method, url, body),
                "Accept": "application/json",
                "Content-Type": "application/json",
            }
            return signed | {"Wechatpay-Serial": serial} if serial else signed  # selects the key the answer is signed with

        return await self._http.request(
            NAME,
            method,
            url,
            headers=headers(),
            body=body or None,
            timeout_s=timeout_s,
            repeatable=True,  # everything here is told apart by the number in it, not by how often it comes
            headers_again=headers,  # a signature (time, nonce) counts once
        )

    def authorization(self, method: str, url: str, body: bytes = b"") -> str:
        """Return the Authorization header for a request to this URL, exactly as it will be sent."""
        signer = self.signer
        return v3.authorization(
            signer.key,
            mch_id=self._mch_id,
            serial=signer.serial,
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
