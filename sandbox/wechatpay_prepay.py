"""The rules of a WeChat Pay prepay request (reference: API v3, 1.4), as plain functions."""

from __future__ import annotations

import json
import re
import secrets
from datetime import datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from sandbox.base import china_text
from sandbox.credentials import Credentials
from sandbox.store import Store, Trade

_NUMBER = re.compile(r"[0-9A-Za-z_\-|*]{6,32}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:[+-]\d\d:\d\d|Z)")
_LONGEST_S = 7 * 86400  # some pages say 15 days; a merchant that stays within 7 is right on all of them

Problem = tuple[str, Any, str]  # field as a JSON pointer, value, what is wrong


def find_problem(
    order: dict[str, Any], kind: str, credentials: Credentials, store: Store, *, now: float, repeated: bool
) -> Problem | None:
    """Return the first broken rule of the request, None when it is sound.

    `repeated` loosens one rule: a replay of a known order may come in the last minute before its expiry.
    """
    for field, limit in (("appid", 32), ("mchid", 32), ("description", 127), ("notify_url", 255)):
        value = order.get(field)
        if not isinstance(value, str) or not value.strip():
            return f"/{field}", value, "必填，且为字符串"
        if len(value) > limit:
            return f"/{field}", value, f"长度不得超过{limit}"
    number = order.get("out_trade_no")
    if not isinstance(number, str) or not _NUMBER.fullmatch(number):
        return "/out_trade_no", number, "6-32位，只能是数字、大小写字母_-|*"
    if not is_notify_url(order["notify_url"]):
        return "/notify_url", order["notify_url"], "须为https绝对地址，不得携带参数"
    attach = order.get("attach", "")
    if not isinstance(attach, str) or len(attach) > 128:
        return "/attach", attach, "长度不得超过128"
    return (
        _time_problem(order.get("time_expire"), now, soonest_s=0 if repeated else 60)
        or _amount_problem(order.get("amount"))
        or _scene_problem(order, kind, credentials, store)
    )


def is_notify_url(url: str) -> bool:
    """Say whether the URL may be notified: absolute, no query, no fragment, https.

    The real one demands https without exception. The stand-in also takes http to a loopback address, because a hall
    under development has no certificate, and nothing leaves the machine that way.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if not host or "?" in url or "#" in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _time_problem(value: Any, now: float, *, soonest_s: float) -> Problem | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return "/time_expire", value, "须为RFC3339格式并带时区"
    try:
        ahead_s = datetime.fromisoformat(value).timestamp() - now
    except ValueError:
        return "/time_expire", value, "不是有效的时间"
    if ahead_s < soonest_s:
        return "/time_expire", value, "须至少晚于当前时间1分钟"
    if ahead_s > _LONGEST_S + 60:
        return "/time_expire", value, "不得晚于当前时间7天"
    return None


def _amount_problem(amount: Any) -> Problem | None:
    if not isinstance(amount, dict):
        return "/amount", amount, "必填"
    total = amount.get("total")
    # bool is an int in Python, but `true` is not a number in JSON.
    if not isinstance(total, int) or isinstance(total, bool):
        return "/amount/total", total, "须为整数，单位为分"
    if not 1 <= total <= 100_000_000_00:
        return "/amount/total", total, "须大于0"
    if amount.get("currency", "CNY") != "CNY":
        return "/amount/currency", amount["currency"], "境内商户号仅支持人民币"
    return None


def _scene_problem(order: dict[str, Any], kind: str, credentials: Credentials, store: Store) -> Problem | None:
    if kind == "jsapi":
        payer = order.get("payer")
        openid = payer.get("openid") if isinstance(payer, dict) else None
        if not isinstance(openid, str) or not openid:
            return "/payer/openid", openid, "JSAPI支付必填"
        # An openid belongs to one appid: this app's are those that signed in here.
        if order["appid"] == credentials.wechat_app_id and store.get("openid", openid) is None:
            return "/payer/openid", openid, "无效的openid"
    if kind == "h5":
        scene = order.get("scene_info")
        if not isinstance(scene, dict) or not _is_ip(scene.get("payer_client_ip")):
            return "/scene_info/payer_client_ip", None, "H5支付必填"
        info = scene.get("h5_info")
        if not isinstance(info, dict) or info.get("type") not in ("Wap", "iOS", "Android"):
            return "/scene_info/h5_info/type", None, "H5支付必填"
    return None


def _is_ip(text: Any) -> bool:
    try:
        return isinstance(text, str) and bool(ip_address(text))
    except ValueError:
        return False


def canonical(order: dict[str, Any], kind: str) -> str:
    """Return the parameters as one text: equal for a true repetition, whatever the order of its fields."""
    return json.dumps({"kind": kind} | order, ensure_ascii=False, sort_keys=True)


def new_trade(order: dict[str, Any], kind: str, canonical_text: str, *, now: float) -> Trade:
    """Make the trade. The transaction id is 28 digits beginning 42, as in real notices."""
    expires = order.get("time_expire")
    total = order["amount"]["total"]
    day = china_text(now)[:10].replace("-", "")
    return Trade(
        provider="wechatpay",
        out_trade_no=order["out_trade_no"],
        trade_id=f"42000{secrets.randbelow(10**5):05d}{day}{secrets.randbelow(10**10):010d}",
        amount_fen=total,
        reported_fen=total,
        title=order["description"],
        notify_url=order["notify_url"],
        # Outside JSAPI the payer shows only when somebody pays.
        payer=order["payer"]["openid"] if kind == "jsapi" else "",
        request=canonical_text,
        created_at=now,
        expires_at=datetime.fromisoformat(expires).timestamp() if expires else now + _LONGEST_S,
        extra={
            "trade_type": {"jsapi": "JSAPI", "app": "APP", "h5": "MWEB", "native": "NATIVE"}[kind],
            "attach": order.get("attach", ""),
            "appid": order["appid"],
        },
    )


def answer(kind: str, trade: Trade, host: str, *, now: float) -> tuple[str, dict[str, str]]:
    """Return (what the client will come back with, the answer of the prepay call)."""
    token = secrets.token_hex(10)
    if kind == "native":
        return f"weixin://wxpay/bizpayurl?pr={token}", {"code_url": f"weixin://wxpay/bizpayurl?pr={token}"}
    # wx + day and time + random: 36 characters like the real ones; usable for two hours.
    prepay_id = f"wx{china_text(now).translate({45: None, 58: None, 32: None})[2:]}{secrets.token_hex(11)}"
    if kind == "h5":
        url = f"http://{host}/_sim/cashier?provider=wechatpay&prepay_id={prepay_id}&package={secrets.randbelow(10**10)}"
        return prepay_id, {"h5_url": url}
    return prepay_id, {"prepay_id": prepay_id}
