"""What the resident does in the cashier: one function for both providers, with the outcomes of settings.md."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from sandbox import alipay_trade, wechatpay
from sandbox.base import Sandbox
from sandbox.people import person
from sandbox.store import Trade

OUTCOMES = (
    "success",
    "fail",
    "success_without_notice",
    "success_notice_twice",
    "success_notice_late",
    "success_wrong_amount",
)
PROVIDERS = ("wechatpay", "alipay")


class NotPayable(Exception):
    """The trade is closed, expired or paid already; `args[0]` is the code, `args[1]` the sentence for the page."""


def find_trade(sandbox: Sandbox, provider: str, numbers: dict[str, str]) -> Trade | None:
    """Find a trade by what the client holds: out_trade_no, prepay_id (WeChat), trade_no (Alipay), code or qr_code."""
    if numbers.get("out_trade_no"):
        return sandbox.store.trade(provider, numbers["out_trade_no"])
    for name in ("prepay_id", "trade_no", "code_url", "qr_code"):
        if numbers.get(name):
            return sandbox.store.trade_of_handle(provider, numbers[name])
    return None


def state_word(sandbox: Sandbox, trade: Trade) -> str:
    """Return the state in the provider's own word."""
    return wechatpay.state_word(trade) if trade.provider == "wechatpay" else alipay_trade.state_word(sandbox, trade)


def pay(sandbox: Sandbox, trade: Trade, outcome: str) -> Trade:
    """Let the payer finish in the cashier and return the trade as it stands afterwards.

    `fail` leaves the trade payable: a failed try never changes its state (WeChat shows NOTPAY, Alipay
    WAIT_BUYER_PAY), which is why a merchant must not read failure out of it.

    Raises:
        NotPayable: `closed`, `expired` or `already_paid`.
    """
    now = sandbox.clock()
    if trade.state == "SUCCESS":
        raise NotPayable("already_paid", "该订单已支付")
    if trade.state == "CLOSED":
        raise NotPayable("closed", "该订单已关闭")
    if trade.expires_at is not None and now >= trade.expires_at:
        raise NotPayable("expired", "该订单已超过支付有效期")
    if outcome == "fail":
        return trade
    trade.state, trade.paid_at = "SUCCESS", now
    if not trade.payer:
        # A scan, app or H5 order learns its payer only here: the phone that paid belongs to somebody.
        somebody = person("扫码付款人")
        trade.payer = somebody.openid if trade.provider == "wechatpay" else somebody.alipay_open_id
    if outcome == "success_wrong_amount":
        # One fen less than ordered, or one more when there is nothing to take away: a paid amount is never 0.
        trade.reported_fen = trade.amount_fen - 1 if trade.amount_fen > 1 else trade.amount_fen + 1
    sandbox.store.pay(trade, sandbox.storm.spread(_notices(sandbox, trade, outcome, now)))
    if sandbox.courier:
        sandbox.courier.wake()
    return trade


def _notices(sandbox: Sandbox, trade: Trade, outcome: str, now: float) -> list[dict[str, Any]]:
    if outcome == "success_without_notice" or not trade.notify_url:
        return []
    at = now + sandbox.pace.late_notice_s if outcome == "success_notice_late" else now
    if trade.provider == "wechatpay":
        own = sandbox.credentials
        notice = {
            "notice_id": str(uuid.uuid4()),
            "kind": "TRANSACTION.SUCCESS",
            "key_id": trade.extra.get("key_id", own.platform_serial),
            "next_at": at,
            "content": {
                "original_type": "transaction",
                "summary": "支付成功",
                "created_at": now,
                "resource": wechatpay.transaction(trade, own.wechatpay_mch_id),
            },
        }
    else:
        notice = {
            "notice_id": secrets.token_hex(17),
            "kind": "TRADE_SUCCESS",
            "next_at": at,
            "content": alipay_trade.notice_fields(sandbox, trade),
        }
    # Twice means: the same notification over two lines at once. Both carry the same id and have their own ladder.
    return [notice, dict(notice)] if outcome == "success_notice_twice" else [notice]
