"""Alipay trades: creating, asking, closing, and the asynchronous notice (reference: Alipay, 2.3 to 2.6).

Each operation takes biz_content and returns the business part of the answer, or raises Refused with the documented
sub_code. No HTTP in here; `alipay.py` is the gateway.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote_plus

from sandbox import certificates, refunds
from sandbox.base import CHINA, Sandbox, china_text
from sandbox.people import person
from sandbox.signing import rsa_sign
from sandbox.store import Notice, Trade
from sandbox.wechatpay_prepay import is_notify_url

STATES = {"NOTPAY": "WAIT_BUYER_PAY", "SUCCESS": "TRADE_SUCCESS", "CLOSED": "TRADE_CLOSED"}
_NUMBER = re.compile(r"[0-9A-Za-z_]{1,64}")
_YUAN = re.compile(r"(0|[1-9]\d{0,8})(\.\d{1,2})?")
_LONGEST_S = 15 * 86400


class Refused(Exception):
    """A business refusal: code 40004 unless another is given, with its sub_code and the sentence of the documents."""

    def __init__(self, sub_code: str, sub_msg: str, *, code: str = "40004", msg: str = "Business Failed") -> None:
        super().__init__(sub_code)
        self.answer = {"code": code, "msg": msg, "sub_code": sub_code, "sub_msg": sub_msg}


def yuan(fen: int) -> str:
    return f"{fen // 100}.{fen % 100:02d}"


def fen(text: Any) -> int | None:
    """Read yuan text with at most two decimals, exactly; None when it is anything else."""
    match = _YUAN.fullmatch(text) if isinstance(text, str) else None
    if not match:
        return None
    return int(match[1]) * 100 + int((match[2] or ".0")[1:].ljust(2, "0"))


def create(sandbox: Sandbox, content: dict[str, Any], notify_url: str) -> dict[str, Any]:
    """alipay.trade.create for mini-programs (JSAPI_PAY)."""
    if content.get("product_code") != "JSAPI_PAY":
        raise invalid("product_code 应为 JSAPI_PAY")
    if content.get("op_app_id") != sandbox.credentials.alipay_app_id:
        raise invalid("op_app_id 与签约的小程序不一致")
    buyer = _buyer(sandbox, content)
    trade = _make_or_find(sandbox, content, notify_url, kind="create", buyer=buyer)
    return {"out_trade_no": trade.out_trade_no, "trade_no": trade.trade_id}


def precreate(sandbox: Sandbox, content: dict[str, Any], notify_url: str) -> dict[str, Any]:
    """alipay.trade.precreate: a QR code for a terminal."""
    trade = _make_or_find(sandbox, content, notify_url, kind="precreate", buyer="")
    qr_code = f"https://qr.alipay.com/bax{secrets.token_hex(11)}"
    sandbox.store.save_handle(qr_code, trade)
    return {"out_trade_no": trade.out_trade_no, "qr_code": qr_code}


def app_pay(sandbox: Sandbox, content: dict[str, Any], notify_url: str) -> Trade:
    """alipay.trade.app.pay: the app arrives with a signed text, and only now does the trade exist."""
    if content.get("product_code") != "QUICK_MSECURITY_PAY":
        raise invalid("product_code 应为 QUICK_MSECURITY_PAY")
    return _make_or_find(sandbox, content, notify_url, kind="app", buyer="")


def wap_pay(sandbox: Sandbox, content: dict[str, Any], notify_url: str) -> Trade:
    """alipay.trade.wap.pay: the browser arrives with a signed URL, and only now does the trade exist."""
    if content.get("product_code") != "QUICK_WAP_PAY":
        raise invalid("product_code 应为 QUICK_WAP_PAY")
    return _make_or_find(sandbox, content, notify_url, kind="wap", buyer="")


def query(sandbox: Sandbox, content: dict[str, Any], _notify_url: str) -> dict[str, Any]:
    """alipay.trade.query: an unpaid trade shows its amount, a paid one payer and time too."""
    trade = find(sandbox, content)
    answer: dict[str, Any] = {
        "trade_no": trade.trade_id,
        "out_trade_no": trade.out_trade_no,
        "trade_status": state_word(sandbox, trade),
        "total_amount": yuan(trade.reported_fen),
        "point_amount": "0.00",
        "buyer_pay_amount": "0.00",
        "receipt_amount": "0.00",
        "invoice_amount": "0.00",
    }
    if trade.payer:
        known = _known(sandbox, trade)
        answer |= {"buyer_open_id": trade.payer, "buyer_logon_id": known["logon_id"]}
        answer |= {"buyer_user_id": known["user_id"]} if known["user_id"] else {}
    if trade.paid_at is not None:
        paid = yuan(trade.reported_fen)
        answer |= {
            "buyer_pay_amount": paid,
            "receipt_amount": paid,
            "invoice_amount": paid,
            "send_pay_date": china_text(trade.paid_at),
            "fund_bill_list": [{"fund_channel": "ALIPAYACCOUNT", "amount": paid}],
        }
    return answer


def close(sandbox: Sandbox, content: dict[str, Any], _notify_url: str) -> dict[str, Any]:
    """alipay.trade.close: only while waiting for the buyer."""
    trade = find(sandbox, content)
    if trade.state != "NOTPAY":
        raise Refused("ACQ.TRADE_STATUS_ERROR", "交易状态不合法")
    trade.state, trade.closed_at = "CLOSED", sandbox.clock()
    sandbox.store.save_trade(trade)
    return {"trade_no": trade.trade_id, "out_trade_no": trade.out_trade_no}


METHODS: dict[str, Callable[[Sandbox, dict[str, Any], str], dict[str, Any]]] = {
    "alipay.trade.create": create,
    "alipay.trade.precreate": precreate,
    "alipay.trade.query": query,
    "alipay.trade.close": close,
}


def state_word(sandbox: Sandbox, trade: Trade) -> str:
    """Return the state in Alipay's word: a payment that went back in full is closed."""
    if trade.extra.get("refund_nos"):
        returned_fen = refunds.returned_fen(refunds.of_trade(sandbox, trade))
        return "TRADE_CLOSED" if returned_fen >= trade.reported_fen else "TRADE_SUCCESS"
    return STATES[trade.state]


