"""WeChat Pay API v3 as a direct merchant sees it: prepay, query, close, certificates.

Strict like the original: the signature is checked over the exact URL and bytes that arrived, times outside five
minutes are refused before that, and answers are signed while most errors are not.
"""

from __future__ import annotations

import re
from typing import Any

from sandbox import certificates, wechatpay_notice, wechatpay_prepay
from sandbox.base import StandIn, compact, rfc3339_china
from sandbox.signing import rsa_verify
from sandbox.store import Trade

_SCHEME = "WECHATPAY2-SHA256-RSA2048 "
_PART = re.compile(r'\s*(\w+)="([^"]*)"\s*')
_WINDOW_S = 300
_STATE_TEXTS = {"SUCCESS": "支付成功", "NOTPAY": "订单未支付", "CLOSED": "订单已关闭", "REFUND": "转入退款"}


class WechatPayHandler(StandIn):
    """Checks who is calling before any method runs, and signs what it answers."""

    provider = "wechatpay"
    key_id = ""

    async def prepare(self) -> None:
        await super().prepare()
        if not self._finished:
            self._check_caller()

    def _check_caller(self) -> None:
        headers = self.request.headers
        if not headers.get("User-Agent") or "application/json" not in headers.get("Accept", ""):
            return self.refuse(400, "PARAM_ERROR", "Http头缺少Accept或User-Agent")
        if self.request.body and headers.get("Content-Type", "").split(";")[0].strip() != "application/json":
            return self.refuse(400, "PARAM_ERROR", "Http头Content-Type应为application/json")
        signers = certificates.platform_signers(self.sandbox)
        self.key_id = headers.get("Wechatpay-Serial", "") or signers[-1].serial
        if self.key_id != self.credentials.wechatpay_public_key_id and self.key_id not in {each.serial for each in signers}:
            return self.refuse(400, "PARAM_ERROR", "Http头Wechatpay-Serial不是有效的微信支付公钥ID或平台证书序列号")
        return self._check_authorization(headers.get("Authorization", ""))

    def _check_authorization(self, text: str) -> None:
        if not text.startswith(_SCHEME):
            return self._sign_error("Http头Authorization认证类型不正确", "authorization")
        parts: dict[str, str] = {}
        for piece in text[len(_SCHEME) :].split(","):
            match = _PART.fullmatch(piece)
            if not match or match[1] in parts:
                return self._sign_error("Http头Authorization值格式错误", "authorization")
            parts[match[1]] = match[2]
        missing = [name for name in ("mchid", "serial_no", "nonce_str", "timestamp", "signature") if not parts.get(name)]
        if missing:
            return self._sign_error(f"Http头Authorization中缺少{missing[0]}", missing[0])
        if parts["mchid"] != self.credentials.wechatpay_mch_id:
            return self._sign_error("商户号不存在或未开通API v3", "mchid")
        if not parts["timestamp"].isascii() or not parts["timestamp"].isdigit():
            return self._sign_error("Http头Authorization中的timestamp格式错误", "timestamp")
        if abs(self.now() - int(parts["timestamp"])) >= _WINDOW_S:
            return self._sign_error("Http头Authorization中的timestamp与发起请求的时间不得超过5分钟", "timestamp")
        merchant_key = certificates.merchant_key(self.sandbox, parts["serial_no"])
        if not merchant_key:
            return self._sign_error("商户证书序列号有误。请使用签名私钥匹配的证书序列号", "serial_no")
        # request.uri is the target exactly as it came over the wire, percent signs and all.
        head = f"{self.request.method}\n{self.request.uri}\n{parts['timestamp']}\n{parts['nonce_str']}\n"
        message = head.encode() + self.request.body + b"\n"
        if not rsa_verify(merchant_key, message, parts["signature"]):
            return self._sign_error("错误的签名，验签失败", "signature", signed=message)
        return None

    def _sign_error(self, message: str, field: str, *, signed: bytes | None = None) -> None:
        detail: dict[str, Any] = {"field": field, "location": "authorization"}
        if signed is not None:
            detail |= {
                "detail": {"issue": "sign not match"},
                "sign_information": {
                    "method": self.request.method,
                    "url": self.request.uri,
                    # The original shows the head of the text it signed: the quickest way to see what differs.
                    "truncated_sign_message": signed[:120].decode(errors="replace"),
                    "sign_message_length": len(signed),
                },
            }
        self.refuse(401, "SIGN_ERROR", message, detail=detail)

    def param_error(self, field: str, value: Any, issue: str, *, location: str = "body") -> None:
        detail = {"field": field, "value": value, "issue": issue, "location": location}
        self.refuse(400, "PARAM_ERROR", f"参数错误：{issue}", detail=detail)

    def answer(self, body: bytes, *, status: int = 200) -> None:
        """Sign and send; an empty body with 204 is signed too (empty third line)."""
        forged = self.fault == "bad_signature"
        if self.fault != "unsigned":
            for name, value in wechatpay_notice.signature_headers(
                self.sandbox, body, self.key_id, self.now(), forged=forged
            ).items():
                self.set_header(name, value)
        if status == 204 and self.fault != "lost":
            self.set_status(204)
            self.finish()
            return
        self.send_bytes(body, status=status, content_type="application/json; charset=utf-8")

    def answer_json(self, value: Any) -> None:
        self.answer(compact(value))

    def answer_error500(self) -> None:
        self.refuse(500, "SYSTEM_ERROR", "系统异常，请稍后重试")

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Request-ID", f"08{wechatpay_notice.nonce(34).upper()}-0")
        self.set_header("Cache-Control", "no-cache, must-revalidate")


