"""The Alipay gateway (protocol 1.0): request signatures, answers and the methods of login and messages.

The answer of a method is signed over its raw bytes. Slashes are escaped as `\\/`, which the original does too: who
signs a re-serialised object instead of the bytes that came will notice here.
"""

from __future__ import annotations

import json
import re
import secrets
from base64 import b64decode
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

from sandbox import alipay_bills, alipay_client, alipay_refunds, alipay_trade, certificates
from sandbox.alipay_trade import Refused
from sandbox.base import CHINA, Sandbox, StandIn, china_text, compact, rfc3339_utc
from sandbox.mishaps import is_code
from sandbox.people import Person, person_of_code
from sandbox.signing import cbc_seal, rsa_sign, rsa_verify

# The documents ask for Beijing time and give no figure. Ten minutes: too little for a forgotten time zone to pass.
_CLOCK_WINDOW_S = 600
_TOKEN_LIVES_S = 15 * 86400
_REFRESH_LIVES_S = 30 * 86400
_KEYWORD = re.compile(r"[A-Za-z]\w{0,31}")

_SUCCESS = {"code": "10000", "msg": "Success"}
_COMMON = ("app_id", "method", "sign_type", "sign", "timestamp", "version", "charset")


class Gateway(StandIn):
    """POST (and GET, for browsers and old SDKs) /gateway.do."""

    provider = "alipay"
    in_certificate_mode = False

    def get(self) -> None:
        self.post()

    def post(self) -> None:
        sent = self._parameters()
        self.in_certificate_mode = bool(sent and sent.get("app_cert_sn"))
        if sent is None:
            return self._answer("error_response", _illegal("isv.invalid-parameter", "参数重复或编码错误"))
        method = sent.get("method", "")
        name = method.replace(".", "_") + "_response"
        problem = self._find_problem(sent)
        if problem:
            known = method in _TRADE_METHODS or method in _METHODS
            return self._answer(name if known and sent.get("sign") else "error_response", problem)
        try:
            if is_code(self.fault):
                raise Refused(self.fault, "按脚本拒绝")
            if method in alipay_trade.BY_CLIENT:
                return self._open_cashier(sent)
            if method == alipay_bills.METHOD:
                origin = f"{self.request.protocol}://{self.request.host}"
                return self._answer(name, _SUCCESS | alipay_bills.download_url(self.sandbox, alipay_client.biz_content(sent), origin))
            answer = self._run(method, sent)
        except Refused as refused:
            # Login refuses before it is routed to a business system, hence error_response.
            return self._answer("error_response" if method == "alipay.system.oauth.token" else name, refused.answer)
        return self._answer(name, answer)

    def _parameters(self) -> dict[str, str] | None:
        """Merge query and form. A parameter may stand in both places when it says the same (charset does)."""
        merged: dict[str, str] = {}
        try:
            pairs = parse_qsl(self.request.query, keep_blank_values=True, errors="strict")
            pairs += parse_qsl(self.request.body.decode(), keep_blank_values=True, errors="strict")
        except ValueError:
            return None
        for name, value in pairs:
            if merged.setdefault(name, value) != value:
                return None
        return merged

    def _find_problem(self, sent: dict[str, str]) -> dict[str, str] | None:
        own = self.credentials
        for name in _COMMON:
            if not sent.get(name):
                word = {"sign": "signature", "sign_type": "signature-type"}.get(name, name.replace("_", "-"))
                return _illegal(f"isv.missing-{word}", f"缺少{name}参数", code="40001", msg="Missing Required Arguments")
        if sent["app_id"] != own.alipay_app_id:
            return _illegal("isv.invalid-app-id", "无效的AppID参数")
        if sent["sign_type"] != "RSA2":
            return _illegal("isv.invalid-signature-type", "无效签名类型")
        if sent["version"] != "1.0":
            return _illegal("isv.invalid-version", "无效的版本参数")
        if sent["charset"].lower() != "utf-8":
            return _illegal("isv.invalid-charset", "字符集错误，本沙箱只支持 utf-8")
        if sent.get("format", "JSON").upper() != "JSON":
            return _illegal("isv.invalid-format", "无效的数据格式")
        try:
            at = datetime.strptime(sent["timestamp"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=CHINA).timestamp()
        except ValueError:
            return _illegal("isv.invalid-timestamp", "非法的时间戳参数")
        if abs(self.now() - at) > _CLOCK_WINDOW_S:
            return _illegal("isv.invalid-timestamp", "非法的时间戳参数：与北京时间相差过大")
        # Every parameter but sign, empty ones left out, raw values; sign_type is part of a request's text.
        text = "&".join(f"{name}={sent[name]}" for name in sorted(sent) if name != "sign" and sent[name] != "")
        if not rsa_verify(own.alipay_app_public_key, text.encode(), sent["sign"]):
            shown = f"验签出错，建议检查签名字符串或签名私钥与应用公钥是否匹配，网关生成的验签字符串为：{text}"
            return _illegal("isv.invalid-signature", shown)
        if sent.get("app_cert_sn") or sent.get("alipay_root_cert_sn"):
            chain = certificates.alipay_chain(self.sandbox)
            if (sent.get("app_cert_sn"), sent.get("alipay_root_cert_sn")) != (chain["app_cert_sn"], chain["root_cert_sn"]):
                return _illegal("isv.invalid-cert-sn", "应用公钥证书或根证书序列号不正确")
        method = sent["method"]
        if method not in _TRADE_METHODS and method not in _METHODS:
            return _illegal("isv.invalid-method", "不存在的方法名")
        return None

    def _run(self, method: str, sent: dict[str, str]) -> dict[str, Any]:
        if method in _TRADE_METHODS:
            content = alipay_client.biz_content(sent)
            answer = _TRADE_METHODS[method](self.sandbox, content, sent.get("notify_url", ""))
            if sent.get("app_cert_sn"):
                alipay_client.note_certificate_mode(self.sandbox, content)
            return {"code": "10000", "msg": "Success"} | answer
        return _METHODS[method](self.sandbox, sent)

    def _open_cashier(self, sent: dict[str, str]) -> None:
        trade = alipay_client.arrive(self.sandbox, sent)
        query = {"provider": "alipay", "out_trade_no": trade.out_trade_no, "back": sent.get("return_url", "")}
        self.redirect(f"/_sim/cashier?{urlencode(query)}")

    def _answer(self, name: str, value: dict[str, Any]) -> None:
        own = self.credentials
        raw = compact(value).replace(b"/", b"\\/")
        signer = certificates.alipay_signers(self.sandbox)[-1] if self.in_certificate_mode else None
        key = signer.private_key if signer else own.alipay_private_key
        if self.fault == "bad_signature":
            key = own.alipay_app_private_key
        # Nobody to sign for when the caller is unknown; the original leaves these unsigned too.
        unsigned = self.fault == "unsigned" or value.get("sub_code") in ("isv.invalid-app-id", "isv.missing-app-id") or value.get("code") == "20000"
        sign = b"" if unsigned else b',"sign":"' + rsa_sign(key, raw).encode() + b'"'
        if signer and not unsigned:
            sign = b',"alipay_cert_sn":"' + signer.serial.encode() + b'"' + sign
        body = b'{"' + name.encode() + b'":' + raw + sign + b"}"
        # text/html is what the gateway says, whatever it sends.
        self.send_bytes(body, status=200, content_type="text/html;charset=utf-8")

    def answer_rate_limited(self) -> None:
        self._answer(
            "error_response",
            {"code": "40005", "msg": "Call Limited", "sub_code": "isv.call-limited", "sub_msg": "应用调用次数超限"},
        )

    def answer_error500(self) -> None:
        # The gateway's own word for "broken, outcome unknown": HTTP 200, code 20000, unsigned.
        self._answer(
            "error_response",
            {"code": "20000", "msg": "Service Currently Unavailable", "sub_code": "isp.unknow-error", "sub_msg": "系统繁忙"},
        )


def register(sandbox: Sandbox, who: Person) -> None:
    """Remember a person as a user of the application, findable by user_id and open_id."""
    known = {"name": who.name, "user_id": who.alipay_user_id, "open_id": who.alipay_open_id}
    sandbox.store.put("alipay_user", who.alipay_user_id, known)
    sandbox.store.put("alipay_user", who.alipay_open_id, known)


def oauth_token(sandbox: Sandbox, sent: dict[str, str]) -> dict[str, Any]:
    """alipay.system.oauth.token: grant_type and code are top-level; a success has no `code` member."""
    now = sandbox.clock()
    grant = sent.get("grant_type")
    if grant == "authorization_code":
        who = person_of_code(sent.get("code", ""))
        if who is None:
            raise Refused("isv.code-invalid", "授权码code无效", code="40002", msg="Invalid Arguments")
    elif grant == "refresh_token":
        kept = sandbox.store.get("alipay_token", sent.get("refresh_token", ""))
        who = person_of_code("sim-" + kept["name"]) if kept and kept["kind"] == "refresh" else None
        if who is None or kept["until"] <= now:
            raise Refused("isv.refresh-token-invalid", "刷新令牌refresh_token无效", code="40002", msg="Invalid Arguments")
    else:
        raise Refused("isv.grant-type-invalid", "grant_type参数不正确", code="40002", msg="Invalid Arguments")
    register(sandbox, who)
    access, refresh = (f"{kind}B{secrets.token_hex(16)}" for kind in ("auth", "refresh"))
    sandbox.store.put("alipay_token", access, {"kind": "access", "name": who.name, "until": now + _TOKEN_LIVES_S})
    sandbox.store.put("alipay_token", refresh, {"kind": "refresh", "name": who.name, "until": now + _REFRESH_LIVES_S})
    # Unless it was told otherwise, an application in the middle of the open_id migration: both identifiers come.
    ids = sandbox.store.get("alipay_ids", "ids") or "both"
    return {
        "access_token": access,
        **({"user_id": who.alipay_user_id} if ids != "open_id" else {}),
        **({"open_id": who.alipay_open_id} if ids != "user_id" else {}),
        "union_id": who.alipay_union_id,
        "auth_start": china_text(now),
        "expires_in": _TOKEN_LIVES_S,
        "re_expires_in": _REFRESH_LIVES_S,
        "refresh_token": refresh,
    }


def user_info(sandbox: Sandbox, sent: dict[str, str]) -> dict[str, Any]:
    """alipay.user.info.share: what a consenting user shows without privileged grants."""
    kept = sandbox.store.get("alipay_token", sent.get("auth_token", ""))
    if not kept or kept["kind"] != "access" or kept["until"] <= sandbox.clock():
        raise Refused("aop.invalid-auth-token", "无效的访问令牌", code="20001", msg="Insufficient Token Permissions")
    who = person_of_code("sim-" + kept["name"])
    assert who is not None
    return {
        "code": "10000",
        "msg": "Success",
        "user_id": who.alipay_user_id,
        "open_id": who.alipay_open_id,
        "nick_name": who.name,
        "avatar": "https://tfs.alipayobjects.com/images/partner/sandbox",
        "province": "广东省",
        "city": "韶关市",
        "is_certified": "T",
    }


def send_message(sandbox: Sandbox, sent: dict[str, str]) -> dict[str, Any]:
    """alipay.open.app.mini.templatemessage.send."""
    content = alipay_client.biz_content(sent)
    to = content.get("to_open_id") or content.get("to_user_id")
    template_id = content.get("user_template_id")
    known = sandbox.store.get("alipay_user", to) if isinstance(to, str) else None
    if not isinstance(template_id, str) or not template_id:
        raise Refused("TEMPLATE_ID_INVALID", "模板ID无效")
    if known is None:
        raise Refused("USER_NOT_EXIST", "用户不存在")
    if not isinstance(content.get("page"), str) or not 1 <= len(content["page"]) <= 128:
        raise Refused("PAGE_INVALID", "page 必填，不超过128字符")
    text = content.get("data")
    try:
        data = json.loads(text) if isinstance(text, str) and len(text) <= 2048 else None
    except ValueError:
        data = None
    if not isinstance(data, dict) or not data or not all(map(_is_keyword, data.items())):
        raise Refused("DATA_INVALID", "data 应为JSON字符串，形如 {\"keyword1\":{\"value\":\"…\"}}，不超过2048字符")
    if sandbox.store.get("alipay_refused", known["open_id"]):
        raise Refused("USER_NOT_SUBSCRIBE", "用户未订阅该模板")
    now = sandbox.clock()
    values = {key: part["value"] for key, part in data.items()}
    record = {"at": rfc3339_utc(now), "channel": "alipay_message", "to": to, "user_id": known["user_id"]}
    record |= {"open_id": known["open_id"], "name": known["name"], "template_id": template_id, "data": values}
    record |= {"page": content["page"], "content": " ".join(values.values())}
    sandbox.store.record_sent(record, channel="alipay_message", to=to, at=now)
    return {"code": "10000", "msg": "Success"}


def _is_keyword(item: tuple[str, Any]) -> bool:
    key, part = item
    value = part.get("value") if isinstance(part, dict) else None
    return bool(_KEYWORD.fullmatch(key)) and isinstance(value, str) and value != ""


_METHODS = {
    "alipay.system.oauth.token": oauth_token,
    "alipay.user.info.share": user_info,
    "alipay.open.app.mini.templatemessage.send": send_message,
    alipay_bills.METHOD: lambda _sandbox, _sent: {},  # answered by Gateway.post, which knows its own address
    "alipay.open.app.alipaycert.download": alipay_client.download_certificate,
    # Answered by a redirect, see Gateway._open_cashier.
    **{method: (lambda _sandbox, _sent: {}) for method in alipay_trade.BY_CLIENT},
}


def phone_payload(sandbox: Sandbox, who: Person) -> dict[str, str]:
    """Return what my.getPhoneNumber gives the mini-program: sealed for the application, signed by Alipay.

    The signature covers the ciphertext wrapped in double quotes; the initialisation vector is 16 zero bytes.
    """
    own = sandbox.credentials
    plain = compact({"code": "10000", "msg": "Success", "mobile": who.phone})
    sealed = cbc_seal(b64decode(own.alipay_aes_key), bytes(16), plain)
    return {
        "response": sealed,
        "sign": rsa_sign(own.alipay_private_key, f'"{sealed}"'.encode()),
        "sign_type": "RSA2",
        "encrypt_type": "AES",
        "charset": "UTF-8",
    }


def _illegal(sub_code: str, sub_msg: str, *, code: str = "40002", msg: str = "Invalid Arguments") -> dict[str, str]:
    return {"code": code, "msg": msg, "sub_code": sub_code, "sub_msg": sub_msg}


_TRADE_METHODS = alipay_trade.METHODS | alipay_refunds.METHODS
routes = [(r"/gateway\.do", Gateway)]
