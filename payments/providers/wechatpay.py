"""WeChat Pay, API v3, direct merchant: its scenes, queries, refunds and notices in the hall's words.

The pure part is wechatpay_v3.py, calling is wechatpay_client.py, the keys are wechatpay_keys.py.
"""

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import orjson
import structlog

from app.kernel.clock import SHANGHAI, parse_utc, utc_now
from app.platforms.http import HttpClient
from payments import metrics
from payments.provider import (
    AttemptRequest,
    BankCard,
    NotEnoughFunds,
    Notice,
    NotificationRejected,
    PaymentReport,
    PaymentState,
    ProviderRefused,
    ProviderUnknown,
    RefundProviderState,
    RefundReport,
    RefundRequest,
    RefundTerms,
    Terms,
)
from payments.providers import wechatpay_v3 as v3
from payments.providers.wechatpay_client import NAME, TIMEOUT_S, WeChatPayClient, plain
from payments.providers.wechatpay_keys import VerificationKeys, read_public_keys
from payments.providers.wechatpay_merchant import MerchantKeys, read_signers

log = structlog.get_logger(__name__)

# Scene -> prepay API, and what its answer hands to the client.
_PREPAY = {
    "mini_program": ("jsapi", "prepay_id"),
    "app": ("app", "prepay_id"),
    "h5": ("h5", "h5_url"),
    "native": ("native", "code_url"),
}

# Vendor word -> ours. Any refund, even a partial one, turns trade_state to REFUND for good: it was paid first. A failed try of the
# payer leaves NOTPAY, which therefore never means failed; REVOKED, USERPAYING and PAYERROR occur with code-scan only.
_STATES = {
    "SUCCESS": PaymentState.PAID,
    "REFUND": PaymentState.PAID,
    "NOTPAY": PaymentState.PENDING,
    "USERPAYING": PaymentState.PENDING,
    "PAYERROR": PaymentState.PENDING,
    "CLOSED": PaymentState.CLOSED,
    "REVOKED": PaymentState.CLOSED,
}
_REFUND_STATES = {
    "PROCESSING": RefundProviderState.PROCESSING,
    "SUCCESS": RefundProviderState.SUCCEEDED,
    "ABNORMAL": RefundProviderState.ABNORMAL,
    "CLOSED": RefundProviderState.CLOSED,
}
_NOT_FOUND_CODES = {"ORDERNOTEXIST", "RESOURCENOTEXISTS"}


