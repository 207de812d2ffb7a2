"""WeChat Pay's daily trade bill: asked for, then downloaded; written from the stand-in's own trades and refunds.

The file is true, unless a difference is switched on by `POST /_sim/bills` (see bill_days.py).
"""

from __future__ import annotations

import gzip
import hashlib
import secrets
from typing import Any
from urllib.parse import urlencode

from sandbox import bill_days
from sandbox.bill_days import Booked
from sandbox.wechatpay import WechatPayHandler

_COLUMNS = (
    "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,付款银行,货币种类,应结订单金额,代金券金额,"
    "微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态,商品名称,商户数据包,手续费,费率,订单金额,申请退款金额,费率备注"
)
_SUMS = "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额"
_TOKEN_LIVES_S = 300
_REFUND_WORDS = {"SUCCESS": "SUCCESS", "PROCESSING": "PROCESSING", "ABNORMAL": "CHANGE", "CLOSED": "FAIL"}


class TradeBill(WechatPayHandler):
    """GET /v3/bill/tradebill?bill_date=&bill_type=&tar_type=: where the file is, and its SHA-1."""

    def get(self) -> None:
        day = bill_days.parse_day(self.get_query_argument("bill_date", ""))
        kind = self.get_query_argument("bill_type", "ALL")
        packed = self.get_query_argument("tar_type", "")
        if day is None or kind not in ("ALL", "SUCCESS", "REFUND") or packed not in ("", "GZIP"):
            return self.param_error("bill_date", self.get_query_argument("bill_date", ""), "账单日期或类型不正确", location="query")
        if not bill_days.is_over(self.sandbox, "wechatpay", day):
            return self.refuse(400, "INVALID_REQUEST", "请求的账单日期必须早于今天，且在三个月之内")
        if bill_days.is_creating(self.sandbox, "wechatpay", day):
            return self.refuse(400, "STATEMENT_CREATING", "账单生成中，请稍后再试")
        rows = [row for row in bill_days.booked(self.sandbox, "wechatpay", day) if _wanted(row, kind)]
        if not rows:
            return self.refuse(400, "NO_STATEMENT_EXIST", "账单文件不存在，当日没有交易")
        raw = write(rows, appid=self.credentials.wechat_app_id, mchid=self.credentials.wechatpay_mch_id)
        token = secrets.token_urlsafe(24)
        kept = {"until": self.now() + _TOKEN_LIVES_S, "day": day.isoformat(), "kind": kind, "packed": packed}
        self.store.put("wechatpay_bill", token, kept)
        url = f"{self.request.protocol}://{self.request.host}/v3/billdownload/file?{urlencode({'token': token})}"
        sha1 = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
        return self.answer_json({"download_url": url, "hash_type": "SHA1", "hash_value": sha1})


class Download(WechatPayHandler):
    """GET /v3/billdownload/file?token=: signed by the caller like any call; the answer is not signed."""

    def get(self) -> None:
        kept = self.store.get("wechatpay_bill", self.get_query_argument("token", ""))
        day = bill_days.parse_day(kept["day"]) if kept and kept["until"] > self.now() else None
        if day is None or kept is None:
            return self.refuse(403, "NO_AUTH", "下载链接已失效")
        rows = [row for row in bill_days.booked(self.sandbox, "wechatpay", day) if _wanted(row, kept["kind"])]
        raw = write(rows, appid=self.credentials.wechat_app_id, mchid=self.credentials.wechatpay_mch_id)
        if self.fault == "bad_signature":  # nothing is signed here: what differs is the file
            raw = raw.replace(b"`SUCCESS", b"`SUCCESs", 1)
        body = gzip.compress(raw) if kept["packed"] else raw
        return self.send_bytes(body, status=200, content_type="application/octet-stream")


def _wanted(row: Booked, kind: str) -> bool:
    return kind == "ALL" or (kind == "REFUND") == row.is_refund


def write(rows: list[Booked], *, appid: str, mchid: str) -> bytes:
    """Return the unpacked file."""
    lines = [_COLUMNS]
    for row in rows:
        values = _values(row) | {"公众账号ID": appid, "商户号": mchid}
        lines.append(",".join("`" + values.get(name, "") for name in _COLUMNS.split(",")))
    paid = sum(row.amount_fen for row in rows if not row.is_refund)
    back = sum(row.amount_fen for row in rows if row.is_refund)
    fee = sum(row.fee_millifen for row in rows)
    yuan, yuan5 = bill_days.yuan, bill_days.yuan5
    lines.append(_SUMS)
    sums = [f"{len(rows)}.0", yuan(paid), yuan(back), "0.00", yuan5(fee), yuan(paid), yuan(back)]
    lines.append(",".join(f"`{value}" for value in sums))
    return ("\ufeff" + "\r\n".join(lines) + "\r\n").encode()


def _values(row: Booked) -> dict[str, Any]:
    yuan = bill_days.yuan
    paid, back = (0, row.amount_fen) if row.is_refund else (row.amount_fen, 0)
    return {
        "交易时间": bill_days.china_text(row.at),
        "特约商户号": "0",
        "微信订单号": row.trade_id,
        "商户订单号": row.out_trade_no,
        "用户标识": row.payer,
        "交易类型": "JSAPI",
        "交易状态": "REFUND" if row.is_refund else "SUCCESS",
        "付款银行": "OTHERS",
        "货币种类": "CNY",
        "应结订单金额": yuan(paid),
        "代金券金额": "0.00",
        "微信退款单号": row.refund_id if row.is_refund else "0",
        "商户退款单号": row.out_refund_no if row.is_refund else "0",
        "退款金额": yuan(back),
        "充值券退款金额": "0.00",
        "退款类型": "ORIGINAL" if row.is_refund else "",
        "退款状态": _REFUND_WORDS.get(row.state, row.state) if row.is_refund else "",
        "商品名称": row.title,
        "手续费": bill_days.yuan5(row.fee_millifen),
        "费率": "0.60%",
        "订单金额": yuan(paid),
        "申请退款金额": yuan(back),
    }


routes = [(r"/v3/bill/tradebill", TradeBill), (r"/v3/billdownload/file", Download)]