class Prepay(WechatPayHandler):
    """POST /v3/pay/transactions/{jsapi|app|h5|native}."""

    def post(self, kind: str) -> None:
        order = self.json_object()
        if order is None:
            return self.param_error("/", None, "请求体不是合法的JSON对象")
        known = self.store.trade("wechatpay", str(order.get("out_trade_no", "")))
        problem = wechatpay_prepay.find_problem(
            order, kind, self.credentials, self.store, now=self.now(), repeated=known is not None
        )
        if problem:
            return self.param_error(*problem)
        if order["mchid"] != self.credentials.wechatpay_mch_id:
            return self.refuse(400, "INVALID_REQUEST", "商户号与签名的商户号不一致")
        if order["appid"] not in (self.credentials.wechat_app_id, self.credentials.wechat_open_app_id):
            return self.refuse(403, "APPID_MCHID_NOT_MATCH", "appid和mch_id不匹配")
        canonical = wechatpay_prepay.canonical(order, kind)
        if known is None:
            known = wechatpay_prepay.new_trade(order, kind, canonical, now=self.now())
        elif known.request != canonical:
            return self.refuse(403, "OUT_TRADE_NO_USED", "商户订单号重复：参数与原下单请求不一致")
        elif known.state == "SUCCESS":
            return self.refuse(400, "ORDERPAID", "该订单已支付")
        elif known.state == "CLOSED":
            return self.refuse(400, "ORDER_CLOSED", "该订单已关闭，请重新下单")
        # The notice follows the key mode the merchant used last, as during the real change of modes.
        known.extra["key_id"] = self.key_id
        self.store.save_trade(known)
        handle, answer = wechatpay_prepay.answer(kind, known, self.request.host, now=self.now())
        self.store.save_handle(handle, known)
        return self.answer_json(answer)


class Query(WechatPayHandler):
    """GET /v3/pay/transactions/{out-trade-no|id}/{number}?mchid=."""

    def get(self, by: str, number: str) -> None:
        if not _is_own_mchid(self):
            return
        find = self.store.trade if by == "out-trade-no" else self.store.trade_by_id
        trade = find("wechatpay", number)
        if trade is None or (by == "id" and trade.state == "NOTPAY"):
            return self.refuse(404, "ORDER_NOT_EXIST", "订单不存在")
        return self.answer_json(transaction(trade, self.credentials.wechatpay_mch_id))


