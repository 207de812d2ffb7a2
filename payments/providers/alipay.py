"""Alipay: trade.create for mini-programs, query, close, and the asynchronous notification. The gateway is app/platforms/alipay.py."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from app.kernel.clock import SHANGHAI
from app.kernel.money import fen_from_yuan, yuan_text
from app.platforms import alipay_protocol as protocol
from app.platforms.alipay import AlipayGateway, AlipayRefused
from app.platforms.http import VendorUnknown, VendorUnreachable
from payments.provider import (
    AttemptRequest,
    Notice,
    NotificationRejected,
    PaymentReport,
    PaymentState,
    ProviderNotSent,
    ProviderRefused,
    ProviderUnknown,
    Terms,
)

log = structlog.get_logger(__name__)

# Scene -> (method, product_code). The next scenes are further rows; those of app and H5 need no call, only a signed text.
_CREATE = {"mini_program": ("alipay.trade.create", "JSAPI_PAY")}

# Vendor word -> ours. TRADE_CLOSED is decided in _report: timed out unpaid, or paid and given back in full.
_STATES = {
    "WAIT_BUYER_PAY": PaymentState.PENDING,
    "TRADE_SUCCESS": PaymentState.PAID,
    "TRADE_FINISHED": PaymentState.PAID,  # paid, and past the refund window, or of a product without refunds
    "TRADE_CLOSED": PaymentState.CLOSED,
}
_PAID_ONCE = ("gmt_payment", "send_pay_date", "gmt_refund")
_NOT_IN_SUBJECT = re.compile(r"[/=&\s]+")


class Alipay:
    """One Alipay application and seller."""

    name = "alipay"
    label = "支付宝"
    identity = "alipay"
    scenes = frozenset(_CREATE)

    def __init__(self, gateway: AlipayGateway, *, seller_id: str) -> None:
        self._gateway = gateway
        self.app_id = gateway.app_id
        self.merchant_id = seller_id

    # --- the provider protocol ---

    def payer_from(self, identity: Mapping[str, Any]) -> dict[str, str]:
        # One of the two, the newer one first: an application is configured for exactly one of them.
        for name in ("open_id", "user_id"):
            if identity.get(name):
                return {name: identity[name]}
        return {}

    def prepare(self, terms: Terms) -> str:
        payer = terms.payer
        content = {
            "out_trade_no": terms.out_trade_no,
            "total_amount": yuan_text(terms.amount_fen),
            "subject": _NOT_IN_SUBJECT.sub(" ", terms.description).strip()[:256] or "政务服务缴费",
            "product_code": _CREATE[terms.scene][1],
            "op_app_id": self.app_id,
            "time_expire": terms.expires_at.astimezone(SHANGHAI).strftime("%Y-%m-%d %H:%M:%S"),
            **({"buyer_open_id": payer["open_id"]} if "open_id" in payer else {"buyer_id": payer["user_id"]}),
        }
        if self.merchant_id:
            content["seller_id"] = self.merchant_id
        return orjson.dumps({"biz_content": content, "notify_url": terms.notify_url}).decode()

    async def create(self, attempt: AttemptRequest) -> dict[str, Any]:
        request = orjson.loads(attempt.request)
        method = _CREATE[attempt.scene][0]
        answer = await self._call(method, request["biz_content"], notify_url=request["notify_url"])
        trade_no = answer.text("trade_no")
        if not trade_no or answer.text("out_trade_no") not in ("", attempt.out_trade_no):
            raise ProviderUnknown("trade.create answered another trade")
        return {"tradeNO": trade_no}

    async def query(self, attempt: AttemptRequest) -> PaymentReport:
        try:
            answer = await self._call("alipay.trade.query", {"out_trade_no": attempt.out_trade_no})
        except ProviderRefused as refused:
            if refused.code == "ACQ.TRADE_NOT_EXIST":
                return PaymentReport(self.name, attempt.out_trade_no, PaymentState.NOT_FOUND)
            raise
        try:
            report = self._report(answer.content)
        except ValueError as error:
            raise ProviderUnknown(f"query: {error}") from error
        if report.out_trade_no != attempt.out_trade_no:
            raise ProviderUnknown("query answered another number")
        return report

    async def close(self, attempt: AttemptRequest) -> None:
        await self._call("alipay.trade.close", {"out_trade_no": attempt.out_trade_no})

    def read_notification(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Notice:
        try:
            form = protocol.read_form(body)
        except protocol.Unreadable as error:
            raise NotificationRejected("form") from error
        if not protocol.verify_notification(form, list(self._gateway.keys.values())):
            raise NotificationRejected("signature")
        notice_id = form.get("notify_id", "")
        if form.get("notify_type", "trade_status_sync") != "trade_status_sync" or "trade_status" not in form:
            return Notice("other", notice_id, None)
        try:
            # A partial refund sends TRADE_SUCCESS again, a full one TRADE_CLOSED: the payment is in both, booked only once.
            return Notice("payment", notice_id, self._report(form, notice_id))
        except ValueError as error:
            raise NotificationRejected(f"content: {error}", is_signed=True) from error

    async def learn_keys(self) -> bool:
        return False  # its keys come from the settings

    # --- calling ---

    async def _call(self, method: str, biz_content: Mapping[str, Any], **top_level: str) -> protocol.Answer:
        try:
            return await self._gateway.call(method, biz_content, **top_level)
        except VendorUnreachable as error:
            raise ProviderNotSent(str(error.context.get("cause", "unreachable"))) from error
        except VendorUnknown as error:
            raise ProviderUnknown(str(error.context.get("cause", "unknown"))) from error
        except AlipayRefused as refused:
            raise ProviderRefused(refused.sub_code or refused.result_code) from refused

    def _report(self, content: Mapping[str, Any], notice_id: str = "") -> PaymentReport:
        """Read a trade, of a query or a notification. Raises ValueError."""
        word = content.get("trade_status")
        state = _STATES.get(word) if isinstance(word, str) else None
        if state is None:
            raise ValueError(f"trade_status {word!r}")
        given_back = bool(content.get("gmt_refund")) or fen_from_yuan(str(content.get("refund_fee") or "0")) > 0
        was_paid = given_back or any(content.get(name) for name in _PAID_ONCE)
        closed_after_payment = state is PaymentState.CLOSED and was_paid
        if closed_after_payment:
            state = PaymentState.PAID
        paid = state is PaymentState.PAID
        return PaymentReport(
            provider=self.name,
            out_trade_no=str(content.get("out_trade_no", "")),
            state=state,
            provider_trade_no=str(content.get("trade_no") or ""),
            amount_fen=fen_from_yuan(str(content.get("total_amount", ""))) if paid else None,
            currency="CNY" if paid else "",
            merchant_id=str(content.get("seller_id") or ""),
            app_id=str(content.get("app_id") or ""),
            paid_at=_moment(content.get("gmt_payment") or content.get("send_pay_date")) if paid else None,
            is_refunded=given_back or closed_after_payment,
            notice_id=notice_id,
        )


def _moment(text: Any) -> datetime | None:
    try:
        # China time without a zone, sometimes with milliseconds.
        local = datetime.strptime(str(text)[:19], "%Y-%m-%d %H:%M:%S") if text else None
        return None if local is None else local.replace(tzinfo=SHANGHAI).astimezone(UTC)
    except ValueError:
        return None
