"""WeChat Pay, API v3, direct merchant. The pure part is wechatpay_v3.py; here are the calls and what their answers mean."""

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import orjson
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from app.kernel.clock import SHANGHAI, parse_utc, utc_now
from app.platforms import rsa
from app.platforms.http import HttpClient, Response, VendorUnknown, VendorUnreachable
from payments.provider import (
    AttemptRequest,
    Notice,
    NotificationRejected,
    PaymentReport,
    PaymentState,
    ProviderError,
    ProviderNotSent,
    ProviderRefused,
    ProviderUnknown,
    Terms,
)
from payments.providers import wechatpay_v3 as v3

log = structlog.get_logger(__name__)

TIMEOUT_S = 6
# Certificates are fetched again after this; a serial nobody knows fetches sooner, but never more than once a minute.
CERTIFICATES_FOR = timedelta(hours=12)
CERTIFICATES_AT_MOST_EVERY = timedelta(minutes=1)

# Scene -> prepay API. The next scenes are further rows here and in wechatpay_v3.pay_params.
_PREPAY = {"mini_program": "jsapi"}

# Vendor word -> ours. Any refund, even a partial one, turns trade_state to REFUND for good: it was paid first. A failed try of the
# resident leaves NOTPAY. An unknown word is rejected, never guessed.
_STATES = {
    "SUCCESS": PaymentState.PAID,
    "REFUND": PaymentState.PAID,
    "NOTPAY": PaymentState.PENDING,
    "USERPAYING": PaymentState.PENDING,
    "PAYERROR": PaymentState.PENDING,
    "CLOSED": PaymentState.CLOSED,
    "REVOKED": PaymentState.CLOSED,
}
# Codes are compared without underscores: old pages spell them so.
_UNKNOWN_CODES = {"SYSTEMERROR", "SERVICEUNAVAILABLE", "BANKERROR"}
_NOT_DONE_CODES = {"RATELIMITEXCEEDED", "FREQUENCYLIMITED", "FREQUENCYLIMITEXCEED"}
_NOT_FOUND_CODES = {"ORDERNOTEXIST", "RESOURCENOTEXISTS"}


