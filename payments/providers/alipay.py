"""Alipay: its scenes, queries, refunds and the asynchronous notification in the hall's words. The gateway is app/platforms/alipay.py."""

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
from payments import metrics
from payments.provider import (
    AttemptRequest,
    BankCard,
    NotEnoughFunds,
    Notice,
    NotificationRejected,
    PaymentReport,
    PaymentState,
    ProviderNotSent,
    ProviderRefused,
    ProviderUnknown,
    RefundProviderState,
    RefundReport,
    RefundRequest,
    RefundTerms,
    Terms,
)

log = structlog.get_logger(__name__)

# Scene -> (method, product_code). Those of app and H5 need no call of ours, only a signed text: the trade comes into being when the
# payer reaches the cashier, and until then "does not exist" means "not yet".
_CREATE = {
    "mini_program": ("alipay.trade.create", "JSAPI_PAY"),
    "app": ("alipay.trade.app.pay", "QUICK_MSECURITY_PAY"),
    "h5": ("alipay.trade.wap.pay", "QUICK_WAP_PAY"),
    "native": ("alipay.trade.precreate", "FACE_TO_FACE_PAYMENT"),
}

# Vendor word -> ours. TRADE_CLOSED is decided in _report: timed out unpaid, or paid and given back in full.
_STATES = {
    "WAIT_BUYER_PAY": PaymentState.PENDING,
    "TRADE_SUCCESS": PaymentState.PAID,
    "TRADE_FINISHED": PaymentState.PAID,  # paid, and past the refund window, or of a product without refunds
    "TRADE_CLOSED": PaymentState.CLOSED,
}
_PAID_ONCE = ("gmt_payment", "send_pay_date", "gmt_refund")
_REFUND_STATES = {
    "REFUND_SUCCESS": RefundProviderState.SUCCEEDED,
    "REFUND_PROCESSING": RefundProviderState.PROCESSING,
    "REFUND_FAIL": RefundProviderState.NOT_FOUND,  # nothing went: the same request may be sent again
}
# Of a query: it has no such trade or refund, so nothing was done under this number.
_NO_REFUND = ("ACQ.TRADE_NOT_EXIST", "ACQ.REFUND_NOT_EXIST")
_NO_FUNDS = ("ACQ.SELLER_BALANCE_NOT_ENOUGH", "ACQ.MERCHANT_BALANCE_NOT_ENOUGH")
_NOT_IN_SUBJECT = re.compile(r"[/=&\s]+")


