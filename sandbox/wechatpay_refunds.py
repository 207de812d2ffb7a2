"""WeChat Pay refunds (reference: API v3, 1.8): asking for one, asking about one, and its notice."""

from __future__ import annotations

import re
import uuid
from typing import Any

from sandbox import certificates, refunds
from sandbox.base import Sandbox, rfc3339_china
from sandbox.refunds import Refund
from sandbox.signing import rsa_unseal
from sandbox.store import Trade
from sandbox.wechatpay import WechatPayHandler
from sandbox.wechatpay_prepay import is_notify_url

_NUMBER = re.compile(r"[0-9A-Za-z_\-|*@]{1,64}")
_MOST_REFUNDS = 50
_WITHIN_S = 365 * 86400


class Refunds(WechatPayHandler):
    """POST /v3/refund/domestic/refunds."""

    def post(self) -> None:
        sent = self.json_object()
        if sent is None:
            return self.param_error("/", None, "请求体不是合法的JSON对象")
        problem = _find_problem(sent)
        if problem:
            return self.param_error(*problem)
        find = self.store.trade_by_id if sent.get("transaction_id") else self.store.trade
        trade = find("wechatpay", sent.get("transaction_id") or sent["out_trade_no"])
        if trade is None or trade.paid_at is None:
            return self.refuse(404, "RESOURCE_NOT_EXISTS", "订单不存在")
        known = refunds.find(self.sandbox, "wechatpay", sent["out_refund_no"])
        if known is None:
            return self._make(sent, trade)
        if (known.out_trade_no, known.amount_fen) != (trade.out_trade_no, sent["amount"]["refund"]):
            return self.refuse(400, "INVALID_REQUEST", "退款单号重复，且参数与原申请不一致")
        known.asked += 1
        return self.answer_json(answer(refunds.save(self.sandbox, known), trade))

    def _make(self, sent: dict[str, Any], trade: Trade) -> None:
        amount, now = sent["amount"], self.now()
        before = refunds.of_trade(self.sandbox, trade)
        if amount["total"] != trade.reported_fen:  # what it told as the total of the payment
            return self.refuse(400, "INVALID_REQUEST", "订单金额与原订单不一致")
        if refunds.taken_fen(before) + amount["refund"] > trade.reported_fen:
            return self.refuse(400, "INVALID_REQUEST", "申请退款金额超过可退金额")
        if len(before) >= _MOST_REFUNDS:
            return self.refuse(400, "INVALID_REQUEST", "一笔订单最多退款50次")
        if now - (trade.paid_at or now) > _WITHIN_S:
            return self.refuse(403, "TRADE_OVERDUE", "订单已超过可退款的最大期限")
        if before and now - before[-1].created_at < self.sandbox.pace.wechatpay_refund_pause_s:
            return self.refuse(429, "FREQUENCY_LIMITED", "同一笔订单一分钟内只能退款一次")
        if self.sandbox.refund_mode.mode == "not_enough":
            return self.refuse(403, "NOT_ENOUGH", "基本账户余额不足，请充值后重新发起")
        refund = refunds.make(
            self.sandbox,
            trade,
            number=sent["out_refund_no"],
            amount_fen=amount["refund"],
            reason=sent.get("reason", ""),
            notify_url=sent.get("notify_url", ""),
            key_id=self.key_id,
        )
        tell(self.sandbox, trade, refund)
        return self.answer_json(answer(refund, trade))


class OneRefund(WechatPayHandler):
    """GET /v3/refund/domestic/refunds/{out_refund_no}."""

    def get(self, number: str) -> None:
        refund = refunds.find(self.sandbox, "wechatpay", number)
        trade = self.store.trade("wechatpay", refund.out_trade_no) if refund else None
        if refund is None or trade is None:
            return self.refuse(404, "RESOURCE_NOT_EXISTS", "退款单不存在")
        return self.answer_json(answer(refund, trade))


class Abnormal(WechatPayHandler):
    """POST /v3/refund/domestic/refunds/{refund_id}/apply-abnormal-refund: pay an abnormal refund out another way."""

    def post(self, refund_id: str) -> None:
        sent = self.json_object()
        if sent is None:
            return self.param_error("/", None, "请求体不是合法的JSON对象")
        refund = refunds.find(self.sandbox, "wechatpay", str(sent.get("out_refund_no", "")))
        trade = self.store.trade("wechatpay", refund.out_trade_no) if refund else None
        if refund is None or trade is None or refund.refund_id != refund_id:
            return self.refuse(404, "RESOURCE_NOT_EXISTS", "退款单不存在")
        if sent.get("type") not in ("USER_BANK_CARD", "MERCHANT_BANK_CARD"):
            return self.param_error("/type", sent.get("type"), "USER_BANK_CARD 或 MERCHANT_BANK_CARD")
        if sent["type"] == "USER_BANK_CARD":
            for name in ("bank_type", "bank_account", "real_name"):
                if not isinstance(sent.get(name), str) or not sent[name]:
                    return self.param_error(f"/{name}", None, "退款至用户银行卡时必填")
            try:
                for name in ("bank_account", "real_name"):
                    self.unsealed(sent[name])
            except ValueError:
                return self.param_error("/bank_account", None, "敏感信息须用Wechatpay-Serial对应的公钥加密")
        if refund.status != "ABNORMAL":
            return self.refuse(400, "INVALID_REQUEST", "该退款单不是退款异常状态")
        refund.status, refund.ends_as = "PROCESSING", "SUCCESS"
        refund.ends_at = self.now() + self.sandbox.pace.wechatpay_refund_s
        refunds.save(self.sandbox, refund)
        tell(self.sandbox, trade, refund)
        return self.answer_json(answer(refund, trade))

    def unsealed(self, text: str) -> str:
        """Open a sensitive field with the key that Wechatpay-Serial names. Raises ValueError."""
        own = self.credentials
        signer = certificates.platform_signer(self.sandbox, self.key_id)
        return rsa_unseal(signer.private_key if signer else own.wechatpay_private_key, text)