class Close(WechatPayHandler):
    """POST /v3/pay/transactions/out-trade-no/{number}/close: 204, and 204 again for a closed one."""

    def post(self, number: str) -> None:
        order = self.json_object()
        if order is None or order.get("mchid") != self.credentials.wechatpay_mch_id:
            return self.param_error("/mchid", (order or {}).get("mchid"), "商户号不正确")
        trade = self.store.trade("wechatpay", number)
        if trade is None:
            return self.refuse(404, "ORDER_NOT_EXIST", "订单不存在")
        if trade.state == "SUCCESS":
            return self.refuse(400, "ORDERPAID", "该订单已支付，不能关闭")
        if trade.state == "NOTPAY":
            trade.state, trade.closed_at = "CLOSED", self.now()
            self.store.save_trade(trade)
        return self.answer(b"", status=204)


class Certificates(WechatPayHandler):
    """GET /v3/certificates: the platform certificates, encrypted with the APIv3 key."""

    def get(self) -> None:
        own = self.credentials
        if self.sandbox.store.get("platform_signers", "none"):  # a merchant made in public-key mode has no certificates
            return self.refuse(404, "RESOURCE_NOT_EXISTS", "无可用的平台证书，请在商户平台-API安全申请使用微信支付公钥")
        rows = [
            {
                "serial_no": each.serial,
                "effective_time": rfc3339_china(each.starts),
                "expire_time": rfc3339_china(each.ends),
                "encrypt_certificate": wechatpay_notice.encrypt_resource(own, each.pem.encode(), "certificate"),
            }
            for each in certificates.platform_signers(self.sandbox)
        ]
        return self.answer_json({"data": rows})


def _is_own_mchid(handler: WechatPayHandler) -> bool:
    mchid = handler.get_query_argument("mchid", "")
    if mchid == handler.credentials.wechatpay_mch_id:
        return True
    handler.param_error("mchid", mchid, "商户号不能为空或不正确", location="query")
    return False


def state_word(trade: Trade) -> str:
    """Return trade_state: any refund, even a partial one, makes it REFUND for good."""
    return "REFUND" if trade.extra.get("refund_nos") else trade.state


def transaction(trade: Trade, mchid: str) -> dict[str, Any]:
    """Return a trade in WeChat Pay's words: the answer of a query and the content of a notice."""
    shown: dict[str, Any] = {
        "appid": trade.extra.get("appid", ""),  # of a store from before: not named
        "mchid": mchid,
        "out_trade_no": trade.out_trade_no,
        "trade_state": state_word(trade),
        "trade_state_desc": _STATE_TEXTS[state_word(trade)],
        "promotion_detail": [],
        "scene_info": {"device_id": ""},
    }
    if trade.extra.get("attach"):
        shown["attach"] = trade.extra["attach"]
    if trade.state != "SUCCESS" or trade.paid_at is None:
        # An unpaid order shows neither payer nor trade type, and an amount without payer_total.
        return shown | {"amount": {"payer_currency": "CNY", "total": trade.amount_fen}}
    return shown | {
        "transaction_id": trade.trade_id,
        "trade_type": trade.extra["trade_type"],
        "bank_type": "OTHERS",
        "attach": trade.extra.get("attach", ""),
        "success_time": rfc3339_china(trade.paid_at),
        "payer": {"openid": trade.payer},
        "amount": {
            "total": trade.reported_fen,
            "payer_total": trade.reported_fen,
            "currency": "CNY",
            "payer_currency": "CNY",
        },
    }


routes = [
    (r"/v3/pay/transactions/(jsapi|app|h5|native)", Prepay),
    (r"/v3/pay/transactions/out-trade-no/([^/]+)/close", Close),
    (r"/v3/pay/transactions/(out-trade-no|id)/([^/]+)", Query),
    (r"/v3/certificates", Certificates),
]
