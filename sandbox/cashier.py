"""Two pages that stand for the platforms' own apps on a phone: the cashier and the sign-in sheet.

They work without script. A way back is offered only to the hall itself or to this machine: the sandbox is no open
redirect.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from sandbox import paying
from sandbox.base import Sandbox, StandIn, china_text
from sandbox.people import person_of_code
from sandbox.signing import rsa_verify
from sandbox.store import Trade
from sandbox.wechatpay_prepay import is_loopback

HANDLES = ("out_trade_no", "prepay_id", "trade_no", "code_url", "qr_code")
MERCHANT = "韶关掌上办事大厅"
BRANDS = {
    "wechatpay": {"name": "微信支付", "color": "#07a04f"},
    "wechat": {"name": "微信", "color": "#07a04f"},
    "alipay": {"name": "支付宝", "color": "#1468d6"},
}
_OUTCOME_TEXTS = (
    ("success_without_notice", "支付成功，但不发通知"),
    ("success_notice_twice", "支付成功，通知同时来两次"),
    ("success_notice_late", "支付成功，通知晚到 15 秒"),
    ("success_wrong_amount", "支付成功，金额差 1 分"),
)
# People a tester will want first: plain residents, and the names with a meaning for the real-name stand-in.
_NAMES = ("张三", "李四", "王小明", "陈阿婆")


class Page(StandIn):
    def show(self, template: str, *, status: int = 200, **values: Any) -> None:
        self.set_status(status)
        self.set_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action *")
        self.set_header("Referrer-Policy", "no-referrer")
        self.render(template, merchant=MERCHANT, **values)

    def way_back(self) -> str:
        back = self.get_query_argument("back", "")
        return back if is_allowed_back(self.sandbox, back) else ""


class Cashier(Page):
    """GET /_sim/cashier?provider=&out_trade_no=&back= (or prepay_id, trade_no, qr_code instead of the number)."""

    def get(self) -> None:
        provider = self.get_query_argument("provider", "wechatpay")
        provider = provider if provider in paying.PROVIDERS else "wechatpay"
        numbers = {name: self.get_query_argument(name, "") for name in HANDLES}
        trade = paying.find_trade(self.sandbox, provider, numbers)
        # H5 prepay urls get the way back as redirect_url, as the WeChat documents have it.
        back = self.way_back() or _allowed(self.sandbox, self.get_query_argument("redirect_url", ""))
        if trade is None:
            return self.show(
                "result.html", status=404, brand=BRANDS[provider], ok=False, message="没有这笔订单", back=back, trade=None
            )
        return self.show(
            "cashier.html",
            brand=BRANDS[provider],
            trade=trade,
            amount=f"{trade.amount_fen // 100}.{trade.amount_fen % 100:02d}",
            until=china_text(trade.expires_at)[5:16] if trade.expires_at else "",
            payable=trade.state == "NOTPAY" and (trade.expires_at is None or self.now() < trade.expires_at),
            outcomes=_OUTCOME_TEXTS,
            back=back,
        )


class Login(Page):
    """GET /_sim/login?provider=&back=&state=: choose who is holding the phone, then go back with the code."""

    def get(self) -> None:
        provider = self.get_query_argument("provider", "wechat")
        provider = provider if provider in ("wechat", "alipay") else "wechat"
        back = self.way_back()
        name = self.get_query_argument("name", "").strip()
        state = self.get_query_argument("state", "")
        if name and back and person_of_code(f"sim-{name}"):
            code = {"wechat": "code", "alipay": "auth_code"}[provider]
            return self.redirect(_with_query(back, {code: f"sim-{name}"} | ({"state": state} if state else {})))
        return self.show(
            "login.html", brand=BRANDS[provider], provider=provider, back=back, state=state, names=_NAMES
        )


def show_result(handler: StandIn, trade: Trade, body: dict[str, Any], *, ok: bool, message: str) -> None:
    """End a payment that came from the page: straight back when there is a way back, else a page that says how it went."""
    back = _allowed(handler.sandbox, str(body.get("back") or ""))
    if back:
        handler.redirect(back, status=303)
        return
    handler.set_status(200 if ok else 409 if trade.state == "CLOSED" else 200)
    handler.render(
        "result.html", merchant=MERCHANT, brand=BRANDS[trade.provider], ok=ok, message=message, back="", trade=trade
    )


def find_client_problem(sandbox: Sandbox, trade: Trade, params: dict[str, Any]) -> str | None:
    """Check what the client hands to WeChat as WeChat does, by its shape; None when it is sound.

    Signed text: app id, time, nonce and package (in the app: the bare prepay_id), each ended by a line feed, under the merchant's
    API key. H5 and QR have an address instead of an object.
    """
    if "redirect_url" in params:
        query = dict(parse_qsl(urlsplit(str(params["redirect_url"])).query))
        return None if sandbox.store.trade_of_handle("wechatpay", query.get("prepay_id", "")) == trade else "H5 地址与订单不符"
    if "code_url" in params:
        return None if sandbox.store.trade_of_handle("wechatpay", str(params["code_url"])) == trade else "二维码与订单不符"
    if "prepayid" in params:
        return _find_app_problem(sandbox, trade, params)
    names = ("timeStamp", "nonceStr", "package", "signType", "paySign")
    wrong = [name for name in names if not isinstance(params.get(name), str)]
    if wrong:
        return f"支付参数 {wrong[0]} 缺失或不是文本"
    if params["signType"] != "RSA":
        return "API v3 订单的 signType 应为 RSA"
    handle = params["package"].removeprefix("prepay_id=")
    if handle == params["package"] or sandbox.store.trade_of_handle("wechatpay", handle) != trade:
        return "package 与订单不符"
    lines = (sandbox.credentials.wechat_app_id, params["timeStamp"], params["nonceStr"], params["package"])
    message = "".join(f"{line}\n" for line in lines).encode()
    if not rsa_verify(sandbox.credentials.merchant_public_key, message, params["paySign"]):
        return "支付验证签名失败"
    return None


def _find_app_problem(sandbox: Sandbox, trade: Trade, params: dict[str, Any]) -> str | None:
    names = ("appid", "partnerid", "prepayid", "package", "noncestr", "timestamp", "sign")
    wrong = [name for name in names if not isinstance(params.get(name), str)]
    if wrong:
        return f"支付参数 {wrong[0]} 缺失或不是文本"
    if params["appid"] != trade.extra["appid"] or params["partnerid"] != sandbox.credentials.wechatpay_mch_id:
        return "appid 或 partnerid 与订单不符"
    if params["package"] != "Sign=WXPay" or sandbox.store.trade_of_handle("wechatpay", params["prepayid"]) != trade:
        return "prepayid 与订单不符"
    message = "".join(f"{params[name]}\n" for name in ("appid", "timestamp", "noncestr", "prepayid")).encode()
    if not rsa_verify(sandbox.credentials.merchant_public_key, message, params["sign"]):
        return "支付验证签名失败"
    return None


def is_allowed_back(sandbox: Sandbox, url: str) -> bool:
    """Say whether `url` leads to the hall's public address or to this machine."""
    try:
        parts, hall = urlsplit(url), urlsplit(sandbox.hall_url)
        host = parts.hostname or ""
        same_origin = (parts.scheme, host, parts.port) == (hall.scheme, hall.hostname, hall.port)
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not host or "\\" in url or parts.username is not None:
        return False
    return same_origin or is_loopback(host)


def _allowed(sandbox: Sandbox, url: str) -> str:
    return url if is_allowed_back(sandbox, url) else ""


def _with_query(url: str, values: dict[str, str]) -> str:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True)) | values
    return urlunsplit(parts._replace(query=urlencode(query)))


routes = [(r"/_sim/cashier", Cashier), (r"/_sim/login", Login)]
