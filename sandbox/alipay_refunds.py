"""Alipay refunds (reference: Alipay, 2.5 and 2.6): the call, the query, and the payment's notice sent again with refund fields."""

from __future__ import annotations

import re
import secrets
from typing import Any

from sandbox import alipay_trade, refunds
from sandbox.alipay_trade import Refused, fen, yuan
from sandbox.base import Sandbox, china_text
from sandbox.refunds import Refund
from sandbox.store import Trade

_NUMBER = re.compile(r"[0-9A-Za-z_]{1,64}")


def refund(sandbox: Sandbox, content: dict[str, Any], _notify_url: str) -> dict[str, Any]:
    """alipay.trade.refund: 10000 says that it was handled, fund_change=Y that money moved."""
    trade = alipay_trade.find(sandbox, content)
    number, amount_fen = content.get("out_request_no"), fen(content.get("refund_amount"))
    if not isinstance(number, str) or not _NUMBER.fullmatch(number):
        raise alipay_trade.invalid("out_request_no 部分退款时必填，不超过64字符")
    if not amount_fen:
        raise alipay_trade.invalid("refund_amount 应为两位小数的元")
    known = refunds.find(sandbox, "alipay", number, trade.out_trade_no)
    if known is not None and known.status != "CLOSED":
        if known.amount_fen != amount_fen:
            raise Refused("ACQ.DISCORDANT_REPEAT_REQUEST", "请求信息不一致")
        known.asked += 1
        refunds.save(sandbox, known)
        return _answer(sandbox, trade, moved=False)
    before = refunds.of_trade(sandbox, trade)
    if trade.paid_at is None:
        raise Refused("ACQ.TRADE_STATUS_ERROR", "交易状态不合法")
    if refunds.taken_fen(before) + amount_fen > trade.reported_fen:
        raise Refused("ACQ.REFUND_AMT_NOT_EQUAL_TOTAL", "退款金额超限")
    if before and sandbox.clock() - before[-1].created_at < sandbox.pace.alipay_refund_pause_s:
        raise Refused("ACQ.SYSTEM_ERROR", "系统繁忙：同一笔交易两次退款间隔须3秒以上")
    if sandbox.refund_mode.mode == "not_enough":
        raise Refused("ACQ.SELLER_BALANCE_NOT_ENOUGH", "卖家余额不足")
    made = refunds.make(
        sandbox, trade, number=number, amount_fen=amount_fen, reason=str(content.get("refund_reason", "")), notify_url=trade.notify_url
    )
    tell(sandbox, trade, made)
    return _answer(sandbox, trade, moved=made.status == "SUCCESS")


def query(sandbox: Sandbox, content: dict[str, Any], _notify_url: str) -> dict[str, Any]:
    """alipay.trade.fastpay.refund.query: no refund_status means not received, failed, or not there yet."""
    trade = alipay_trade.find(sandbox, content)
    number = content.get("out_request_no")
    if not isinstance(number, str) or not number:
        raise alipay_trade.invalid("out_request_no 必填")
    found = refunds.find(sandbox, "alipay", number, trade.out_trade_no)
    if found is None or found.status != "SUCCESS":
        return {}
    shown = {
        "trade_no": trade.trade_id,
        "out_trade_no": trade.out_trade_no,
        "out_request_no": number,
        "refund_status": "REFUND_SUCCESS",
        "total_amount": yuan(trade.reported_fen),
        "refund_amount": yuan(found.amount_fen),
    }
    if "gmt_refund_pay" in content.get("query_options", []) and found.done_at:
        shown["gmt_refund_pay"] = china_text(found.done_at)
    return shown


def _answer(sandbox: Sandbox, trade: Trade, *, moved: bool) -> dict[str, Any]:
    returned = yuan(refunds.returned_fen(refunds.of_trade(sandbox, trade)))
    return {
        "trade_no": trade.trade_id,
        "out_trade_no": trade.out_trade_no,
        "buyer_open_id": trade.payer,
        "fund_change": "Y" if moved else "N",
        "refund_fee": returned,
        "send_back_fee": returned,
        "gmt_refund_pay": china_text(sandbox.clock()),
    }


def tell(sandbox: Sandbox, trade: Trade, made: Refund) -> None:
    """Write the payment's notice once more, now with what went back; due when the refund ends, nothing for one that does not succeed."""
    ends_as, at = (made.ends_as, made.ends_at) if made.ends_as else (made.status, sandbox.clock())
    if ends_as != "SUCCESS" or at is None or not trade.notify_url:
        return
    others = [each for each in refunds.of_trade(sandbox, trade) if each.out_refund_no != made.out_refund_no]
    returned = refunds.returned_fen(others) + made.amount_fen
    fields = alipay_trade.notice_fields(sandbox, trade) | {
        "trade_status": "TRADE_CLOSED" if returned >= trade.reported_fen else "TRADE_SUCCESS",
        "out_biz_no": made.out_refund_no,
        "refund_fee": yuan(returned),
        "gmt_refund": f"{china_text(at)}.{secrets.randbelow(1000):03d}",
    }
    if returned >= trade.reported_fen:
        fields["gmt_close"] = china_text(at)
    notice = {"notice_id": secrets.token_hex(17), "kind": fields["trade_status"], "next_at": at, "content": fields}
    sandbox.store.add_notices(trade, sandbox.storm.spread([notice]))
    if sandbox.courier:
        sandbox.courier.wake()


METHODS = {"alipay.trade.refund": refund, "alipay.trade.fastpay.refund.query": query}