# What the client calls itself, with a signed text of ours: the trade comes into being then.
BY_CLIENT: dict[str, Callable[[Sandbox, dict[str, Any], str], Trade]] = {
    "alipay.trade.app.pay": app_pay,
    "alipay.trade.wap.pay": wap_pay,
}


def settle_expiry(sandbox: Sandbox, trade: Trade) -> Trade:
    """Close a trade whose time is over. Unlike WeChat Pay, Alipay does this by itself at time_expire."""
    if trade.state == "NOTPAY" and trade.expires_at is not None and sandbox.clock() >= trade.expires_at:
        trade.state, trade.closed_at = "CLOSED", trade.expires_at
        sandbox.store.save_trade(trade)
    return trade


def notice_fields(sandbox: Sandbox, trade: Trade) -> dict[str, str]:
    """Return the fields of the notice of a payment, without the ones that are fresh at each delivery."""
    own = sandbox.credentials
    paid = yuan(trade.reported_fen)
    known = _known(sandbox, trade)
    shown = {
        "notify_type": "trade_status_sync",
        "app_id": own.alipay_app_id,
        "auth_app_id": own.alipay_app_id,
        "charset": "utf-8",
        "version": "1.0",
        "trade_no": trade.trade_id,
        "out_trade_no": trade.out_trade_no,
        "buyer_open_id": trade.payer,
        "buyer_logon_id": known["logon_id"],
        "seller_id": own.alipay_seller_id,
        "seller_email": "hall-sandbox@example.gov.cn",
        "trade_status": state_word(sandbox, trade),
        "total_amount": paid,
        "receipt_amount": paid,
        "invoice_amount": paid,
        "buyer_pay_amount": paid,
        "point_amount": "0.00",
        "subject": trade.title,
        "body": trade.extra.get("body", ""),  # empty values stay in the signed text
        "gmt_create": china_text(trade.created_at),
        "gmt_payment": china_text(trade.paid_at or trade.created_at),
        "fund_bill_list": json.dumps([{"amount": paid, "fundChannel": "ALIPAYACCOUNT"}], separators=(",", ":")),
    }
    if known["user_id"]:
        shown["buyer_id"] = known["user_id"]
    if trade.extra.get("passback_params"):
        shown["passback_params"] = trade.extra["passback_params"]
    if trade.extra.get("in_certificate_mode"):
        shown["_in_certificate_mode"] = "1"  # for build_notice, never sent
    return shown


def build_notice(
    sandbox: Sandbox, notice: Notice, *, forged: bool = False, unsigned: bool = False
) -> tuple[dict[str, str], bytes]:
    """Return headers and form body of one delivery, signed afresh; `notify_id` stays."""
    form = notice.content | {"notify_time": china_text(sandbox.clock()), "notify_id": notice.notice_id}
    # A forger has a key of his own: here the application's instead of Alipay's.
    own = sandbox.credentials
    # In certificate mode the newest certificate signs; which one, the notice does not say.
    true_key = certificates.alipay_signers(sandbox)[-1].private_key if form.pop("_in_certificate_mode", "") else own.alipay_private_key
    message = "&".join(f"{name}={form[name]}" for name in sorted(form)).encode()
    key = own.alipay_app_private_key if forged else true_key
    form |= {"sign_type": "RSA2", "sign": "" if unsigned else rsa_sign(key, message)}
    body = "&".join(f"{name}={quote_plus(value)}" for name, value in form.items()).encode()
    return {
        "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
        "User-Agent": "Mozilla/4.0",
    }, body