class WeChatPay:
    """One merchant number.

    Args:
        app_id: of the mini-program; H5 and QR orders are made under it too.
        open_app_id: of the native app at the open platform; the mini-program's when empty.
        public_key_id, public_key: public-key mode; during a change several, see read_public_keys. Platform certificates are
            fetched beside them, or alone when these are empty.
        merchant_serial, merchant_key, merchant_cert: what we sign with; during a change several, see read_signers.
        standby_url: another host of the same API, asked when the first is away; empty: none.
        timeout_s: of one call.

    Raises (on construction):
        rsa.KeyUnreadable, ValueError: a key of the settings cannot be read.
    """

    name = NAME
    label = "微信支付"
    identity = "wechat"
    scenes = frozenset(_PREPAY)
    payer_scenes = frozenset({"mini_program"})

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
        open_app_id: str = "",
        merchant_cert: str = "",
        standby_url: str = "",
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.app_id = app_id
        self.merchant_id = mch_id
        self._open_app_id = open_app_id or app_id
        self._api_v3_key = api_v3_key
        self._clock = clock
        self.keys = VerificationKeys(read_public_keys(public_key_id, public_key), api_v3_key, clock)
        self.client = WeChatPayClient(
            http,
            self.keys,
            merchant=MerchantKeys(read_signers(merchant_serial, merchant_key, merchant_cert), clock),
            base_url=base_url,
            standby_url=standby_url,
            mch_id=mch_id,
            timeout_s=timeout_s,
            clock=clock,
        )

    @property
    def clock_offset_s(self) -> float | None:
        return self.client.clock_offset_s

    def app_id_of(self, scene: str) -> str:
        return self._open_app_id if scene == "app" else self.app_id

    # --- payments ---

    def payer_from(self, identity: Mapping[str, Any]) -> dict[str, str]:
        openid = identity.get("openid")
        return {"openid": openid} if openid else {}

    def prepare(self, terms: Terms) -> str:
        order: dict[str, Any] = {
            "appid": self.app_id_of(terms.scene),
            "mchid": self.merchant_id,
            "description": terms.description[:127],
            "out_trade_no": terms.out_trade_no,
            "time_expire": terms.expires_at.astimezone(SHANGHAI).isoformat(timespec="seconds"),
            "notify_url": terms.notify_url,
            "amount": {"total": terms.amount_fen, "currency": "CNY"},
        }
        if terms.scene == "mini_program":
            order["payer"] = {"openid": terms.payer["openid"]}
        if terms.scene != "h5":
            return orjson.dumps(order).decode()
        order["scene_info"] = {"payer_client_ip": terms.client_ip, "h5_info": {"type": "Wap"}}
        # The way back is no part of the order at WeChat Pay, but must be the same each time: it is kept beside the order's bytes.
        return orjson.dumps({"body": orjson.dumps(order).decode(), "return_url": terms.return_url}).decode()

    async def create(self, attempt: AttemptRequest) -> dict[str, Any]:
        api, handed = _PREPAY[attempt.scene]
        body, return_url = _stored(attempt)
        answer = await self.client.call("POST", f"/v3/pay/transactions/{api}", body.encode())
        handle = answer.get(handed)
        if not isinstance(handle, str) or not handle:
            raise ProviderUnknown(f"prepay without {handed}")
        if attempt.scene == "native":
            return {"code_url": handle}
        if attempt.scene == "h5":
            return {"redirect_url": v3.h5_address(handle, return_url)}
        return v3.pay_params(
            attempt.scene,
            app_id=self.app_id_of(attempt.scene),
            mch_id=self.merchant_id,
            prepay_id=handle,
            key=self.client.signer.key,
            timestamp=int(self._clock().timestamp()),
            nonce=secrets.token_hex(16),
        )

    async def query(self, attempt: AttemptRequest) -> PaymentReport:
        path = f"/v3/pay/transactions/out-trade-no/{quote(attempt.out_trade_no, safe='')}?mchid={self.merchant_id}"
        try:
            answer = await self.client.call("GET", path)
        except ProviderRefused as refused:
            if plain(refused.code) in _NOT_FOUND_CODES:
                return PaymentReport(self.name, attempt.out_trade_no, PaymentState.NOT_FOUND)
            raise
        try:
            report = self._report(answer)
        except ValueError as error:
            raise _not_understood(f"query: {error}") from error
        if report.out_trade_no != attempt.out_trade_no:
            raise ProviderUnknown("query answered another number")
        return report

    async def close(self, attempt: AttemptRequest) -> None:
        path = f"/v3/pay/transactions/out-trade-no/{quote(attempt.out_trade_no, safe='')}/close"
        await self.client.call("POST", path, orjson.dumps({"mchid": self.merchant_id}))

    # --- refunds ---

    def prepare_refund(self, terms: RefundTerms) -> str:
        return orjson.dumps(
            {
                "out_trade_no": terms.out_trade_no,
                "out_refund_no": terms.out_refund_no,
                "reason": terms.reason[:80] or "退款",
                # Always: without it the notice goes to the console's address, in the XML of version 2, or nowhere.
                "notify_url": terms.notify_url,
                "amount": {"refund": terms.amount_fen, "total": terms.paid_fen, "currency": "CNY"},
            }
        ).decode()

    async def refund(self, refund: RefundRequest) -> RefundReport:
        try:
            answer = await self.client.call("POST", "/v3/refund/domestic/refunds", refund.request.encode())
        except NotEnoughFunds:
            metrics.funds_short.labels(self.name).inc()
            log.error("payment.refund_funds_short", provider=self.name, out_refund_no=refund.out_refund_no)
            raise
        return self._answered_refund(answer, refund)

    async def query_refund(self, refund: RefundRequest) -> RefundReport:
        try:
            answer = await self.client.call("GET", f"/v3/refund/domestic/refunds/{quote(refund.out_refund_no, safe='')}")
        except ProviderRefused as refused:
            if plain(refused.code) in _NOT_FOUND_CODES:
                return RefundReport(self.name, refund.out_trade_no, refund.out_refund_no, RefundProviderState.NOT_FOUND)
            raise
        return self._answered_refund(answer, refund)

    async def apply_abnormal(
        self, refund: RefundRequest, provider_refund_no: str, card: BankCard | None = None
    ) -> RefundReport:
        path = f"/v3/refund/domestic/refunds/{quote(provider_refund_no, safe='')}/apply-abnormal-refund"
        if card is None:
            serial, body = "", v3.abnormal_refund(refund.out_refund_no)
        else:
            serial, key = self.keys.for_sealing(self._clock())
            body = v3.abnormal_refund(
                refund.out_refund_no, key=key, bank=card.bank, account=card.account, holder=card.holder
            )
        return self._answered_refund(await self.client.call("POST", path, body, serial=serial), refund)

    def _answered_refund(self, answer: Mapping[str, Any], refund: RefundRequest) -> RefundReport:
        try:
            report = self._refund_report(answer, answer.get("status"))
        except ValueError as error:
            raise _not_understood(f"refund: {error}") from error
        if (report.out_refund_no, report.out_trade_no) != (refund.out_refund_no, refund.out_trade_no):
            raise ProviderUnknown("another refund was answered")
        return report

    # --- bills ---

    async def fetch(self, path: str) -> dict[str, Any]:
        """GET a path and return its verified answer. Raises ProviderError."""
        return await self.client.call("GET", path)

    def signed_headers(self, method: str, url: str) -> dict[str, str]:
        """Return the headers of a request to exactly this URL (a bill's download, whose answer is not signed)."""
        return {"Authorization": self.client.authorization(method, url), "Accept": "application/json"}

    # --- notifications ---

    def read_notification(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Notice:
        try:
            v3.verify_message(headers, body, self.keys.at(now), now)
        except v3.MessageRefused as refused:
            # A refund that was asked for without notify_url is told of in version 2's XML, unsigned in our sense.
            is_version_2 = refused.reason == "headers_missing" and body.lstrip()[:5] == b"<xml>"
            raise NotificationRejected(
                "version_2_xml" if is_version_2 else refused.reason,
                is_probe=isinstance(refused, v3.SignatureProbe),
                key_unknown=isinstance(refused, v3.UnknownSerial),
            ) from refused
        try:
            envelope, content = v3.open_notification(body, self._api_v3_key)
        except v3.MessageRefused as refused:
            raise NotificationRejected(refused.reason, is_signed=True) from refused
        notice_id = str(envelope.get("id", ""))
        kind = envelope["resource"].get("original_type", "")
        try:
            if kind == "refund":
                # The word is called refund_status here, and status in answers.
                return Notice("refund", notice_id, None, self._refund_report(content, content.get("refund_status"), notice_id))
            if kind == "transaction":
                return Notice("payment", notice_id, self._report(content, notice_id))
        except ValueError as error:
            raise NotificationRejected(f"content: {error}", is_signed=True) from error
        return Notice("other", notice_id, None)

    async def learn_keys(self) -> bool:
        return await self.client.learn_keys()

    def learn_keys_soon(self) -> None:
        self.keys.refresh_soon(self.client.fetch_certificates)

    # --- reading ---

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

    def _refund_report(self, content: Mapping[str, Any], word: Any, notice_id: str = "") -> RefundReport:
        """Read a refund, of an answer, a query or a notification. Raises ValueError."""
        state = _REFUND_STATES.get(word) if isinstance(word, str) else None
        if state is None:
            raise ValueError(f"refund status {word!r}")
        amount = content.get("amount")
        # `refund` is what was asked for; what reaches the payer is smaller when coupons had been used.
        refunded = amount.get("refund") if isinstance(amount, dict) else None
        if not isinstance(refunded, int) or isinstance(refunded, bool):
            raise ValueError("no amount.refund")
        return RefundReport(
            provider=self.name,
            out_trade_no=str(content.get("out_trade_no", "")),
            out_refund_no=str(content.get("out_refund_no", "")),
            state=state,
            amount_fen=refunded,
            provider_refund_no=str(content.get("refund_id") or ""),
            refunded_at=_moment(content.get("success_time")) if state is RefundProviderState.SUCCEEDED else None,
            merchant_id=str(content.get("mchid") or ""),
            notice_id=notice_id,
        )


def _stored(attempt: AttemptRequest) -> tuple[str, str]:
    """Return (the order's bytes as text, the way back) of a stored request."""
    if attempt.scene != "h5":
        return attempt.request, ""
    kept = orjson.loads(attempt.request)
    return kept["body"], kept["return_url"]


def _not_understood(what: str) -> ProviderUnknown:
    """A word or amount we do not know is never guessed at: not final, asked for again, and somebody has to look."""
    metrics.not_understood.labels("wechatpay").inc()
    log.error("payment.answer_not_understood", provider="wechatpay", what=what)
    return ProviderUnknown(what)


def _moment(text: Any) -> datetime | None:
    try:
        return parse_utc(text) if isinstance(text, str) and text else None
    except ValueError:
        return None  # the time is for the receipt; a payment is not refused for it
