"""Alipay trades that the payer's own device makes: an order string in the app, a signed address in the browser; and certificate mode.

Both carry what the hall has signed; the trade comes into being when they arrive here, not before.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any
from urllib.parse import parse_qsl

from sandbox import alipay_trade, certificates
from sandbox.alipay_trade import Refused
from sandbox.base import Sandbox
from sandbox.signing import rsa_verify
from sandbox.store import Trade


def biz_content(sent: dict[str, str]) -> dict[str, Any]:
    """Read biz_content. Raises Refused."""
    try:
        content = json.loads(sent.get("biz_content", ""))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise Refused("isv.invalid-parameter", "参数无效：biz_content 不是JSON对象", code="40002", msg="Invalid Arguments")
    return content


def arrive(sandbox: Sandbox, sent: dict[str, str]) -> Trade:
    """Make the trade with which a client comes to the cashier; the signature has been checked. Raises Refused."""
    make = alipay_trade.BY_CLIENT[sent["method"]]
    trade = make(sandbox, biz_content(sent), sent.get("notify_url", ""))
    if sent.get("app_cert_sn"):
        note_certificate_mode(sandbox, {"out_trade_no": trade.out_trade_no})
    return trade


def arrive_with(sandbox: Sandbox, text: str) -> Trade | str:
    """Check an order string (or a gateway address) as Alipay's app does; return its trade, or what is wrong with it."""
    pairs = parse_qsl(text.partition("?")[2] or text, keep_blank_values=True)
    sent = dict(pairs)
    if len(sent) != len(pairs) or sent.get("method") not in alipay_trade.BY_CLIENT:
        return "订单参数有误"
    signed = "&".join(f"{name}={sent[name]}" for name in sorted(sent) if name != "sign" and sent[name] != "")
    own = sandbox.credentials
    if sent.get("app_id") != own.alipay_app_id or not rsa_verify(own.alipay_app_public_key, signed.encode(), sent.get("sign", "")):
        return "验签出错"
    try:
        return arrive(sandbox, sent)
    except Refused as refused:
        return refused.answer["sub_msg"]


def note_certificate_mode(sandbox: Sandbox, content: dict[str, Any]) -> None:
    """Remember that the application of a trade uses certificates: its notices are signed so."""
    trade = sandbox.store.trade("alipay", str(content.get("out_trade_no", "")))
    if trade is not None and not trade.extra.get("in_certificate_mode"):
        trade.extra["in_certificate_mode"] = True
        sandbox.store.save_trade(trade)


def download_certificate(sandbox: Sandbox, sent: dict[str, str]) -> dict[str, Any]:
    """alipay.open.app.alipaycert.download: the certificate of a serial, base64 of its PEM."""
    wanted = biz_content(sent).get("alipay_cert_sn")
    found = next((each for each in certificates.alipay_signers(sandbox) if each.serial == wanted), None)
    if found is None:
        raise Refused("CERT_NOT_EXIST", "证书不存在")
    return {"code": "10000", "msg": "Success", "alipay_cert_content": b64encode(found.pem.encode()).decode()}