def _make_or_find(
    sandbox: Sandbox, content: dict[str, Any], notify_url: str, *, kind: str, buyer: str
) -> Trade:
    now = sandbox.clock()
    number, subject = content.get("out_trade_no"), content.get("subject")
    amount_fen = fen(content.get("total_amount"))
    if not isinstance(number, str) or not _NUMBER.fullmatch(number):
        raise invalid("out_trade_no 只能包含字母、数字、下划线，且不超过64位")
    if amount_fen is None or not 1 <= amount_fen <= 100_000_000_00:
        raise invalid("total_amount 应为两位小数的元，取值范围 0.01~100000000")
    if not isinstance(subject, str) or not subject or len(subject) > 256 or set(subject) & set("/=&"):
        raise invalid("subject 必填，不超过256字符，不可使用特殊字符 / = &")
    if len(str(content.get("body", ""))) > 128:
        raise invalid("body 不超过128字符")
    if notify_url and not is_notify_url(notify_url):
        raise invalid("notify_url 不合法")
    known = sandbox.store.trade("alipay", number)
    # What must stay the same for one number: content, buyer and product. Expiry may be sent again with another clock.
    request = json.dumps(
        {"kind": kind, "amount_fen": amount_fen, "subject": subject, "buyer": buyer}, ensure_ascii=False
    )
    if known is not None:
        known = settle_expiry(sandbox, known)
        if known.state == "SUCCESS":
            raise Refused("ACQ.TRADE_HAS_SUCCESS", "交易已被支付")
        if known.state == "CLOSED":
            raise Refused("ACQ.TRADE_HAS_CLOSE", "交易已经关闭")
        if known.request != request:
            raise Refused("ACQ.CONTEXT_INCONSISTENT", "交易信息被篡改")
        return known
    trade = Trade(
        provider="alipay",
        out_trade_no=number,
        trade_id=f"{china_text(now)[:10].replace('-', '')}2200{secrets.randbelow(10**16):016d}",
        amount_fen=amount_fen,
        reported_fen=amount_fen,
        title=subject,
        notify_url=notify_url,
        payer=buyer,
        request=request,
        created_at=now,
        expires_at=_expires_at(content, now),
        extra={"body": str(content.get("body", "")), "passback_params": str(content.get("passback_params", ""))},
    )
    sandbox.store.save_trade(trade)
    sandbox.store.save_handle(trade.trade_id, trade)
    return trade


def _buyer(sandbox: Sandbox, content: dict[str, Any]) -> str:
    """Return the buyer's open_id. Exactly the people that signed in to this application exist for it."""
    sent = content.get("buyer_open_id") or content.get("buyer_id")
    if not isinstance(sent, str):
        raise invalid("buyer_id 与 buyer_open_id 不能同时为空")
    known = sandbox.store.get("alipay_user", sent)
    if known is None:
        raise Refused("ACQ.BUYER_NOT_EXIST", "买家不存在")
    return known["open_id"]


def _known(sandbox: Sandbox, trade: Trade) -> dict[str, str]:
    """Return what is shown of the buyer: user_id, and the masked login name, which is the phone."""
    user = sandbox.store.get("alipay_user", trade.payer)
    if not user:
        return {"user_id": "", "logon_id": "159******00"}
    phone = person(user["name"]).phone
    return {"user_id": user["user_id"], "logon_id": f"{phone[:3]}******{phone[-2:]}"}


def _expires_at(content: dict[str, Any], now: float) -> float:
    text = content.get("time_expire")
    if text is not None:
        try:
            at = datetime.strptime(str(text), "%Y-%m-%d %H:%M:%S").replace(tzinfo=CHINA).timestamp()
        except ValueError:
            raise invalid("time_expire 格式应为 yyyy-MM-dd HH:mm:ss") from None
        if not now < at <= now + _LONGEST_S + 60:
            raise invalid("time_expire 应晚于当前时间且不超过15天")
        return at
    if content.get("timeout_express") == "1c":  # until the end of the day in China, whatever the hour
        return (now + 8 * 3600) // 86400 * 86400 + 86400 - 8 * 3600
    match = re.fullmatch(r"(\d{1,5})([mhd])", str(content.get("timeout_express", "15d")))
    if not match:
        raise invalid("timeout_express 不合法")
    seconds = int(match[1]) * {"m": 60, "h": 3600, "d": 86400}[match[2]]
    return now + min(seconds, _LONGEST_S)


def find(sandbox: Sandbox, content: dict[str, Any]) -> Trade:
    number, trade_no = content.get("out_trade_no"), content.get("trade_no")
    if not (number or trade_no) or not all(isinstance(text, str) for text in (number or "", trade_no or "")):
        raise invalid("out_trade_no 与 trade_no 不能同时为空，且为字符串")
    store = sandbox.store
    # When both are given, Alipay goes by trade_no.
    trade = store.trade_by_id("alipay", trade_no) if trade_no else store.trade("alipay", number)
    if trade is None:
        raise Refused("ACQ.TRADE_NOT_EXIST", "交易不存在")
    return settle_expiry(sandbox, trade)


def invalid(sub_msg: str) -> Refused:
    return Refused("ACQ.INVALID_PARAMETER", f"参数无效：{sub_msg}")