class Alipay:
    """One Alipay application and seller."""

    name = "alipay"
    label = "支付宝"
    identity = "alipay"
    scenes = frozenset(_CREATE)
    payer_scenes = frozenset({"mini_program"})

    def __init__(self, gateway: AlipayGateway, *, seller_id: str) -> None:
        self._gateway = gateway
        self.app_id = gateway.app_id
        self.merchant_id = seller_id

    @property
    def clock_offset_s(self) -> float | None:
        return self._gateway.clock_offset_s

    def app_id_of(self, scene: str) -> str:
        return self.app_id  # one application for all scenes

    # --- payments ---

    def payer_from(self, identity: Mapping[str, Any]) -> dict[str, str]:
        # One of the two, the newer one first: an application is configured for exactly one of them.
        for name in ("open_id", "user_id"):
            if identity.get(name):
                return {name: identity[name]}
        return {}

    def prepare(self, terms: Terms) -> str:
        content: dict[str, Any] = {
            "out_trade_no": terms.out_trade_no,
            "total_amount": yuan_text(terms.amount_fen),
            "subject": _NOT_IN_SUBJECT.sub(" ", terms.description).strip()[:256] or "政务服务缴费",
            "product_code": _CREATE[terms.scene][1],
            # Always: without it an order string stays payable for fifteen days.
            "time_expire": terms.expires_at.astimezone(SHANGHAI).strftime("%Y-%m-%d %H:%M:%S"),
        }
        top_level = {"notify_url": terms.notify_url}
        if terms.scene == "mini_program":
            payer = terms.payer
            content["op_app_id"] = self.app_id
            content |= {"buyer_open_id": payer["open_id"]} if "open_id" in payer else {"buyer_id": payer["user_id"]}
        if terms.scene == "h5" and terms.return_url:
            content["quit_url"] = terms.return_url  # where who gives up goes; return_url is for who has paid
            top_level["return_url"] = terms.return_url
        if self.merchant_id:
            content["seller_id"] = self.merchant_id
        return orjson.dumps({"biz_content": content, **top_level}).decode()

    async def create(self, attempt: AttemptRequest) -> dict[str, Any]:
        top_level = orjson.loads(attempt.request)
        content = top_level.pop("biz_content")
        method = _CREATE[attempt.scene][0]
        if attempt.scene == "app":
            return {"orderStr": self._gateway.order_string(method, content, **top_level)}
        if attempt.scene == "h5":
            return {"redirect_url": self._gateway.address(method, content, **top_level)}
        answer = await self._call(method, content, **top_level)
        ours, theirs = ("qr_code", "qr_code") if attempt.scene == "native" else ("tradeNO", "trade_no")
        handle = answer.text(theirs)
        if not handle or answer.text("out_trade_no") not in ("", attempt.out_trade_no):
            raise ProviderUnknown(f"{method} answered another trade")
        return {ours: handle}

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
            raise _not_understood(f"query: {error}") from error
        if report.out_trade_no != attempt.out_trade_no:
            raise ProviderUnknown("query answered another number")
        return report

    async def close(self, attempt: AttemptRequest) -> None:
        await self._call("alipay.trade.close", {"out_trade_no": attempt.out_trade_no})

    # --- refunds ---

    def prepare_refund(self, terms: RefundTerms) -> str:
        # No notify_url: the notice of a refund goes where the payment's went.
        return orjson.dumps(
            {
                "out_trade_no": terms.out_trade_no,
                "out_request_no": terms.out_refund_no,
                "refund_amount": yuan_text(terms.amount_fen),
                "refund_reason": terms.reason[:256] or "退款",
            }
        ).decode()

    async def refund(self, refund: RefundRequest) -> RefundReport:
        try:
            answer = await self._call("alipay.trade.refund", orjson.loads(refund.request))
        except NotEnoughFunds:
            metrics.funds_short.labels(self.name).inc()
            log.error("payment.refund_funds_short", provider=self.name, out_refund_no=refund.out_refund_no)
            raise
        self._same_trade(answer, refund)
        # "10000" means handled. Only fund_change=Y says that money moved; a repeated call answers N or nothing: then a query tells.
        moved = answer.text("fund_change") == "Y"
        state = RefundProviderState.SUCCEEDED if moved else RefundProviderState.PROCESSING
        return RefundReport(
            self.name,
            refund.out_trade_no,
            refund.out_refund_no,
            state,
            provider_refund_no=answer.text("trade_no"),
            refunded_at=_moment(answer.text("gmt_refund_pay")) if moved else None,
        )

    async def query_refund(self, refund: RefundRequest) -> RefundReport:
        content = {
            "out_trade_no": refund.out_trade_no,
            "out_request_no": refund.out_refund_no,
            "query_options": ["gmt_refund_pay"],
        }
        try:
            answer = await self._call("alipay.trade.fastpay.refund.query", content)
        except ProviderRefused as refused:
            if refused.code in _NO_REFUND:
                return RefundReport(self.name, refund.out_trade_no, refund.out_refund_no, RefundProviderState.NOT_FOUND)
            raise
        word = answer.text("refund_status")
        # Without a status it was not received, or failed: the same request is to be sent again under the same number.
        state = _REFUND_STATES.get(word) if word else RefundProviderState.NOT_FOUND
        if state is None:
            raise _not_understood(f"refund_status {word!r}")
        if state is RefundProviderState.NOT_FOUND:
            return RefundReport(self.name, refund.out_trade_no, refund.out_refund_no, state)
        self._same_trade(answer, refund)
        if answer.text("out_request_no") not in ("", refund.out_refund_no):
            raise ProviderUnknown("another refund was answered")
        try:
            amount_fen = fen_from_yuan(answer.text("refund_amount"))
        except ValueError as error:
            raise _not_understood(f"refund_amount: {error}") from error
        return RefundReport(
            self.name,
            refund.out_trade_no,
            refund.out_refund_no,
            state,
            amount_fen=amount_fen,
            provider_refund_no=answer.text("trade_no"),
            refunded_at=_moment(answer.text("gmt_refund_pay")),
        )

    async def apply_abnormal(
        self, refund: RefundRequest, provider_refund_no: str, card: BankCard | None = None
    ) -> RefundReport:
        raise ProviderRefused("NO_ABNORMAL_REFUNDS")  # Alipay pays back into the payer's account, which it holds itself

    def _same_trade(self, answer: protocol.Answer, refund: RefundRequest) -> None:
        if answer.text("out_trade_no") not in ("", refund.out_trade_no):
            raise ProviderUnknown("another trade was answered")

    # --- notifications ---

    def read_notification(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Notice:
        try:
            form = protocol.read_form(body)
        except protocol.Unreadable as error:
            raise NotificationRejected("form") from error
        if not protocol.verify_notification(form, list(self._gateway.keys.values())):
            unknown = self._gateway.is_unknown(form.get("alipay_cert_sn", ""))
            raise NotificationRejected("unknown_serial" if unknown else "signature", key_unknown=unknown)
        notice_id = form.get("notify_id", "")
        if form.get("notify_type", "trade_status_sync") != "trade_status_sync" or "trade_status" not in form:
            return Notice("other", notice_id, None)
        try:
            # A partial refund sends TRADE_SUCCESS again, a full one TRADE_CLOSED: the payment is in both, booked only once.
            report = self._report(form, notice_id)
        except ValueError as error:
            raise NotificationRejected(f"content: {error}", is_signed=True) from error
        refund = _told_refund(form, report)
        return Notice("refund" if refund else "payment", notice_id, report, refund)

    async def learn_keys(self) -> bool:
        return await self._gateway.learn_keys()

    def learn_keys_soon(self) -> None:
        self._gateway.learn_keys_soon()

    # --- calling ---

    async def _call(self, method: str, biz_content: Mapping[str, Any], **top_level: str) -> protocol.Answer:
        try:
            return await self._gateway.call(method, biz_content, **top_level)
        except VendorUnreachable as error:
            raise ProviderNotSent(str(error.context.get("cause", "unreachable"))) from error
        except VendorUnknown as error:
            raise ProviderUnknown(str(error.context.get("cause", "unknown"))) from error
        except AlipayRefused as refused:
            if refused.sub_code in _NO_FUNDS:
                raise NotEnoughFunds(refused.sub_code) from refused
            raise ProviderRefused(refused.sub_code or refused.result_code) from refused
        finally:
            if self.clock_offset_s is not None:
                metrics.clock_offset.labels(self.name).set(self.clock_offset_s)

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


def _told_refund(form: Mapping[str, str], report: PaymentReport) -> RefundReport | None:
    """Return the refund a notice tells of. Its `refund_fee` is the sum of all refunds so far, so it names no amount of this one."""
    number = form.get("out_biz_no", "")
    if not (report.is_refunded and number and form.get("gmt_refund")):
        return None
    return RefundReport(
        report.provider,
        report.out_trade_no,
        number,
        RefundProviderState.SUCCEEDED,
        provider_refund_no=report.provider_trade_no,
        refunded_at=_moment(form["gmt_refund"]),
        merchant_id=report.merchant_id,
        app_id=report.app_id,
        notice_id=report.notice_id,
    )


def _not_understood(what: str) -> ProviderUnknown:
    """A word or amount we do not know is never guessed at: not final, asked for again, and somebody has to look."""
    metrics.not_understood.labels("alipay").inc()
    log.error("payment.answer_not_understood", provider="alipay", what=what)
    return ProviderUnknown(what)


def _moment(text: Any) -> datetime | None:
    try:
        # China time without a zone, sometimes with milliseconds.
        local = datetime.strptime(str(text)[:19], "%Y-%m-%d %H:%M:%S") if text else None
        return None if local is None else local.replace(tzinfo=SHANGHAI).astimezone(UTC)
    except ValueError:
        return None