def _find_problem(sent: dict[str, Any]) -> tuple[str, Any, str] | None:
    number, amount, notify_url = sent.get("out_refund_no"), sent.get("amount"), sent.get("notify_url", "")
    if not isinstance(sent.get("transaction_id") or sent.get("out_trade_no"), str):
        return "/out_trade_no", sent.get("out_trade_no"), "transaction_id 与 out_trade_no 须二选一"
    if not isinstance(number, str) or not _NUMBER.fullmatch(number):
        return "/out_refund_no", number, "1-64位，只能是数字、大小写字母_-|*@"
    if not isinstance(sent.get("reason", ""), str) or len(sent.get("reason", "")) > 80:
        return "/reason", sent.get("reason"), "不超过80字符"
    if notify_url and (not isinstance(notify_url, str) or not is_notify_url(notify_url)):
        return "/notify_url", notify_url, "须为https绝对地址，不得携带参数"
    if not isinstance(amount, dict) or amount.get("currency") != "CNY":
        return "/amount/currency", amount, "目前只支持人民币"
    for name in ("refund", "total"):
        if type(amount.get(name)) is not int or amount[name] < 1:
            return f"/amount/{name}", amount.get(name), "须为大于0的整数，单位为分"
    return None


def answer(refund: Refund, trade: Trade) -> dict[str, Any]:
    """Return a refund in WeChat Pay's words, as answers show it."""
    shown: dict[str, Any] = {
        "refund_id": refund.refund_id,
        "out_refund_no": refund.out_refund_no,
        "transaction_id": trade.trade_id,
        "out_trade_no": trade.out_trade_no,
        "channel": "ORIGINAL",
        "user_received_account": "支付用户零钱",
        "create_time": rfc3339_china(refund.created_at),
        "status": refund.status,
        "funds_account": "UNSETTLED",
        "amount": {
            "total": trade.reported_fen,
            "refund": refund.amount_fen,
            "payer_total": trade.reported_fen,
            "payer_refund": refund.amount_fen,
            "settlement_total": trade.reported_fen,
            "settlement_refund": refund.amount_fen,
            "discount_refund": 0,
            "currency": "CNY",
            "from": [],
        },
        "promotion_detail": [],
    }
    return shown | ({"success_time": rfc3339_china(refund.done_at)} if refund.done_at else {})


def tell(sandbox: Sandbox, trade: Trade, refund: Refund) -> None:
    """Write the notice of how a refund ends, due when it ends; nothing for one that is under way without an end."""
    ends_as, at = (refund.ends_as, refund.ends_at) if refund.ends_as else (refund.status, sandbox.clock())
    if ends_as == "PROCESSING" or at is None or not refund.notify_url:
        return
    content: dict[str, Any] = {
        "mchid": sandbox.credentials.wechatpay_mch_id,
        "out_trade_no": trade.out_trade_no,
        "transaction_id": trade.trade_id,
        "out_refund_no": refund.out_refund_no,
        "refund_id": refund.refund_id,
        "refund_status": ends_as,
        "user_received_account": "支付用户零钱",
        "amount": {
            "total": trade.reported_fen,
            "refund": refund.amount_fen,
            "payer_total": trade.reported_fen,
            "payer_refund": refund.amount_fen,
        },
    }
    if ends_as == "SUCCESS":
        content["success_time"] = rfc3339_china(at)
    notice = {
        "notice_id": str(uuid.uuid4()),
        "kind": f"REFUND.{ends_as}",
        "key_id": refund.key_id,
        "url": refund.notify_url,
        "next_at": at,
        "content": {
            "original_type": "refund",
            "summary": {"SUCCESS": "退款成功", "ABNORMAL": "退款异常", "CLOSED": "退款关闭"}[ends_as],
            "created_at": at,
            "resource": content,
        },
    }
    sandbox.store.add_notices(trade, sandbox.storm.spread([notice]))
    if sandbox.courier:
        sandbox.courier.wake()


routes = [
    (r"/v3/refund/domestic/refunds", Refunds),
    (r"/v3/refund/domestic/refunds/([^/]+)/apply-abnormal-refund", Abnormal),
    (r"/v3/refund/domestic/refunds/([^/]+)", OneRefund),
]