class WeChatPay:
    """One merchant number with one app id.

    Public-key mode when a public key is given, else certificate mode: the platform certificates are fetched, kept, and fetched
    again. Either way the keys are one map by exact serial.
    """

    name = "wechatpay"
    label = "微信支付"
    identity = "wechat"
    scenes = frozenset(_PREPAY)

    def __init__(
        self,
        http: HttpClient,
        *,
        base_url: str,
        app_id: str,
        mch_id: str,
        api_v3_key: str,
        merchant_serial: str,
        merchant_key: str,
        public_key_id: str = "",
        public_key: str = "",
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.app_id = app_id
        self.merchant_id = mch_id
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._api_v3_key = api_v3_key
        self._serial = merchant_serial
        self._key = rsa.load_private_key(merchant_key)
        self._clock = clock
        self._public_key_id = public_key_id if public_key else ""
        self._keys: dict[str, RSAPublicKey] = {}
        if public_key:
            self._keys[public_key_id] = rsa.load_public_key(public_key)
        self._fetched_at: datetime | None = None
        self._tried_at: datetime | None = None

    # --- the provider protocol ---

    def payer_from(self, identity: Mapping[str, Any]) -> dict[str, str]:
        openid = identity.get("openid")
        return {"openid": openid} if openid else {}

    def prepare(self, terms: Terms) -> str:
        return orjson.dumps(
            {
                "appid": self.app_id,
                "mchid": self.merchant_id,
                "description": terms.description[:127],
                "out_trade_no": terms.out_trade_no,
                "time_expire": terms.expires_at.astimezone(SHANGHAI).isoformat(timespec="seconds"),
                "notify_url": terms.notify_url,
                "amount": {"total": terms.amount_fen, "currency": "CNY"},
                "payer": {"openid": terms.payer["openid"]},
            }
        ).decode()

    async def create(self, attempt: AttemptRequest) -> dict[str, Any]:
        path = f"/v3/pay/transactions/{_PREPAY[attempt.scene]}"
        answer = await self._call("POST", path, attempt.request.encode())
        prepay_id = answer.get("prepay_id")
        if not isinstance(prepay_id, str) or not prepay_id:
            raise ProviderUnknown("prepay without prepay_id")
        return v3.pay_params(
            attempt.scene,
            app_id=self.app_id,
            prepay_id=prepay_id,
            key=self._key,
            timestamp=int(self._clock().timestamp()),
            nonce=secrets.token_hex(16),
        )

    async def query(self, attempt: AttemptRequest) -> PaymentReport:
        path = f"/v3/pay/transactions/out-trade-no/{quote(attempt.out_trade_no, safe='')}?mchid={self.merchant_id}"
        try:
            answer = await self._call("GET", path)
        except ProviderRefused as refused:
            if _plain(refused.code) in _NOT_FOUND_CODES:
                return PaymentReport(self.name, attempt.out_trade_no, PaymentState.NOT_FOUND)
            raise
        try:
            report = self._report(answer)
        except ValueError as error:
            raise ProviderUnknown(f"query: {error}") from error
        if report.out_trade_no != attempt.out_trade_no:
            raise ProviderUnknown("query answered another number")
        return report

    async def close(self, attempt: AttemptRequest) -> None:
        path = f"/v3/pay/transactions/out-trade-no/{quote(attempt.out_trade_no, safe='')}/close"
        await self._call("POST", path, orjson.dumps({"mchid": self.merchant_id}))

    def read_notification(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Notice:
        try:
            v3.verify_message(headers, body, self._keys, now)
        except v3.MessageRefused as refused:
            raise NotificationRejected(
                refused.reason,
                is_probe=isinstance(refused, v3.SignatureProbe),
                key_unknown=isinstance(refused, v3.UnknownSerial),
            ) from refused
        try:
            envelope, content = v3.open_notification(body, self._api_v3_key)
        except v3.MessageRefused as refused:
            raise NotificationRejected(refused.reason, is_signed=True) from refused
        notice_id = str(envelope.get("id", ""))
        kind = str(envelope["resource"].get("original_type", ""))
        if kind == "refund":
            return Notice("refund", notice_id, None)
        if kind != "transaction":
            return Notice("other", notice_id, None)
        try:
            return Notice("payment", notice_id, self._report(content, notice_id))
        except ValueError as error:
            raise NotificationRejected(f"content: {error}", is_signed=True) from error

    # --- keys ---

    async def learn_keys(self) -> bool:
        if self._public_key_id:
            return False
        now = self._clock()
        if self._tried_at is not None and now - self._tried_at < CERTIFICATES_AT_MOST_EVERY:
            return False
        self._tried_at = now
        try:
            await self._fetch_certificates()
        except ProviderError as error:
            log.error("wechatpay.certificates_not_fetched", cause=str(error))
        return True

    async def _fetch_certificates(self) -> None:
        response = await self._send("GET", "/v3/certificates", b"")
        if response.status != 200:
            raise ProviderUnknown(f"certificates: status {response.status}")
        now = self._clock()
        found: dict[str, RSAPublicKey] = {}
        try:
            for row in orjson.loads(response.body)["data"]:
                # Decrypting with the APIv3 key is what authenticates a certificate the first time.
                pem = v3.decrypt_resource(row["encrypt_certificate"], self._api_v3_key)
                certificate = x509.load_pem_x509_certificate(pem)
                if certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
                    found[row["serial_no"]] = rsa.load_public_key(pem.decode())
        except (v3.MessageRefused, ValueError, KeyError, TypeError) as error:
            raise ProviderUnknown(f"certificates: {error!r}") from error
        try:
            v3.verify_message(response.headers, response.body, found, now)
        except v3.MessageRefused as refused:
            raise ProviderUnknown(f"certificates: {refused.reason}") from refused
        # Replaced in one step: nobody sees an empty map, and certificates that are gone are gone.
        self._keys = found
        self._fetched_at = now

    async def _keys_for_answers(self) -> Mapping[str, RSAPublicKey]:
        stale = self._fetched_at is None or self._clock() - self._fetched_at >= CERTIFICATES_FOR
        if not self._public_key_id and stale:
            await self.learn_keys()
        return self._keys

    # --- calling ---

    async def fetch(self, path: str) -> dict[str, Any]:
        """GET a path with query and return the verified answer. Raises ProviderError."""
        return await self._call("GET", path)

    def signed_headers(self, method: str, url: str, body: bytes = b"") -> dict[str, str]:
        """Return the headers that sign this request, over the path and query of `url` and the body exactly as they are sent."""
        headers = {
            "Authorization": v3.authorization(
                self._key,
                mch_id=self.merchant_id,
                serial=self._serial,
                method=method,
                url=url,
                body=body,
                timestamp=int(self._clock().timestamp()),
                nonce=secrets.token_hex(16),
            ),
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        if self._public_key_id:
            headers["Wechatpay-Serial"] = self._public_key_id  # selects the key the answer is signed with
        return headers

    async def _call(self, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        """Make a call and return its verified answer (`{}` for 204). Raises ProviderError."""
        await self._keys_for_answers()
        response = await self._send(method, path, body)
        if response.status in (200, 204):
            await self._verify(response)
            return _json_object(response.body) if response.status == 200 else {}
        if response.status < 400:
            raise ProviderUnknown(f"status {response.status}")  # 202: not settled yet; 3xx: not WeChat Pay
        # An error may come unsigned, so it steers what we do next but proves nothing about money.
        try:
            code = str(_json_object(response.body).get("code", ""))
        except ProviderUnknown:
            code = ""
        log.warning("wechatpay.refused", status=response.status, code=code, vendor_request_id=response.header("Request-ID"))
        if response.status == 429 or _plain(code) in _NOT_DONE_CODES:
            raise ProviderNotSent(code)
        if _plain(code) in _UNKNOWN_CODES or not code:
            raise ProviderUnknown(f"status {response.status} {code}")
        raise ProviderRefused(code)

    async def _verify(self, response: Response) -> None:
        for last_try in (False, True):
            try:
                return v3.verify_message(response.headers, response.body, self._keys, self._clock())
            except v3.UnknownSerial as refused:
                if last_try or not await self.learn_keys():
                    raise self._not_trusted(refused) from refused
            except v3.MessageRefused as refused:
                raise self._not_trusted(refused) from refused

    def _not_trusted(self, refused: v3.MessageRefused) -> ProviderUnknown:
        log.error("wechatpay.answer_not_trusted", reason=refused.reason)
        return ProviderUnknown(f"answer not trusted: {refused.reason}")

    async def _send(self, method: str, path: str, body: bytes) -> Response:
        url = self._base_url + path
        headers = self.signed_headers(method, url, body)
        try:
            return await self._http.request(
                self.name,
                method,
                url,
                headers=headers,
                body=body or None,
                timeout_s=TIMEOUT_S,
                repeatable=True,  # prepay, query and close are told apart by the number in them, not by how often they come
            )
        except VendorUnreachable as error:
            raise ProviderNotSent(str(error.context.get("cause", "unreachable"))) from error
        except VendorUnknown as error:
            raise ProviderUnknown(str(error.context.get("cause", "unknown"))) from error

    def _report(self, content: Mapping[str, Any], notice_id: str = "") -> PaymentReport:
        """Read a transaction, of a query or a notification. Raises ValueError."""
        word = content.get("trade_state")
        state = _STATES.get(word) if isinstance(word, str) else None
        if state is None:
            raise ValueError(f"trade_state {word!r}")
        amount = content.get("amount")
        amount = amount if isinstance(amount, dict) else {}
        paid = state is PaymentState.PAID
        total = amount.get("total")
        if paid and (not isinstance(total, int) or isinstance(total, bool)):
            raise ValueError("paid without amount.total")
        return PaymentReport(
            provider=self.name,
            out_trade_no=str(content.get("out_trade_no", "")),
            state=state,
            provider_trade_no=str(content.get("transaction_id") or ""),
            # `total` is the fee; `payer_total` is smaller when the payer used coupons.
            amount_fen=total if paid else None,
            currency=str(amount.get("currency", "CNY")) if paid else "",
            merchant_id=str(content.get("mchid", "")),
            app_id=str(content.get("appid", "")),
            paid_at=_moment(content.get("success_time")) if paid else None,
            is_refunded=word == "REFUND",
            notice_id=notice_id,
        )


def _plain(code: str) -> str:
    return code.replace("_", "").upper()


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ProviderUnknown("not JSON") from error
    if not isinstance(value, dict):
        raise ProviderUnknown("not an object")
    return value


def _moment(text: Any) -> datetime | None:
    try:
        return parse_utc(text) if isinstance(text, str) and text else None
    except ValueError:
        return None  # the time is for the receipt; a payment is not refused for it
